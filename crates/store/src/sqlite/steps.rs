//! Rows of `execution_steps`: calls and timers.

use durable_core::{CallId, CallStatus, ExecutionId, Payload, Position};
use rusqlite::{Connection, Row, params};

use super::error::Outcome as InTransaction;
use crate::rows::{CallRow, StoredCall, TIMER, failure};

/// What every query here selects, in the order in which [`StoredCall::read`] takes it.
const SELECT: &str = r#"SELECT call_id, step_order, resume_group_id, kind, step_name, function, args,
    kwargs, options, line, "column", delay_ms, status, attempts, due_at, job_id, result, error_type,
    error, error_traceback, created_at, completed_at FROM execution_steps WHERE execution_id = ?1"#;

/// All calls and timers of an execution in the order they were asked for.
pub(super) fn all(connection: &Connection, id: ExecutionId) -> InTransaction<Vec<StoredCall>> {
    select(connection, &format!("{SELECT} ORDER BY step_order, call_id"), id)
}

/// Those whose outcome the program was not given yet.
pub(super) fn unapplied(
    connection: &Connection,
    id: ExecutionId,
) -> InTransaction<Vec<StoredCall>> {
    select(connection, &format!("{SELECT} AND applied = 0 ORDER BY call_id"), id)
}

/// One call.
pub(super) fn one(
    connection: &Connection,
    id: ExecutionId,
    call: CallId,
) -> InTransaction<Option<StoredCall>> {
    let mut statement = connection.prepare_cached(&format!("{SELECT} AND call_id = ?2"))?;
    let mut rows = statement.query(params![id.to_string(), call])?;
    rows.next()?.map(|row| read(id, row)).transpose()
}

fn select(connection: &Connection, sql: &str, id: ExecutionId) -> InTransaction<Vec<StoredCall>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([id.to_string()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(id, row)?);
    }
    Ok(found)
}

fn read(id: ExecutionId, row: &Row<'_>) -> InTransaction<StoredCall> {
    let is_timer = row.get_ref(3)?.as_str().is_ok_and(|kind| kind == TIMER);
    let row = CallRow {
        call: row.get(0)?,
        order: row.get(1)?,
        resume_group_id: row.get(2)?,
        is_timer,
        name: row.get(4)?,
        function: row.get(5)?,
        args: payload(row, 6)?,
        kwargs: payload(row, 7)?,
        options: row.get(8)?,
        position: Position { line: row.get(9)?, column: row.get(10)? },
        delay_ms: row.get(11)?,
        status: CallStatus::from_stored(row.get_ref(12)?.as_str().map_err(rusqlite::Error::from)?)?,
        attempts: row.get(13)?,
        due_at_ms: row.get(14)?,
        job_id: row.get(15)?,
        result: payload(row, 16)?,
        failure: failure(row.get(17)?, row.get(18)?, row.get(19)?, None),
        created_at_ms: row.get(20)?,
        completed_at_ms: row.get(21)?,
    };
    Ok(StoredCall::read(id, row)?)
}

/// A JSON column. What stands there was checked when it was written.
pub(super) fn payload(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Payload>> {
    Ok(row.get_ref(column)?.as_str_or_null()?.map(Payload::trusted))
}
