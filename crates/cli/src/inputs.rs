//! The inputs of a run: what `--inputs` and `--input` give.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};

/// Gathers the inputs; single ones override those of the file.
pub(crate) fn gather(file: Option<&Path>, single: &[String]) -> Result<Map<String, Value>> {
    let mut inputs = file.map_or_else(|| Ok(Map::new()), read)?;
    for assignment in single {
        let (name, value) = parse(assignment)?;
        inputs.insert(name, value);
    }
    Ok(inputs)
}

fn read(file: &Path) -> Result<Map<String, Value>> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("can't read {shown}"))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{shown} must hold a JSON object, a value for each input"))
}

/// Reads `name=value`: JSON if it is, else a string.
fn parse(assignment: &str) -> Result<(String, Value)> {
    let Some((name, value)) = assignment.split_once('=') else {
        bail!("--input {assignment}: expected NAME=VALUE");
    };
    let mut letters = name.chars();
    let is_name = letters.next().is_some_and(|first| first.is_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_alphanumeric() || letter == '_');
    if !is_name {
        bail!("--input {assignment}: '{name}' is no name that a workflow can use");
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_json_or_else_a_string() {
        for (text, value) in [
            ("n=1", json!(1)),
            ("n=[1, 2.5]", json!([1, 2.5])),
            ("n=\"1\"", json!("1")),
            ("n=a=b", json!("a=b")),
            ("n=", json!("")),
            ("n=null", json!(null)),
        ] {
            assert_eq!(parse(text).unwrap(), ("n".to_owned(), value), "{text}");
        }
    }

    #[test]
    fn names_are_checked() {
        for text in ["n", "=1", "1a=1", "a b=1", "a.b=1"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
