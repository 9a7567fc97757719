//! Retry policies, times and declared inputs.

use durable_core::{
    RetryPolicy,
    report::{Problem, Report},
};
use serde_json::Value;

use super::fields::{Fields, wrong};
use crate::{
    source::{Node, Tree},
    template::Template,
};

/// An input that a workflow declares.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) is_required: bool,
    /// What it is if it is not given, as JSON.
    pub(crate) default: Option<String>,
}

/// What an input has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Any,
    String,
    Integer,
    Number,
    Boolean,
    Array,
    Object,
}

impl Kind {
    const ALL: [(&'static str, Self); 7] = [
        ("any", Self::Any),
        ("string", Self::String),
        ("integer", Self::Integer),
        ("number", Self::Number),
        ("boolean", Self::Boolean),
        ("array", Self::Array),
        ("object", Self::Object),
    ];

    pub(crate) fn as_str(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, kind)| *kind == self).map_or("any", |(name, _)| name)
    }

    pub(crate) fn fits(self, value: &Value) -> bool {
        match self {
            Self::Any => true,
            Self::String => value.is_string(),
            Self::Integer => value.is_i64() || value.is_u64(),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
            Self::Array => value.is_array(),
            Self::Object => value.is_object(),
        }
    }
}

/// Reads the declared inputs: a list of names, or a mapping from names to what they have to be.
pub(super) fn inputs(node: &Node, report: &mut Report<'_>) -> Vec<Input> {
    match &node.tree {
        Tree::List(names) => names.iter().filter_map(|name| named(name, report)).collect(),
        Tree::Map(fields) => {
            fields.iter().filter_map(|(key, field)| input(&key.name, field, report)).collect()
        }
        _ => {
            wrong(node, "inputs", "a mapping or a list of names", report);
            Vec::new()
        }
    }
}

fn named(node: &Node, report: &mut Report<'_>) -> Option<Input> {
    match &node.tree {
        Tree::Text(name) => {
            Some(Input { name: name.clone(), kind: Kind::Any, is_required: true, default: None })
        }
        _ => {
            wrong(node, "an input", "a name", report);
            None
        }
    }
}

fn input(name: &str, node: &Node, report: &mut Report<'_>) -> Option<Input> {
    let name = name.to_owned();
    if node.tree == Tree::Null {
        return Some(Input { name, kind: Kind::Any, is_required: true, default: None });
    }
    let known = ["type", "required", "default", "description"];
    let mut fields = Fields::of(node, "an input", &known, report)?;
    let kind = fields.take("type").map_or(Kind::Any, |node| {
        let named = match &node.tree {
            Tree::Text(text) => Kind::ALL.into_iter().find(|(name, _)| name == text),
            _ => None,
        };
        named.map_or_else(
            || {
                let names = Kind::ALL.map(|(name, _)| name).join(", ");
                wrong(node, "type", &format!("one of {names}"), report);
                Kind::Any
            },
            |(_, kind)| kind,
        )
    });
    fields.text("description", report);
    let default = fields.take("default").and_then(|node| default(node, kind, report));
    let is_required = fields.flag("required", report).unwrap_or(default.is_none());
    Some(Input { name, kind, is_required, default })
}

fn default(node: &Node, kind: Kind, report: &mut Report<'_>) -> Option<String> {
    let mut faults = Vec::new();
    let Template::Fixed(json) = Template::read("", node, &mut faults) else {
        let message = "a default can't be filled in".to_owned();
        let hint = "write the value itself".to_owned();
        report.add(Problem { range: node.range.clone(), message, hint });
        return None;
    };
    let value = serde_json::from_str(&json).unwrap_or(Value::Null);
    if !kind.fits(&value) {
        wrong(node, "default", &format!("of type {}", kind.as_str()), report);
    }
    Some(json)
}

/// Reads when failed attempts are made again: how many there are, or the whole policy.
pub(super) fn retry(node: &Node, report: &mut Report<'_>) -> Option<RetryPolicy> {
    let mut policy = RetryPolicy::default();
    match &node.tree {
        Tree::Number(number) => match number.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(max_attempts) => policy.max_attempts = max_attempts,
            None => {
                wrong(node, "retry", "a number of attempts", report);
                return None;
            }
        },
        _ => {
            let known = [
                "max_attempts",
                "initial_interval_ms",
                "backoff_coefficient",
                "max_interval_ms",
                "jitter",
                "non_retryable",
            ];
            let mut fields = Fields::of(node, "retry", &known, report)?;
            if let Some(most) = fields.whole("max_attempts", report) {
                policy.max_attempts = u32::try_from(most).unwrap_or(u32::MAX);
            }
            if let Some(wait_ms) = fields.whole("initial_interval_ms", report) {
                policy.initial_interval_ms = wait_ms;
            }
            if let Some(times) = fields.number("backoff_coefficient", report) {
                policy.backoff_coefficient = times;
            }
            if let Some(wait_ms) = fields.whole("max_interval_ms", report) {
                policy.max_interval_ms = wait_ms;
            }
            if let Some(share) = fields.number("jitter", report) {
                policy.jitter = share;
            }
            if let Some(types) = fields.take("non_retryable") {
                policy.non_retryable = error_types(types, report);
            }
        }
    }
    if let Err(error) = policy.validate() {
        let problem =
            Problem { range: node.range.clone(), message: error.to_string(), hint: String::new() };
        report.add(problem);
    }
    Some(policy)
}

fn error_types(node: &Node, report: &mut Report<'_>) -> Vec<String> {
    let Tree::List(items) = &node.tree else {
        wrong(node, "non_retryable", "a list of types of errors", report);
        return Vec::new();
    };
    let mut types = Vec::with_capacity(items.len());
    for item in items {
        match &item.tree {
            Tree::Text(name) => types.push(name.clone()),
            _ => wrong(item, "non_retryable", "a list of types of errors", report),
        }
    }
    types
}

/// Reads how long something may take, in milliseconds: a number of seconds, or text like `90s`.
pub(super) fn duration(node: &Node, report: &mut Report<'_>) -> Option<u64> {
    let seconds = match &node.tree {
        Tree::Number(number) => number.as_f64(),
        Tree::Text(text) => seconds(text.trim()),
        _ => None,
    };
    let milliseconds = seconds.map(|seconds| (seconds * 1_000.0).ceil());
    // Up to here every whole number of milliseconds is exact.
    match milliseconds.filter(|ms| *ms >= 1.0 && *ms <= (1_u64 << 53) as f64) {
        Some(milliseconds) => Some(milliseconds as u64),
        None => {
            let expected = "a positive number of seconds, or text such as 500ms, 30s, 5m or 2h";
            wrong(node, "timeout", expected, report);
            None
        }
    }
}

fn seconds(text: &str) -> Option<f64> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3_600.0), ("d", 86_400.0)];
    units.into_iter().find_map(|(unit, seconds)| {
        let number: f64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        Some(number * seconds)
    })
}
