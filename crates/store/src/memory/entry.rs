//! One execution in memory.

use std::collections::BTreeMap;

use durable_core::{
    Call, CallId, CallStatus, Event, Execution, ExecutionId, Failure, Lease, Outcome, Owner,
    Payload, Recorded, Request, Result, Retried, Snapshot, Status, Transition, UnixMs, apply,
};

use super::Terms;
use crate::{
    CallRecord, Control, ExecutionRecord, Loaded, NewExecution,
    control::{clears_control, moot_control},
    refusal,
    rows::{CallStanding, refuse_calls},
};

#[derive(Debug)]
pub(super) struct Entry {
    record: ExecutionRecord,
    state: Execution,
    calls: BTreeMap<CallId, StoredCall>,
    journal: Vec<Recorded>,
    snapshot: Option<(Snapshot, u64)>,
    /// The lease and when it expires.
    lease: Option<(Lease, UnixMs)>,
    last_epoch: u64,
    wake_at_ms: Option<UnixMs>,
    control: Option<(Control, String)>,
}

#[derive(Debug)]
struct StoredCall {
    record: CallRecord,
    /// Whether the program was given what came of it, or never will be.
    applied: bool,
}

impl StoredCall {
    /// What came of it, while it stands in the inbox.
    fn reported(&self) -> Option<Outcome> {
        let record = &self.record;
        match record.status {
            _ if self.applied => None,
            CallStatus::Completed => record.result.clone().map(Outcome::Completed),
            CallStatus::Failed => record.failure.clone().map(Outcome::Failed),
            CallStatus::Pending | CallStatus::Submitted | CallStatus::Cancelled => None,
        }
    }

    fn close(&mut self, outcome: &Outcome, at_ms: UnixMs) {
        let record = &mut self.record;
        (record.status, record.result, record.failure) = match outcome {
            Outcome::Completed(result) => (CallStatus::Completed, Some(result.clone()), None),
            Outcome::Failed(failure) => (CallStatus::Failed, None, Some(failure.clone())),
        };
        record.completed_at_ms = Some(at_ms);
    }

    /// The state of the execution is done with it.
    fn apply(&mut self) {
        self.applied = true;
        if !self.record.is_timer {
            self.record.due_at_ms = None;
        }
    }
}

impl Entry {
    pub(super) fn new(new: &NewExecution) -> Self {
        let lease = new.lease.as_ref().map(|(owner, expires_at_ms)| {
            (Lease { owner: owner.clone(), epoch: 1 }, *expires_at_ms)
        });
        Self {
            record: ExecutionRecord {
                id: new.id,
                workflow_id: new.workflow_id.clone(),
                program: new.program.clone(),
                status: Status::Scheduled,
                inputs: new.inputs.clone(),
                output: None,
                failure: None,
                version: 0,
                created_at_ms: new.created_at_ms,
                started_at_ms: None,
                completed_at_ms: None,
                locked_by: None,
                idempotency_key: new.idempotency_key.clone(),
                labels: new.labels.clone(),
            },
            state: Execution::scheduled(new.id),
            calls: BTreeMap::new(),
            journal: Vec::new(),
            snapshot: None,
            last_epoch: u64::from(lease.is_some()),
            wake_at_ms: lease.is_none().then_some(new.created_at_ms),
            lease,
            control: None,
        }
    }

    fn id(&self) -> ExecutionId {
        self.record.id
    }

    pub(super) fn record(&self) -> ExecutionRecord {
        let mut record = self.record.clone();
        record.locked_by = self.owner().map(|owner| owner.as_str().to_owned());
        record
    }

    pub(super) fn calls(&self) -> Vec<CallRecord> {
        let mut calls: Vec<_> = self.calls.values().map(|call| call.record.clone()).collect();
        calls.sort_by_key(|call| call.order);
        calls
    }

    pub(super) fn journal_after(&self, sequence: u64) -> &[Recorded] {
        let from = usize::try_from(sequence).unwrap_or(usize::MAX).min(self.journal.len());
        &self.journal[from..]
    }

    pub(super) fn load(&self) -> Loaded {
        let position = self.snapshot.as_ref().map_or(0, |(_, position)| *position);
        Loaded {
            execution: self.state.clone(),
            program: self.record.program.clone(),
            inputs: self.record.inputs.clone(),
            lease: self.lease.as_ref().map(|(lease, _)| lease.clone()),
            snapshot: self.snapshot.clone(),
            tail: self.journal_after(position).to_vec(),
            inbox: self.inbox(),
            control: self.control.clone(),
        }
    }

    /// In order of arrival.
    fn inbox(&self) -> Vec<(CallId, Outcome)> {
        let mut reported: Vec<_> = self
            .calls
            .iter()
            .filter_map(|(id, call)| Some((call.record.completed_at_ms, *id, call.reported()?)))
            .collect();
        reported.sort_by_key(|(at_ms, id, _)| (*at_ms, *id));
        reported.into_iter().map(|(_, id, outcome)| (id, outcome)).collect()
    }

    pub(super) fn has_inbox(&self) -> bool {
        self.calls.values().any(|call| call.reported().is_some())
    }

    /// Whether it is of one of the queues; of none means of any.
    pub(super) fn is_of(&self, queues: &[String]) -> bool {
        queues.is_empty() || queues.contains(&self.record.labels.queue)
    }

    pub(super) fn has_control(&self) -> bool {
        self.control.is_some()
    }

    fn asked_for(&self) -> Option<Control> {
        self.control.as_ref().map(|(control, _)| *control)
    }

    pub(super) fn owner(&self) -> Option<&Owner> {
        self.lease.as_ref().map(|(lease, _)| &lease.owner)
    }

    pub(super) fn refuse_if_ended(&self) -> Result<()> {
        let status = self.state.status;
        if status.is_terminal() { Err(refusal::ended(self.id(), status)) } else { Ok(()) }
    }

    pub(super) fn refuse_if_held(&self, terms: &Terms<'_>) -> Result<()> {
        match &self.lease {
            Some((lease, expires_at_ms)) if self.is_held(terms) && lease.owner != *terms.owner => {
                Err(refusal::held(self.id(), lease.owner.as_str(), *expires_at_ms))
            }
            _ => Ok(()),
        }
    }

    /// Whether anybody holds a live lease.
    fn is_held(&self, terms: &Terms<'_>) -> bool {
        self.lease.as_ref().is_some_and(|(lease, expires_at_ms)| {
            *expires_at_ms > terms.now_ms && !terms.dead.contains(&lease.owner)
        })
    }

    /// Since when it needs attention that nobody gives it.
    pub(super) fn due_since_ms(&self, terms: &Terms<'_>) -> Option<UnixMs> {
        let status = self.state.status;
        if status.is_terminal() || self.is_held(terms) || !self.is_of(terms.queues) {
            return None;
        }
        if status == Status::Paused {
            return self.has_control().then_some(UnixMs::MIN);
        }
        let from_outside = (self.has_inbox() || self.has_control()).then_some(UnixMs::MIN);
        let due_ms = self.wake_at_ms.filter(|wake_at_ms| *wake_at_ms <= terms.now_ms);
        let lease_gone_ms = self.lease.as_ref().map(|(_, expires_at_ms)| *expires_at_ms);
        [from_outside, due_ms, lease_gone_ms].into_iter().flatten().min()
    }

    pub(super) fn next_due_ms(&self, owner: &Owner) -> Option<UnixMs> {
        let status = self.state.status;
        if status.is_terminal() || (status == Status::Paused && !self.has_control()) {
            return None;
        }
        match &self.lease {
            Some((lease, _)) if lease.owner == *owner => None,
            Some((_, expires_at_ms)) => Some(*expires_at_ms),
            None if self.has_inbox() || self.has_control() => Some(UnixMs::MIN),
            None => self.wake_at_ms,
        }
    }

    /// Whether nobody would ever look at it again.
    pub(super) fn is_stranded(&self) -> bool {
        let asleep = self.lease.is_none() && self.wake_at_ms.is_none();
        let waits =
            matches!(self.state.status, Status::Scheduled | Status::Running | Status::Waiting);
        // An idle session waits for its next feed, for as long as it takes.
        let is_idle = self.state.open_feed().is_some();
        asleep && waits && !is_idle && !self.has_inbox() && !self.has_control()
    }

    /// Leases it under a new epoch.
    pub(super) fn take(&mut self, terms: &Terms<'_>) -> Loaded {
        self.last_epoch += 1;
        let lease = Lease { owner: terms.owner.clone(), epoch: self.last_epoch };
        self.lease = Some((lease, terms.expires_at_ms));
        self.wake_at_ms = None;
        self.load()
    }

    pub(super) fn renew(&mut self, owner: &Owner, new_expires_at_ms: UnixMs) {
        if let Some((lease, expires_at_ms)) = &mut self.lease
            && lease.owner == *owner
        {
            *expires_at_ms = new_expires_at_ms;
        }
    }

    pub(super) fn release(&mut self, lease: &Lease, wake_at_ms: Option<UnixMs>) {
        if self.holds(lease) {
            self.lease = None;
            self.wake_at_ms = wake_at_ms;
        }
    }

    fn holds(&self, lease: &Lease) -> bool {
        self.lease.as_ref().is_some_and(|(held, _)| held == lease)
    }

    pub(super) fn report(&mut self, call: CallId, outcome: &Outcome, now_ms: UnixMs) -> Result<()> {
        self.refuse_if_ended()?;
        let id = self.id();
        let stored = self.calls.get_mut(&call).ok_or_else(|| refusal::no_call(id, call))?;
        if stored.record.is_timer {
            return Err(refusal::call_is_timer(id, call));
        }
        if stored.record.status.is_closed() {
            return Err(refusal::call_closed(id, call));
        }
        stored.close(outcome, now_ms);
        Ok(())
    }

    pub(super) fn request(&mut self, control: Control, reason: &str) -> Result<()> {
        self.refuse_if_ended()?;
        if self.asked_for() != Some(Control::Cancel) {
            let moot = control == moot_control(self.state.status);
            self.control = (!moot).then(|| (control, reason.to_owned()));
        }
        Ok(())
    }

    pub(super) fn note_job(&mut self, lease: &Lease, call: CallId, job_id: &str) -> Result<()> {
        let id = self.id();
        if !self.holds(lease) {
            return Err(refusal::lease_lost(id));
        }
        let record = self.calls.get_mut(&call).map(|call| &mut call.record);
        let open = record.filter(|record| !record.is_timer && !record.status.is_closed());
        let record = open.ok_or_else(|| refusal::call_closed(id, call))?;
        record.status = CallStatus::Submitted;
        record.job_id = Some(job_id.to_owned());
        Ok(())
    }

    /// Commits a transition, or changes nothing.
    pub(super) fn commit(&mut self, transition: &Transition) -> Result<()> {
        self.refuse_if_lost(transition)?;
        // From the events, as every reader of the journal has it.
        let mut state = self.state.clone();
        for event in &transition.events {
            apply(&mut state, event)?;
        }
        state.version = transition.after.version;
        refuse_calls(transition, |call| {
            let stored = self.calls.get(&call)?;
            Some(CallStanding { status: stored.record.status, reported: stored.reported() })
        })?;
        for recorded in transition.recorded() {
            self.apply(&recorded, &transition.inbox_taken);
            self.journal.push(recorded);
        }
        for call in &transition.cancelled {
            if let Some(call) = self.calls.get_mut(call) {
                if !call.record.status.is_closed() {
                    call.record.status = CallStatus::Cancelled;
                    call.record.completed_at_ms = Some(transition.at_ms);
                }
                call.apply();
            }
        }
        let after = &transition.after;
        let ended = after.status.is_terminal();
        if let Some(snapshot) = &transition.snapshot {
            self.snapshot = Some((snapshot.clone(), after.next_sequence - 1));
        }
        if ended || transition.release {
            self.lease = None;
        }
        if clears_control(transition) || self.asked_for() == Some(moot_control(after.status)) {
            self.control = None;
        }
        self.wake_at_ms = if transition.release { after.wake_at_ms() } else { None };
        self.state = state;
        self.record.status = after.status;
        self.record.version = after.version;
        self.record.completed_at_ms = ended.then_some(transition.at_ms);
        Ok(())
    }

    fn refuse_if_lost(&self, transition: &Transition) -> Result<()> {
        let (expected, found) = (transition.expected_version, self.state.version);
        if expected != found || transition.first_sequence != self.state.next_sequence {
            return Err(refusal::outdated(self.id(), expected, found));
        }
        if transition.is_retry() || self.holds(&transition.lease) {
            Ok(())
        } else {
            Err(refusal::lease_lost(self.id()))
        }
    }

    fn apply(&mut self, recorded: &Recorded, inbox_taken: &[CallId]) {
        let at_ms = recorded.at_ms;
        let record = &mut self.record;
        match &recorded.event {
            Event::ExecutionStarted { .. } => {
                record.started_at_ms.get_or_insert(at_ms);
            }
            Event::CallRequested(call) | Event::TimerStarted(call) => {
                let stored =
                    StoredCall { record: record_of(call, record.id, at_ms), applied: false };
                self.calls.insert(call.id(), stored);
            }
            Event::CallRetrying { call, attempt, failure, due_ms } => {
                if let Some(StoredCall { record, .. }) = self.calls.get_mut(call) {
                    record.status = CallStatus::Pending;
                    record.attempt = attempt.saturating_add(1);
                    record.due_at_ms = Some(*due_ms);
                    record.job_id = None;
                    record.failure = Some(failure.clone());
                }
            }
            Event::CallCompleted { call, .. }
            | Event::CallFailed { call, .. }
            | Event::TimerFired { call } => {
                let Some(stored) = self.calls.get_mut(call) else { return };
                if let (Some((_, outcome)), false) =
                    (recorded.event.outcome(), inbox_taken.contains(call))
                {
                    stored.close(&outcome, at_ms);
                    if let Event::CallCompleted { attempt, .. }
                    | Event::CallFailed { attempt, .. } = recorded.event
                    {
                        stored.record.attempt = attempt;
                    }
                }
                stored.apply();
            }
            Event::AgentInvoked { .. }
            | Event::AgentResponded { .. }
            | Event::Printed { .. }
            | Event::VariablesSet { .. } => {}
            Event::ExecutionPaused { reason } => {
                record.failure = Some(Failure::new("Paused", reason));
            }
            Event::ExecutionResumed => record.failure = None,
            Event::ExecutionCompleted { output } => {
                (record.output, record.failure) = (Some(output.clone()), None);
            }
            Event::ExecutionFailed { failure } => record.failure = Some(failure.clone()),
            Event::ExecutionCancelled { reason } => {
                record.failure = Some(Failure::new("Cancelled", reason));
            }
            Event::ExecutionRetried(retried) => self.take_back(retried),
        }
    }

    fn take_back(&mut self, retried: &Retried) {
        self.record.failure = None;
        if retried.open.is_empty() {
            self.record.started_at_ms = None;
        }
        for call in &retried.dropped {
            self.calls.remove(&call.id());
        }
        for call in &retried.open {
            let Some(stored) = self.calls.get_mut(&call.id()) else { continue };
            stored.applied = false;
            let record = &mut stored.record;
            let is_again = retried.again.iter().any(|(again, _)| *again == call.id());
            if is_again || record.is_timer || record.status == CallStatus::Cancelled {
                record.status = CallStatus::Pending;
                (record.attempt, record.due_at_ms) = (call.attempt, call.due_ms);
                (record.result, record.failure, record.job_id) = (None, None, None);
                record.completed_at_ms = None;
            }
        }
    }
}

/// A call that was just asked for.
fn record_of(call: &Call, execution: ExecutionId, at_ms: UnixMs) -> CallRecord {
    let name = call.name().to_owned();
    let (function, args, kwargs) = match &call.new.request {
        Request::Function { name, args, kwargs, options } => {
            (options.target.as_ref().unwrap_or(name).clone(), args.clone(), kwargs.clone())
        }
        Request::Timer { .. } => (name.clone(), Payload::trusted("[]"), Payload::trusted("{}")),
    };
    CallRecord {
        id: call.id(),
        order: call.order,
        resume_group_id: format!("{execution}:{}", call.group),
        name,
        is_timer: call.is_timer(),
        function,
        args,
        kwargs,
        position: call.new.position,
        status: CallStatus::Pending,
        attempt: call.attempt,
        due_at_ms: call.due_ms,
        job_id: None,
        result: None,
        failure: None,
        created_at_ms: at_ms,
        completed_at_ms: None,
    }
}
