//! The engine's decisions, without I/O: what comes in, what is to be done about it.
//!
//! [`Dispatcher::handle`] is called under one lock by whatever thread has something to tell: an
//! executor with an outcome, the runner with a state reached, the committer with an
//! acknowledgement, the clockwork with a time. It changes what is known of the leased executions
//! and returns actions; the caller carries them out after the lock is released. An execution has
//! at most one thing under way at a time: an advance, a commit, or a load.
//!
//! Architecture invariant: nothing in here reads a clock, a store or a socket.

mod active;
mod advanced;
mod begin;
mod committed;
mod loaded;
mod timers;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use durable_core::{
    Advance, Advanced, CallId, Dictionary, Error, ExecutionId, Failure, Lease, Outcome, Payload,
    ProgramId, Recorded, Result, Snapshot, Transition, UnixMs,
};
use durable_store::{Control, Loaded};

pub(crate) use active::{Ack, Arrival, Came};
use active::{Active, Phase, Running};
use timers::Timer;

use crate::{Config, executor::CallRequest, ports::Random, programs::CachedProgram};

/// Something that happened.
pub(crate) enum Input {
    /// The store leased these executions to this engine.
    Claimed(Vec<(Loaded, Arc<CachedProgram>)>),
    /// The store leased one execution so that an operator's wish is fulfilled, or else that it is
    /// advanced once, and given back. Its calls are not run.
    Visit {
        loaded: Box<Loaded>,
        program: Arc<CachedProgram>,
        control: Option<(Control, String)>,
        done: Ack,
    },
    /// A new execution is durable, and this engine holds its lease.
    Created { id: ExecutionId, program: Arc<CachedProgram>, inputs: Payload, lease: Lease },
    /// What was asked for with [`Action::Load`] under the lease of this epoch.
    Loaded { id: ExecutionId, epoch: u64, loaded: Result<Option<Loaded>> },
    /// The runner's answer to what was sent under the lease of this epoch.
    Advanced { id: ExecutionId, epoch: u64, advanced: Advanced },
    /// The committer's answer to what was sent under the lease of this epoch.
    Committed { id: ExecutionId, epoch: u64, result: Result<()> },
    /// An executor's report.
    Finished { id: ExecutionId, call: CallId, attempt: u32, outcome: Outcome, ack: Option<Ack> },
    /// A result from outside, for an execution that may be leased here.
    Reported { id: ExecutionId, call: CallId, outcome: Outcome, ack: Ack },
    /// What the store holds in the inbox of an execution that is leased here.
    Inbox(Box<Loaded>),
    /// An operator asks for something, of an execution that is leased here.
    Control { id: ExecutionId, control: Control, reason: String, ack: Ack },
    /// Time went by.
    Tick,
    /// Take nothing new, and give back what has no call running.
    Drain,
    /// Give back everything; these calls have not begun.
    GiveUp,
    /// A call that was submitted has not begun and is given back.
    Recalled(CallRequest),
    /// The execution was deleted.
    Deleted(ExecutionId),
}

/// Something to do.
pub(crate) enum Action {
    /// Commit it and tell the dispatcher.
    Commit(ExecutionId, Box<Transition>, Option<(ProgramId, Dictionary)>),
    /// Give the lease back without a transition; then acknowledge.
    Release { id: ExecutionId, lease: Lease, wake_at_ms: Option<UnixMs>, done: Option<Ack> },
    /// Put an outcome into the inbox of an execution that is not leased here.
    Report { id: ExecutionId, call: CallId, outcome: Outcome, ack: Option<Ack> },
    /// Run the program and tell the dispatcher.
    Advance(Box<Advance>),
    /// Read the execution afresh, with its whole journal if `full`, and tell the dispatcher.
    Load { id: ExecutionId, epoch: u64, full: bool, after_ms: u64 },
    /// Hand these calls to the executor.
    Submit(Vec<CallRequest>),
    /// Tell the executor that nobody waits for an attempt.
    Cancel { id: ExecutionId, call: CallId, attempt: u32 },
    /// Drop what the runner holds live.
    Forget(ExecutionId),
    /// Answer somebody.
    Answer(Ack, Result<()>),
    /// The execution has ended, or is a session that asks for its next feed.
    News(ExecutionId),
    /// An execution was given back in a commit, and is due at this time.
    GivenBack(UnixMs),
    /// A timer is due earlier than the clockwork knows.
    WakeClockwork,
    /// There is room for more work, after there may have been none.
    HasRoom,
}

pub(crate) struct Dispatcher {
    config: Config,
    random: Arc<dyn Random>,
    active: HashMap<ExecutionId, Active>,
    timers: BTreeSet<(UnixMs, ExecutionId, CallId, Timer)>,
    /// Whether an executor is attached and work is taken.
    attached: bool,
}

impl Dispatcher {
    pub(crate) fn new(config: Config, random: Arc<dyn Random>) -> Self {
        Self { config, random, active: HashMap::new(), timers: BTreeSet::new(), attached: false }
    }

    /// Takes one input in; what is to be done is added to `out`.
    pub(crate) fn handle(&mut self, now_ms: UnixMs, input: Input, out: &mut Vec<Action>) {
        match input {
            Input::Claimed(claimed) => {
                for (loaded, program) in claimed {
                    self.take_up(now_ms, loaded, program, out);
                }
            }
            Input::Visit { loaded, program, control, done } => {
                self.visit(now_ms, *loaded, program, control, done, out);
            }
            Input::Created { id, program, inputs, lease } => {
                self.active.insert(id, Active::created(id, program, inputs, lease));
                self.begin(now_ms, id, out);
            }
            Input::Loaded { id, epoch, .. }
            | Input::Advanced { id, epoch, .. }
            | Input::Committed { id, epoch, .. }
                if self.active.get(&id).is_none_or(|active| active.lease.epoch != epoch) =>
            {
                // The lease was lost meanwhile, and perhaps won again: this answers nobody.
                tracing::debug!(execution = %id, epoch, "an answer came too late");
            }
            Input::Loaded { id, loaded, .. } => self.loaded(now_ms, id, loaded, out),
            Input::Advanced { id, advanced, .. } => self.advanced(id, advanced, out),
            Input::Committed { id, result, .. } => self.committed(now_ms, id, result, out),
            Input::Finished { id, call, attempt, outcome, ack } => {
                let arrival = Arrival { call, came: Came::Ran { attempt, outcome }, ack };
                self.finished(now_ms, id, arrival, out);
            }
            Input::Reported { id, call, outcome, ack } => {
                let Some(active) = self.active.get_mut(&id) else {
                    return out.push(Action::Report { id, call, outcome, ack: Some(ack) });
                };
                active.arrived.push(Arrival {
                    call,
                    came: Came::Reported(outcome),
                    ack: Some(ack),
                });
                self.begin(now_ms, id, out);
            }
            Input::Inbox(loaded) => self.inbox(now_ms, *loaded, out),
            Input::Control { id, control, reason, ack } => {
                let Some(active) = self.active.get_mut(&id) else {
                    return out.push(Action::Answer(ack, Err(given_back())));
                };
                active.controls.push((control, reason, Some(ack)));
                self.begin(now_ms, id, out);
            }
            Input::Tick => self.fire(now_ms, out),
            Input::Drain => self.drain(now_ms, out),
            Input::GiveUp => self.give_up(out),
            Input::Recalled(call) => {
                if self.is_wanted(call.execution, call.call, call.attempt) {
                    self.take_running(call.execution, call.call);
                }
            }
            Input::Deleted(id) => self.drop_active(id, out),
        }
    }

    /// Lets the engine take work.
    pub(crate) fn attach(&mut self) {
        self.attached = true;
    }

    /// Lets it take no further work.
    pub(crate) fn detach(&mut self) {
        self.attached = false;
    }

    /// How many more executions may be leased.
    pub(crate) fn room(&self) -> usize {
        if self.attached { self.config.max_active.saturating_sub(self.active.len()) } else { 0 }
    }

    /// How many executions are leased.
    pub(crate) fn held(&self) -> usize {
        self.active.len()
    }

    /// Whether the execution is leased here.
    pub(crate) fn holds(&self, id: ExecutionId) -> bool {
        self.active.contains_key(&id)
    }

    /// When the first timer is due.
    pub(crate) fn next_timer_ms(&self) -> Option<UnixMs> {
        self.timers.first().map(|(due_ms, ..)| *due_ms)
    }

    /// Whether somebody waits for this attempt.
    pub(crate) fn is_wanted(&self, id: ExecutionId, call: CallId, attempt: u32) -> bool {
        self.active.get(&id).is_some_and(|active| active.is_running(call, attempt))
    }

    /// The lease under which the execution is held.
    pub(crate) fn lease(&self, id: ExecutionId) -> Option<Lease> {
        self.active.get(&id).map(|active| active.lease.clone())
    }

    fn finished(
        &mut self,
        now_ms: UnixMs,
        id: ExecutionId,
        arrival: Arrival,
        out: &mut Vec<Action>,
    ) {
        let Some(active) = self.active.get_mut(&id) else {
            // The lease is lost, or an operator paused the execution meanwhile. A result is
            // worth keeping if nobody was faster; a failure will show itself again.
            return arrival.hand_over(id, out);
        };
        let call = arrival.call;
        let Came::Ran { attempt, .. } = arrival.came else { return };
        if !active.is_running(call, attempt) {
            tracing::debug!(execution = %id, call, attempt, "a late outcome was refused");
            out.extend(arrival.ack.map(|ack| Action::Answer(ack, Err(begin::late(call)))));
            return;
        }
        active.arrived.push(arrival);
        self.take_running(id, call);
        self.begin(now_ms, id, out);
    }

    /// Takes a call from those that the executor has, with its deadline.
    fn take_running(&mut self, id: ExecutionId, call: CallId) -> Option<Running> {
        let running = self.active.get_mut(&id)?.running.remove(&call)?;
        if let Some((_, due_ms)) = running.deadline {
            self.timers.remove(&(due_ms, id, call, Timer::Deadline));
        }
        Some(running)
    }

    /// Tells the executor that nobody waits for a call any more, if it has it.
    fn stop(&mut self, id: ExecutionId, call: CallId, out: &mut Vec<Action>) {
        if let Some(Running { attempt, .. }) = self.take_running(id, call) {
            out.push(Action::Cancel { id, call, attempt });
        }
    }

    fn drain(&mut self, now_ms: UnixMs, out: &mut Vec<Action>) {
        let ids: Vec<_> = self.active.keys().copied().collect();
        for id in ids {
            self.begin(now_ms, id, out);
        }
    }

    /// Stops waiting for anything: leases are given back where nothing is under way, and left to
    /// expire where something is (their outcomes are refused by the fencing token if they come).
    fn give_up(&mut self, out: &mut Vec<Action>) {
        let ids: Vec<_> = self.active.keys().copied().collect();
        for id in ids {
            if let Some(active) = self.active.get_mut(&id)
                && let Phase::Idle(state) = &active.phase
            {
                let (lease, wake_at_ms) = (active.lease.clone(), state.wake_at_ms());
                let done = active.visit.take();
                out.push(Action::Release { id, lease, wake_at_ms, done });
                self.drop_active(id, out);
            }
        }
    }

    /// Forgets an execution: its lease is gone or given back, or it has ended.
    fn drop_active(&mut self, id: ExecutionId, out: &mut Vec<Action>) {
        let Some(active) = self.active.remove(&id) else { return };
        self.disarm(id, &active);
        for (call, running) in active.running {
            out.push(Action::Cancel { id, call, attempt: running.attempt });
        }
        if active.live {
            out.push(Action::Forget(id));
        }
        let (taken, controls) = active.phase.into_taken();
        for arrival in taken.into_iter().chain(active.arrived) {
            arrival.hand_over(id, out);
        }
        let asked = active.controls.into_iter().filter_map(|(_, _, ack)| ack);
        let waiting = controls.into_iter().chain(asked).chain(active.visit);
        out.extend(waiting.map(|ack| Action::Answer(ack, Err(given_back()))));
        // Not as soon as there is room for one: each look at the store costs a commit.
        if self.active.len() == self.config.max_active * 3 / 4 {
            out.push(Action::HasRoom);
        }
    }
}

/// What somebody is told who asked for something in the moment in which the execution was given
/// back, or taken over by another engine: nothing was done.
pub(crate) const GIVEN_BACK: &str = "the execution was given back meanwhile: try again";

fn given_back() -> Error {
    Error::unavailable(GIVEN_BACK)
}

/// The failure of an attempt that took too long.
fn timed_out(timeout_ms: u64) -> Failure {
    Failure::new("TimeoutError", format!("the attempt took longer than its {timeout_ms} ms"))
}

/// A state as the store has it: a snapshot, and the journal after it.
struct Cold {
    snapshot: Option<Snapshot>,
    tail: Vec<Recorded>,
}

/// Larger snapshots are not kept in memory beside the store.
const MAX_KEPT_SNAPSHOT_BYTES: usize = 16 << 10;
/// Longer stretches of journal are not kept in memory beside the store.
const MAX_KEPT_EVENTS: usize = 64;

impl Cold {
    /// What the store has once a transition is committed, given what it had before; `None` when
    /// that is not worth keeping.
    fn after(before: Option<Self>, transition: &Transition) -> Option<Self> {
        if transition.after.status.is_terminal() {
            return None;
        }
        if let Some(snapshot) = &transition.snapshot {
            let small = snapshot.0.len() <= MAX_KEPT_SNAPSHOT_BYTES;
            return small.then(|| Self { snapshot: Some(snapshot.clone()), tail: Vec::new() });
        }
        let mut cold = before?;
        if cold.tail.len() + transition.events.len() > MAX_KEPT_EVENTS {
            return None;
        }
        cold.tail.extend(transition.recorded());
        Some(cold)
    }
}
