//! Transitions: the one atomic change of an execution.

use std::sync::Arc;

use crate::{
    Call, CallId, Command, Event, Execution, Failure, Lease, NewCall, Outcome, Reached, Recorded,
    Request, Result, Snapshot, UnixMs, agent, apply, program::End,
};

/// What one commit writes for one execution, all of it or nothing.
///
/// The store compares `expected_version` and the lease, writes the events with dense sequence
/// numbers, carries them over to the rows they speak of, and puts the snapshot in place.
#[derive(Debug, Clone)]
pub struct Transition {
    /// The version the writer read.
    pub expected_version: u64,
    /// The lease the writer holds. A transition that [retries](Transition::is_retry) has none:
    /// nobody holds what has ended, and the version alone is compared.
    pub lease: Lease,
    /// Whether the lease is given back with this commit. The store keeps
    /// [`Execution::wake_at_ms`] of the state after for the next claim then; while the lease is
    /// held it keeps no wake time, because the holder minds the timers.
    pub release: bool,
    /// When.
    pub at_ms: UnixMs,
    /// The number of the first event.
    pub first_sequence: u64,
    /// What happened, in order; never empty.
    pub events: Vec<Event>,
    /// The state after. Shared, so that a fan-out of thousands of open calls is not copied.
    pub after: Arc<Execution>,
    /// The snapshot after the last event, when there is a new one.
    pub snapshot: Option<Snapshot>,
    /// The closed calls among the events that came out of the execution's inbox: their rows are
    /// closed already. All other closed calls must still be open in the store.
    pub inbox_taken: Vec<CallId>,
    /// Whether this transition answers what an operator asked for.
    pub control_taken: bool,
    /// Calls and timers that an end of the execution left open: they are cancelled.
    pub cancelled: Vec<CallId>,
}

/// A transition that is being put together: events are applied as they are added.
#[derive(Debug)]
pub struct Draft {
    /// The state with the events so far.
    pub after: Execution,
    /// The events so far.
    pub events: Vec<Event>,
    /// What has to be done once it has committed.
    pub commands: Vec<Command>,
    /// See [`Transition::inbox_taken`].
    pub inbox_taken: Vec<CallId>,
    /// See [`Transition::control_taken`].
    pub control_taken: bool,
    cancelled: Vec<CallId>,
    expected_version: u64,
    first_sequence: u64,
    at_ms: UnixMs,
    snapshot: Option<Snapshot>,
}

impl Draft {
    /// Begins a transition of an execution at a time.
    pub fn new(before: Execution, at_ms: UnixMs) -> Self {
        Self {
            events: Vec::new(),
            commands: Vec::new(),
            inbox_taken: Vec::new(),
            control_taken: false,
            cancelled: Vec::new(),
            expected_version: before.version,
            first_sequence: before.next_sequence,
            at_ms,
            snapshot: None,
            after: before,
        }
    }

    /// When the transition happens.
    pub fn at_ms(&self) -> UnixMs {
        self.at_ms
    }

    /// Adds an event.
    ///
    /// # Errors
    /// As [`apply`]; the draft is unchanged then.
    pub fn push(&mut self, event: Event) -> Result<()> {
        let open: Vec<_> = match event {
            Event::ExecutionCompleted { .. }
            | Event::ExecutionFailed { .. }
            | Event::ExecutionCancelled { .. } => self.after.open_calls.keys().copied().collect(),
            _ => Vec::new(),
        };
        let commands = apply(&mut self.after, &event)?;
        self.commands.extend(commands);
        self.cancelled.extend(open);
        self.events.push(event);
        Ok(())
    }

    /// Adds what a call came to, if the call is open and `attempt` is not outdated.
    ///
    /// # Errors
    /// As [`apply`]: a late or repeated outcome is a conflict and changes nothing.
    pub fn close_call(&mut self, call: CallId, attempt: u32, outcome: Outcome) -> Result<()> {
        if let (Outcome::Completed(result), Some(agent)) = (&outcome, self.agent_of(call)) {
            let metadata = agent::metadata(result);
            self.push(Event::AgentResponded { call, attempt, agent, metadata })?;
        }
        self.push(match outcome {
            Outcome::Completed(result) => Event::CallCompleted { call, attempt, result },
            Outcome::Failed(failure) => Event::CallFailed { call, attempt, failure },
        })
    }

    /// Adds that an attempt failed and that the next one is due at `due_ms`.
    ///
    /// # Errors
    /// As [`apply`].
    pub fn retry_call(
        &mut self,
        call: CallId,
        attempt: u32,
        failure: Failure,
        due_ms: UnixMs,
    ) -> Result<()> {
        self.push(Event::CallRetrying { call, attempt, failure, due_ms })?;
        self.invoke(call)
    }

    /// Adds the event that takes the failure of the execution back ([`crate::replay::retry`]).
    ///
    /// # Errors
    /// As [`apply`].
    pub fn retry(&mut self, event: Event) -> Result<()> {
        let again: Vec<_> = match &event {
            Event::ExecutionRetried(retried) => {
                retried.again.iter().map(|(call, _)| *call).collect()
            }
            _ => Vec::new(),
        };
        self.push(event)?;
        again.into_iter().try_for_each(|call| self.invoke(call))
    }

    /// Adds that the next attempt of an agent's call is about to begin; nothing for other calls.
    fn invoke(&mut self, call: CallId) -> Result<()> {
        let Some(agent) = self.agent_of(call) else { return Ok(()) };
        let attempt = self.after.open_calls.get(&call).map_or(1, |open| open.attempt);
        self.push(Event::AgentInvoked { call, attempt, agent })
    }

    fn agent_of(&self, call: CallId) -> Option<String> {
        self.after.open_calls.get(&call)?.new.request.agent().map(str::to_owned)
    }

    /// Adds what the program did when it was given the results: what it printed, the calls it
    /// asked for, its end.
    ///
    /// # Errors
    /// As [`apply`]: it would be a bug of the runner.
    pub fn take_reached(&mut self, reached: Reached) -> Result<()> {
        if !reached.printed.is_empty() {
            self.push(Event::Printed { text: reached.printed })?;
        }
        let group = self.after.groups + 1;
        for new in reached.calls.into_iter().flatten() {
            self.request(new, group)?;
        }
        match reached.end {
            End::Suspended { snapshot, .. } => {
                self.snapshot = snapshot;
                Ok(())
            }
            End::Completed(output) => self.push(Event::ExecutionCompleted { output }),
            End::Failed(failure) => self.fail(failure),
        }
    }

    /// Adds the failure of the execution.
    ///
    /// # Errors
    /// As [`apply`].
    pub fn fail(&mut self, failure: Failure) -> Result<()> {
        self.push(Event::ExecutionFailed { failure })
    }

    fn request(&mut self, new: NewCall, group: u32) -> Result<()> {
        let due_ms = match new.request {
            Request::Function { .. } => None,
            Request::Timer { delay_ms } => {
                let delay_ms = i64::try_from(delay_ms).unwrap_or(i64::MAX);
                Some(self.at_ms.saturating_add(delay_ms))
            }
        };
        let order = self.after.requested_calls + 1;
        let call = Call { new, order, group, attempt: 1, due_ms };
        let id = call.id();
        self.push(if call.is_timer() {
            Event::TimerStarted(call)
        } else {
            Event::CallRequested(call)
        })?;
        self.invoke(id)
    }

    /// Ends the draft: what to commit, and what to do once that is durable.
    ///
    /// # Panics
    /// When no event was added: an empty transition would be a bug.
    pub fn finish(mut self, lease: Lease, release: bool) -> (Transition, Vec<Command>) {
        assert!(!self.events.is_empty(), "a transition has at least one event");
        self.after.version += 1;
        let written = self.after.next_sequence - self.first_sequence;
        assert_eq!(written, self.events.len() as u64, "sequence numbers are dense");
        let transition = Transition {
            expected_version: self.expected_version,
            lease,
            release,
            at_ms: self.at_ms,
            first_sequence: self.first_sequence,
            events: self.events,
            after: Arc::new(self.after),
            snapshot: self.snapshot,
            inbox_taken: self.inbox_taken,
            control_taken: self.control_taken,
            cancelled: self.cancelled,
        };
        (transition, self.commands)
    }
}

impl Transition {
    /// Whether it takes the failure of its execution back.
    pub fn is_retry(&self) -> bool {
        matches!(self.events.first(), Some(Event::ExecutionRetried(_)))
    }

    /// The events with their places in the journal.
    pub fn recorded(&self) -> impl Iterator<Item = Recorded> + '_ {
        self.events.iter().enumerate().map(|(index, event)| Recorded {
            sequence: self.first_sequence + index as u64,
            transition: self.after.version,
            at_ms: self.at_ms,
            event: event.clone(),
        })
    }
}
