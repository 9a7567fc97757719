//! What agents say of themselves in their results.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::Payload;

/// The key of a result under which an agent tells of itself.
const KEY: &str = "agent_metadata";

/// More than this of it is not repeated in the journal.
const MAX_METADATA_BYTES: usize = 16 << 10;

/// What is kept of metadata that is too large, each if it is small enough itself.
const KEPT: [&str; 2] = ["model", "usage"];
const MAX_KEPT_BYTES: usize = 2 << 10;

#[derive(Deserialize)]
struct Reporting {
    agent_metadata: Option<Map<String, Value>>,
}

/// The metadata in an agent's result, if there is any: a JSON object of bounded size.
pub(crate) fn metadata(result: &Payload) -> Option<Payload> {
    // Most results have none, and need not be read.
    if !result.as_str().contains(KEY) {
        return None;
    }
    let Reporting { agent_metadata } = serde_json::from_str(result.as_str()).ok()?;
    let mut metadata = agent_metadata?;
    let whole = Value::Object(metadata.clone()).to_string();
    if whole.len() <= MAX_METADATA_BYTES {
        return Some(Payload::trusted(whole));
    }
    metadata.retain(|name, value| {
        KEPT.contains(&name.as_str()) && value.to_string().len() <= MAX_KEPT_BYTES
    });
    metadata.insert("truncated".to_owned(), Value::Bool(true));
    Some(Payload::from_value(&Value::Object(metadata)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(result: &Value) -> Option<Value> {
        metadata(&Payload::from_value(result)).map(|metadata| metadata.to_value().unwrap())
    }

    #[test]
    fn what_an_agent_reports_is_taken_out_of_its_result() {
        let reported = serde_json::json!({ "model": "m", "usage": { "input_tokens": 3 } });
        let result = serde_json::json!({ "summary": "s", "agent_metadata": reported });
        assert_eq!(of(&result), Some(reported));
        assert_eq!(of(&serde_json::json!({ "summary": "agent_metadata" })), None);
        assert_eq!(of(&serde_json::json!({ "agent_metadata": [1] })), None);
        assert_eq!(of(&serde_json::json!(["agent_metadata"])), None);
    }

    #[test]
    fn too_much_of_it_is_left_out() {
        let long = "x".repeat(MAX_METADATA_BYTES);
        let result = serde_json::json!({ "agent_metadata": { "model": "m", "events": [long] } });
        assert_eq!(of(&result), Some(serde_json::json!({ "model": "m", "truncated": true })));
    }
}
