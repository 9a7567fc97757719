//! Reading a journal back: the groups of results a program was given, the calls it asked for,
//! and the state all of it amounts to.

use crate::{
    Call, Error, Event, Execution, ExecutionId, Group, NewCall, Recorded, Request, Result, apply,
};

/// The results in a stretch of journal, grouped as they were applied: one group a transition.
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
    for recorded in journal {
        let Some(result) = recorded.event.outcome() else { continue };
        match groups.last_mut() {
            Some((transition, group)) if *transition == recorded.transition => {
                group.results.push(result);
            }
            _ => groups.push((
                recorded.transition,
                Group { now_ms: recorded.at_ms, results: vec![result] },
            )),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The calls that a stretch of journal says were asked for, in order.
pub fn requested(journal: &[Recorded]) -> impl Iterator<Item = &Call> {
    journal.iter().filter_map(|recorded| match &recorded.event {
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
    let same =
        |call: &Call, new: &NewCall| call.new.id == new.id && call.new.request == new.request;
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
