//! The JSON shapes of executions, calls and events, for the API and the command line. They are
//! stable: fields are only added.

use std::collections::BTreeMap;

use durable_core::{
    Assignment, Call, CallId, Definition, Event, Failure, Frame, Inspection, Outcome, Payload,
    Recorded, Request, UnixMs, wire,
};
use durable_engine::checkpoints::{Change, Checkpoint, Diff};
use durable_store::{CallRecord, ExecutionRecord, WorkerRecord};
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use utoipa::ToSchema;

/// An instant in UTC, as `2026-01-31T12:00:00.125Z`.
pub fn instant(at_ms: UnixMs) -> String {
    match jiff::Timestamp::from_millisecond(at_ms) {
        Ok(at) => format!("{at:.3}"),
        // Further off than any calendar.
        Err(_) => at_ms.to_string(),
    }
}

/// From an execution's start to its end.
pub fn duration_ms(record: &ExecutionRecord) -> Option<i64> {
    Some(record.completed_at_ms? - record.started_at_ms?)
}

/// Why something failed.
#[derive(Debug, Serialize, ToSchema)]
pub struct FailureView {
    /// The name of the exception.
    #[serde(rename = "type")]
    error_type: String,
    /// What it said; for a pause or a cancellation the reason.
    message: String,
    /// Where in the workflow's or the function's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    traceback: Option<String>,
    /// The call whose failure it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause_call: Option<u32>,
}

impl FailureView {
    /// A failure as it is shown.
    pub fn new(failure: &Failure) -> Self {
        Self {
            error_type: failure.error_type.clone(),
            message: failure.message.clone(),
            traceback: failure.traceback.clone(),
            cause_call: failure.cause_call,
        }
    }
}

/// An execution.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Execution)]
pub struct ExecutionView {
    /// Its id.
    #[schema(format = "uuid")]
    id: String,
    /// The name it was started under.
    workflow: String,
    /// `scheduled`, `running`, `waiting`, `paused`, `completed`, `failed` or `cancelled`.
    status: &'static str,
    /// An object: the value of each input by name.
    #[schema(value_type = Value)]
    inputs: Option<Box<RawValue>>,
    /// The program's value; null unless it is completed.
    #[schema(value_type = Value)]
    output: Option<Box<RawValue>>,
    /// Null unless it failed, was cancelled or is paused.
    error: Option<FailureView>,
    /// Instants are text in UTC.
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    started_at: Option<String>,
    #[schema(format = DateTime)]
    completed_at: Option<String>,
    /// From its start to its end, in milliseconds; null before.
    duration_ms: Option<i64>,
    /// The engine that runs it, if one does.
    locked_by: Option<String>,
    idempotency_key: Option<String>,
    /// The tenant it belongs to.
    namespace: String,
    /// The queue that workers take it from.
    queue: String,
    /// Words to find it by.
    tags: Vec<String>,
    /// The id of its program.
    program: String,
}

impl ExecutionView {
    /// An execution as it is shown.
    pub fn new(record: &ExecutionRecord) -> Self {
        Self {
            id: record.id.to_string(),
            workflow: record.workflow_id.clone(),
            status: record.status.as_str(),
            inputs: raw(&record.inputs),
            output: record.output.as_ref().and_then(raw),
            error: record.failure.as_ref().map(FailureView::new),
            created_at: instant(record.created_at_ms),
            started_at: record.started_at_ms.map(instant),
            completed_at: record.completed_at_ms.map(instant),
            duration_ms: duration_ms(record),
            locked_by: record.locked_by.clone(),
            idempotency_key: record.idempotency_key.clone(),
            namespace: record.labels.namespace.clone(),
            queue: record.labels.queue.clone(),
            tags: record.labels.tags.clone(),
            program: record.program.as_str().to_owned(),
        }
    }

    /// About how many bytes its JSON has.
    pub(crate) fn bytes(&self) -> usize {
        let length = |raw: &Option<Box<RawValue>>| raw.as_ref().map_or(0, |raw| raw.get().len());
        1_000 + length(&self.inputs) + length(&self.output)
    }
}

/// A call or timer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Call)]
pub struct CallView {
    /// Its number within the execution.
    id: u32,
    /// Its place in the order of all calls, from 1.
    pub(crate) order: u32,
    /// What the workflow calls it; the name of a step.
    function: String,
    /// Of a step: the agent that works on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    is_timer: bool,
    /// Where in the workflow it was asked for.
    line: u32,
    column: u32,
    /// Calls that were first awaited together share it.
    resume_group: String,
    /// An array.
    #[schema(value_type = Value)]
    args: Option<Box<RawValue>>,
    /// An object.
    #[schema(value_type = Value)]
    kwargs: Option<Box<RawValue>>,
    /// `pending`, `submitted`, `completed`, `failed` or `cancelled`.
    status: &'static str,
    /// The attempt that runs, is due next, or was the last; from 1.
    attempts: u32,
    /// When a timer fires or the next attempt is due.
    #[schema(format = DateTime)]
    due_at: Option<String>,
    job_id: Option<String>,
    #[schema(value_type = Value)]
    result: Option<Box<RawValue>>,
    error: Option<FailureView>,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    completed_at: Option<String>,
}

impl CallView {
    /// A call as it is shown.
    pub fn new(call: &CallRecord) -> Self {
        Self {
            id: call.id,
            order: call.order,
            function: call.name.clone(),
            agent: call.agent().map(str::to_owned),
            is_timer: call.is_timer,
            line: call.position.line,
            column: call.position.column,
            resume_group: call.resume_group_id.clone(),
            args: raw(&call.args),
            kwargs: raw(&call.kwargs),
            status: call.status.as_str(),
            attempts: call.attempt,
            due_at: call.due_at_ms.map(instant),
            job_id: call.job_id.clone(),
            result: call.result.as_ref().and_then(raw),
            error: call.failure.as_ref().map(FailureView::new),
            created_at: instant(call.created_at_ms),
            completed_at: call.completed_at_ms.map(instant),
        }
    }

    /// About how many bytes its JSON has.
    pub(crate) fn bytes(&self) -> usize {
        let length = |raw: &Option<Box<RawValue>>| raw.as_ref().map_or(0, |raw| raw.get().len());
        1_000 + length(&self.args) + length(&self.kwargs) + length(&self.result)
    }
}

/// An execution with its calls in the order they were asked for.
#[derive(Debug, Serialize)]
pub struct ExecutionWithCalls {
    #[serde(flatten)]
    execution: ExecutionView,
    calls: Vec<CallView>,
}

impl ExecutionWithCalls {
    /// Both as they are shown.
    pub fn new(record: &ExecutionRecord, calls: &[CallRecord]) -> Self {
        Self {
            execution: ExecutionView::new(record),
            calls: calls.iter().map(CallView::new).collect(),
        }
    }
}

/// An entry of the journal.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Event)]
pub struct EventView {
    /// Its number, dense from 1.
    pub sequence: u64,
    /// The transition that wrote it; events of one transition happened together.
    pub transition: u64,
    /// When, in UTC.
    #[schema(format = DateTime)]
    pub time: String,
    /// What happened, such as `STEP_COMPLETED`.
    #[serde(rename = "type")]
    pub event_type: &'static str,
    /// What is stored of it, and what it refers to: the function and its arguments, a result,
    /// an error.
    pub payload: Value,
}

impl EventView {
    /// An event as it is shown.
    pub fn new(recorded: &Recorded) -> Self {
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
fn details(event: &Event) -> Vec<(&'static str, Value)> {
    let json = |payload: &Payload| payload.to_value().unwrap_or_default();
    let failed = |failure: &Failure| serde_json::to_value(failure).unwrap_or_default();
    match event {
        Event::CallRequested(call) | Event::TimerStarted(call) => {
            let mut details =
                vec![("function", call.name().into()), ("line", call.new.position.line.into())];
            match &call.new.request {
                Request::Function { args, kwargs, .. } => {
                    details.extend([("args", json(args)), ("kwargs", json(kwargs))]);
                }
                Request::Timer { delay_ms } => details.push(("delay_ms", (*delay_ms).into())),
            }
            details
        }
        Event::CallCompleted { result, .. } => vec![("result", json(result))],
        Event::CallFailed { failure, .. } | Event::ExecutionFailed { failure } => {
            vec![("error", failed(failure))]
        }
        Event::VariablesSet { variables } => vec![("variables", assignments(variables))],
        Event::ExecutionCompleted { output } => vec![("output", json(output))],
        Event::ExecutionStarted { .. }
        | Event::AgentInvoked { .. }
        | Event::AgentResponded { .. }
        | Event::CallRetrying { .. }
        | Event::TimerFired { .. }
        | Event::Printed { .. }
        | Event::ExecutionPaused { .. }
        | Event::ExecutionResumed
        | Event::ExecutionCancelled { .. }
        | Event::ExecutionRetried(_) => Vec::new(),
    }
}

fn assignments(variables: &[Assignment]) -> Value {
    let views: Vec<_> = variables.iter().map(AssignmentView::new).collect();
    serde_json::to_value(views).unwrap_or_default()
}

/// A call or timer that is waited for.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenCall)]
pub struct OpenCallView {
    /// Its number within the execution.
    call_id: CallId,
    /// What the workflow calls it; the name of a step.
    name: String,
    /// Where in the workflow it was asked for.
    line: u32,
    column: u32,
}

impl OpenCallView {
    fn new(call: &Call) -> Self {
        let position = call.new.position;
        Self {
            call_id: call.id(),
            name: call.name().to_owned(),
            line: position.line,
            column: position.column,
        }
    }
}

/// A variable that was given another value.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Assignment)]
pub struct AssignmentView {
    /// The number of its task's stack.
    task: u32,
    /// The function whose variable it is; `<module>` for the program's own text.
    function: String,
    /// Its frame's place in the stack, from 0 for the outermost.
    depth: u32,
    name: String,
    #[schema(value_type = Value)]
    value: Option<Box<RawValue>>,
}

impl AssignmentView {
    fn new(assignment: &Assignment) -> Self {
        let Assignment { task, depth, function, name, value } = assignment;
        Self {
            task: *task,
            function: function.clone(),
            depth: *depth,
            name: name.clone(),
            value: raw(value),
        }
    }

    fn bytes(&self) -> usize {
        let value = self.value.as_ref().map_or(0, |value| value.get().len());
        100 + self.function.len() + self.name.len() + value
    }
}

/// A place at which an execution has waited.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Checkpoint)]
pub struct CheckpointView {
    /// Its number within the execution, from 1.
    pub(crate) checkpoint: u32,
    /// Its name: the execution's id and its number.
    id: String,
    /// The id of its execution.
    #[schema(format = "uuid")]
    execution_id: String,
    /// When it was reached, in UTC.
    #[schema(format = DateTime)]
    time: String,
    /// The last event before it.
    sequence: u64,
    /// The transition that led there.
    transition: u64,
    /// What it waits for, in the order in which it was asked for.
    waits_for: Vec<OpenCallView>,
    /// What the program called it with `__checkpoint__(…)`.
    label: Option<String>,
    /// The variables that were set there, in a fork.
    set: Vec<AssignmentView>,
}

impl CheckpointView {
    /// A checkpoint as it is shown.
    pub fn new(checkpoint: &Checkpoint) -> Self {
        Self {
            checkpoint: checkpoint.number,
            id: checkpoint.id(),
            execution_id: checkpoint.execution.to_string(),
            time: instant(checkpoint.at_ms),
            sequence: checkpoint.sequence,
            transition: checkpoint.transition,
            waits_for: checkpoint.waits_for.iter().map(OpenCallView::new).collect(),
            label: checkpoint.label.clone(),
            set: checkpoint.set.iter().map(AssignmentView::new).collect(),
        }
    }

    /// About how many bytes its JSON has.
    pub(crate) fn bytes(&self) -> usize {
        let calls = self.waits_for.iter().map(|call| 100 + call.name.len());
        let set = self.set.iter().map(AssignmentView::bytes);
        calls.chain(set).sum::<usize>() + 500
    }
}

/// A function that has been entered and not left.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Frame)]
pub struct FrameView {
    /// Its name; `<module>` for the program's own text.
    function: String,
    /// Where it is.
    line: u32,
    column: u32,
    /// Its variables by name. What has no form as JSON is `{"$py:repr": …}` with a few words.
    #[schema(value_type = BTreeMap<String, Value>)]
    variables: BTreeMap<String, Option<Box<RawValue>>>,
}

impl FrameView {
    fn new(frame: &Frame) -> Self {
        Self {
            function: frame.function.clone(),
            line: frame.position.line,
            column: frame.position.column,
            variables: raw_fields(&frame.variables),
        }
    }
}

/// A checkpoint, and what the program was there.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InspectedCheckpoint)]
pub struct InspectedCheckpointView {
    #[serde(flatten)]
    checkpoint: CheckpointView,
    /// The program.
    source: String,
    /// The call stacks of its tasks, each from the outermost function to the one that waits.
    stacks: Vec<Vec<FrameView>>,
}

impl InspectedCheckpointView {
    /// A checkpoint as it is shown.
    pub fn new(checkpoint: &Checkpoint, definition: &Definition, seen: &Inspection) -> Self {
        let stack = |stack: &Vec<Frame>| stack.iter().map(FrameView::new).collect();
        Self {
            checkpoint: CheckpointView::new(checkpoint),
            source: definition.source.clone(),
            stacks: seen.stacks.iter().map(stack).collect(),
        }
    }
}

/// A variable that differs between two checkpoints.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Change)]
pub struct ChangeView {
    /// The number of its task's stack.
    task: usize,
    /// The function whose variable it is; `<module>` for the program's own text.
    function: String,
    /// Its frame's place in the stack, from 0 for the outermost.
    depth: usize,
    name: String,
    /// What it was; left out when it was not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value)]
    before: Option<Box<RawValue>>,
    /// What it is; left out when it is not there any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value)]
    after: Option<Box<RawValue>>,
}

impl ChangeView {
    fn new(change: &Change) -> Self {
        Self {
            task: change.task,
            function: change.function.clone(),
            depth: change.depth,
            name: change.name.clone(),
            before: change.before.as_ref().and_then(raw),
            after: change.after.as_ref().and_then(raw),
        }
    }
}

/// What a call came to.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EndedCall)]
pub struct EndedCallView {
    /// Its number within the execution.
    call_id: CallId,
    #[schema(value_type = Value)]
    result: Option<Box<RawValue>>,
    error: Option<FailureView>,
}

impl EndedCallView {
    fn new(call: CallId, outcome: &Outcome) -> Self {
        let (result, error) = match outcome {
            Outcome::Completed(result) => (raw(result), None),
            Outcome::Failed(failure) => (None, Some(FailureView::new(failure))),
        };
        Self { call_id: call, result, error }
    }
}

/// What became of a program between two checkpoints.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CheckpointDiff)]
pub struct DiffView {
    /// The numbers of the checkpoints.
    from: u32,
    to: u32,
    variables: Vec<ChangeView>,
    /// What the program was given on the way, in order.
    ended: Vec<EndedCallView>,
    /// The variables that were set on the way, in order.
    set: Vec<AssignmentView>,
    /// Whether there was more on the way than stands there, because that is very large.
    more: bool,
}

impl DiffView {
    /// A difference as it is shown, with results of about so many bytes.
    pub(crate) fn new(from: u32, to: u32, diff: &Diff, max_bytes: usize) -> Self {
        let mut room = max_bytes;
        let ended = diff.ended.iter().map_while(|(call, outcome)| {
            room = room.checked_sub(100 + outcome_bytes(outcome))?;
            Some(EndedCallView::new(*call, outcome))
        });
        let ended: Vec<_> = ended.collect();
        let set = diff.set.iter().map(AssignmentView::new).map_while(|assignment| {
            room = room.checked_sub(assignment.bytes())?;
            Some(assignment)
        });
        let set: Vec<_> = set.collect();
        Self {
            from,
            to,
            variables: diff.variables.iter().map(ChangeView::new).collect(),
            more: ended.len() < diff.ended.len() || set.len() < diff.set.len(),
            ended,
            set,
        }
    }
}

fn outcome_bytes(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Completed(result) => result.as_str().len(),
        Outcome::Failed(failure) => {
            failure.message.len() + failure.traceback.as_ref().map_or(0, String::len)
        }
    }
}

/// A worker that was silent for longer than this is shown as gone.
const SILENT_MS: i64 = 30_000;

/// Whether a worker was heard of lately, at a time of the store's clock.
pub fn is_live(worker: &WorkerRecord, now_ms: UnixMs) -> bool {
    worker.seen_at_ms > now_ms.saturating_sub(SILENT_MS)
}

/// A worker process.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Worker)]
pub struct WorkerView {
    /// The name it holds executions under.
    id: String,
    /// The machine it runs on, and its process there.
    host: String,
    pid: u32,
    /// The queues it takes from; empty for all.
    queues: Vec<String>,
    /// The functions it runs.
    functions: Vec<String>,
    /// How many calls it runs at once.
    concurrency: u32,
    version: String,
    #[schema(format = DateTime)]
    started_at: String,
    /// When it was last heard of.
    #[schema(format = DateTime)]
    seen_at: String,
    /// Whether that was lately.
    is_live: bool,
    /// How many executions it holds.
    held: u32,
}

impl WorkerView {
    /// A worker as it is shown at a time of the store's clock.
    pub fn new(worker: &WorkerRecord, now_ms: UnixMs) -> Self {
        Self {
            id: worker.owner.as_str().to_owned(),
            is_live: is_live(worker, now_ms),
            host: worker.host.clone(),
            pid: worker.pid,
            queues: worker.queues.clone(),
            functions: worker.functions.clone(),
            concurrency: worker.concurrency,
            version: worker.version.clone(),
            started_at: instant(worker.started_at_ms),
            seen_at: instant(worker.seen_at_ms),
            held: worker.held,
        }
    }
}

/// A payload as it is, so that no number changes its form.
pub(crate) fn raw(payload: &Payload) -> Option<Box<RawValue>> {
    RawValue::from_string(payload.as_str().to_owned()).ok()
}

/// As [`raw`], by name.
pub(crate) fn raw_fields(
    payloads: &BTreeMap<String, Payload>,
) -> BTreeMap<String, Option<Box<RawValue>>> {
    payloads.iter().map(|(name, payload)| (name.clone(), raw(payload))).collect()
}

#[cfg(test)]
mod tests {
    use super::instant;

    #[test]
    fn instants_are_written_in_utc() {
        for (at_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_001, "2024-02-29T23:59:59.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(instant(at_ms), text);
        }
    }
}
