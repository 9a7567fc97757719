//! Leasing executions that need attention.

use durable_core::{ExecutionId, Owner, UnixMs};

use super::{
    error::Outcome,
    load,
    read::{self, of_queues},
    session::{Connection, Frame, Statement},
    value::{Instant, Value},
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
    fn dead(&self) -> Value {
        Value::texts(self.dead.iter().map(Owner::as_str))
    }
}

/// Leases those due longest that nobody else is leasing in this very moment.
pub(super) async fn claim(
    connection: &Connection<'_>,
    terms: &Terms<'_>,
    queues: &[String],
    limit: usize,
) -> Outcome<Written> {
    let limit_rows = i64::try_from(limit).unwrap_or(i64::MAX);
    let values =
        vec![Value::at(terms.now_ms), terms.dead(), read::queues(queues), limit_rows.into()];
    let rows = connection.run(Frame::Bare, &[Statement::new(CANDIDATES, values)]).await?;
    let mut found = Vec::new();
    for row in rows.iter().flatten() {
        found.push((parse_id(row.try_get(0)?)?, row.try_get::<_, Instant>(1)?.0));
    }
    Ok(Written::Claimed(take(connection, terms, &longest_due(found, limit)).await?))
}

/// Leases one by name, or says why not.
pub(super) async fn claim_one(
    connection: &Connection<'_>,
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
    connection: &Connection<'_>,
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
    connection: &Connection<'_>,
    terms: &Terms<'_>,
    ids: &[ExecutionId],
) -> Outcome<Vec<ExecutionId>> {
    let texts: Vec<_> = ids.iter().map(ToString::to_string).collect();
    let values = vec![
        Value::texts(texts.iter().map(String::as_str)),
        Value::text(terms.owner.as_str()),
        Value::at(terms.now_ms),
        Value::at(terms.expires_at_ms),
        terms.dead(),
    ];
    let of = Value::texts(texts.iter().map(String::as_str));
    let statements = [Statement::new(LEASE, values), Statement::new(EMPTY_INBOXES, vec![of])];
    let rows = connection.run(Frame::Bare, &statements).await?;
    let taken = rows.first().into_iter().flatten();
    taken.map(|row| Ok(parse_id(row.try_get(0)?)?)).collect()
}

/// Nobody holds a live lease on `e`, and it is of one of the queues.
macro_rules! free {
    () => {
        concat!(
            "NOT EXISTS (SELECT FROM execution_locks l WHERE l.execution_id = e.id
                AND l.expires_at > $1 AND l.locked_by <> ALL($2)) AND ",
            of_queues!("$3")
        )
    };
}

// What came from outside is as urgent as can be; the others are due since an instant.
const CANDIDATES: &str = concat!(
    "WITH with_inbox AS (
        SELECT e.id, '-infinity'::timestamptz AS since FROM executions e
        WHERE e.inbox > 0 AND e.status IN ('SCHEDULED', 'RUNNING', 'WAITING') AND ",
    free!(),
    " ORDER BY e.id LIMIT $4 FOR UPDATE OF e SKIP LOCKED
    ), with_control AS (
        SELECT e.id, '-infinity'::timestamptz AS since FROM executions e
        WHERE e.control IS NOT NULL
          AND e.status IN ('SCHEDULED', 'RUNNING', 'WAITING', 'PAUSED') AND ",
    free!(),
    " ORDER BY e.id LIMIT $4 FOR UPDATE OF e SKIP LOCKED
    ), due AS (
        SELECT e.id, e.wake_at AS since FROM executions e
        WHERE e.wake_at IS NOT NULL AND e.wake_at <= $1
          AND e.status IN ('SCHEDULED', 'RUNNING', 'WAITING') AND ",
    free!(),
    " ORDER BY e.wake_at, e.id LIMIT $4 FOR UPDATE OF e SKIP LOCKED
    ), lease_gone AS (
        SELECT e.id, l.expires_at AS since
        FROM execution_locks l JOIN executions e ON e.id = l.execution_id
        WHERE (l.expires_at <= $1 OR l.locked_by = ANY($2))
          AND e.status IN ('SCHEDULED', 'RUNNING', 'WAITING') AND ",
    of_queues!("$3"),
    " ORDER BY l.expires_at, e.id LIMIT $4 FOR UPDATE OF e SKIP LOCKED
    )
    SELECT * FROM with_inbox UNION ALL SELECT * FROM with_control
    UNION ALL SELECT * FROM due UNION ALL SELECT * FROM lease_gone"
);

const LEASE: &str = "
WITH leased AS (
    INSERT INTO execution_locks AS l (execution_id, locked_by, acquired_at, expires_at, epoch)
    SELECT e.id, $2, $3, $4, e.lease_epoch + 1 FROM executions e WHERE e.id = ANY($1)
    ON CONFLICT (execution_id) DO UPDATE SET locked_by = excluded.locked_by,
        acquired_at = excluded.acquired_at, expires_at = excluded.expires_at,
        epoch = excluded.epoch
    WHERE l.expires_at <= $3 OR l.locked_by = ANY($5) OR l.locked_by = $2
    RETURNING execution_id
)
UPDATE executions e SET lease_epoch = e.lease_epoch + 1, wake_at = NULL
FROM leased WHERE e.id = leased.execution_id
RETURNING e.id";

// Somebody took a result back by SQL. Left so, it would be claimed for ever.
const EMPTY_INBOXES: &str = "
UPDATE executions e SET inbox = 0
WHERE e.id = ANY($1) AND e.inbox > 0 AND NOT EXISTS (
    SELECT FROM execution_steps s WHERE s.execution_id = e.id AND NOT s.applied
    AND s.status NOT IN ('PENDING', 'SUBMITTED', 'CANCELLED'))";
