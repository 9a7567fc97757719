//! Leasing executions that need attention.

use std::collections::HashSet;

use durable_core::{ExecutionId, Owner, UnixMs};
use mysql_async::Row;

use super::{
    error::Outcome,
    load,
    read::OfQueues,
    session::{Connection, Frame, get},
    statement::{List, Statement},
};
use crate::{
    Loaded, Written, refusal,
    rows::{longest_due, parse_id},
};

/// Who wants leases, and what counts as free.
pub(super) struct Terms<'a> {
    pub(super) owner: &'a Owner,
    pub(super) now_ms: UnixMs,
    pub(super) expires_at_ms: UnixMs,
    pub(super) dead: &'a [Owner],
}

impl Terms<'_> {
    /// A list that holds at least a name that nobody has: see [`List`].
    fn dead(&self) -> List<&str> {
        List(std::iter::once("").chain(self.dead.iter().map(Owner::as_str)).collect())
    }
}

/// Leases those due longest that nobody else is leasing in this very moment.
pub(super) async fn claim(
    connection: &mut Connection<'_>,
    terms: &Terms<'_>,
    queues: &[String],
    limit: usize,
) -> Outcome<Written> {
    let found = candidates(connection, terms, queues, limit).await?;
    Ok(Written::Claimed(take(connection, terms, &longest_due(found, limit)).await?))
}

/// Executions that need attention, each with the instant since when; their rows are locked.
async fn candidates(
    connection: &mut Connection<'_>,
    terms: &Terms<'_>,
    queues: &[String],
    limit: usize,
) -> Outcome<Vec<(ExecutionId, UnixMs)>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let (now_ms, dead, queues) = (&terms.now_ms, &terms.dead(), &OfQueues(queues));
    let statements = [
        Statement::new(WITH_INBOX, &[now_ms, dead, queues, &limit]),
        Statement::new(WITH_CONTROL, &[now_ms, dead, queues, &limit]),
        Statement::new(DUE, &[now_ms, now_ms, dead, queues, &limit]),
        Statement::new(LEASE_GONE, &[now_ms, dead, queues, &limit]),
    ];
    let mut answers = connection.run(Frame::Bare, &statements).await?;
    let gone = answers.pop().unwrap_or_default();
    let mut found = Vec::new();
    for row in answers.iter().flatten() {
        found.push(read_candidate(row)?);
    }
    // Those whose holder is gone were looked for in the leases: their rows are yet to be locked.
    let gone: Vec<_> = gone.iter().map(read_candidate).collect::<Outcome<_>>()?;
    if !gone.is_empty() {
        let ids = List(gone.iter().map(|(id, _)| id.to_string()).collect());
        let rows = connection.ask(LOCK_LIVE, &[&ids]).await?;
        let locked: Outcome<HashSet<_>> = rows.iter().map(read_id).collect();
        let locked = locked?;
        found.extend(gone.into_iter().filter(|(id, _)| locked.contains(id)));
    }
    Ok(found)
}

fn read_candidate(row: &Row) -> Outcome<(ExecutionId, UnixMs)> {
    Ok((read_id(row)?, get(row, 1)?))
}

fn read_id(row: &Row) -> Outcome<ExecutionId> {
    Ok(parse_id(&get::<String>(row, 0)?)?)
}

/// Leases one by name, or says why not.
pub(super) async fn claim_one(
    connection: &mut Connection<'_>,
    terms: &Terms<'_>,
    id: ExecutionId,
) -> Outcome<Written> {
    let status = load::status(connection, id).await?.ok_or_else(|| refusal::no_execution(id))?;
    if status.is_terminal() {
        return Err(refusal::ended(id, status).into());
    }
    if let Some((lease, expires_at_ms)) = load::lease(connection, id).await? {
        let live = expires_at_ms > terms.now_ms && !terms.dead.contains(&lease.owner);
        if live && lease.owner != *terms.owner {
            return Err(refusal::held(id, lease.owner.as_str(), expires_at_ms).into());
        }
    }
    // It is loaded even if it is damaged, to say how.
    lease(connection, terms, &[id]).await?;
    let loaded = load::load(connection, Frame::Bare, &[id]).await?.into_iter().next();
    let (_, loaded) = loaded.ok_or_else(|| refusal::no_execution(id))?;
    Ok(Written::Claimed(vec![loaded?]))
}

/// Leases executions whose rows are locked, and loads them.
async fn take(
    connection: &mut Connection<'_>,
    terms: &Terms<'_>,
    ids: &[ExecutionId],
) -> Outcome<Vec<Loaded>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let taken = lease(connection, terms, ids).await?;
    let mut claimed = Vec::with_capacity(taken.len());
    for (id, loaded) in load::load(connection, Frame::Bare, &taken).await? {
        match loaded {
            Ok(loaded) => claimed.push(loaded),
            // It stays leased, so that nobody tries it again and again and the others go on.
            Err(error) => tracing::error!(execution = %id, %error, "an execution can't be loaded"),
        }
    }
    // In the order in which they are due.
    claimed.sort_by_key(|loaded| ids.iter().position(|id| *id == loaded.execution.id));
    Ok(claimed)
}

/// Puts new leases in place, except where somebody renewed his in the meantime.
async fn lease(
    connection: &mut Connection<'_>,
    terms: &Terms<'_>,
    ids: &[ExecutionId],
) -> Outcome<Vec<ExecutionId>> {
    let ids = &List(ids.iter().map(ToString::to_string).collect::<Vec<_>>());
    let (owner, now_ms) = (&terms.owner.as_str(), &terms.now_ms);
    let (expires_at_ms, dead) = (&terms.expires_at_ms, &terms.dead());
    let statements = [
        Statement::new(TAKE_OVER, &[owner, now_ms, expires_at_ms, ids, now_ms, owner, dead]),
        Statement::new(PUT_LEASES, &[owner, now_ms, expires_at_ms, ids]),
        Statement::new(COUNT_EPOCHS, &[ids, owner]),
        Statement::new(EMPTY_INBOXES, &[ids]),
        Statement::new(TAKEN, &[ids, owner]),
    ];
    let mut answers = connection.run(Frame::Bare, &statements).await?;
    answers.pop().unwrap_or_default().iter().map(read_id).collect()
}

/// Nobody holds a live lease on `e`, and it is of one of the queues.
macro_rules! free {
    () => {
        "NOT EXISTS (SELECT 1 FROM execution_locks l WHERE l.execution_id = e.id
            AND l.expires_at > ? AND l.locked_by NOT IN ?) AND ?"
    };
}

// What came from outside is as urgent as can be; the others are due since an instant. Which rows
// are locked, and which are skipped because others lock them, is said of `executions` alone.
const WITH_INBOX: &str = concat!(
    "SELECT e.id, -9223372036854775808 FROM executions e
     WHERE e.inbox > 0 AND e.status IN ('SCHEDULED', 'RUNNING', 'WAITING') AND ",
    free!(),
    " ORDER BY e.id LIMIT ? FOR UPDATE SKIP LOCKED"
);

const WITH_CONTROL: &str = concat!(
    "SELECT e.id, -9223372036854775808 FROM executions e
     WHERE e.control IS NOT NULL AND e.status IN ('SCHEDULED', 'RUNNING', 'WAITING', 'PAUSED')
       AND ",
    free!(),
    " ORDER BY e.id LIMIT ? FOR UPDATE SKIP LOCKED"
);

// In the order of that index no row is locked but those that are taken.
const DUE: &str = concat!(
    "SELECT e.id, e.wake_at FROM executions e FORCE INDEX (executions_wake_at)
     WHERE e.wake_at <= ? AND e.status IN ('SCHEDULED', 'RUNNING', 'WAITING') AND ",
    free!(),
    " ORDER BY e.wake_at, e.id LIMIT ? FOR UPDATE SKIP LOCKED"
);

const LEASE_GONE: &str = "
SELECT e.id, l.expires_at
FROM execution_locks l JOIN executions e ON e.id = l.execution_id
WHERE (l.expires_at <= ? OR l.locked_by IN ?)
  AND e.status IN ('SCHEDULED', 'RUNNING', 'WAITING') AND ?
ORDER BY l.expires_at, e.id LIMIT ?";

const LOCK_LIVE: &str = "
SELECT id FROM executions WHERE id IN ? AND status IN ('SCHEDULED', 'RUNNING', 'WAITING')
ORDER BY id FOR UPDATE SKIP LOCKED";

const TAKE_OVER: &str = "
UPDATE execution_locks l JOIN executions e ON e.id = l.execution_id
SET l.locked_by = ?, l.acquired_at = ?, l.expires_at = ?, l.epoch = e.lease_epoch + 1
WHERE e.id IN ? AND (l.expires_at <= ? OR l.locked_by = ? OR l.locked_by IN ?)";

const PUT_LEASES: &str = "
INSERT INTO execution_locks (execution_id, locked_by, acquired_at, expires_at, epoch)
SELECT e.id, ?, ?, ?, e.lease_epoch + 1 FROM executions e
WHERE e.id IN ? AND NOT EXISTS (SELECT 1 FROM execution_locks l WHERE l.execution_id = e.id)";

const COUNT_EPOCHS: &str = "
UPDATE executions e JOIN execution_locks l ON l.execution_id = e.id
SET e.lease_epoch = e.lease_epoch + 1, e.wake_at = NULL
WHERE e.id IN ? AND l.locked_by = ? AND l.epoch = e.lease_epoch + 1";

const TAKEN: &str = "
SELECT e.id FROM executions e JOIN execution_locks l ON l.execution_id = e.id
WHERE e.id IN ? AND l.locked_by = ? AND l.epoch = e.lease_epoch AND e.wake_at IS NULL";

// Somebody took a result back by SQL. Left so, it would be claimed for ever.
const EMPTY_INBOXES: &str = "
UPDATE executions e SET e.inbox = 0
WHERE e.id IN ? AND e.inbox > 0 AND NOT EXISTS (
    SELECT 1 FROM execution_steps s WHERE s.execution_id = e.id AND NOT s.applied
    AND s.status IN ('SUCCESS', 'FAILED'))";
