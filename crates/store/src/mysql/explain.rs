//! Finding the words for a member that lost.

use durable_core::{CallId, ExecutionId, Lease, Transition};

use super::{
    error::{Fault, Outcome},
    load,
    session::{Connection, get},
    solo,
};
use crate::{
    NewExecution, Write, Written, refusal,
    rows::{CallStanding, parse_id, refuse_calls},
};

/// What a member comes to whose statements wrote less than they had to.
pub(super) async fn why_lost(connection: &mut Connection<'_>, member: &Write) -> Outcome<Written> {
    match member {
        Write::Create(new) => creation(connection, new).await,
        Write::Transition(lost) => transition(connection, lost).await,
        Write::NoteJob { execution, lease, call, .. } => {
            let held = load::lease(connection, *execution).await?;
            Err(if holds(held.as_ref().map(|(lease, _)| lease), lease) {
                refusal::call_closed(*execution, *call)
            } else {
                refusal::lease_lost(*execution)
            }
            .into())
        }
        Write::Report { execution, call, .. } => report(connection, *execution, *call).await,
        _ => Err(Fault::Lost),
    }
}

fn holds(held: Option<&Lease>, lease: &Lease) -> bool {
    held.is_some_and(|held| held == lease)
}

async fn creation(connection: &mut Connection<'_>, new: &NewExecution) -> Outcome<Written> {
    const KNOWN: &str = "
        SELECT (SELECT id FROM executions WHERE namespace = ? AND idempotency_key = ?),
            EXISTS (SELECT 1 FROM programs WHERE id = ?),
            EXISTS (SELECT 1 FROM executions WHERE id = ?)";
    let rows = connection
        .ask(
            KNOWN,
            &[
                &new.labels.namespace,
                &new.idempotency_key,
                &new.program.as_str(),
                &new.id.to_string(),
            ],
        )
        .await?;
    let row = rows.first().ok_or(Fault::Lost)?;
    if let Some(existing) = get::<Option<String>>(row, 0)? {
        return Ok(Written::Created { id: parse_id(&existing)?, existing: true });
    }
    if !get::<bool>(row, 1)? {
        return Err(refusal::no_program(&new.program).into());
    }
    if get::<bool>(row, 2)? {
        return Err(refusal::id_taken(new.id).into());
    }
    Err(Fault::Lost)
}

async fn transition(connection: &mut Connection<'_>, lost: &Transition) -> Outcome<Written> {
    let id = lost.after.id;
    // What can't be decoded must not hide the reason: only the rows are looked at.
    let sql = "
        SELECT e.version, e.next_sequence, l.locked_by, l.epoch
        FROM executions e LEFT JOIN execution_locks l ON l.execution_id = e.id WHERE e.id = ?";
    let rows = connection.ask(sql, &[&id.to_string()]).await?;
    let row = rows.first().ok_or_else(|| refusal::deleted(id))?;
    let version = get::<i64>(row, 0)? as u64;
    let next_sequence = get::<i64>(row, 1)? as u64;
    if version != lost.expected_version || next_sequence != lost.first_sequence {
        return Err(refusal::outdated(id, lost.expected_version, version).into());
    }
    if !lost.is_retry() && !holds(load::read_lease(row, 2)?.as_ref(), &lost.lease) {
        return Err(refusal::lease_lost(id).into());
    }
    let calls = load::calls(connection, id).await?;
    let unapplied = unapplied(connection, id).await?;
    refuse_calls(lost, |call| {
        let stored = calls.iter().find(|stored| stored.record.id == call)?;
        let in_inbox = unapplied.contains(&call);
        Some(CallStanding {
            status: stored.record.status,
            reported: in_inbox.then(|| stored.outcome()).flatten(),
        })
    })?;
    Err(Fault::Lost)
}

async fn unapplied(connection: &mut Connection<'_>, id: ExecutionId) -> Outcome<Vec<CallId>> {
    let sql = "SELECT call_id FROM execution_steps WHERE execution_id = ? AND NOT applied";
    let rows = connection.ask(sql, &[&id.to_string()]).await?;
    rows.iter().map(|row| Ok(get::<i64>(row, 0)? as CallId)).collect()
}

async fn report(
    connection: &mut Connection<'_>,
    id: ExecutionId,
    call: CallId,
) -> Outcome<Written> {
    solo::live_status(connection, id).await?;
    let calls = load::calls(connection, id).await?;
    let found = calls.iter().find(|stored| stored.record.id == call);
    Err(match found {
        None => refusal::no_call(id, call),
        Some(stored) if stored.record.is_timer => refusal::call_is_timer(id, call),
        Some(stored) if stored.record.status.is_closed() => refusal::call_closed(id, call),
        Some(_) => return Err(Fault::Lost),
    }
    .into())
}
