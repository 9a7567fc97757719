//! What a batch is to a store that writes its members side by side.

use durable_core::{Event, ExecutionId, Lease, Owner, Result, UnixMs};

use crate::{Write, Written};

/// What is due within this time is told to others: they look by themselves at least as often.
const SOON_MS: i64 = 10_000;

/// The order in which kinds of members are written, and the execution that a member concerns.
/// `None` for members that are not written side by side with others.
pub(crate) fn place(write: &Write) -> Option<(u8, Option<ExecutionId>)> {
    match write {
        Write::PutProgram(_) => Some((0, None)),
        Write::Create(new) => Some((1, Some(new.id))),
        Write::Transition(transition) => Some((2, Some(transition.after.id))),
        Write::NoteJob { execution, .. } => Some((3, Some(*execution))),
        Write::Report { execution, .. } => Some((4, Some(*execution))),
        Write::Release { execution, .. } => Some((5, Some(*execution))),
        Write::PutDictionary { .. }
        | Write::Claim { .. }
        | Write::ClaimOne { .. }
        | Write::Renew { .. }
        | Write::Request { .. }
        | Write::Announce(_)
        | Write::Withdraw(_)
        | Write::PutToken(_)
        | Write::RevokeToken { .. }
        | Write::Delete { .. } => None,
    }
}

/// What a member comes to that is written side by side with others and does not lose.
pub(crate) fn success(member: &Write) -> Written {
    match member {
        Write::Create(new) => Written::Created { id: new.id, existing: false },
        _ => Written::Done,
    }
}

/// The leases that a batch takes.
pub(crate) fn leases(members: &[Write], answers: &[Result<Written>]) -> Vec<(ExecutionId, Lease)> {
    let mut leases = Vec::new();
    for (member, answer) in members.iter().zip(answers) {
        match (member, answer) {
            (Write::Create(new), Ok(Written::Created { existing: false, .. })) => {
                let lease = |(owner, _): &(Owner, UnixMs)| Lease { owner: owner.clone(), epoch: 1 };
                leases.extend(new.lease.as_ref().map(lease).map(|lease| (new.id, lease)));
            }
            (_, Ok(Written::Claimed(claimed))) => {
                let taken = claimed.iter();
                leases.extend(
                    taken.filter_map(|loaded| Some((loaded.execution.id, loaded.lease.clone()?))),
                );
            }
            _ => {}
        }
    }
    leases
}

/// Gives leases back that the caller took for lost, so that somebody takes them up at once.
pub(crate) fn releases(leases: &[(ExecutionId, Lease)]) -> Vec<Write> {
    let release = |(execution, lease): &(ExecutionId, Lease)| Write::Release {
        execution: *execution,
        lease: lease.clone(),
        wake_at_ms: Some(0),
    };
    leases.iter().map(release).collect()
}

fn asks_for_feed(event: &Event) -> bool {
    matches!(event, Event::CallRequested(call) if call.new.request.is_feed())
}

/// Whether anybody but the writer has to look at what a batch wrote.
pub(crate) fn concerns_others(batch: &[Write], now_ms: UnixMs) -> bool {
    let is_soon = |due_ms: Option<UnixMs>| due_ms.is_some_and(|due_ms| due_ms <= now_ms + SOON_MS);
    batch.iter().any(|member| match member {
        // To be taken up.
        Write::Create(new) => new.lease.is_none(),
        Write::Release { wake_at_ms, .. } => is_soon(*wake_at_ms),
        Write::Transition(transition) => {
            // Somebody may wait for the end, or for a session to take the next feed.
            transition.after.status.is_terminal()
                || transition.events.iter().any(asks_for_feed)
                || transition.release && is_soon(transition.after.wake_at_ms())
        }
        // To be taken in by whoever holds the execution.
        Write::Report { .. } | Write::Request { .. } => true,
        Write::PutProgram(_)
        | Write::PutDictionary { .. }
        | Write::Claim { .. }
        | Write::ClaimOne { .. }
        | Write::Renew { .. }
        | Write::NoteJob { .. }
        | Write::Announce(_)
        | Write::Withdraw(_)
        | Write::PutToken(_)
        | Write::RevokeToken { .. }
        | Write::Delete { .. } => false,
    })
}
