//! What a store gives back.

use std::sync::Arc;

use durable_core::{
    CallId, CallStatus, Dictionary, Error, Execution, ExecutionId, Failure, Lease, Outcome,
    Payload, Position, Program, ProgramId, Recorded, Request, Result, Snapshot, Status, UnixMs,
};

/// An execution as it is shown to people: one row of `executions`.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutionRecord {
    /// Its id.
    pub id: ExecutionId,
    /// The name it was started under.
    pub workflow_id: String,
    /// What it runs.
    pub program: ProgramId,
    /// Its status.
    pub status: Status,
    /// A JSON object.
    pub inputs: Payload,
    /// The program's value, when it is completed.
    pub output: Option<Payload>,
    /// Why it failed; for `paused` and `cancelled` the reason stands in `message`.
    pub failure: Option<Failure>,
    /// Number of transitions so far.
    pub version: u64,
    /// When it was stored.
    pub created_at_ms: UnixMs,
    /// When an engine first began with it.
    pub started_at_ms: Option<UnixMs>,
    /// When it ended.
    pub completed_at_ms: Option<UnixMs>,
    /// Who holds its lease.
    pub locked_by: Option<String>,
    /// The key it was started with.
    pub idempotency_key: Option<String>,
    /// Where it belongs.
    pub labels: Labels,
}

/// Where an execution belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// The tenant it belongs to: nobody who is given one namespace sees another.
    pub namespace: String,
    /// The queue that workers take it from.
    pub queue: String,
    /// Words to find it by.
    pub tags: Vec<String>,
}

impl Labels {
    /// The namespace and the queue of what says nothing else.
    pub const DEFAULT: &'static str = "default";
}

impl Default for Labels {
    fn default() -> Self {
        Self {
            namespace: Self::DEFAULT.to_owned(),
            queue: Self::DEFAULT.to_owned(),
            tags: Vec::new(),
        }
    }
}

/// A call or timer as it is shown to people: one row of `execution_steps`.
#[derive(Debug, Clone, PartialEq)]
pub struct CallRecord {
    /// Its number within the execution.
    pub id: CallId,
    /// Its place in the order of all calls, from 1.
    pub order: u32,
    /// `execution id : group number`.
    pub resume_group_id: String,
    /// The name the program called it by; `asyncio.sleep` for a timer.
    pub name: String,
    /// Whether it is a timer.
    pub is_timer: bool,
    /// The name executors know the function by.
    pub function: String,
    /// A JSON array.
    pub args: Payload,
    /// A JSON object.
    pub kwargs: Payload,
    /// Where in the source.
    pub position: Position,
    /// Its status.
    pub status: CallStatus,
    /// The attempt that runs, is due next, or was the last.
    pub attempt: u32,
    /// When a timer fires or the next attempt is due.
    pub due_at_ms: Option<UnixMs>,
    /// The executor's name for it.
    pub job_id: Option<String>,
    /// What the function returned.
    pub result: Option<Payload>,
    /// What the last attempt failed with.
    pub failure: Option<Failure>,
    /// When it was asked for.
    pub created_at_ms: UnixMs,
    /// When it ended.
    pub completed_at_ms: Option<UnixMs>,
}

impl CallRecord {
    /// The agent that works on it, when it is a step of a declarative workflow.
    pub fn agent(&self) -> Option<&str> {
        Request::agent_of(&self.function)
    }
}

/// What an operator asks of whoever leases an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// End it.
    Cancel,
    /// Stop advancing it.
    Pause,
    /// Let it go on.
    Resume,
}

impl Control {
    /// The word that the database stores.
    pub fn as_stored(self) -> &'static str {
        match self {
            Self::Cancel => "CANCEL",
            Self::Pause => "PAUSE",
            Self::Resume => "RESUME",
        }
    }

    /// Reads the database's word.
    ///
    /// # Errors
    /// `Corrupt` for a word that no version of this engine writes.
    pub fn from_stored(text: &str) -> Result<Self> {
        match text {
            "CANCEL" => Ok(Self::Cancel),
            "PAUSE" => Ok(Self::Pause),
            "RESUME" => Ok(Self::Resume),
            other => Err(Error::corrupt(format!("'{other}' is no stored control"))),
        }
    }
}

/// Everything that is needed to go on with an execution.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Its state.
    pub execution: Execution,
    /// What it runs.
    pub program: ProgramId,
    /// Its inputs, for a replay from the start.
    pub inputs: Payload,
    /// The lease on it; `None` only from [`crate::Store::load`] when nobody holds one.
    pub lease: Option<Lease>,
    /// The last snapshot and the number of the last event that is in it.
    pub snapshot: Option<(Snapshot, u64)>,
    /// The journal after the snapshot (all of it without one).
    pub tail: Vec<Recorded>,
    /// Calls that were closed from outside and not taken in yet, in order of arrival.
    pub inbox: Vec<(CallId, Outcome)>,
    /// What an operator asks for, and why.
    pub control: Option<(Control, String)>,
}

/// A program as it is stored.
#[derive(Debug, Clone)]
pub struct StoredProgram {
    /// The program.
    pub program: Arc<Program>,
    /// Its first dump, once there was one.
    pub dictionary: Option<Dictionary>,
}

/// Which executions to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListFilter {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only these statuses; empty for all.
    pub statuses: Vec<Status>,
    /// Only executions started under this name.
    pub workflow_id: Option<String>,
    /// Only executions with this tag.
    pub tag: Option<String>,
    /// Only executions started at this time or later.
    pub since_ms: Option<UnixMs>,
    /// Only executions started before this time.
    pub until_ms: Option<UnixMs>,
    /// Only executions started before this one (for the next page).
    pub before: Option<ExecutionId>,
    /// Most rows; 0 means 100.
    pub limit: usize,
}
