//! Loading an execution: its state, its snapshot, the journal since.

use std::collections::BTreeMap;

use durable_core::{
    Execution, ExecutionId, Lease, Owner, Payload, ProgramId, Recorded, Snapshot, Status, UnixMs,
    wire::TakenBack,
};
use rusqlite::{Connection, OptionalExtension, Row, params, types::ValueRef};

use super::{error::Outcome as InTransaction, steps};
use crate::{
    Loaded,
    rows::{ReferredRows, StateRow, StoredEvent, TakenBacks, failure},
};

/// What [`read_state`] takes from a row of `executions`, in order.
pub(super) const STATE_COLUMNS: &str = "status, version, next_sequence, lease_epoch, inbox, control, \
     requested_calls, resume_groups, closed_calls, started_at, program_id, input_payload, \
     control_reason";

pub(super) fn read_state(id: ExecutionId, row: &Row<'_>) -> InTransaction<StateRow> {
    let text = |column| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
    let number = |column| row.get::<_, i64>(column).map(|number| number as u64);
    let word = row.get_ref(5)?.as_str_or_null().map_err(rusqlite::Error::from)?;
    let execution = Execution {
        id,
        status: Status::from_stored(text(0)?)?,
        version: number(1)?,
        next_sequence: number(2)?,
        started: row.get_ref(9)? != ValueRef::Null,
        open_calls: BTreeMap::new(),
        requested_calls: row.get(6)?,
        groups: row.get(7)?,
        closed_calls: row.get(8)?,
    };
    Ok(StateRow {
        execution,
        lease_epoch: number(3)?,
        inbox: row.get(4)?,
        control: StateRow::control(word, row.get(12)?)?,
        program: ProgramId::from_stored(text(10)?),
        inputs: steps::payload(row, 11)?.unwrap_or_else(|| Payload::trusted("{}")),
    })
}

/// Adds what stands in other tables.
pub(super) fn complete(
    connection: &Connection,
    state: StateRow,
    lease: Option<Lease>,
) -> InTransaction<Loaded> {
    let id = state.execution.id;
    let unapplied = if state.has_calls() { steps::unapplied(connection, id)? } else { Vec::new() };
    let (snapshot, tail) = if state.has_journal() {
        let snapshot = snapshot(connection, &state.execution)?;
        let position = snapshot.as_ref().map_or(0, |(_, position)| *position);
        (snapshot, journal(connection, id, position, usize::MAX)?)
    } else {
        (None, Vec::new())
    };
    Ok(state.complete(lease, unapplied, snapshot, tail))
}

/// Loads an execution with the lease that stands in the store.
pub(super) fn load(connection: &Connection, id: ExecutionId) -> InTransaction<Option<Loaded>> {
    let Some(row) = state_row(connection, id)? else { return Ok(None) };
    let lease = lease(connection, id)?.map(|(lease, _)| lease);
    complete(connection, row, lease).map(Some)
}

pub(super) fn state_row(
    connection: &Connection,
    id: ExecutionId,
) -> InTransaction<Option<StateRow>> {
    let sql = format!("SELECT {STATE_COLUMNS} FROM executions WHERE id = ?1");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([id.to_string()])?;
    rows.next()?.map(|row| read_state(id, row)).transpose()
}

/// The lease on an execution and when it expires.
pub(super) fn lease(
    connection: &Connection,
    id: ExecutionId,
) -> rusqlite::Result<Option<(Lease, UnixMs)>> {
    connection
        .prepare_cached(
            "SELECT locked_by, epoch, expires_at FROM execution_locks WHERE execution_id = ?1",
        )?
        .query_row([id.to_string()], |row| {
            let owner = Owner::new(row.get_ref(0)?.as_str()?);
            let epoch = row.get::<_, i64>(1)? as u64;
            Ok((Lease { owner, epoch }, row.get(2)?))
        })
        .optional()
}

/// The snapshot, if there is one that can belong to the journal. It is only a cache: one that was
/// removed or damaged is as good as none.
fn snapshot(
    connection: &Connection,
    execution: &Execution,
) -> rusqlite::Result<Option<(Snapshot, u64)>> {
    connection
        .prepare_cached(
            "SELECT state_snapshot, position FROM execution_state WHERE execution_id = ?1",
        )?
        .query_row([execution.id.to_string()], |row| {
            let (ValueRef::Blob(bytes), ValueRef::Integer(position)) =
                (row.get_ref(0)?, row.get_ref(1)?)
            else {
                return Ok(None);
            };
            let last = execution.next_sequence - 1;
            let position = u64::try_from(position).ok().filter(|at| (1..=last).contains(at));
            Ok(position.map(|position| (Snapshot(bytes.into()), position)))
        })
        .optional()
        .map(Option::flatten)
}

/// The journal after a place in it, with the payloads it refers to.
pub(super) fn journal(
    connection: &Connection,
    id: ExecutionId,
    after_sequence: u64,
    limit: usize,
) -> InTransaction<Vec<Recorded>> {
    let stored = events(connection, id, after_sequence, limit)?;
    let is_cut = stored.len() == limit;
    let taken_backs = match stored.first() {
        Some(first) if is_cut || stored.iter().any(StoredEvent::is_failure) => {
            taken_backs(connection, id, first.sequence)?
        }
        _ => TakenBacks::default(),
    };
    let rows = referred(connection, id, &stored)?;
    Ok(rows.decode(id, stored, &taken_backs)?)
}

/// The transitions from a place in the journal on that retries took back.
fn taken_backs(
    connection: &Connection,
    id: ExecutionId,
    from_sequence: u64,
) -> InTransaction<TakenBacks> {
    let mut statement = connection.prepare_cached(
        "SELECT transition_number, sequence, event_payload FROM execution_events
         WHERE execution_id = ?1 AND sequence >= ?2 AND event_type = ?3",
    )?;
    let from_sequence = i64::try_from(from_sequence).unwrap_or(i64::MAX);
    let mut rows =
        statement.query(params![id.to_string(), from_sequence, TakenBack::EVENT_TYPE])?;
    let mut found = TakenBacks::default();
    while let Some(row) = rows.next()? {
        let payload = row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?;
        let payload = StoredEvent::parse(id, row.get::<_, i64>(1)? as u64, payload)?;
        found.add(row.get::<_, i64>(0)? as u64, &payload)?;
    }
    Ok(found)
}

fn events(
    connection: &Connection,
    id: ExecutionId,
    after_sequence: u64,
    limit: usize,
) -> InTransaction<Vec<StoredEvent>> {
    let after_sequence = i64::try_from(after_sequence).unwrap_or(i64::MAX);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(
        "SELECT sequence, transition_number, event_type, event_payload, timestamp
         FROM execution_events WHERE execution_id = ?1 AND sequence > ?2 ORDER BY sequence LIMIT ?3",
    )?;
    let mut rows = statement.query(params![id.to_string(), after_sequence, limit])?;
    let mut stored = Vec::new();
    while let Some(row) = rows.next()? {
        let sequence = row.get::<_, i64>(0)? as u64;
        let payload = row.get_ref(3)?.as_str().map_err(rusqlite::Error::from)?;
        let payload = StoredEvent::parse(id, sequence, payload)?;
        stored.push(StoredEvent {
            sequence,
            transition: row.get::<_, i64>(1)? as u64,
            event_type: row.get(2)?,
            payload,
            at_ms: row.get(4)?,
        });
    }
    Ok(stored)
}

/// The rows that a stretch of journal refers to.
fn referred(
    connection: &Connection,
    id: ExecutionId,
    events: &[StoredEvent],
) -> InTransaction<ReferredRows> {
    let mut rows = ReferredRows::default();
    for event in events {
        for call in event.calls() {
            if !rows.calls.contains_key(&call)
                && let Some(row) = steps::one(connection, id, call)?
            {
                rows.calls.insert(call, row);
            }
        }
        if event.is_end() {
            let mut statement = connection.prepare_cached(
                "SELECT output_payload, error_type, error, error_traceback, error_call
                 FROM executions WHERE id = ?1",
            )?;
            (rows.output, rows.failure) = statement.query_row([id.to_string()], |row| {
                let failure = failure(row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
                Ok((steps::payload(row, 0)?, failure))
            })?;
        }
    }
    Ok(rows)
}
