use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn value(node: &Node) -> Value {
    match &node.tree {
        Tree::Null => Value::Null,
        Tree::Bool(value) => (*value).into(),
        Tree::Number(number) => Value::Number(number.clone()),
        Tree::Text(text) => text.as_str().into(),
        Tree::List(items) => items.iter().map(value).collect(),
        Tree::Map(fields) => {
            fields.iter().map(|(key, field)| (key.name.clone(), value(field))).collect()
        }
    }
}

#[test]
fn yaml_is_read_by_its_core_schema() {
    let source = "a: 1\nb: -2.5\nc: yes\nd: 'no'\ne: [~, true, 0x1F, 1e3, 12.]\nf:\n  ü: |\n    x\n    y\ng:\n";
    let node = read(Language::Yaml, source).unwrap();
    assert_eq!(
        value(&node),
        json!({ "a": 1, "b": -2.5, "c": "yes", "d": "no", "e": [null, true, 31, 1e3, 12.0],
                "f": { "ü": "x\ny\n" }, "g": null })
    );
    let Tree::Map(fields) = &node.tree else { panic!("a map") };
    assert_eq!(&source[fields[3].1.range.clone()], "'no'");
    let Tree::Map(inner) = &fields[5].1.tree else { panic!("a map") };
    assert_eq!(&source[inner[0].0.range.clone()], "ü");
}

#[test]
fn toml_keeps_the_order_of_its_author() {
    let source = "z = 1\na = 'x'\n[[steps]]\nname = 'b'\n[[steps]]\nname = 'a'\n";
    let node = read(Language::Toml, source).unwrap();
    let Tree::Map(fields) = &node.tree else { panic!("a map") };
    let names: Vec<_> = fields.iter().map(|(key, _)| key.name.as_str()).collect();
    assert_eq!(names, ["z", "a", "steps"]);
    assert_eq!(value(&fields[2].1), json!([{ "name": "b" }, { "name": "a" }]));
}

#[test]
fn what_is_not_of_the_language_is_found() {
    let place = |language, source: &str| {
        let found = read(language, source).unwrap_err();
        (found.range.start, found.message)
    };
    assert_eq!(place(Language::Yaml, "a: 1\na: 2\n").0, 5);
    assert_eq!(place(Language::Yaml, "a: [1\n").1.split(':').next(), Some("this is not YAML"));
    assert!(place(Language::Yaml, "a: &x 1\nb: *x\n").1.contains("anchors"));
    assert!(place(Language::Yaml, "a: !!str 1\n").1.contains("tags"));
    assert!(place(Language::Yaml, "a: 1\n---\nb: 1\n").1.contains("second document"));
    assert!(place(Language::Yaml, &"[".repeat(100_000)).1.starts_with("this is not YAML"));
    assert_eq!(place(Language::Toml, "a = 1\nb =\n").1.split(':').next(), Some("this is not TOML"));
    assert_eq!(place(Language::Json, "{\"a\": tru}").0, 9);
    assert_eq!(place(Language::Json, "{\"a\": 1, \"a\": 2}").0, 9);
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e300..1e300_f64).prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        Just(Value::from("a\n\"\\\u{7}é😀")),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-zé]{1,4}", inner, 0..4)
                .prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn json_is_read_as_what_it_says(expected in values(), pretty in any::<bool>()) {
        let source = if pretty {
            serde_json::to_string_pretty(&expected).unwrap()
        } else {
            expected.to_string()
        };
        let node = read(Language::Json, &source).unwrap();
        prop_assert_eq!(value(&node), expected);
    }

    #[test]
    fn no_text_stops_the_readers(source in "[-\\[\\]{}:,#&*!|>'\"%@`a1 \\n\\t\\\\=.😀]{0,40}") {
        for language in [Language::Yaml, Language::Toml, Language::Json] {
            let _ = read(language, &source);
        }
    }
}
