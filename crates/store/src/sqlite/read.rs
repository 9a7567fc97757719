//! Questions that people and engines ask.

use durable_core::{ExecutionId, Owner, ProgramId, Status, UnixMs};
use rusqlite::{
    CachedStatement, Connection, OptionalExtension, Row, params, params_from_iter, types::Value,
};

use super::{claim, error::Outcome, registry, steps};
use crate::{
    CallRecord, ExecutionRecord, ListFilter, StoredProgram,
    rows::{self, ExecutionRow, parse_id},
};

const SELECT_EXECUTION: &str =
    "SELECT e.id, e.workflow_id, e.program_id, e.status, e.input_payload,
    e.output_payload, e.error_type, e.error, e.error_traceback, e.error_call, e.version,
    e.created_at, e.started_at, e.completed_at, l.locked_by, e.idempotency_key, e.namespace,
    e.queue, e.tags
    FROM executions e LEFT JOIN execution_locks l ON l.execution_id = e.id";

pub(super) fn execution(
    connection: &Connection,
    id: ExecutionId,
) -> Outcome<Option<ExecutionRecord>> {
    let mut statement = execution_by_id(connection)?;
    let mut rows = statement.query([id.to_string()])?;
    rows.next()?.map(read_execution).transpose()
}

pub(super) fn execution_by_id(connection: &Connection) -> Outcome<CachedStatement<'_>> {
    Ok(connection.prepare_cached(&format!("{SELECT_EXECUTION} WHERE e.id = ?1"))?)
}

fn read_execution(row: &Row<'_>) -> Outcome<ExecutionRecord> {
    let text = |column| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
    let row = ExecutionRow {
        id: parse_id(text(0)?)?,
        workflow_id: row.get(1)?,
        program: ProgramId::from_stored(text(2)?),
        status: Status::from_stored(text(3)?)?,
        inputs: steps::payload(row, 4)?,
        output: steps::payload(row, 5)?,
        error_type: row.get(6)?,
        error: row.get(7)?,
        error_traceback: row.get(8)?,
        error_call: row.get(9)?,
        version: row.get::<_, i64>(10)? as u64,
        created_at_ms: row.get(11)?,
        started_at_ms: row.get(12)?,
        completed_at_ms: row.get(13)?,
        locked_by: row.get(14)?,
        idempotency_key: row.get(15)?,
        namespace: row.get(16)?,
        queue: row.get(17)?,
        tags: registry::words(row, 18)?,
    };
    Ok(row.into_record())
}

pub(super) fn calls(connection: &Connection, id: ExecutionId) -> Outcome<Vec<CallRecord>> {
    Ok(steps::all(connection, id)?.into_iter().map(|call| call.record).collect())
}

pub(super) fn list(connection: &Connection, filter: &ListFilter) -> Outcome<Vec<ExecutionRecord>> {
    let limit = if filter.limit == 0 { 100 } else { filter.limit };
    let (conditions, mut values) = conditions(filter);
    values.push(i64::try_from(limit).unwrap_or(i64::MAX).into());
    let sql = format!("{SELECT_EXECUTION} WHERE {conditions} ORDER BY e.id DESC LIMIT ?");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read_execution(row)?);
    }
    Ok(found)
}

/// What a filter asks for and nothing else, so that SQLite plans for that.
fn conditions(filter: &ListFilter) -> (String, Vec<Value>) {
    let text = |text: &Option<String>| text.clone().map(Value::from);
    let statuses: Vec<_> = filter.statuses.iter().map(|status| status.as_stored()).collect();
    let (status, statuses) = match statuses.as_slice() {
        [] => (None, None),
        // Written out, because an index on some statuses does not serve a placeholder.
        [status] => (Some(format!("e.status = '{status}'")), None),
        statuses => (None, Some(serde_json::json!(statuses).to_string())),
    };
    let (mut asked, values): (Vec<_>, Vec<_>) = [
        ("e.id < ?", filter.before.map(|id| id.to_string().into())),
        ("e.status IN (SELECT value FROM json_each(?))", statuses.map(Value::from)),
        ("e.namespace = ?", text(&filter.namespace)),
        ("e.workflow_id = ?", text(&filter.workflow_id)),
        ("? IN (SELECT value FROM json_each(e.tags))", text(&filter.tag)),
        ("e.created_at >= ?", filter.since_ms.map(Value::from)),
        ("e.created_at < ?", filter.until_ms.map(Value::from)),
    ]
    .into_iter()
    .filter_map(|(sql, value)| Some((sql, value?)))
    .unzip();
    asked.extend(status.as_deref());
    (if asked.is_empty() { "true".to_owned() } else { asked.join(" AND ") }, values)
}

pub(super) fn program(connection: &Connection, id: &ProgramId) -> Outcome<Option<StoredProgram>> {
    let row = connection
        .prepare_cached("SELECT definition, dictionary FROM programs WHERE id = ?1")?
        .query_row([id.as_str()], |row| {
            let dictionary = row.get_ref(1)?.as_blob_or_null()?.map(Into::into);
            Ok((row.get::<_, String>(0)?, dictionary))
        })
        .optional()?;
    let Some((definition, dictionary)) = row else { return Ok(None) };
    Ok(Some(rows::program(id, &definition, dictionary)?))
}

pub(super) fn inboxes(connection: &Connection, owner: &Owner) -> Outcome<Vec<ExecutionId>> {
    let mut statement = connection.prepare_cached(
        "SELECT e.id FROM executions e JOIN execution_locks l ON l.execution_id = e.id
         WHERE e.inbox > 0 AND l.locked_by = ?1
         UNION
         SELECT e.id FROM executions e JOIN execution_locks l ON l.execution_id = e.id
         WHERE e.control IS NOT NULL AND l.locked_by = ?1",
    )?;
    let mut rows = statement.query([owner.as_str()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(parse_id(row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?)?);
    }
    Ok(found)
}

pub(super) fn next_due_ms(
    connection: &Connection,
    owner: &Owner,
    queues: &[String],
) -> Outcome<Option<UnixMs>> {
    let queues = claim::queues_json(queues);
    // An execution that is paused waits for an operator only.
    let waits: bool = connection
        .prepare_cached(
            "SELECT EXISTS (
                SELECT 1 FROM executions e
                WHERE e.inbox > 0 AND e.status IN ('SCHEDULED', 'RUNNING', 'WAITING')
                  AND (?1 IS NULL OR e.queue IN (SELECT value FROM json_each(?1)))
                  AND NOT EXISTS (SELECT 1 FROM execution_locks l WHERE l.execution_id = e.id)
             ) OR EXISTS (
                SELECT 1 FROM executions e
                WHERE e.control IS NOT NULL
                  AND (?1 IS NULL OR e.queue IN (SELECT value FROM json_each(?1)))
                  AND e.status IN ('SCHEDULED', 'RUNNING', 'WAITING', 'PAUSED')
                  AND NOT EXISTS (SELECT 1 FROM execution_locks l WHERE l.execution_id = e.id)
             )",
        )?
        .query_row([&queues], |row| row.get(0))?;
    if waits {
        return Ok(Some(UnixMs::MIN));
    }
    let due_ms: Option<UnixMs> = connection
        .prepare_cached(
            "SELECT e.wake_at FROM executions e
             WHERE e.wake_at IS NOT NULL AND e.status IN ('SCHEDULED', 'RUNNING', 'WAITING')
               AND (?1 IS NULL OR e.queue IN (SELECT value FROM json_each(?1)))
               AND NOT EXISTS (SELECT 1 FROM execution_locks l WHERE l.execution_id = e.id)
             ORDER BY e.wake_at, e.id LIMIT 1",
        )?
        .query_row([&queues], |row| row.get(0))
        .optional()?;
    let expiry_ms: Option<UnixMs> = connection
        .prepare_cached(
            "SELECT min(l.expires_at) FROM execution_locks l JOIN executions e ON e.id = l.execution_id
             WHERE l.locked_by <> ?1
               AND (?2 IS NULL OR e.queue IN (SELECT value FROM json_each(?2)))
               AND (e.status IN ('SCHEDULED', 'RUNNING', 'WAITING')
                    OR e.status = 'PAUSED' AND e.control IS NOT NULL)",
        )?
        .query_row(params![owner.as_str(), queues], |row| row.get(0))?;
    Ok([due_ms, expiry_ms].into_iter().flatten().min())
}

pub(super) fn other_owners(connection: &Connection, owner: &Owner) -> Outcome<Vec<Owner>> {
    let mut statement = connection.prepare_cached(
        "SELECT DISTINCT locked_by FROM execution_locks WHERE locked_by <> ?1 ORDER BY locked_by",
    )?;
    let owners =
        statement.query_map([owner.as_str()], |row| Ok(Owner::new(row.get_ref(0)?.as_str()?)))?;
    Ok(owners.collect::<rusqlite::Result<_>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SqliteOptions, SqliteStore};

    #[test]
    fn the_failed_are_found_without_looking_at_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list.db");
        SqliteStore::open(&path, SqliteOptions::default()).unwrap();
        let connection = Connection::open(&path).unwrap();
        for status in [Status::Failed, Status::Cancelled, Status::Paused] {
            let filter = ListFilter { statuses: vec![status], ..ListFilter::default() };
            let (conditions, _) = conditions(&filter);
            let sql = format!("EXPLAIN QUERY PLAN {SELECT_EXECUTION} WHERE {conditions}");
            let plan: String = connection.query_row(&sql, [], |row| row.get("detail")).unwrap();
            assert!(plan.contains("executions_unwell"), "{plan}");
        }
    }
}
