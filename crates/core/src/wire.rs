//! How events are stored: a type and a self-describing JSON payload.
//!
//! A payload of the program (arguments, result, output, failure) is stored once, in the row of
//! the call or the execution; an event refers to it by number. [`encode`] takes it out,
//! [`decode`] puts it back. What is written here stays readable for ever: fields are only added,
//! and a type is never given another meaning. Golden files in `tests/golden` hold it.

use serde_json::{Value, json};

use crate::{Call, CallId, Error, Event, Failure, Outcome, Payload, Result, UnixMs};

/// Type and payload of an event as stored in `execution_events`.
#[derive(Debug, Clone, PartialEq)]
pub struct Wire {
    /// `event_type`.
    pub event_type: &'static str,
    /// `event_payload`.
    pub payload: Value,
}

/// Where [`decode`] finds what an event refers to.
pub trait Rows {
    /// The call as it was asked for: attempt 1, and a timer's due time.
    fn call(&self, id: CallId) -> Option<Call>;
    /// What the call came to.
    fn outcome(&self, id: CallId) -> Option<Outcome>;
    /// The execution's output.
    fn output(&self) -> Option<Payload>;
    /// The execution's failure.
    fn failure(&self) -> Option<Failure>;
}

/// Writes an event.
pub fn encode(event: &Event) -> Wire {
    let wire = |event_type, payload| Wire { event_type, payload };
    match event {
        Event::ExecutionStarted { seed } => {
            // As text: JSON numbers lose 64-bit integers in many readers.
            wire("EXECUTION_STARTED", json!({ "seed": seed.to_string() }))
        }
        Event::CallRequested(call) => wire("STEP_STARTED", json!({ "call": call.id() })),
        Event::TimerStarted(call) => wire("TIMER_STARTED", json!({ "call": call.id() })),
        Event::CallRetrying { call, attempt, failure, due_ms } => wire(
            "STEP_RETRYING",
            json!({ "call": call, "attempt": attempt, "error": failure, "due_ms": due_ms }),
        ),
        Event::CallCompleted { call, attempt, .. } => {
            wire("STEP_COMPLETED", json!({ "call": call, "attempt": attempt }))
        }
        Event::CallFailed { call, attempt, .. } => {
            wire("STEP_FAILED", json!({ "call": call, "attempt": attempt }))
        }
        Event::TimerFired { call } => wire("TIMER_FIRED", json!({ "call": call })),
        Event::Printed { text } => wire("PROGRAM_PRINTED", json!({ "text": text })),
        Event::ExecutionPaused { reason } => wire("EXECUTION_PAUSED", json!({ "reason": reason })),
        Event::ExecutionResumed => wire("EXECUTION_RESUMED", json!({})),
        Event::ExecutionCompleted { .. } => wire("EXECUTION_COMPLETED", json!({})),
        Event::ExecutionFailed { .. } => wire("EXECUTION_FAILED", json!({})),
        Event::ExecutionCancelled { reason } => {
            wire("EXECUTION_CANCELLED", json!({ "reason": reason }))
        }
    }
}

/// Reads an event, with the payloads it refers to.
///
/// # Errors
/// [`Error::Corrupt`] for a type this version does not know, a field that is missing or has
/// another form, or a row that is not there.
pub fn decode(event_type: &str, payload: &Value, rows: &dyn Rows) -> Result<Event> {
    let fields = Fields { event_type, payload };
    Ok(match event_type {
        "EXECUTION_STARTED" => Event::ExecutionStarted { seed: fields.seed()? },
        "STEP_STARTED" => Event::CallRequested(fields.row(|call| rows.call(call))?),
        "TIMER_STARTED" => Event::TimerStarted(fields.row(|call| rows.call(call))?),
        "STEP_RETRYING" => Event::CallRetrying {
            call: fields.call()?,
            attempt: fields.attempt()?,
            failure: fields.failure()?,
            due_ms: fields.due_ms()?,
        },
        "STEP_COMPLETED" => match fields.row(|call| rows.outcome(call))? {
            Outcome::Completed(result) => {
                Event::CallCompleted { call: fields.call()?, attempt: fields.attempt()?, result }
            }
            Outcome::Failed(_) => return fields.corrupt("the call's row holds a failure"),
        },
        "STEP_FAILED" => match fields.row(|call| rows.outcome(call))? {
            Outcome::Failed(failure) => {
                Event::CallFailed { call: fields.call()?, attempt: fields.attempt()?, failure }
            }
            Outcome::Completed(_) => return fields.corrupt("the call's row holds a result"),
        },
        "TIMER_FIRED" => Event::TimerFired { call: fields.call()? },
        "PROGRAM_PRINTED" => Event::Printed { text: fields.text("text")? },
        "EXECUTION_PAUSED" => Event::ExecutionPaused { reason: fields.text("reason")? },
        "EXECUTION_RESUMED" => Event::ExecutionResumed,
        "EXECUTION_COMPLETED" => match rows.output() {
            Some(output) => Event::ExecutionCompleted { output },
            None => return fields.corrupt("the execution's row holds no output"),
        },
        "EXECUTION_FAILED" => match rows.failure() {
            Some(failure) => Event::ExecutionFailed { failure },
            None => return fields.corrupt("the execution's row holds no error"),
        },
        "EXECUTION_CANCELLED" => Event::ExecutionCancelled { reason: fields.text("reason")? },
        _ => return fields.corrupt("this version does not know the type: upgrade"),
    })
}

/// The fields of one stored payload.
struct Fields<'a> {
    event_type: &'a str,
    payload: &'a Value,
}

impl Fields<'_> {
    fn corrupt<T>(&self, what: &str) -> Result<T> {
        Err(Error::corrupt(format!("event {} {}: {what}", self.event_type, self.payload)))
    }

    fn take<T>(&self, name: &str, read: impl FnOnce(&Value) -> Option<T>) -> Result<T> {
        match self.payload.get(name).and_then(read) {
            Some(value) => Ok(value),
            None => self.corrupt(&format!("field '{name}' is missing or has another form")),
        }
    }

    fn call(&self) -> Result<CallId> {
        self.take("call", |value| u32::try_from(value.as_u64()?).ok())
    }

    fn attempt(&self) -> Result<u32> {
        self.take("attempt", |value| u32::try_from(value.as_u64()?).ok())
    }

    fn due_ms(&self) -> Result<UnixMs> {
        self.take("due_ms", Value::as_i64)
    }

    fn seed(&self) -> Result<u64> {
        self.take("seed", |value| value.as_str()?.parse().ok())
    }

    fn text(&self, name: &str) -> Result<String> {
        self.take(name, |value| value.as_str().map(str::to_owned))
    }

    fn failure(&self) -> Result<Failure> {
        self.take("error", |value| serde_json::from_value(value.clone()).ok())
    }

    fn row<T>(&self, find: impl FnOnce(CallId) -> Option<T>) -> Result<T> {
        let call = self.call()?;
        match find(call) {
            Some(row) => Ok(row),
            None => self.corrupt(&format!("the row of call {call} is missing or still open")),
        }
    }
}
