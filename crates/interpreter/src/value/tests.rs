use monty_types::{
    ExcType, MontyDate, MontyDateTime, MontyObject, MontyTime, MontyTimeDelta, MontyTimeZone,
    MontyUuid,
};
use num_bigint::BigInt;
use proptest::{collection::vec, prelude::*};

use super::*;

const NO_LIMIT: usize = usize::MAX / 8;

fn json_of(value: &MontyObject) -> String {
    encode(value, NO_LIMIT).unwrap()
}

/// Every tag in its one spelling.
const SPELLINGS: &[&str] = &[
    "null",
    "true",
    "9223372036854775807",
    "-9223372036854775808",
    r#"{"$int":"9223372036854775808"}"#,
    "1.0",
    "-0.0",
    "1e300",
    r#"{"$float":"nan"}"#,
    r#"{"$float":"inf"}"#,
    r#"{"$float":"-inf"}"#,
    r#"{"$complex":[1.0,{"$float":"nan"}]}"#,
    r#"{"$decimal":"1.10"}"#,
    r#"{"$decimal":"-1.2E+30"}"#,
    r#"{"$decimal":"sNaN12"}"#,
    r#"{"$decimal":"-Infinity"}"#,
    r#"{"$bytes":"aGk="}"#,
    r#"{"$tuple":[]}"#,
    r#"{"$set":[1,2]}"#,
    r#"{"$frozenset":["a"]}"#,
    r#"{"a":1,"b":{"$tuple":[1]}}"#,
    r#"{"$dict":[[1,"a"],[{"$tuple":[1,2]},null]]}"#,
    r#"{"$dict":[["$tuple",1]]}"#,
    r#"{"$dict":[["$py:later",1]]}"#,
    r#"{"$tuple":1,"b":2}"#,
    r##"{"$ref":"#/defs/x"}"##,
    r#"{"$date":"2026-01-31"}"#,
    r#"{"$datetime":"2026-01-31T12:00:00"}"#,
    r#"{"$datetime":"2026-01-31T12:00:00.000001-05:30"}"#,
    r#"{"$datetime":["2026-01-31T12:00:00+02:00","EET"]}"#,
    r#"{"$time":"12:00:01"}"#,
    r#"{"$time":["12:00:01+01:00:30",null,1]}"#,
    r#"{"$time":["12:00:01+01:00","CET",0]}"#,
    r#"{"$timedelta":[-1,86399,999999]}"#,
    r#"{"$timezone":0}"#,
    r#"{"$timezone":[-3600,"AZOT"]}"#,
    r#"{"$path":"a/b"}"#,
    r#"{"$namedtuple":{"name":"P","fields":{"x":1,"y":[2]}}}"#,
    r#"{"$dataclass":{"name":"P","fields":{"x":1}}}"#,
    r#"{"$object":{"name":"P","fields":{}}}"#,
    r#"{"$exception":{"type":"ValueError","message":"no"}}"#,
    r#"{"$exception":{"type":"KeyError","message":null}}"#,
    r#"{"$ellipsis":null}"#,
    r#""ü \" \\ \n \u0000""#,
];

#[test]
fn every_spelling_round_trips() {
    for spelling in SPELLINGS {
        let value = decode(spelling).unwrap_or_else(|error| panic!("{spelling}: {error}"));
        assert_eq!(json_of(&value), *spelling);
    }
    for tag in TAGS {
        assert!(SPELLINGS.iter().any(|spelling| spelling.contains(tag)), "{tag} is not tested");
    }
}

#[test]
fn blanks_and_other_spellings_of_the_same_are_read() {
    for (text, spelling) in [
        (" [ 1 , 2 ] ", "[1,2]"),
        ("1E2", "100.0"),
        ("1e999", r#"{"$float":"inf"}"#),
        ("9223372036854775808", r#"{"$int":"9223372036854775808"}"#),
        (r#"{ "$int" : "5" }"#, "5"),
        (r#""\u00fc\ud83d\ude00""#, "\"ü😀\""),
        (
            r#"{"$exception":{"type":"shop.Closed","message":"now"}}"#,
            r#"{"$exception":{"type":"RuntimeError","message":"shop.Closed: now"}}"#,
        ),
    ] {
        assert_eq!(json_of(&decode(text).unwrap()), spelling, "{text}");
    }
}

#[test]
fn what_is_malformed_is_an_error() {
    for text in [
        "",
        "[",
        "[1",
        "[1,]",
        "[,1]",
        "{",
        r#"{"a"}"#,
        r#"{"a":}"#,
        r#"{"a":1,}"#,
        "nul",
        "01",
        "1.",
        "+1",
        "NaN",
        "1 2",
        r#""a"#,
        r#""\ud800""#,
        "\"\n\"",
        "[1}",
        "{]",
        "-",
        r#"{"$tuple":1}"#,
        r#"{"$bytes":"?"}"#,
        r#"{"$date":"2026-02-29"}"#,
        r#"{"$datetime":"2026-01-31 12:00:00"}"#,
        r#"{"$time":"24:00:00"}"#,
        r#"{"$int":"x"}"#,
        r#"{"$float":"1"}"#,
        r#"{"$timedelta":[1,2]}"#,
        r#"{"$timedelta":[1,-1,0]}"#,
        r#"{"$timezone":86400}"#,
        r#"{"$dict":[[1]]}"#,
        r#"{"$namedtuple":{"fields":{}}}"#,
        r#"{"$exception":{"type":"E"}}"#,
        r#"{"$py:later":1}"#,
        r#"{"$decimal":""}"#,
        r#"{"$decimal":"x"}"#,
        r#"{"$decimal":"."}"#,
        r#"{"$decimal":"1E"}"#,
        r#"{"$int":"+5"}"#,
        r#"{"$set":[[]]}"#,
        r#"{"$frozenset":[{"$tuple":[{}]}]}"#,
        r#"{"$dict":[[[],1]]}"#,
        r#"{"$complex":[1,2]}"#,
    ] {
        assert!(decode(text).is_err(), "{text}");
    }
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(decode(&deep(MAX_DEPTH)).is_ok());
    assert!(decode(&deep(MAX_DEPTH + 1)).is_err());
    assert!(decode(&"[".repeat(1 << 20)).is_err());
    assert!(decode(&"9".repeat(MAX_INT_DIGITS + 2)).is_err());
}

#[test]
fn the_size_of_a_value_is_limited_even_when_it_shares_its_parts() {
    let mut value = MontyObject::list([MontyObject::string("abcdefgh")]);
    assert!(encode(&value, 12).is_ok());
    assert_eq!(
        encode(&value, 11),
        Err(EncodeError::TooLarge { size: 12, limit: 11, is_counted: true })
    );
    for _ in 0..30 {
        // The same node twice: 2^30 leaves as text.
        use monty_types::unstable::{MontyNode, into_graph_parts, object_from_graph};
        let (mut graph, root) = into_graph_parts(value);
        let root = graph.push(MontyNode::List(vec![root, root]));
        value = object_from_graph(graph, root).unwrap();
    }
    let error = encode(&value, 1_000).unwrap_err();
    assert!(matches!(error, EncodeError::TooLarge { is_counted: false, .. }), "{error}");
    assert!(error.to_string().contains("more than"), "{error}");
}

#[test]
fn inputs_are_a_plain_object() {
    let inputs = decode_object(r#"{"$tuple": [1], "b": {"$tuple": [1]}}"#).unwrap();
    assert_eq!(inputs[0], ("$tuple".to_owned(), MontyObject::list([MontyObject::int(1)])));
    assert_eq!(inputs[1], ("b".to_owned(), MontyObject::tuple([MontyObject::int(1)])));
    assert!(decode_object("{}").unwrap().is_empty());
    assert!(decode_object("[]").is_err());
    assert!(decode_object("{} 1").is_err());
}

fn leaf() -> impl Strategy<Value = MontyObject> {
    let offset = || proptest::option::of((-86_399..86_400i32).prop_map(|seconds| seconds));
    let name = || proptest::option::of("[a-zA-Z/]{1,8}");
    prop_oneof![
        Just(MontyObject::none()),
        Just(MontyObject::ellipsis()),
        any::<bool>().prop_map(MontyObject::bool),
        any::<i64>().prop_map(MontyObject::int),
        any::<f64>().prop_map(MontyObject::float),
        any::<i128>()
            .prop_filter("is an int", |n| i64::try_from(*n).is_err())
            .prop_map(|n| MontyObject::bigint(BigInt::from(n))),
        ".*".prop_map(MontyObject::string),
        Just(MontyObject::string("$tuple")),
        vec(any::<u8>(), 0..20).prop_map(MontyObject::bytes),
        (any::<f64>(), any::<f64>()).prop_map(|(a, b)| MontyObject::complex(a, b)),
        "[1-9][0-9]{0,30}\\.[0-9]{1,5}".prop_map(MontyObject::decimal),
        "[a-z/]{0,10}".prop_map(MontyObject::path),
        (1..10_000i32, 1..13u8, 1..29u8)
            .prop_map(|(year, month, day)| MontyObject::date(MontyDate { year, month, day })),
        (1..10_000i32, 0..24u8, 0..1_000_000u32, offset(), name()).prop_map(
            |(year, hour, microsecond, offset_seconds, name)| {
                MontyObject::datetime(MontyDateTime {
                    year,
                    month: 12,
                    day: 31,
                    hour,
                    minute: 5,
                    second: 59,
                    microsecond,
                    offset_seconds,
                    timezone_name: name.filter(|_| offset_seconds.is_some()),
                })
            }
        ),
        (0..24u8, 0..1_000_000u32, offset(), name(), 0..2u8).prop_map(
            |(hour, microsecond, offset_seconds, name, fold)| {
                MontyObject::time(MontyTime {
                    hour,
                    minute: 0,
                    second: 7,
                    microsecond,
                    offset_seconds,
                    timezone_name: name.filter(|_| offset_seconds.is_some()),
                    fold,
                })
            }
        ),
        (-999_999_999..1_000_000_000, 0..86_400, 0..1_000_000).prop_map(
            |(days, seconds, microseconds)| {
                MontyObject::timedelta(MontyTimeDelta { days, seconds, microseconds })
            }
        ),
        (-86_399..86_400, name()).prop_map(|(offset_seconds, name)| {
            MontyObject::timezone(MontyTimeZone { offset_seconds, name })
        }),
        proptest::option::of(".*").prop_map(|arg| MontyObject::exception(ExcType::ValueError, arg)),
    ]
}

fn value() -> impl Strategy<Value = MontyObject> {
    leaf().prop_recursive(4, 64, 6, |inner| {
        let fields = || vec(("[a-z]{1,6}", inner.clone()), 0..5);
        let pairs = |fields: Vec<(String, MontyObject)>| {
            fields.into_iter().map(|(key, value)| (MontyObject::string(key), value))
        };
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(MontyObject::list),
            vec(inner.clone(), 0..6).prop_map(MontyObject::tuple),
            vec(leaf(), 0..6).prop_map(MontyObject::set),
            vec(leaf(), 0..6).prop_map(MontyObject::frozenset),
            vec((leaf(), inner.clone()), 0..5).prop_map(MontyObject::dict),
            vec((".*", inner.clone()), 0..5).prop_map(move |f| MontyObject::dict(pairs(f))),
            (proptest::sample::select(TAGS.to_vec()), inner.clone())
                .prop_map(|(tag, value)| MontyObject::dict([(MontyObject::string(tag), value)])),
            fields().prop_map(|fields| {
                let (names, values): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
                MontyObject::named_tuple("Point", names, values)
            }),
            (fields(), any::<bool>()).prop_map(move |(fields, is_dataclass)| {
                let id = MontyUuid::from_u128(7);
                let class = MontyObject::class_type("Point", id, true, is_dataclass, []);
                MontyObject::class_instance(class, id, pairs(fields))
            }),
        ]
    })
}

fn ordinary() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        proptest::num::f64::NORMAL.prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec(("[a-z$]{0,6}", inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn values_survive_the_way_there_and_back(value in value()) {
        let json = json_of(&value);
        prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&json).is_ok(), "{}", json);
        let back = decode(&json).unwrap();
        // The text says all there is to say; identities of instances are not part of a value.
        prop_assert_eq!(json_of(&back), json.clone());
        if !json.contains("$dataclass") && !json.contains("$object") {
            prop_assert_eq!(back, value);
        }
    }

    #[test]
    fn ordinary_json_stays_as_it_is(json in ordinary()) {
        let text = json.to_string();
        let back = json_of(&decode(&text).unwrap());
        prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&back).unwrap(), json);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in r#"([\[\]{},:"$a-z0-9.e+\- \\]|\$tuple|\$dict)*"#) {
        let _ = decode(&text);
        let _ = decode_object(&text);
    }
}
