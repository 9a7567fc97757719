//! Leasing executions that need attention.

use durable_core::{Error, ExecutionId, Lease, Owner, UnixMs};
use rusqlite::{Connection, Statement, named_params, params};

use super::{
    error::Outcome,
    load::{self, STATE_COLUMNS},
};
use crate::{
    Loaded, Written, refusal,
    rows::{longest_due, parse_id},
};

/// Who wants leases, and what counts as free.
pub(super) struct Terms<'a> {
    owner: &'a Owner,
    now_ms: UnixMs,
    expires_at_ms: UnixMs,
    dead: &'a [Owner],
    /// The dead owners as a JSON array, for SQL.
    dead_json: String,
    /// The queues as a JSON array; `None` for all.
    queues_json: Option<String>,
}

impl<'a> Terms<'a> {
    pub(super) fn new(
        owner: &'a Owner,
        now_ms: UnixMs,
        expires_at_ms: UnixMs,
        dead: &'a [Owner],
        queues: &[String],
    ) -> Self {
        let names: Vec<_> = dead.iter().map(Owner::as_str).collect();
        let dead_json = serde_json::json!(names).to_string();
        Self { owner, now_ms, expires_at_ms, dead, dead_json, queues_json: queues_json(queues) }
    }
}

pub(super) fn claim(connection: &Connection, terms: &Terms<'_>, limit: usize) -> Outcome<Written> {
    let mut claimed = Vec::new();
    for id in candidates(connection, terms, limit)? {
        match take(connection, terms, id) {
            Ok(Some(loaded)) => claimed.push(loaded),
            Ok(None) => {}
            Err(fault) if fault.is_of_one_member() => {
                // It stays leased, so that nobody tries it again and again and the others go on.
                let error = Error::from(fault);
                tracing::error!(execution = %id, %error, "an execution can't be loaded");
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(Written::Claimed(claimed))
}

/// The executions to lease: those due longest first.
fn candidates(
    connection: &Connection,
    terms: &Terms<'_>,
    limit: usize,
) -> Outcome<Vec<ExecutionId>> {
    let mut found = Vec::new();
    for sql in [WITH_INBOX, WITH_CONTROL, DUE, LEASE_GONE] {
        let mut statement = connection.prepare_cached(sql)?;
        found.extend(query(&mut statement, terms, limit)?);
    }
    Ok(longest_due(found, limit))
}

fn query(
    statement: &mut Statement<'_>,
    terms: &Terms<'_>,
    limit: usize,
) -> Outcome<Vec<(ExecutionId, UnixMs)>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query(named_params! {
        ":now": terms.now_ms, ":dead": terms.dead_json, ":queues": terms.queues_json, ":limit": limit
    })?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let id = parse_id(row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?)?;
        found.push((id, row.get(1)?));
    }
    Ok(found)
}

pub(super) fn claim_one(
    connection: &Connection,
    terms: &Terms<'_>,
    id: ExecutionId,
) -> Outcome<Written> {
    let row = load::state_row(connection, id)?.ok_or_else(|| refusal::no_execution(id))?;
    if row.execution.status.is_terminal() {
        return Err(refusal::ended(id, row.execution.status).into());
    }
    if let Some((lease, expires_at_ms)) = load::lease(connection, id)? {
        let live = expires_at_ms > terms.now_ms && !terms.dead.contains(&lease.owner);
        if live && lease.owner != *terms.owner {
            return Err(refusal::held(id, lease.owner.as_str(), expires_at_ms).into());
        }
    }
    let loaded = take(connection, terms, id)?.ok_or_else(|| refusal::no_execution(id))?;
    Ok(Written::Claimed(vec![loaded]))
}

/// Leases an execution under a new epoch, and loads it.
fn take(connection: &Connection, terms: &Terms<'_>, id: ExecutionId) -> Outcome<Option<Loaded>> {
    let text = id.to_string();
    let row = {
        let mut statement = connection.prepare_cached(&format!(
            "UPDATE executions SET lease_epoch = lease_epoch + 1, wake_at = NULL WHERE id = ?1
             RETURNING {STATE_COLUMNS}"
        ))?;
        let mut rows = statement.query([&text])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        load::read_state(id, row)
    };
    // Leased in any case: see `claim` for a row that can't be read.
    let epoch = match &row {
        Ok(row) => row.lease_epoch,
        Err(_) => connection
            .prepare_cached("SELECT lease_epoch FROM executions WHERE id = ?1")?
            .query_row([&text], |row| row.get::<_, i64>(0))? as u64,
    };
    put_lease(connection, &text, terms.owner, terms.now_ms, terms.expires_at_ms, epoch)?;
    let row = row?;
    let reported = row.inbox > 0;
    let lease = Lease { owner: terms.owner.clone(), epoch };
    let loaded = load::complete(connection, row, Some(lease))?;
    if reported && loaded.inbox.is_empty() {
        // Somebody took a result back by SQL. Left so, it would be claimed for ever.
        connection
            .prepare_cached("UPDATE executions SET inbox = 0 WHERE id = ?1")?
            .execute([&text])?;
    }
    Ok(Some(loaded))
}

pub(super) fn put_lease(
    connection: &Connection,
    id: &str,
    owner: &Owner,
    now_ms: UnixMs,
    expires_at_ms: UnixMs,
    epoch: u64,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO execution_locks (execution_id, locked_by, acquired_at, expires_at, epoch)
             VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (execution_id) DO UPDATE SET locked_by = excluded.locked_by,
                 acquired_at = excluded.acquired_at, expires_at = excluded.expires_at,
                 epoch = excluded.epoch",
        )?
        .execute(params![id, owner.as_str(), now_ms, expires_at_ms, epoch as i64])?;
    Ok(())
}

/// The queues for SQL: a JSON array, or `None` for all.
pub(super) fn queues_json(queues: &[String]) -> Option<String> {
    (!queues.is_empty()).then(|| serde_json::json!(queues).to_string())
}

/// `e` is of one of the queues.
macro_rules! of_queues {
    () => {
        "(:queues IS NULL OR e.queue IN (SELECT value FROM json_each(:queues)))"
    };
}

/// Nobody holds a live lease on `e`, and it is of one of the queues.
macro_rules! free {
    () => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM execution_locks l WHERE l.execution_id = e.id
             AND l.expires_at > :now AND l.locked_by NOT IN (SELECT value FROM json_each(:dead)))
             AND ",
            of_queues!()
        )
    };
}

// What came from outside is as urgent as can be; the others are due since an instant.
const WITH_INBOX: &str = concat!(
    "SELECT e.id, -9223372036854775807 - 1 FROM executions e
     WHERE e.inbox > 0 AND e.status IN ('SCHEDULED', 'RUNNING', 'WAITING') AND ",
    free!(),
    " ORDER BY e.id LIMIT :limit"
);

const WITH_CONTROL: &str = concat!(
    "SELECT e.id, -9223372036854775807 - 1 FROM executions e
     WHERE e.control IS NOT NULL
       AND e.status IN ('SCHEDULED', 'RUNNING', 'WAITING', 'PAUSED') AND ",
    free!(),
    " ORDER BY e.id LIMIT :limit"
);

const DUE: &str = concat!(
    "SELECT e.id, e.wake_at FROM executions e
     WHERE e.wake_at IS NOT NULL AND e.wake_at <= :now
       AND e.status IN ('SCHEDULED', 'RUNNING', 'WAITING') AND ",
    free!(),
    " ORDER BY e.wake_at, e.id LIMIT :limit"
);

const LEASE_GONE: &str = concat!(
    "SELECT l.execution_id, l.expires_at
     FROM execution_locks l JOIN executions e ON e.id = l.execution_id
     WHERE (l.expires_at <= :now OR l.locked_by IN (SELECT value FROM json_each(:dead)))
       AND e.status IN ('SCHEDULED', 'RUNNING', 'WAITING') AND ",
    of_queues!(),
    " ORDER BY l.expires_at, l.execution_id LIMIT :limit"
);
