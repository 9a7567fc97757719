//! What the engine knows of an execution while it holds its lease.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use durable_core::{
    Call, CallId, Command, Draft, Execution, ExecutionId, Group, Lease, Outcome, Payload, Result,
    UnixMs,
};
use durable_store::Control;

use super::{Action, Cold, given_back};
use crate::programs::CachedProgram;

/// Told once whether what somebody asked for is durable.
pub(crate) type Ack = Box<dyn FnOnce(Result<()>) + Send>;

pub(super) struct Active {
    pub(super) lease: Lease,
    pub(super) program: Arc<CachedProgram>,
    /// For a start, and for a replay from the start.
    pub(super) inputs: Payload,
    pub(super) phase: Phase,
    /// What came in and is not in the journal yet, in order of arrival.
    pub(super) arrived: Vec<Arrival>,
    /// What operators ask for, in order.
    pub(super) controls: Vec<(Control, String, Option<Ack>)>,
    /// Calls handed to the executor.
    pub(super) running: BTreeMap<CallId, Running>,
    /// Whether the runner holds the state of the last committed version.
    pub(super) live: bool,
    /// What a runner needs that does not hold the state live: what the store has, as long as it
    /// is small enough to be kept in memory too.
    pub(super) cold: Option<Cold>,
    /// Set when the execution is to be advanced once, without running calls, and given back.
    pub(super) visit: Option<Ack>,
    /// Set when the execution is to be parked as soon as its state is loaded.
    pub(super) park: Option<String>,
    /// How often in a row the runner lost an advance.
    pub(super) lost_advances: u32,
    /// How often in a row a transition was not committed.
    pub(super) failed_commits: u32,
}

/// An attempt that the executor has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Running {
    pub(super) attempt: u32,
    /// How long it may take, and when that is over.
    pub(super) deadline: Option<(u64, UnixMs)>,
}

/// What is under way.
pub(super) enum Phase {
    /// Nothing.
    Idle(Execution),
    /// The runner has the results; the draft waits for what the program does with them.
    Advancing(Box<Work>),
    /// The store has the transition.
    Committing(Box<Commit>),
    /// The state is being read from the store.
    Loading,
}

impl Phase {
    /// What it had taken in, and who waits for what operators asked for.
    pub(super) fn into_taken(self) -> (Vec<Arrival>, Vec<Ack>) {
        match self {
            Self::Idle(_) | Self::Loading => (Vec::new(), Vec::new()),
            Self::Advancing(work) => (work.taken, Vec::new()),
            Self::Committing(commit) => (commit.taken, commit.controls),
        }
    }
}

pub(super) struct Work {
    pub(super) draft: Draft,
    pub(super) group: Option<Group>,
    /// What the draft takes in, to go back to if it does not commit.
    pub(super) taken: Vec<Arrival>,
    /// The calls that a replay has to ask for again; `None` when the base was live or new.
    pub(super) journaled: Option<Vec<Call>>,
}

pub(super) struct Commit {
    pub(super) after: Arc<Execution>,
    pub(super) commands: Vec<Command>,
    pub(super) taken: Vec<Arrival>,
    pub(super) controls: Vec<Ack>,
    pub(super) release: bool,
    /// Whether the execution goes on that was paused.
    pub(super) resumes: bool,
    /// Whether the runner holds the state after.
    pub(super) live: bool,
    /// [`Active::cold`] after.
    pub(super) cold: Option<Cold>,
}

/// Something that came in for a call.
pub(crate) struct Arrival {
    pub(super) call: CallId,
    pub(super) came: Came,
    pub(super) ack: Option<Ack>,
}

pub(crate) enum Came {
    /// An attempt that this engine handed out has ended.
    Ran { attempt: u32, outcome: Outcome },
    /// Somebody reported an outcome to this engine.
    Reported(Outcome),
    /// The store holds an outcome in the execution's inbox.
    Inbox(Outcome),
    /// A timer is due.
    Fired,
}

impl Active {
    pub(super) fn new(
        lease: Lease,
        program: Arc<CachedProgram>,
        inputs: Payload,
        state: Execution,
        cold: Cold,
    ) -> Self {
        Self {
            lease,
            program,
            inputs,
            phase: Phase::Idle(state),
            arrived: Vec::new(),
            controls: Vec::new(),
            running: BTreeMap::new(),
            live: false,
            cold: Some(cold),
            visit: None,
            park: None,
            lost_advances: 0,
            failed_commits: 0,
        }
    }

    /// An execution that this engine has just created.
    pub(super) fn created(
        id: ExecutionId,
        program: Arc<CachedProgram>,
        inputs: Payload,
        lease: Lease,
    ) -> Self {
        let cold = Cold { snapshot: None, tail: Vec::new() };
        Self::new(lease, program, inputs, Execution::scheduled(id), cold)
    }

    pub(super) fn is_running(&self, call: CallId, attempt: u32) -> bool {
        self.running.get(&call).is_some_and(|running| running.attempt == attempt)
    }

    /// Takes in what others put into the store's inbox: it comes first, for the rows of these
    /// calls are closed, and what else came in for them is too late.
    pub(super) fn take_inbox(&mut self, inbox: impl IntoIterator<Item = Arrival>) {
        let from_inbox = |arrival: &&Arrival| matches!(arrival.came, Came::Inbox(_));
        let known = self.arrived.iter().filter(from_inbox).map(|arrival| arrival.call);
        let known: HashSet<_> = known.collect();
        let new = inbox.into_iter().filter(|arrival| !known.contains(&arrival.call));
        self.arrived.splice(0..0, new);
    }

    /// The open calls as far as they are known; none while the state is being loaded.
    pub(super) fn open_calls(&self) -> Option<&BTreeMap<CallId, Call>> {
        match &self.phase {
            Phase::Idle(state) => Some(&state.open_calls),
            Phase::Advancing(work) => Some(&work.draft.after.open_calls),
            Phase::Committing(commit) => Some(&commit.after.open_calls),
            Phase::Loading => None,
        }
    }
}

impl Arrival {
    /// Whether the executor may still have the call.
    pub(super) fn is_from_outside(&self) -> bool {
        matches!(self.came, Came::Reported(_) | Came::Inbox(_))
    }

    /// Whether it is an outcome that nobody would come to again, and that is not stored.
    pub(super) fn is_to_be_kept(&self) -> bool {
        matches!(self.came, Came::Reported(_) | Came::Ran { outcome: Outcome::Completed(_), .. })
    }

    /// Whether a call waits for it that is in this state.
    pub(super) fn is_awaited(&self, open_calls: &BTreeMap<CallId, Call>) -> bool {
        open_calls.get(&self.call).is_some_and(|open| match self.came {
            Came::Ran { attempt, .. } => attempt == open.attempt,
            Came::Reported(_) | Came::Inbox(_) | Came::Fired => true,
        })
    }

    /// Passes an arrival on to the store's inbox, because the execution is not held any more.
    pub(super) fn hand_over(self, id: ExecutionId, out: &mut Vec<Action>) {
        let Self { call, came, ack } = self;
        match came {
            Came::Ran { outcome: outcome @ Outcome::Completed(_), .. }
            | Came::Reported(outcome) => {
                out.push(Action::Report { id, call, outcome, ack });
            }
            // A failed attempt will be made again; inbox and timers are in the store anyway.
            Came::Ran { outcome: Outcome::Failed(_), .. } | Came::Inbox(_) | Came::Fired => {
                out.extend(ack.map(|ack| Action::Answer(ack, Err(given_back()))));
            }
        }
    }
}
