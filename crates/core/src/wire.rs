//! How events are stored: a type and a self-describing JSON payload.
//!
//! A payload of the program (arguments, result, output, failure) is stored once, in the row of
//! the call or the execution; an event refers to it by number. [`encode`] takes it out,
//! [`decode`] puts it back. What is written here stays readable for ever: fields are only added,
//! and a type is never given another meaning. Golden files in `tests/golden` hold it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    Call, CallId, Error, Event, Failure, NewCall, Outcome, Payload, Position, Request, Result,
    Retried, UnixMs,
};

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
        Event::AgentInvoked { call, attempt, agent } => {
            wire("AGENT_INVOKED", json!({ "call": call, "attempt": attempt, "agent": agent }))
        }
        Event::AgentResponded { call, attempt, agent, metadata } => {
            let mut payload = json!({ "call": call, "attempt": attempt, "agent": agent });
            if let Some(Ok(metadata)) = metadata.as_ref().map(Payload::to_value) {
                payload["agent_metadata"] = metadata;
            }
            wire("AGENT_RESPONSE", payload)
        }
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
        Event::VariablesSet { variables } => {
            wire("VARIABLES_SET", json!({ "variables": variables }))
        }
        Event::ExecutionPaused { reason } => wire("EXECUTION_PAUSED", json!({ "reason": reason })),
        Event::ExecutionResumed => wire("EXECUTION_RESUMED", json!({})),
        Event::ExecutionCompleted { .. } => wire("EXECUTION_COMPLETED", json!({})),
        Event::ExecutionFailed { .. } => wire("EXECUTION_FAILED", json!({})),
        Event::ExecutionCancelled { reason } => {
            wire("EXECUTION_CANCELLED", json!({ "reason": reason }))
        }
        Event::ExecutionRetried(retried) => wire("EXECUTION_RETRIED", encode_retried(retried)),
    }
}

/// Writes an event with everything it refers to, for [`decode_whole`].
///
/// Payloads stand in it as JSON text, so that no number changes its form.
pub fn encode_whole(event: &Event) -> Wire {
    let Wire { event_type, mut payload } = encode(event);
    match event {
        Event::CallRequested(call) | Event::TimerStarted(call) => payload = encode_call(call),
        Event::CallCompleted { result, .. } => payload["result"] = json!(result),
        Event::CallFailed { failure, .. } | Event::ExecutionFailed { failure } => {
            payload["error"] = json!(failure);
        }
        Event::ExecutionCompleted { output } => payload["output"] = json!(output),
        Event::ExecutionRetried(retried) => {
            payload["requested"] = retried.open.iter().map(encode_call).collect();
        }
        Event::ExecutionStarted { .. }
        | Event::AgentInvoked { .. }
        | Event::AgentResponded { .. }
        | Event::CallRetrying { .. }
        | Event::TimerFired { .. }
        | Event::Printed { .. }
        | Event::VariablesSet { .. }
        | Event::ExecutionPaused { .. }
        | Event::ExecutionResumed
        | Event::ExecutionCancelled { .. } => {}
    }
    Wire { event_type, payload }
}

/// Reads what [`encode_whole`] wrote.
///
/// # Errors
/// As [`decode`].
pub fn decode_whole(event_type: &str, payload: &Value) -> Result<Event> {
    decode(event_type, payload, &Whole(payload))
}

/// An event that holds what it refers to.
struct Whole<'a>(&'a Value);

impl Rows for Whole<'_> {
    fn call(&self, id: CallId) -> Option<Call> {
        match self.0.get("requested").and_then(Value::as_array) {
            Some(calls) => calls.iter().filter_map(decode_call).find(|call| call.id() == id),
            None => decode_call(self.0),
        }
    }

    fn outcome(&self, _: CallId) -> Option<Outcome> {
        match (self.0.get("result"), self.failure()) {
            (Some(result), _) => read(result).map(Outcome::Completed),
            (None, failure) => failure.map(Outcome::Failed),
        }
    }

    fn output(&self) -> Option<Payload> {
        self.0.get("output").and_then(read)
    }

    fn failure(&self) -> Option<Failure> {
        self.0.get("error").and_then(read)
    }
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> Option<T> {
    T::deserialize(value).ok()
}

/// A call as it was asked for.
fn encode_call(call: &Call) -> Value {
    let Call { new: NewCall { id, request, position }, order, group, attempt: _, due_ms } = call;
    let mut value = json!({
        "call": id, "order": order, "group": group, "line": position.line,
        "column": position.column,
    });
    match request {
        Request::Function { name, args, kwargs, options } => {
            value["name"] = json!(name);
            (value["args"], value["kwargs"]) = (json!(args), json!(kwargs));
            value["options"] = json!(options);
        }
        Request::Timer { delay_ms } => {
            (value["delay_ms"], value["due_ms"]) = (json!(delay_ms), json!(due_ms));
        }
    }
    value
}

fn decode_call(value: &Value) -> Option<Call> {
    let number = |name| u32::try_from(value.get(name)?.as_u64()?).ok();
    let request = match value.get("delay_ms") {
        Some(delay_ms) => Request::Timer { delay_ms: delay_ms.as_u64()? },
        None => Request::Function {
            name: value.get("name").and_then(read)?,
            args: value.get("args").and_then(read)?,
            kwargs: value.get("kwargs").and_then(read)?,
            options: value.get("options").and_then(read)?,
        },
    };
    let due_ms = match request {
        Request::Timer { .. } => Some(value.get("due_ms")?.as_i64()?),
        Request::Function { .. } => None,
    };
    let position = Position { line: number("line")?, column: number("column")? };
    let new = NewCall { id: number("call")?, request, position };
    Some(Call { new, order: number("order")?, group: number("group")?, attempt: 1, due_ms })
}

fn encode_retried(retried: &Retried) -> Value {
    let Retried { open, again, dropped, failure } = retried;
    let stands =
        |call: &Call| json!({ "call": call.id(), "attempt": call.attempt, "due_ms": call.due_ms });
    let failed = |(call, failure): &(CallId, Failure)| json!({ "call": call, "error": failure });
    json!({
        "calls": open.iter().map(stands).collect::<Value>(),
        "again": again.iter().map(failed).collect::<Value>(),
        "dropped": dropped.iter().map(encode_call).collect::<Value>(),
        "error": failure,
    })
}

/// What a transition that was taken back refers to: the rows of its calls say something else by
/// now, or are gone, and so does the execution's. The event that took it back keeps that.
///
/// That event belongs to the transition after it, and has the type [`TakenBack::EVENT_TYPE`].
#[derive(Debug, Clone, PartialEq)]
pub struct TakenBack {
    again: BTreeMap<CallId, Failure>,
    dropped: BTreeMap<CallId, Call>,
    failure: Failure,
}

impl TakenBack {
    /// The type of the events that [`TakenBack::decode`] reads.
    pub const EVENT_TYPE: &'static str = "EXECUTION_RETRIED";

    /// Reads the payload of the event that took the transition back.
    ///
    /// # Errors
    /// `Corrupt` when a field is missing or has another form.
    pub fn decode(payload: &Value) -> Result<Self> {
        let fields = Fields { event_type: Self::EVENT_TYPE, payload };
        let dropped = fields.list("dropped", decode_call)?;
        Ok(Self {
            again: fields.again()?.into_iter().collect(),
            dropped: dropped.into_iter().map(|call| (call.id(), call)).collect(),
            failure: fields.failure()?,
        })
    }

    /// The rows as the transition left them.
    pub fn over<'a>(&'a self, rows: &'a dyn Rows) -> impl Rows + 'a {
        Over { taken_back: self, rows }
    }
}

struct Over<'a> {
    taken_back: &'a TakenBack,
    rows: &'a dyn Rows,
}

impl Rows for Over<'_> {
    fn call(&self, id: CallId) -> Option<Call> {
        self.taken_back.dropped.get(&id).cloned().or_else(|| self.rows.call(id))
    }

    fn outcome(&self, id: CallId) -> Option<Outcome> {
        let again = self.taken_back.again.get(&id).cloned();
        again.map(Outcome::Failed).or_else(|| self.rows.outcome(id))
    }

    fn output(&self) -> Option<Payload> {
        self.rows.output()
    }

    fn failure(&self) -> Option<Failure> {
        Some(self.taken_back.failure.clone())
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
        "AGENT_INVOKED" => Event::AgentInvoked {
            call: fields.call()?,
            attempt: fields.attempt()?,
            agent: fields.text("agent")?,
        },
        "AGENT_RESPONSE" => Event::AgentResponded {
            call: fields.call()?,
            attempt: fields.attempt()?,
            agent: fields.text("agent")?,
            metadata: payload.get("agent_metadata").map(Payload::from_value),
        },
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
        "VARIABLES_SET" => Event::VariablesSet { variables: fields.list("variables", read)? },
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
        TakenBack::EVENT_TYPE => {
            let mut open = Vec::new();
            for entry in fields.list("calls", |entry| Some(entry.clone()))? {
                let stands = Fields { event_type, payload: &entry };
                let call = stands.row(|call| rows.call(call))?;
                let due_ms = entry.get("due_ms").and_then(Value::as_i64);
                open.push(Call { attempt: stands.attempt()?, due_ms, ..call });
            }
            Event::ExecutionRetried(Box::new(Retried {
                open,
                again: fields.again()?,
                dropped: fields.list("dropped", decode_call)?,
                failure: fields.failure()?,
            }))
        }
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

    fn list<T>(&self, name: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>> {
        self.take(name, |value| value.as_array()?.iter().map(read).collect())
    }

    /// The calls that a retry makes again, with what they had failed with.
    fn again(&self) -> Result<Vec<(CallId, Failure)>> {
        self.list("again", |entry| {
            let call = u32::try_from(entry.get("call")?.as_u64()?).ok()?;
            Some((call, entry.get("error").and_then(read)?))
        })
    }

    fn row<T>(&self, find: impl FnOnce(CallId) -> Option<T>) -> Result<T> {
        let call = self.call()?;
        match find(call) {
            Some(row) => Ok(row),
            None => self.corrupt(&format!("the row of call {call} is missing or still open")),
        }
    }
}
