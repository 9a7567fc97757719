//! The JSON shapes that `--json` prints. They are stable: fields are only added.

use durable::{CallRecord, ExecutionRecord, Failure, Payload, Recorded, WorkerRecord, wire};
use durable_core::Event;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::text::instant;

/// An execution.
#[derive(Serialize)]
pub(crate) struct ExecutionView<'a> {
    id: String,
    /// The name it was started under.
    workflow: &'a str,
    /// `scheduled`, `running`, `waiting`, `paused`, `completed`, `failed` or `cancelled`.
    status: &'static str,
    /// An object: the value of each input by name.
    inputs: Option<Box<RawValue>>,
    /// The program's value; null unless it is completed.
    output: Option<Box<RawValue>>,
    /// `{type, message, traceback?, cause_call?}`; null unless it failed, was cancelled or is
    /// paused.
    error: Option<&'a Failure>,
    /// Instants are text in UTC.
    created_at: String,
    started_at: Option<String>,
    completed_at: Option<String>,
    /// From its start to its end, in milliseconds; null before.
    duration_ms: Option<i64>,
    /// The engine that runs it, if one does.
    locked_by: Option<&'a str>,
    idempotency_key: Option<&'a str>,
    /// The tenant it belongs to.
    namespace: &'a str,
    /// The queue that workers take it from.
    queue: &'a str,
    /// Words to find it by.
    tags: &'a [String],
    /// The id of its program.
    program: &'a str,
}

impl<'a> ExecutionView<'a> {
    pub(crate) fn new(record: &'a ExecutionRecord) -> Self {
        Self {
            id: record.id.to_string(),
            workflow: &record.workflow_id,
            status: record.status.as_str(),
            inputs: raw(&record.inputs),
            output: record.output.as_ref().and_then(raw),
            error: record.failure.as_ref(),
            created_at: instant(record.created_at_ms),
            started_at: record.started_at_ms.map(instant),
            completed_at: record.completed_at_ms.map(instant),
            duration_ms: duration_ms(record),
            locked_by: record.locked_by.as_deref(),
            idempotency_key: record.idempotency_key.as_deref(),
            namespace: &record.labels.namespace,
            queue: &record.labels.queue,
            tags: &record.labels.tags,
            program: record.program.as_str(),
        }
    }
}

/// A worker.
#[derive(Serialize)]
pub(crate) struct WorkerView<'a> {
    /// The name it holds leases under, as in `locked_by` of an execution.
    id: &'a str,
    /// Its machine, or the name it was given.
    name: &'a str,
    pid: u32,
    /// Empty for all.
    queues: &'a [String],
    functions: &'a [String],
    concurrency: u32,
    /// How many executions it holds.
    held: u32,
    version: &'a str,
    started_at: String,
    /// When it was last heard of.
    seen_at: String,
    /// Whether it was not heard of for longer than a lease lasts.
    is_stale: bool,
}

impl<'a> WorkerView<'a> {
    pub(crate) fn new(worker: &'a WorkerRecord, is_stale: bool) -> Self {
        Self {
            id: worker.owner.as_str(),
            name: &worker.host,
            pid: worker.pid,
            queues: &worker.queues,
            functions: &worker.functions,
            concurrency: worker.concurrency,
            held: worker.held,
            version: &worker.version,
            started_at: instant(worker.started_at_ms),
            seen_at: instant(worker.seen_at_ms),
            is_stale,
        }
    }
}

/// From an execution's start to its end.
pub(crate) fn duration_ms(record: &ExecutionRecord) -> Option<i64> {
    Some(record.completed_at_ms? - record.started_at_ms?)
}

/// A call or timer.
#[derive(Serialize)]
pub(crate) struct CallView<'a> {
    id: u32,
    /// Its place in the order of all calls, from 1.
    order: u32,
    function: &'a str,
    is_timer: bool,
    /// Where in the workflow it was asked for.
    line: u32,
    column: u32,
    /// Calls that were first awaited together share it.
    resume_group: &'a str,
    /// An array and an object.
    args: Option<Box<RawValue>>,
    kwargs: Option<Box<RawValue>>,
    /// `pending`, `submitted`, `completed`, `failed` or `cancelled`.
    status: &'static str,
    /// The attempt that runs, is due next, or was the last; from 1.
    attempts: u32,
    /// When a timer fires or the next attempt is due.
    due_at: Option<String>,
    job_id: Option<&'a str>,
    result: Option<Box<RawValue>>,
    error: Option<&'a Failure>,
    created_at: String,
    completed_at: Option<String>,
}

impl<'a> CallView<'a> {
    pub(crate) fn new(call: &'a CallRecord) -> Self {
        Self {
            id: call.id,
            order: call.order,
            function: &call.name,
            is_timer: call.is_timer,
            line: call.position.line,
            column: call.position.column,
            resume_group: &call.resume_group_id,
            args: raw(&call.args),
            kwargs: raw(&call.kwargs),
            status: call.status.as_str(),
            attempts: call.attempt,
            due_at: call.due_at_ms.map(instant),
            job_id: call.job_id.as_deref(),
            result: call.result.as_ref().and_then(raw),
            error: call.failure.as_ref(),
            created_at: instant(call.created_at_ms),
            completed_at: call.completed_at_ms.map(instant),
        }
    }
}

/// What `show --json` prints: an execution with its calls in the order they were asked for.
#[derive(Serialize)]
pub(crate) struct ExecutionWithCalls<'a> {
    #[serde(flatten)]
    execution: ExecutionView<'a>,
    calls: Vec<CallView<'a>>,
}

impl<'a> ExecutionWithCalls<'a> {
    pub(crate) fn new(record: &'a ExecutionRecord, calls: &'a [CallRecord]) -> Self {
        Self {
            execution: ExecutionView::new(record),
            calls: calls.iter().map(CallView::new).collect(),
        }
    }
}

/// An entry of the journal.
#[derive(Serialize)]
pub(crate) struct EventView {
    /// Its number, dense from 1.
    pub(crate) sequence: u64,
    /// The transition that wrote it; events of one transition happened together.
    pub(crate) transition: u64,
    pub(crate) time: String,
    #[serde(rename = "type")]
    pub(crate) event_type: &'static str,
    /// What is stored of it, and what it refers to: the function and its arguments, a result,
    /// an error.
    pub(crate) payload: serde_json::Value,
}

impl EventView {
    pub(crate) fn new(recorded: &Recorded) -> Self {
        let wire::Wire { event_type, mut payload } = wire::encode(&recorded.event);
        if let Some(fields) = payload.as_object_mut() {
            for (name, value) in details(&recorded.event) {
                fields.insert(name.to_owned(), value);
            }
        }
        Self {
            sequence: recorded.sequence,
            transition: recorded.transition,
            time: instant(recorded.at_ms),
            event_type,
            payload,
        }
    }
}

/// What an event refers to without repeating it in the journal.
fn details(event: &Event) -> Vec<(&'static str, serde_json::Value)> {
    let json = |payload: &Payload| payload.to_value().unwrap_or_default();
    let failed = |failure: &Failure| serde_json::to_value(failure).unwrap_or_default();
    match event {
        Event::CallRequested(call) | Event::TimerStarted(call) => {
            let mut details =
                vec![("function", call.name().into()), ("line", call.new.position.line.into())];
            match &call.new.request {
                durable_core::Request::Function { args, kwargs, .. } => {
                    details.extend([("args", json(args)), ("kwargs", json(kwargs))]);
                }
                durable_core::Request::Timer { delay_ms } => {
                    details.push(("delay_ms", (*delay_ms).into()));
                }
            }
            details
        }
        Event::CallCompleted { result, .. } => vec![("result", json(result))],
        Event::CallFailed { failure, .. } | Event::ExecutionFailed { failure } => {
            vec![("error", failed(failure))]
        }
        Event::ExecutionCompleted { output } => vec![("output", json(output))],
        Event::ExecutionStarted { .. }
        | Event::CallRetrying { .. }
        | Event::TimerFired { .. }
        | Event::Printed { .. }
        | Event::ExecutionPaused { .. }
        | Event::ExecutionResumed
        | Event::ExecutionCancelled { .. }
        | Event::ExecutionRetried(_) => Vec::new(),
    }
}

/// A payload as it is, so that no number changes its form.
fn raw(payload: &Payload) -> Option<Box<RawValue>> {
    RawValue::from_string(payload.as_str().to_owned()).ok()
}
