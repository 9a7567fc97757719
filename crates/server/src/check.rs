//! What names, labels and payloads may look like.

use durable_core::{Error, Failure, Payload, Result};
use serde_json::Value;
use serde_json::value::RawValue;

/// Longest namespace, queue or tag.
const MAX_LABEL_CHARS: usize = 100;
/// Longest name, idempotency key or reason.
pub(crate) const MAX_TEXT_CHARS: usize = 500;
/// Longest message or traceback of a failure.
const MAX_FAILURE_BYTES: usize = 64 << 10;
/// Deepest nesting of a payload: what workflow code can be given.
const MAX_DEPTH: usize = 120;

/// Checks a text that people read: not empty, not endless, no control characters.
pub(crate) fn text(what: &str, text: &str, max_chars: usize) -> Result<()> {
    if text.is_empty() {
        return Err(Error::invalid(format!("{what} is empty")));
    }
    if text.chars().count() > max_chars {
        return Err(Error::invalid(format!("{what} is longer than {max_chars} characters")));
    }
    if text.chars().any(char::is_control) {
        return Err(Error::invalid(format!("{what} contains control characters")));
    }
    Ok(())
}

/// Checks a namespace, a queue or a tag: letters, digits and `-_.:/@`.
pub(crate) fn label(what: &str, label: &str) -> Result<()> {
    text(what, label, MAX_LABEL_CHARS)?;
    let is_plain = |letter: char| letter.is_alphanumeric() || "-_.:/@".contains(letter);
    match label.chars().find(|letter| !is_plain(*letter)) {
        None => Ok(()),
        Some(letter) => Err(Error::invalid(format!(
            "{what} contains {letter:?}: letters, digits and -_.:/@ are allowed"
        ))),
    }
}

/// Checks the name of a function as workflow code writes it.
pub(crate) fn function(name: &str) -> Result<()> {
    let mut letters = name.chars();
    let is_name = letters.next().is_some_and(|first| first.is_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_alphanumeric() || letter == '_');
    if is_name && name.chars().count() <= MAX_LABEL_CHARS {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "'{}' is no name of a function: over HTTP functions are named as workers registered them, \
         without dots",
        name.chars().take(MAX_LABEL_CHARS).collect::<String>()
    )))
}

/// Takes a JSON value as it was written, so that no number changes its form.
pub(crate) fn payload(what: &str, raw: Option<&RawValue>, max_bytes: u64) -> Result<Payload> {
    let text = raw.map_or("null", RawValue::get);
    if text.len() as u64 > max_bytes {
        return Err(Error::invalid(format!(
            "{what} has {} bytes, the limit max_payload_bytes is {max_bytes}: store large data \
             elsewhere and pass a reference to it",
            text.len()
        )));
    }
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Error::invalid(format!("{what} is not JSON that can be kept: {error}")))?;
    if depth(&value) > MAX_DEPTH {
        return Err(Error::invalid(format!("{what} is nested deeper than {MAX_DEPTH} levels")));
    }
    Ok(Payload::trusted(text))
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// A failure as a worker tells it, cut to what is worth keeping.
pub(crate) fn failure(error_type: &str, message: &str, traceback: Option<&str>) -> Result<Failure> {
    let is_dotted = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == '.';
    if error_type.is_empty() || error_type.len() > 200 || !error_type.chars().all(is_dotted) {
        return Err(Error::invalid(
            "the type of the failure is no name of an exception, such as ValueError",
        ));
    }
    let mut failure = Failure::new(error_type, tidy(message));
    failure.traceback = traceback.map(tidy);
    Ok(failure)
}

/// Text that every store can keep.
fn tidy(text: &str) -> String {
    let mut end = text.len().min(MAX_FAILURE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('\0', "\u{fffd}")
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_keep_their_form_and_have_a_depth() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let kept = payload("it", Some(&raw("[1.0, 1e3]")), 100).unwrap();
        assert_eq!(kept.as_str(), "[1.0, 1e3]");
        assert_eq!(payload("it", None, 100).unwrap().as_str(), "null");
        let nested = |levels: usize| raw(&("[".repeat(levels) + &"]".repeat(levels)));
        assert!(payload("it", Some(&nested(120)), 1_000).is_ok());
        assert!(payload("it", Some(&nested(121)), 1_000).is_err());
        assert!(payload("it", Some(&raw("\"xxxx\"")), 5).is_err());
    }

    #[test]
    fn names_are_checked() {
        for name in ["f", "_f1", "größe"] {
            function(name).unwrap();
        }
        for name in ["", "os.system", "1f", "f()", "a b", "\0"] {
            assert!(function(name).is_err(), "{name}");
        }
        label("queue", "team/gpu-1").unwrap();
        for wrong in ["", "a b", "a\0", &"x".repeat(101)] {
            assert!(label("queue", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn failures_are_cut_and_hold_no_nul() {
        let long = "ä".repeat(MAX_FAILURE_BYTES);
        let cut = failure("a.B", &long, Some("x\0y")).unwrap();
        assert!(cut.message.len() <= MAX_FAILURE_BYTES);
        assert_eq!(cut.traceback.as_deref(), Some("x\u{fffd}y"));
        assert!(failure("", "", None).is_err() && failure("a b", "", None).is_err());
    }
}
