//! The filters and tests there are.

use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value, filters, tests};

use super::language::json;

/// Longest text that a filter makes.
const MAX_TEXT_BYTES: usize = 16 << 20;

/// The filters there are.
pub(super) const FILTERS: [&str; 31] = [
    "abs",
    "bool",
    "count",
    "d",
    "default",
    "first",
    "float",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "select",
    "selectattr",
    "sort",
    "split",
    "sum",
    "tojson",
    "trim",
    "unique",
    "upper",
];

/// Expressions with these filters and tests, that may take so many instructions each.
pub(super) fn language(max_instructions: u64) -> Environment<'static> {
    let mut language = Environment::empty();
    language.set_undefined_behavior(UndefinedBehavior::Strict);
    language.set_fuel(Some(max_instructions));
    language.add_filter("abs", filters::abs);
    language.add_filter("bool", filters::bool);
    language.add_filter("count", filters::length);
    language.add_filter("d", filters::default);
    language.add_filter("default", filters::default);
    language.add_filter("first", filters::first);
    language.add_filter("float", filters::float);
    language.add_filter("int", filters::int);
    language.add_filter("items", filters::items);
    language.add_filter("join", join);
    language.add_filter("last", filters::last);
    language.add_filter("length", filters::length);
    language.add_filter("list", filters::list);
    language.add_filter("lower", lower);
    language.add_filter("map", filters::map);
    language.add_filter("max", filters::max);
    language.add_filter("min", filters::min);
    language.add_filter("reject", filters::reject);
    language.add_filter("rejectattr", filters::rejectattr);
    language.add_filter("replace", replace);
    language.add_filter("reverse", filters::reverse);
    language.add_filter("round", filters::round);
    language.add_filter("select", filters::select);
    language.add_filter("selectattr", filters::selectattr);
    language.add_filter("sort", filters::sort);
    language.add_filter("split", split);
    language.add_filter("sum", sum);
    language.add_filter("tojson", tojson);
    language.add_filter("trim", trim);
    language.add_filter("unique", filters::unique);
    language.add_filter("upper", upper);
    add_tests(&mut language);
    language
}

fn add_tests(language: &mut Environment<'static>) {
    language.add_test("boolean", tests::is_boolean);
    language.add_test("defined", tests::is_defined);
    language.add_test("divisibleby", tests::is_divisibleby);
    language.add_test("even", tests::is_even);
    language.add_test("false", tests::is_false);
    language.add_test("float", tests::is_float);
    language.add_test("integer", tests::is_integer);
    language.add_test("mapping", tests::is_mapping);
    language.add_test("none", tests::is_none);
    language.add_test("number", tests::is_number);
    language.add_test("odd", tests::is_odd);
    language.add_test("sequence", tests::is_sequence);
    language.add_test("string", tests::is_string);
    language.add_test("true", tests::is_true);
    language.add_test("undefined", tests::is_undefined);
    // What `select` and its kin compare by.
    language.add_test("eq", tests::is_eq);
    language.add_test("ne", tests::is_ne);
    language.add_test("lt", tests::is_lt);
    language.add_test("le", tests::is_le);
    language.add_test("gt", tests::is_gt);
    language.add_test("ge", tests::is_ge);
    language.add_test("in", tests::is_in);
}

fn refused<T>(message: impl Into<String>) -> Result<T, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.into()))
}

fn text(value: &Value) -> Result<&str, Error> {
    match value.as_str() {
        Some(text) => Ok(text),
        None => refused(format!("this filter is for text, not for {}", value.kind())),
    }
}

fn too_long<T>() -> Result<T, Error> {
    refused(format!("the text becomes longer than {MAX_TEXT_BYTES} bytes"))
}

fn upper(value: &Value) -> Result<String, Error> {
    text(value).map(str::to_uppercase)
}

fn lower(value: &Value) -> Result<String, Error> {
    text(value).map(str::to_lowercase)
}

fn trim(value: &Value) -> Result<String, Error> {
    text(value).map(|text| text.trim().to_owned())
}

fn replace(value: &Value, from: &Value, to: &Value) -> Result<String, Error> {
    let (value, from, to) = (text(value)?, text(from)?, text(to)?);
    let count = value.matches(from).count();
    if count.saturating_mul(to.len()).saturating_add(value.len()) > MAX_TEXT_BYTES {
        return too_long();
    }
    Ok(value.replace(from, to))
}

fn split(value: &Value, separator: Option<&Value>) -> Result<Vec<String>, Error> {
    let value = text(value)?;
    Ok(match separator {
        Some(separator) => value.split(text(separator)?).map(str::to_owned).collect(),
        None => value.split_whitespace().map(str::to_owned).collect(),
    })
}

fn join(values: &Value, separator: Option<&Value>) -> Result<String, Error> {
    let separator = separator.map(text).transpose()?.unwrap_or("");
    let mut joined = String::new();
    for (index, value) in values.try_iter()?.enumerate() {
        let piece = match value.as_str() {
            Some(text) => text.to_owned(),
            None if value.is_number() => value.to_string(),
            None => {
                return refused(format!("join is for text and numbers, not for {}", value.kind()));
            }
        };
        if joined.len() + separator.len() + piece.len() > MAX_TEXT_BYTES {
            return too_long();
        }
        if index > 0 {
            joined.push_str(separator);
        }
        joined.push_str(&piece);
    }
    Ok(joined)
}

fn sum(values: &Value) -> Result<Value, Error> {
    let (mut whole, mut sum, mut is_whole) = (0_i64, 0.0, true);
    for value in values.try_iter()? {
        match (value.as_i64(), f64::try_from(value.clone())) {
            (Some(number), _) if value.is_integer() && is_whole => {
                whole = match whole.checked_add(number) {
                    Some(whole) => whole,
                    None => return refused("the sum has more than 64 bits"),
                };
            }
            (_, Ok(number)) if value.is_number() => {
                if is_whole {
                    (is_whole, sum) = (false, whole as f64);
                }
                sum += number;
            }
            _ => return refused(format!("sum is for numbers, not for {}", value.kind())),
        }
    }
    Ok(if is_whole { Value::from(whole) } else { Value::from(sum) })
}

fn tojson(value: &Value) -> Result<String, Error> {
    match json(value, MAX_TEXT_BYTES) {
        Ok(Some(json)) => Ok(json),
        Ok(None) => too_long(),
        Err(why) => refused(why),
    }
}
