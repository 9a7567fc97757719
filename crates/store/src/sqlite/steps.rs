//! Rows of `execution_steps`: calls and timers.

use durable_core::{
    Call, CallId, CallStatus, Error, ExecutionId, Failure, NewCall, Outcome, Payload, Position,
    Request, UnixMs,
};
use rusqlite::{Connection, Row, params};

use super::error::Outcome as InTransaction;
use crate::CallRecord;

/// `kind` of a timer's row.
pub(super) const TIMER: &str = "timer";
/// `kind` of a function call's row.
pub(super) const FUNCTION: &str = "function";

/// A call as it is stored: what was asked for, and where it stands.
pub(super) struct StoredCall {
    /// As it was asked for: attempt 1, and a timer's first due time.
    pub(super) requested: Call,
    pub(super) record: CallRecord,
}

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
    rows.next()?.map(|row| StoredCall::read(id, row)).transpose()
}

fn select(connection: &Connection, sql: &str, id: ExecutionId) -> InTransaction<Vec<StoredCall>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([id.to_string()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(StoredCall::read(id, row)?);
    }
    Ok(found)
}

impl StoredCall {
    fn read(id: ExecutionId, row: &Row<'_>) -> InTransaction<Self> {
        let call: CallId = row.get(0)?;
        let corrupt = |what: String| {
            Error::corrupt(format!("the row of call {call} of execution {id}: {what}"))
        };
        let resume_group_id: String = row.get(2)?;
        let group = resume_group_id
            .rsplit_once(':')
            .and_then(|(_, group)| group.parse().ok())
            .ok_or_else(|| corrupt(format!("'{resume_group_id}' is no resume_group_id")))?;
        let is_timer = row.get_ref(3)?.as_str().is_ok_and(|kind| kind == TIMER);
        let name: String = row.get(4)?;
        let created_at_ms: UnixMs = row.get(20)?;
        let args = payload(row, 6)?.unwrap_or_else(|| Payload::trusted("[]"));
        let kwargs = payload(row, 7)?.unwrap_or_else(|| Payload::trusted("{}"));
        let position = Position { line: row.get(9)?, column: row.get(10)? };
        let (request, first_due_ms) = if is_timer {
            // All 64 bits are kept: the replay of an absurdly long sleep must compare equal.
            let delay_ms = row.get::<_, Option<i64>>(11)?.unwrap_or(0) as u64;
            let added = i64::try_from(delay_ms).unwrap_or(i64::MAX);
            (Request::Timer { delay_ms }, Some(created_at_ms.saturating_add(added)))
        } else {
            let options = match row.get_ref(8)?.as_str_or_null().map_err(rusqlite::Error::from)? {
                Some(text) => serde_json::from_str(text)
                    .map_err(|error| corrupt(format!("its options can't be read: {error}")))?,
                None => Default::default(),
            };
            let (args, kwargs) = (args.clone(), kwargs.clone());
            (Request::Function { name: name.clone(), args, kwargs, options }, None)
        };
        let order = row.get(1)?;
        let record = CallRecord {
            id: call,
            order,
            resume_group_id,
            function: row.get::<_, Option<String>>(5)?.unwrap_or_else(|| name.clone()),
            name,
            is_timer,
            args,
            kwargs,
            position,
            status: CallStatus::from_stored(
                row.get_ref(12)?.as_str().map_err(rusqlite::Error::from)?,
            )?,
            attempt: row.get(13)?,
            due_at_ms: row.get(14)?,
            job_id: row.get(15)?,
            result: None,
            failure: None,
            created_at_ms,
            completed_at_ms: row.get(21)?,
        };
        let new = NewCall { id: call, request, position };
        let requested = Call { new, order, group, attempt: 1, due_ms: first_due_ms };
        Ok(Self { requested, record: with_outcome(record, row)? })
    }

    /// The call as it stands now, for the state of its execution.
    pub(super) fn current(self) -> Call {
        Call { attempt: self.record.attempt, due_ms: self.record.due_at_ms, ..self.requested }
    }

    /// What it came to, when it has ended with a result or a failure.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        let record = &self.record;
        match record.status {
            // A timer wakes; there is nothing else it could come to.
            CallStatus::Completed | CallStatus::Failed if record.is_timer => {
                Some(Outcome::Completed(Payload::null()))
            }
            CallStatus::Completed => record.result.clone().map(Outcome::Completed),
            CallStatus::Failed => record.failure.clone().map(Outcome::Failed),
            CallStatus::Pending | CallStatus::Submitted | CallStatus::Cancelled => None,
        }
    }
}

/// Adds result and failure. Whoever closed the call by SQL may have left some columns out.
fn with_outcome(mut record: CallRecord, row: &Row<'_>) -> InTransaction<CallRecord> {
    if record.status == CallStatus::Completed {
        record.result = Some(payload(row, 16)?.unwrap_or_else(Payload::null));
        return Ok(record);
    }
    let failure = failure(row.get(17)?, row.get(18)?, row.get(19)?, None);
    record.failure = match record.status {
        CallStatus::Failed => Some(failure.unwrap_or_else(|| Failure::new("RuntimeError", ""))),
        _ => failure,
    };
    Ok(record)
}

/// The failure in the error columns of a row, if there is one.
pub(super) fn failure(
    error_type: Option<String>,
    message: Option<String>,
    traceback: Option<String>,
    cause_call: Option<CallId>,
) -> Option<Failure> {
    if error_type.is_none() && message.is_none() {
        return None;
    }
    Some(Failure {
        error_type: error_type.unwrap_or_else(|| "RuntimeError".into()),
        message: message.unwrap_or_default(),
        traceback,
        cause_call,
    })
}

/// A JSON column. What stands there was checked when it was written.
pub(super) fn payload(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Payload>> {
    Ok(row.get_ref(column)?.as_str_or_null()?.map(Payload::trusted))
}
