//! The journal's entries.

use crate::{
    Assignment, CallId, Command, ExecutionId, Failure, NewCall, Outcome, Payload, Request, UnixMs,
};

/// One thing that happened to an execution.
///
/// In memory an event carries its payloads; stored, it refers to the rows that hold them
/// (see [`crate::wire`]).
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An engine began to run the program. Its clock stood at the event's time.
    ExecutionStarted {
        /// Seeds the program's `random`.
        seed: u64,
    },
    /// The program asked for a call.
    CallRequested(Call),
    /// The program asked to be woken.
    TimerStarted(Call),
    /// An attempt of a step's agent is about to begin: at once, or when the retry before it is due.
    AgentInvoked {
        /// Which call.
        call: CallId,
        /// The attempt, from 1.
        attempt: u32,
        /// The agent's name.
        agent: String,
    },
    /// A step's agent returned; the result is in the event after this one.
    AgentResponded {
        /// Which call.
        call: CallId,
        /// The attempt that returned.
        attempt: u32,
        /// The agent's name.
        agent: String,
        /// A JSON object: what the agent said of itself (its model, what it used, what happened).
        metadata: Option<Payload>,
    },
    /// An attempt failed and another will follow.
    CallRetrying {
        /// Which call.
        call: CallId,
        /// The attempt that failed, counted from 1.
        attempt: u32,
        /// Why.
        failure: Failure,
        /// When the next attempt is due.
        due_ms: UnixMs,
    },
    /// A call ended with a result, and the program was given it.
    CallCompleted {
        /// Which call.
        call: CallId,
        /// The attempt that returned it.
        attempt: u32,
        /// What the function returned.
        result: Payload,
    },
    /// A call ended with a failure, and the program was given it.
    CallFailed {
        /// Which call.
        call: CallId,
        /// The last attempt.
        attempt: u32,
        /// What it failed with.
        failure: Failure,
    },
    /// A timer's time came, and the program was woken.
    TimerFired {
        /// Which timer.
        call: CallId,
    },
    /// The program printed.
    Printed {
        /// What, standard output and error together.
        text: String,
    },
    /// An operator gave variables of the waiting program other values. Nothing else happens in the
    /// transition.
    VariablesSet {
        /// Which, and their values.
        variables: Vec<Assignment>,
    },
    /// An operator paused the execution, or the engine parked it.
    ExecutionPaused {
        /// Why.
        reason: String,
    },
    /// An operator let it go on.
    ExecutionResumed,
    /// The program ended.
    ExecutionCompleted {
        /// Its value.
        output: Payload,
    },
    /// The program failed.
    ExecutionFailed {
        /// Why.
        failure: Failure,
    },
    /// An operator ended the execution.
    ExecutionCancelled {
        /// Why.
        reason: String,
    },
    /// An operator let the failed execution go on: the transition that failed it is taken back.
    ExecutionRetried(Box<Retried>),
}

/// What takes the failing transition of an execution back.
///
/// The program is where it was before that transition. What had come in then comes in again,
/// except for the failures that were the cause: those calls are made again.
#[derive(Debug, Clone, PartialEq)]
pub struct Retried {
    /// The calls and timers that are open again, each as it stands now. Without any, the program
    /// begins anew.
    pub open: Vec<Call>,
    /// Those of them that are made again, with what they had failed with.
    pub again: Vec<(CallId, Failure)>,
    /// What the failing transition had asked for: as if it never had.
    pub dropped: Vec<Call>,
    /// What the execution had failed with.
    pub failure: Failure,
}

/// An event with its place in the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// Its number in the execution's journal, dense from 1.
    pub sequence: u64,
    /// The transition that wrote it: the execution's version after it. Events of one
    /// transition happened together.
    pub transition: u64,
    /// When.
    pub at_ms: UnixMs,
    /// What.
    pub event: Event,
}

/// A function that every program may call, and that the engine itself answers: `await
/// __checkpoint__("label")` marks a place, to be found again among the checkpoints.
pub const CHECKPOINT: &str = "__checkpoint__";

/// A call or timer of an execution: what was asked for and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// What the program asked for.
    pub new: NewCall,
    /// Its place in the order of all calls of the execution, from 1.
    pub order: u32,
    /// The resume group: calls of one transition share it, counted from 1.
    pub group: u32,
    /// The attempt that runs or is due next, from 1.
    pub attempt: u32,
    /// For a timer: when it fires. For a call that waits for its next attempt: when that is due.
    pub due_ms: Option<UnixMs>,
}

impl Call {
    /// Its number.
    pub fn id(&self) -> CallId {
        self.new.id
    }

    /// The name the program called it by; timers are `asyncio.sleep`.
    pub fn name(&self) -> &str {
        match &self.new.request {
            Request::Function { name, .. } => name,
            Request::Timer { .. } => "asyncio.sleep",
        }
    }

    /// Whether it is a timer.
    pub fn is_timer(&self) -> bool {
        matches!(self.new.request, Request::Timer { .. })
    }

    /// For a call of `__checkpoint__`: what the program calls the place.
    pub fn checkpoint_label(&self) -> Option<String> {
        match &self.new.request {
            Request::Function { name, args, .. } if name == CHECKPOINT => {
                let args: Vec<serde_json::Value> = serde_json::from_str(args.as_str()).ok()?;
                args.first()?.as_str().map(str::to_owned)
            }
            _ => None,
        }
    }

    /// What has to be done for it: run its attempt, or look at it again when it is due. `None`
    /// for a [feed](Request::feed), which waits for somebody outside.
    pub fn command(&self) -> Option<Command> {
        match self.due_ms {
            _ if self.new.request.is_feed() => None,
            Some(due_ms) => Some(Command::WakeAt { call: self.id(), due_ms }),
            None => Some(Command::RunCall { call: self.id(), attempt: self.attempt }),
        }
    }

    /// When it has to be looked at if nothing else happens: at once, or when it is due. `None`
    /// for a [feed](Request::feed).
    pub fn wake_at_ms(&self) -> Option<UnixMs> {
        (!self.new.request.is_feed()).then(|| self.due_ms.unwrap_or(0))
    }

    /// The key that every attempt of a call is given, so that a function can recognise
    /// work it has done already: `execution id : call id`.
    pub fn idempotency_key(&self, execution: ExecutionId) -> String {
        format!("{execution}:{}", self.id())
    }
}

impl Event {
    /// For an event that closes a call: the call and what the program is given for it.
    pub fn outcome(&self) -> Option<(CallId, Outcome)> {
        match self {
            Self::CallCompleted { call, result, .. } => {
                Some((*call, Outcome::Completed(result.clone())))
            }
            Self::CallFailed { call, failure, .. } => {
                Some((*call, Outcome::Failed(failure.clone())))
            }
            Self::TimerFired { call } => Some((*call, Outcome::Completed(Payload::null()))),
            Self::ExecutionStarted { .. }
            | Self::CallRequested(_)
            | Self::TimerStarted(_)
            | Self::AgentInvoked { .. }
            | Self::AgentResponded { .. }
            | Self::CallRetrying { .. }
            | Self::Printed { .. }
            | Self::VariablesSet { .. }
            | Self::ExecutionPaused { .. }
            | Self::ExecutionResumed
            | Self::ExecutionCompleted { .. }
            | Self::ExecutionFailed { .. }
            | Self::ExecutionCancelled { .. }
            | Self::ExecutionRetried(_) => None,
        }
    }
}
