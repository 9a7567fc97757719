//! The rows that a transition writes.

use std::collections::{BTreeMap, BTreeSet};

use durable_core::{
    Call, CallId, CallStatus, Error, Event, ExecutionId, Failure, FunctionOptions, Outcome,
    Payload, Request, Result, Retried, Transition, UnixMs, wire,
};

use crate::refusal;

use super::{TIMER, kind_of};

/// What the events say about the row of the execution itself.
#[derive(Default)]
pub(crate) struct End<'a> {
    pub(crate) started_at_ms: Option<UnixMs>,
    pub(crate) output: Option<&'a Payload>,
    pub(crate) failure: Option<&'a Failure>,
    pub(crate) reason: Option<&'a str>,
    /// Whether the error columns are written; otherwise they stay as they are.
    pub(crate) sets_error: bool,
}

impl<'a> End<'a> {
    pub(crate) fn of(transition: &'a Transition) -> Self {
        let mut end = Self::default();
        for event in &transition.events {
            match event {
                Event::ExecutionStarted { .. } => end.started_at_ms = Some(transition.at_ms),
                Event::ExecutionPaused { reason } | Event::ExecutionCancelled { reason } => {
                    (end.reason, end.sets_error) = (Some(reason.as_str()), true);
                }
                Event::ExecutionResumed | Event::ExecutionRetried(_) => {
                    (end.reason, end.sets_error) = (None, true);
                }
                Event::ExecutionCompleted { output } => {
                    (end.output, end.reason, end.sets_error) = (Some(output), None, true);
                }
                Event::ExecutionFailed { failure } => {
                    (end.failure, end.reason, end.sets_error) = (Some(failure), None, true);
                }
                Event::CallRequested(_)
                | Event::TimerStarted(_)
                | Event::AgentInvoked { .. }
                | Event::AgentResponded { .. }
                | Event::CallRetrying { .. }
                | Event::CallCompleted { .. }
                | Event::CallFailed { .. }
                | Event::TimerFired { .. }
                | Event::Printed { .. }
                | Event::VariablesSet { .. } => {}
            }
        }
        end
    }

    /// The `error` column: the failure's message, or the reason.
    pub(crate) fn message(&self) -> Option<&'a str> {
        self.failure.map(|failure| failure.message.as_str()).or(self.reason)
    }
}

/// A row of `execution_events`.
pub(crate) struct EventRow {
    pub(crate) sequence: u64,
    pub(crate) event_type: &'static str,
    pub(crate) payload: String,
}

/// A new row of `execution_steps`.
pub(crate) struct NewCallRow<'a> {
    pub(crate) call: &'a Call,
    pub(crate) kind: &'static str,
    pub(crate) function: Option<&'a str>,
    pub(crate) args: Option<&'a Payload>,
    pub(crate) kwargs: Option<&'a Payload>,
    pub(crate) options: Option<String>,
    pub(crate) delay_ms: Option<i64>,
}

impl<'a> NewCallRow<'a> {
    fn of(call: &'a Call) -> Result<Self> {
        Ok(match &call.new.request {
            Request::Function { name, args, kwargs, options } => Self {
                call,
                kind: kind_of(&call.new.request),
                function: Some(options.target.as_deref().unwrap_or(name)),
                args: Some(args),
                kwargs: Some(kwargs),
                options: (*options != FunctionOptions::default())
                    .then(|| serde_json::to_string(options))
                    .transpose()
                    .map_err(|error| {
                        Error::internal(format!("options can't be stored: {error}"))
                    })?,
                delay_ms: None,
            },
            Request::Timer { delay_ms } => Self {
                call,
                kind: TIMER,
                function: None,
                args: None,
                kwargs: None,
                options: None,
                delay_ms: Some(*delay_ms as i64),
            },
        })
    }
}

/// How a call's row is closed for good.
pub(crate) enum Closing<'a> {
    /// By a result.
    Completed { attempt: u32, result: &'a Payload },
    /// By a failure.
    Failed { attempt: u32, failure: &'a Failure },
    /// A timer has fired.
    Fired,
    /// It was closed from outside, with this status; any for a timer.
    TakenIn(Option<CallStatus>),
}

/// All rows that one transition writes beside that of the execution. They are written in this
/// order: new calls, retries, closings, cancellations.
pub(crate) struct TransitionRows<'a> {
    pub(crate) transition: &'a Transition,
    pub(crate) end: End<'a>,
    pub(crate) events: Vec<EventRow>,
    pub(crate) new_calls: Vec<NewCallRow<'a>>,
    /// The attempt that failed, how, and when the next one is due; the last one of each call.
    pub(crate) retries: BTreeMap<CallId, (u32, &'a Failure, UnixMs)>,
    pub(crate) closings: Vec<(CallId, Closing<'a>)>,
    /// What puts the rows of calls back to where they were before the transition that failed.
    pub(crate) retried: Option<&'a Retried>,
}

impl<'a> TransitionRows<'a> {
    pub(crate) fn of(transition: &'a Transition) -> Result<Self> {
        let taken: BTreeSet<CallId> = transition.inbox_taken.iter().copied().collect();
        let mut rows = Self {
            transition,
            end: End::of(transition),
            events: Vec::with_capacity(transition.events.len()),
            new_calls: Vec::new(),
            retries: BTreeMap::new(),
            closings: Vec::new(),
            retried: None,
        };
        for (index, event) in transition.events.iter().enumerate() {
            let wire = wire::encode(event);
            rows.events.push(EventRow {
                sequence: transition.first_sequence + index as u64,
                event_type: wire.event_type,
                payload: wire.payload.to_string(),
            });
            let mut close = |call: &CallId, closing, status| {
                let closing = if taken.contains(call) { Closing::TakenIn(status) } else { closing };
                rows.closings.push((*call, closing));
            };
            match event {
                Event::CallRequested(call) | Event::TimerStarted(call) => {
                    rows.new_calls.push(NewCallRow::of(call)?);
                }
                Event::CallRetrying { call, attempt, failure, due_ms } => {
                    rows.retries.insert(*call, (*attempt, failure, *due_ms));
                }
                Event::CallCompleted { call, attempt, result } => {
                    let closing = Closing::Completed { attempt: *attempt, result };
                    close(call, closing, Some(CallStatus::Completed));
                }
                Event::CallFailed { call, attempt, failure } => {
                    let closing = Closing::Failed { attempt: *attempt, failure };
                    close(call, closing, Some(CallStatus::Failed));
                }
                Event::TimerFired { call } => close(call, Closing::Fired, None),
                Event::ExecutionStarted { .. }
                | Event::AgentInvoked { .. }
                | Event::AgentResponded { .. }
                | Event::Printed { .. }
                | Event::VariablesSet { .. }
                | Event::ExecutionPaused { .. }
                | Event::ExecutionResumed
                | Event::ExecutionCompleted { .. }
                | Event::ExecutionFailed { .. }
                | Event::ExecutionCancelled { .. } => {}
                Event::ExecutionRetried(retried) => rows.retried = Some(retried),
            }
        }
        Ok(rows)
    }

    pub(crate) fn id(&self) -> ExecutionId {
        self.transition.after.id
    }

    /// The lease ends with this transition.
    pub(crate) fn gives_lease_back(&self) -> bool {
        self.transition.release || self.transition.after.status.is_terminal()
    }

    /// The execution's next wake time; none while a lease is held.
    pub(crate) fn wake_at_ms(&self) -> Option<UnixMs> {
        if self.transition.release { self.transition.after.wake_at_ms() } else { None }
    }
}

/// Where the row of a call stands.
pub(crate) struct CallStanding {
    pub(crate) status: CallStatus,
    /// What came of it, while it stands in the inbox.
    pub(crate) reported: Option<Outcome>,
}

/// Compares the calls that the events speak of with those that are stored.
///
/// # Errors
/// `Conflict` for the first event that can't be.
pub(crate) fn refuse_calls(
    transition: &Transition,
    standing: impl Fn(CallId) -> Option<CallStanding>,
) -> Result<()> {
    let id = transition.after.id;
    let is_open = |call| standing(call).is_some_and(|call| !call.status.is_closed());
    let mut new = BTreeSet::new();
    let mut closed = BTreeSet::new();
    for event in &transition.events {
        match event {
            Event::CallRequested(call) | Event::TimerStarted(call) => {
                if standing(call.id()).is_some() || !new.insert(call.id()) {
                    return Err(refusal::call_exists(id, call.id()));
                }
            }
            Event::CallRetrying { call, .. } => {
                if !is_open(*call) && !new.contains(call) {
                    return Err(refusal::call_closed(id, *call));
                }
            }
            _ => {
                let Some((call, outcome)) = event.outcome() else { continue };
                if !closed.insert(call) {
                    return Err(refusal::call_closed(id, call));
                }
                if transition.inbox_taken.contains(&call) {
                    let reported = standing(call).and_then(|call| call.reported);
                    let same_kind = matches!(
                        (reported, outcome),
                        (Some(Outcome::Completed(_)), Outcome::Completed(_))
                            | (Some(Outcome::Failed(_)), Outcome::Failed(_))
                    );
                    if !same_kind {
                        return Err(refusal::not_in_inbox(id, call));
                    }
                } else if !is_open(call) && !new.contains(&call) {
                    return Err(refusal::call_closed(id, call));
                }
            }
        }
    }
    Ok(())
}
