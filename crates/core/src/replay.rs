//! Reading a journal back: the groups of results a program was given, the calls it asked for,
//! and the state all of it amounts to.

use std::collections::BTreeMap;

use crate::{
    Call, CallId, Error, Event, Execution, ExecutionId, Failure, Group, NewCall, Outcome, Recorded,
    Request, Result, Retried, UnixMs, apply,
};

/// The journal as the program knows it: without what retries took back.
fn told(journal: &[Recorded]) -> Vec<&Recorded> {
    let mut told: Vec<&Recorded> = Vec::with_capacity(journal.len());
    for recorded in journal {
        if matches!(recorded.event, Event::ExecutionRetried(_)) {
            // Nothing can stand between an end and a retry: the transition before it failed.
            while told.pop_if(|last| last.transition + 1 == recorded.transition).is_some() {}
        } else {
            told.push(recorded);
        }
    }
    told
}

/// How the program began: the seed of its randomness, and what its clock said.
pub fn started(journal: &[Recorded]) -> Option<(u64, UnixMs)> {
    told(journal).into_iter().rev().find_map(|recorded| match recorded.event {
        Event::ExecutionStarted { seed } => Some((seed, recorded.at_ms)),
        _ => None,
    })
}

/// What a stretch of journal told the program, grouped as it was applied: one group a transition.
///
/// ```
/// use durable_core::{Event, Recorded, replay};
/// let fired = |sequence, transition| Recorded {
///     sequence, transition, at_ms: 5, event: Event::TimerFired { call: sequence as u32 },
/// };
/// let groups = replay::groups(&[fired(1, 1), fired(2, 1), fired(3, 2)]);
/// assert_eq!(groups.iter().map(|group| group.results.len()).collect::<Vec<_>>(), [2, 1]);
/// ```
pub fn groups(journal: &[Recorded]) -> Vec<Group> {
    let mut groups: Vec<(u64, Group)> = Vec::new();
    for recorded in told(journal) {
        let result = recorded.event.outcome();
        let variables = match &recorded.event {
            Event::VariablesSet { variables } => variables.as_slice(),
            _ => &[],
        };
        if result.is_none() && variables.is_empty() {
            continue;
        }
        if groups.last().is_none_or(|(transition, _)| *transition != recorded.transition) {
            let group = Group { now_ms: recorded.at_ms, ..Group::default() };
            groups.push((recorded.transition, group));
        }
        if let Some((_, group)) = groups.last_mut() {
            group.results.extend(result);
            group.variables.extend_from_slice(variables);
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The calls that a stretch of journal says were asked for, in order.
pub fn requested(journal: &[Recorded]) -> impl Iterator<Item = &Call> {
    told(journal).into_iter().filter_map(|recorded| match &recorded.event {
        Event::CallRequested(call) | Event::TimerStarted(call) => Some(call),
        _ => None,
    })
}

/// Compares the calls that a replay asked for with those in the journal.
///
/// A replay may ask for more than the journal holds only after everything in it: that is where
/// the execution stood when its engine stopped.
///
/// # Errors
/// [`Error::Conflict`] with both lists around the first difference.
pub fn verify(journaled: &[&Call], replayed: &[NewCall]) -> Result<()> {
    let same = |call: &Call, new: &NewCall| {
        call.new.id == new.id && call.new.request.is_same(&new.request)
    };
    let first_difference = journaled
        .iter()
        .enumerate()
        .find(|(index, call)| replayed.get(*index).is_none_or(|new| !same(call, new)))
        .map(|(index, _)| index);
    let Some(index) = first_difference else { return Ok(()) };
    let from = index.saturating_sub(2);
    let show = |calls: &mut dyn Iterator<Item = &NewCall>| -> String {
        let lines: Vec<_> = calls.skip(from).take(5).map(describe).collect();
        if lines.is_empty() { "  (nothing)".into() } else { lines.join("\n") }
    };
    Err(Error::conflict(format!(
        "replaying the program asks for other calls than its journal holds, from call {} on.\n\
         journal:\n{}\nreplay:\n{}\n\
         The interpreter behaves differently from the one that ran this execution; \
         resume it with the version that started it.",
        index + 1,
        show(&mut journaled.iter().map(|call| &call.new)),
        show(&mut replayed.iter()),
    )))
}

fn describe(new: &NewCall) -> String {
    let place = format!("line {}", new.position.line);
    match &new.request {
        Request::Function { name, args, kwargs, .. } => {
            format!("  #{} {name}(*{args:?}, **{kwargs:?}) at {place}", new.id)
        }
        Request::Timer { delay_ms } => {
            format!("  #{} asyncio.sleep({delay_ms} ms) at {place}", new.id)
        }
    }
}

/// Folds a whole journal into the state it amounts to.
///
/// # Errors
/// [`Error::Corrupt`] when the journal has a gap, or an event that can't follow the ones before.
pub fn fold(id: ExecutionId, journal: &[Recorded]) -> Result<Execution> {
    let mut execution = Execution::scheduled(id);
    for recorded in journal {
        if recorded.sequence != execution.next_sequence {
            return Err(Error::corrupt(format!(
                "the journal of execution {id} has event {} where {} was expected",
                recorded.sequence, execution.next_sequence
            )));
        }
        apply(&mut execution, &recorded.event).map_err(|error| {
            Error::corrupt(format!("event {} of execution {id}: {error}", recorded.sequence))
        })?;
        execution.version = recorded.transition;
    }
    Ok(execution)
}

/// What lets a failed execution go on from where it failed: its state, and the event.
///
/// The calls whose failure was the cause are made again, from their first attempt. They are those
/// that the failing transition told the program of. When no call was the cause, everything that
/// came in then comes in again.
///
/// # Errors
/// `Conflict` when the execution did not fail, or when the failure of a call that was the cause
/// was told to the program long before and kept by it; `Corrupt` as [`fold`].
pub fn retry(id: ExecutionId, journal: &[Recorded]) -> Result<(Execution, Event)> {
    let failed = fold(id, journal)?;
    let last = journal.last().map_or(0, |last| last.transition);
    let first = journal.partition_point(|recorded| recorded.transition < last);
    let before = fold(id, &journal[..first])?;
    let event = retry_of(&before, journal[first..].iter().map(|recorded| &recorded.event))?;
    Ok((failed, event))
}

/// As [`retry`]: the event for a transition that failed, given the state before it.
///
/// # Errors
/// As [`retry`].
pub fn retry_of<'a>(before: &Execution, last: impl Iterator<Item = &'a Event>) -> Result<Event> {
    let id = before.id;
    let mut end = Err(Error::conflict(format!("execution {id} did not fail: it is not retried")));
    // As the calls stood when the execution failed.
    let mut at_end = before.clone();
    let mut closed: BTreeMap<CallId, (u32, Outcome)> = BTreeMap::new();
    let mut dropped = Vec::new();
    for event in last {
        match event {
            Event::CallRequested(call) | Event::TimerStarted(call) => dropped.push(call.clone()),
            Event::CallCompleted { call, attempt, result } => {
                closed.insert(*call, (*attempt, Outcome::Completed(result.clone())));
            }
            Event::CallFailed { call, attempt, failure } => {
                closed.insert(*call, (*attempt, Outcome::Failed(failure.clone())));
            }
            Event::ExecutionFailed { failure } => {
                end = Ok(failure.clone());
                break;
            }
            _ => {}
        }
        apply(&mut at_end, event)?;
    }
    let failure = end?;
    let again = calls_to_make_again(id, failure.cause_call, &closed)?;
    let mut open = before.open_calls.clone();
    for (call, open) in &mut open {
        let is_again = again.iter().any(|(again, _)| again == call);
        open.attempt = match (closed.get(call), at_end.open_calls.get(call)) {
            _ if is_again => 1,
            (Some((attempt, _)), _) => *attempt,
            (None, Some(at_end)) => at_end.attempt,
            (None, None) => open.attempt,
        };
        if !open.is_timer() {
            open.due_ms = None;
        }
    }
    let is_whole = before.started != open.is_empty()
        && dropped.iter().all(|call| !closed.contains_key(&call.id()));
    if !is_whole {
        return Err(Error::conflict(format!(
            "execution {id} failed in a transition that no engine makes: it can't be taken back"
        )));
    }
    let open = open.into_values().collect();
    Ok(Event::ExecutionRetried(Box::new(Retried { open, again, dropped, failure })))
}

/// The calls that failed in the transition which failed the execution, if one was the cause.
fn calls_to_make_again(
    id: ExecutionId,
    cause: Option<CallId>,
    closed: &BTreeMap<CallId, (u32, Outcome)>,
) -> Result<Vec<(CallId, Failure)>> {
    let Some(cause) = cause else { return Ok(Vec::new()) };
    let failures: Vec<_> = closed
        .iter()
        .filter_map(|(call, (_, outcome))| match outcome {
            Outcome::Failed(failure) => Some((*call, failure.clone())),
            Outcome::Completed(_) => None,
        })
        .collect();
    if failures.iter().any(|(call, _)| *call == cause) {
        return Ok(failures);
    }
    Err(Error::conflict(format!(
        "execution {id} failed because call {cause} did, but its program knew that before and went \
         on: there is no place to go on from; start it anew"
    )))
}
