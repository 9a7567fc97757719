//! The workers of a fleet and the tokens of its users.

use durable_core::{CallId, ExecutionId, Owner, UnixMs};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::Outcome;
use crate::{Role, TokenRecord, WorkerRecord, Written, refusal, rows};

pub(super) fn announce(connection: &Connection, worker: &WorkerRecord) -> Outcome<Written> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO workers
                 (id, host, pid, queues, functions, concurrency, version, started_at, seen_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            worker.owner.as_str(),
            worker.host,
            worker.pid,
            serde_json::json!(worker.queues).to_string(),
            serde_json::json!(worker.functions).to_string(),
            worker.concurrency,
            worker.version,
            worker.started_at_ms,
            worker.seen_at_ms
        ])?;
    Ok(Written::Done)
}

pub(super) fn withdraw(connection: &Connection, owner: &Owner) -> Outcome<Written> {
    connection.prepare_cached("DELETE FROM workers WHERE id = ?1")?.execute([owner.as_str()])?;
    Ok(Written::Done)
}

pub(super) fn workers(connection: &Connection) -> Outcome<Vec<WorkerRecord>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, host, pid, queues, functions, concurrency, version, started_at, seen_at,
                (SELECT count(*) FROM execution_locks WHERE locked_by = workers.id)
         FROM workers ORDER BY id",
    )?;
    let mut rows = statement.query([])?;
    let mut workers = Vec::new();
    while let Some(row) = rows.next()? {
        workers.push(WorkerRecord {
            owner: Owner::new(row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?),
            host: row.get(1)?,
            pid: row.get(2)?,
            queues: words(row, 3)?,
            functions: words(row, 4)?,
            concurrency: row.get(5)?,
            version: row.get(6)?,
            started_at_ms: row.get(7)?,
            seen_at_ms: row.get(8)?,
            held: row.get(9)?,
        });
    }
    Ok(workers)
}

pub(super) fn put_token(connection: &Connection, token: &TokenRecord) -> Outcome<Written> {
    let inserted = connection
        .prepare_cached(
            "INSERT INTO tokens
                 (id, name, role, namespace, secret_hash, created_at, expires_at, revoked_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![
            token.id,
            token.name,
            token.role.as_str(),
            token.namespace,
            token.secret_hash,
            token.created_at_ms,
            token.expires_at_ms,
            token.revoked_at_ms
        ])?;
    if inserted == 1 { Ok(Written::Done) } else { Err(refusal::token_taken(&token.id).into()) }
}

pub(super) fn revoke_token(connection: &Connection, id: &str, now_ms: UnixMs) -> Outcome<Written> {
    let changed = connection
        .prepare_cached("UPDATE tokens SET revoked_at = coalesce(revoked_at, ?2) WHERE id = ?1")?
        .execute(params![id, now_ms])?;
    if changed == 1 { Ok(Written::Done) } else { Err(refusal::no_token(id).into()) }
}

pub(super) fn tokens(connection: &Connection) -> Outcome<Vec<TokenRecord>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, name, role, namespace, secret_hash, created_at, expires_at, revoked_at
         FROM tokens ORDER BY created_at, id",
    )?;
    let mut rows = statement.query([])?;
    let mut tokens = Vec::new();
    while let Some(row) = rows.next()? {
        tokens.push(TokenRecord {
            id: row.get(0)?,
            name: row.get(1)?,
            role: Role::parse(row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?)?,
            namespace: row.get(3)?,
            secret_hash: row.get(4)?,
            created_at_ms: row.get(5)?,
            expires_at_ms: row.get(6)?,
            revoked_at_ms: row.get(7)?,
        });
    }
    Ok(tokens)
}

pub(super) fn call_of_job(
    connection: &Connection,
    job_id: &str,
) -> Outcome<Option<(ExecutionId, CallId)>> {
    let found: Option<(String, CallId)> = connection
        .prepare_cached(
            "SELECT execution_id, call_id FROM execution_steps WHERE job_id = ?1
             ORDER BY execution_id, call_id LIMIT 1",
        )?
        .query_row([job_id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    found.map(|(id, call)| Ok((rows::parse_id(&id)?, call))).transpose()
}

/// A JSON array of strings.
pub(super) fn words(row: &Row<'_>, column: usize) -> Outcome<Vec<String>> {
    let text = row.get_ref(column)?.as_str_or_null().map_err(rusqlite::Error::from)?;
    Ok(rows::words(text)?)
}
