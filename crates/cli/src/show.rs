//! `durable show`, and how a failure is told.

use std::fmt::Write as _;

use anyhow::Result;
use durable::{CallRecord, ExecutionRecord, Labels, Status};
use durable_server::views::{ExecutionWithCalls, duration_ms, instant};

use crate::{
    args, database,
    exit::Exit,
    text::{self, duration, indent, short},
};

/// How much of a payload is shown.
const MAX_CHARS: usize = 200;

pub(crate) fn show(url: &str, command: &args::Show) -> Result<Exit> {
    let id = database::id(&command.id)?;
    let engine = database::open(url)?;
    let record = engine.execution(id)?;
    let calls = engine.store().calls(id)?;
    if command.json {
        let json = serde_json::to_string(&ExecutionWithCalls::new(&record, &calls))?;
        text::print(&(json + "\n"))?;
    } else {
        text::print(&plain(&record, &calls))?;
    }
    Ok(Exit::Done)
}

fn plain(record: &ExecutionRecord, calls: &[CallRecord]) -> String {
    let mut text = head(record);
    if !calls.is_empty() {
        let rows: Vec<_> = calls.iter().map(row).collect();
        let heads = if calls.iter().any(|call| call.agent().is_some()) {
            ["CALL", "LINE", "STEP", "INPUT", "STATUS", "ATTEMPTS", "CAME TO"]
        } else {
            ["CALL", "LINE", "FUNCTION", "ARGUMENTS", "STATUS", "ATTEMPTS", "CAME TO"]
        };
        text.push('\n');
        text += &text::table(&heads, &rows);
    }
    if let Some(failure) = failure(record, calls) {
        text.push('\n');
        text += &failure;
    }
    text
}

fn head(record: &ExecutionRecord) -> String {
    let mut fields = vec![
        ("execution", record.id.to_string()),
        ("workflow", record.workflow_id.clone()),
        ("status", record.status.to_string()),
        ("created", instant(record.created_at_ms)),
    ];
    let mut add = |name, value: Option<String>| {
        if let Some(value) = value {
            fields.push((name, value));
        }
    };
    add("started", record.started_at_ms.map(instant));
    add("ended", record.completed_at_ms.map(instant));
    add("took", duration_ms(record).map(duration));
    add("run by", record.locked_by.clone());
    add("key", record.idempotency_key.clone());
    let labels = &record.labels;
    let unless_default = |label: &str| (label != Labels::DEFAULT).then(|| label.to_owned());
    add("namespace", unless_default(&labels.namespace));
    add("queue", unless_default(&labels.queue));
    add("tags", (!labels.tags.is_empty()).then(|| labels.tags.join(", ")));
    if record.inputs.as_str() != "{}" {
        add("inputs", Some(short(record.inputs.as_str(), MAX_CHARS)));
    }
    add("output", record.output.as_ref().map(|output| short(output.as_str(), MAX_CHARS)));
    fields.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name:<9}  {value}");
        text
    })
}

fn row(call: &CallRecord) -> Vec<String> {
    let came_to = match (&call.result, &call.failure, call.due_at_ms) {
        (_, Some(failure), _) => short(&failure.to_string(), 48),
        (Some(_), None, _) if call.is_timer => String::new(),
        (Some(result), None, _) => short(result.as_str(), 48),
        (None, None, Some(due_ms)) => format!("due {}", instant(due_ms)),
        (None, None, None) => String::new(),
    };
    vec![
        call.id.to_string(),
        call.position.line.to_string(),
        match call.agent() {
            Some(agent) if agent != call.name => short(&format!("{} ({agent})", call.name), 48),
            _ => short(&call.name, 32),
        },
        arguments(call),
        call.status.to_string(),
        if call.is_timer { String::new() } else { call.attempt.to_string() },
        came_to,
    ]
}

/// Arguments as they are written in a call, as far as they fit.
fn arguments(call: &CallRecord) -> String {
    let inner = |text: &str| text.get(1..text.len().saturating_sub(1)).unwrap_or("").to_owned();
    let parts = [inner(call.args.as_str()), inner(call.kwargs.as_str())];
    let given: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    short(&given.join(", "), 40)
}

/// Why an execution did not complete: the traceback of the workflow, and what its call failed
/// with.
pub(crate) fn failure(record: &ExecutionRecord, calls: &[CallRecord]) -> Option<String> {
    let failure = record.failure.as_ref()?;
    let mut text = match record.status {
        Status::Cancelled => format!("cancelled: {}\n", failure.message),
        Status::Paused => format!("paused: {}\n", failure.message),
        _ => {
            let traceback = failure.traceback.clone().unwrap_or_default();
            let mut text = traceback.trim_end().to_owned();
            // A traceback ends with the error, unless the error has no place in the program.
            if text.is_empty() {
                text = failure.to_string();
            }
            text + "\n"
        }
    };
    let cause = failure.cause_call.and_then(|id| calls.iter().find(|call| call.id == id));
    if let Some((call, cause)) = cause.and_then(|call| Some((call, call.failure.as_ref()?))) {
        let attempts = match call.attempt {
            1 => String::new(),
            attempts => format!(", after {attempts} attempts"),
        };
        let what = match call.agent() {
            Some(agent) => format!("step '{}' with agent '{agent}'", call.name),
            None => format!("{}()", call.name),
        };
        let _ = writeln!(
            text,
            "\nwhich came from call {} of {what} in line {}{attempts}:",
            call.id, call.position.line
        );
        text += &indent(cause.traceback.as_deref().unwrap_or(&cause.to_string()));
    }
    Some(text)
}
