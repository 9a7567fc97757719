//! The next thing to do with an execution that has nothing under way.

use durable_core::{
    Advance, Base, CallId, Definition, Draft, Error, Event, Execution, ExecutionId, Group, Outcome,
    Payload, Result, StateToken, Status, UnixMs, replay,
};
use durable_store::Control;

use super::active::{Ack, Active, Commit, Work};
use super::{Action, Arrival, Came, Cold, Dispatcher, Phase};

impl Dispatcher {
    /// Takes in what has arrived; does nothing while something is under way.
    pub(super) fn begin(&mut self, now_ms: UnixMs, id: ExecutionId, out: &mut Vec<Action>) {
        let Some(active) = self.active.get_mut(&id) else { return };
        if !matches!(active.phase, Phase::Idle(_)) {
            return;
        }
        let Phase::Idle(state) = std::mem::replace(&mut active.phase, Phase::Loading) else {
            unreachable!("just checked")
        };
        if let Some(reason) = active.park.take() {
            return self.park(now_ms, id, state, reason, out);
        }
        if !active.controls.is_empty() {
            return self.begin_control(now_ms, id, state, out);
        }
        let may_start = self.attached || active.visit.is_some();
        match state.status {
            Status::Scheduled if may_start => self.begin_start(now_ms, id, state, out),
            Status::Running | Status::Waiting if !active.arrived.is_empty() => {
                self.begin_results(now_ms, id, state, out);
            }
            _ => self.rest(now_ms, id, state, out),
        }
    }

    fn begin_start(
        &mut self,
        now_ms: UnixMs,
        id: ExecutionId,
        state: Execution,
        out: &mut Vec<Action>,
    ) {
        let mut draft = Draft::new(state, now_ms);
        let seed = self.random.next_u64();
        let started = draft.push(Event::ExecutionStarted { seed });
        debug_assert!(started.is_ok(), "a scheduled execution can start");
        let Some(active) = self.active.get_mut(&id) else { return };
        let base = Base::Start { inputs: active.inputs.clone(), seed, now_ms };
        let work = Work { draft, group: None, taken: Vec::new(), journaled: None };
        send(id, active, work, base, Vec::new(), out);
    }

    fn begin_results(
        &mut self,
        now_ms: UnixMs,
        id: ExecutionId,
        state: Execution,
        out: &mut Vec<Action>,
    ) {
        let Some(active) = self.active.get_mut(&id) else { return };
        let (program, live) = (active.program.clone(), active.live);
        let mut draft = Draft::new(state, now_ms);
        let mut results = Vec::new();
        let mut taken = Vec::new();
        for arrival in std::mem::take(&mut active.arrived) {
            let random = unit(self.random.next_u64());
            match take_in(&mut draft, program.definition(), &arrival, now_ms, random) {
                Ok(result) => {
                    if arrival.is_from_outside() {
                        self.stop(id, arrival.call, out);
                    }
                    results.extend(result);
                    taken.push(arrival);
                }
                Err(error) => {
                    tracing::debug!(execution = %id, call = arrival.call, %error, "refused");
                    if let Some(ack) = arrival.ack {
                        out.push(Action::Answer(ack, Err(error)));
                    }
                }
            }
        }
        if draft.events.is_empty() {
            return self.rest(now_ms, id, draft.after, out);
        }
        if results.is_empty() {
            let work = Work { draft, group: None, taken, journaled: None };
            return self.commit(id, work, live, None, Vec::new(), out);
        }
        let group = Some(Group { now_ms, results, ..Group::default() });
        self.advance(id, Work { draft, group, taken, journaled: None }, out);
    }

    /// Sends a draft's results to the runner, from the nearest base there is.
    pub(super) fn advance(&mut self, id: ExecutionId, mut work: Work, out: &mut Vec<Action>) {
        let Some(active) = self.active.get_mut(&id) else { return };
        if active.live {
            let version = work.draft.after.version;
            let base = Base::Live(StateToken { epoch: active.lease.epoch, version });
            let groups = work.group.clone().into_iter().collect();
            return send(id, active, work, base, groups, out);
        }
        let Some(cold) = &active.cold else {
            return self.retreat(id, work.taken, false, 0, out);
        };
        let base = match &cold.snapshot {
            Some(snapshot) => {
                // It was taken by the transition before the first in the journal since.
                let since = cold.tail.first().map(|recorded| recorded.transition.saturating_sub(1));
                let version = since.unwrap_or(work.draft.after.version);
                Base::Snapshot { snapshot: snapshot.clone(), version }
            }
            None => match start_of(&cold.tail, &active.inputs) {
                Ok(base) => base,
                Err(error) => {
                    active.park = Some(error.to_string());
                    return self.retreat(id, work.taken, false, 0, out);
                }
            },
        };
        if cold.snapshot.is_none() {
            tracing::info!(execution = %id, events = cold.tail.len(),
                "no usable snapshot: the state is rebuilt from the journal");
        }
        work.journaled = Some(replay::requested(&cold.tail).cloned().collect());
        let mut groups = replay::groups(&cold.tail);
        groups.extend(work.group.clone());
        send(id, active, work, base, groups, out);
    }

    fn begin_control(
        &mut self,
        now_ms: UnixMs,
        id: ExecutionId,
        state: Execution,
        out: &mut Vec<Action>,
    ) {
        let Some(active) = self.active.get_mut(&id) else { return };
        let (control, reason, ack) = active.controls.remove(0);
        let event = match control {
            Control::Cancel => Event::ExecutionCancelled { reason },
            Control::Pause => Event::ExecutionPaused { reason },
            Control::Resume => Event::ExecutionResumed,
        };
        let mut draft = Draft::new(state, now_ms);
        draft.control_taken = true;
        if let Err(error) = draft.push(event) {
            active.phase = Phase::Idle(draft.after);
            if let Some(ack) = ack {
                out.push(Action::Answer(ack, Err(error)));
            }
            return self.begin(now_ms, id, out);
        }
        let live = active.live;
        let work = Work { draft, group: None, taken: Vec::new(), journaled: None };
        self.commit(id, work, live, None, ack.into_iter().collect(), out);
    }

    fn park(
        &mut self,
        now_ms: UnixMs,
        id: ExecutionId,
        state: Execution,
        reason: String,
        out: &mut Vec<Action>,
    ) {
        tracing::error!(execution = %id, reason, "the execution is parked");
        let mut draft = Draft::new(state, now_ms);
        if draft.push(Event::ExecutionPaused { reason }).is_err() {
            return self.rest(now_ms, id, draft.after, out);
        }
        let work = Work { draft, group: None, taken: Vec::new(), journaled: None };
        self.commit(id, work, false, None, Vec::new(), out);
    }

    /// Hands a finished draft to the committer.
    pub(super) fn commit(
        &mut self,
        id: ExecutionId,
        work: Work,
        live: bool,
        dictionary: Option<durable_core::Dictionary>,
        controls: Vec<Ack>,
        out: &mut Vec<Action>,
    ) {
        let Some(active) = self.active.get_mut(&id) else { return };
        let at_ms = work.draft.at_ms();
        let release = active.arrived.is_empty()
            && active.controls.is_empty()
            && may_release(&self.config, self.attached, active, &work.draft.after, at_ms);
        let is_resumed = |event: &Event| matches!(event, Event::ExecutionResumed);
        let resumes = work.draft.events.iter().any(is_resumed);
        let (transition, commands) = work.draft.finish(active.lease.clone(), release);
        let cold = Cold::after(active.cold.take(), &transition);
        active.phase = Phase::Committing(Box::new(Commit {
            after: transition.after.clone(),
            commands,
            taken: work.taken,
            controls,
            release,
            resumes,
            live: live && !release,
            cold,
        }));
        let dictionary = dictionary.map(|dictionary| (active.program.id().clone(), dictionary));
        out.push(Action::Commit(id, Box::new(transition), dictionary));
        if live && release {
            // Whoever goes on with it starts from the store.
            out.push(Action::Forget(id));
        }
    }

    /// There is nothing to do: keep the lease while calls run here or a timer is near, else give
    /// it back.
    pub(super) fn rest(
        &mut self,
        now_ms: UnixMs,
        id: ExecutionId,
        state: Execution,
        out: &mut Vec<Action>,
    ) {
        if state.status == Status::Paused {
            self.set_aside(id, out);
        }
        let Some(active) = self.active.get_mut(&id) else { return };
        if !may_release(&self.config, self.attached, active, &state, now_ms) {
            active.phase = Phase::Idle(state);
            return;
        }
        let (lease, wake_at_ms) = (active.lease.clone(), state.wake_at_ms());
        let done = active.visit.take();
        active.phase = Phase::Idle(state);
        out.push(Action::Release { id, lease, wake_at_ms, done });
        self.drop_active(id, out);
    }

    /// Puts what has come in for a paused execution into its inbox in the store: it is durable
    /// there, and taken in when the execution goes on.
    fn set_aside(&mut self, id: ExecutionId, out: &mut Vec<Action>) {
        let Some(active) = self.active.get_mut(&id) else { return };
        let arrived = std::mem::take(&mut active.arrived);
        let (to_keep, rest): (Vec<_>, _) = arrived.into_iter().partition(Arrival::is_to_be_kept);
        active.arrived = rest;
        for ack in active.arrived.iter_mut().filter_map(|arrival| arrival.ack.take()) {
            let paused = Error::conflict("the execution is paused: it counts when it goes on");
            out.push(Action::Answer(ack, Err(paused)));
        }
        for arrival in to_keep {
            self.stop(id, arrival.call, out);
            arrival.hand_over(id, out);
        }
    }

    /// Goes back to the store for the state, because what was under way did not work out. What
    /// it had taken in is taken in again.
    pub(super) fn retreat(
        &mut self,
        id: ExecutionId,
        taken: Vec<Arrival>,
        full: bool,
        after_ms: u64,
        out: &mut Vec<Action>,
    ) {
        let Some(active) = self.active.get_mut(&id) else { return };
        active.phase = Phase::Loading;
        active.cold = None;
        active.live = false;
        active.arrived.splice(0..0, taken);
        out.push(Action::Load { id, epoch: active.lease.epoch, full, after_ms });
    }
}

/// Whether the engine can give the lease back: it runs nothing of this execution, and will not
/// have to look at it soon.
fn may_release(
    config: &crate::Config,
    attached: bool,
    active: &Active,
    state: &Execution,
    now_ms: UnixMs,
) -> bool {
    if !active.running.is_empty() {
        return false;
    }
    if active.visit.is_some() || !attached || state.status == Status::Paused {
        return true;
    }
    let far_ms = now_ms.saturating_add(i64::try_from(config.hold_ms).unwrap_or(i64::MAX));
    state.wake_at_ms().is_none_or(|wake_at_ms| wake_at_ms > far_ms)
}

fn send(
    id: ExecutionId,
    active: &mut Active,
    work: Work,
    base: Base,
    groups: Vec<Group>,
    out: &mut Vec<Action>,
) {
    let request = Advance {
        execution: id,
        program: active.program.program().clone(),
        dictionary: active.program.dictionary(),
        base,
        groups,
        next: StateToken { epoch: active.lease.epoch, version: work.draft.after.version + 1 },
    };
    active.phase = Phase::Advancing(Box::new(work));
    out.push(Action::Advance(Box::new(request)));
}

/// Adds an arrival to a draft. Gives the result that the program is to be told, if any.
fn take_in(
    draft: &mut Draft,
    definition: &Definition,
    arrival: &Arrival,
    now_ms: UnixMs,
    random: f64,
) -> Result<Option<(CallId, Outcome)>> {
    let id = arrival.call;
    let call = draft.after.open_calls.get(&id).ok_or_else(|| late(id))?;
    let current = call.attempt;
    let outcome = match &arrival.came {
        Came::Fired => {
            draft.push(Event::TimerFired { call: id })?;
            return Ok(Some((id, Outcome::Completed(Payload::null()))));
        }
        Came::Ran { attempt, .. } if *attempt != current => return Err(late(id)),
        Came::Ran { outcome: Outcome::Failed(failure), .. } => {
            let policy = definition.options_of(&call.new.request).retry.unwrap_or_default();
            if let Some(delay_ms) = policy.next_delay_ms(current, failure, random) {
                let due_ms = now_ms.saturating_add(i64::try_from(delay_ms).unwrap_or(i64::MAX));
                draft.retry_call(id, current, failure.clone(), due_ms)?;
                return Ok(None);
            }
            Outcome::Failed(failure.clone())
        }
        Came::Ran { outcome, .. } | Came::Reported(outcome) => outcome.clone(),
        Came::Inbox(outcome) => {
            draft.close_call(id, current, outcome.clone())?;
            draft.inbox_taken.push(id);
            return Ok(Some((id, outcome.clone())));
        }
    };
    draft.close_call(id, current, outcome.clone())?;
    Ok(Some((id, outcome)))
}

/// Why an outcome is refused.
pub(super) fn late(call: CallId) -> Error {
    Error::conflict(format!("call {call} has ended already, or was never asked for"))
}

/// The start of a program as its journal tells it.
fn start_of(journal: &[durable_core::Recorded], inputs: &Payload) -> Result<Base> {
    let started = replay::started(journal);
    let (seed, now_ms) = started.ok_or_else(|| {
        Error::corrupt("there is neither a usable snapshot nor a journal from the start")
    })?;
    Ok(Base::Start { inputs: inputs.clone(), seed, now_ms })
}

/// 64 random bits as a number from 0 to 1.
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}
