//! Loading an execution: its state, its snapshot, the journal since.

use std::collections::BTreeMap;

use durable_core::{
    Call, CallId, Error, Execution, ExecutionId, Failure, Lease, Outcome, Owner, Payload,
    ProgramId, Recorded, Snapshot, Status, UnixMs,
    wire::{self, Rows, TakenBack},
};
use rusqlite::{Connection, OptionalExtension, Row, params, types::ValueRef};

use super::{
    error::Outcome as InTransaction,
    steps::{self, StoredCall},
};
use crate::{Control, Loaded};

/// What [`StateRow::read`] takes from a row of `executions`, in order.
pub(super) const STATE_COLUMNS: &str = "status, version, next_sequence, lease_epoch, inbox, control, \
     requested_calls, resume_groups, closed_calls, started_at, program_id, input_payload, \
     control_reason";

/// The columns of `executions` that the state of an execution is built from.
pub(super) struct StateRow {
    pub(super) execution: Execution,
    pub(super) lease_epoch: u64,
    pub(super) inbox: i64,
    control: Option<(Control, String)>,
    program: ProgramId,
    inputs: Payload,
}

impl StateRow {
    pub(super) fn read(id: ExecutionId, row: &Row<'_>) -> InTransaction<Self> {
        let text = |column| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
        let number = |column| row.get::<_, i64>(column).map(|number| number as u64);
        let control = match row.get_ref(5)?.as_str_or_null().map_err(rusqlite::Error::from)? {
            Some(word) => {
                let reason: Option<String> = row.get(12)?;
                Some((Control::from_stored(word)?, reason.unwrap_or_default()))
            }
            None => None,
        };
        Ok(Self {
            execution: Execution {
                id,
                status: Status::from_stored(text(0)?)?,
                version: number(1)?,
                next_sequence: number(2)?,
                started: row.get_ref(9)? != ValueRef::Null,
                open_calls: BTreeMap::new(),
                requested_calls: row.get(6)?,
                groups: row.get(7)?,
                closed_calls: row.get(8)?,
            },
            lease_epoch: number(3)?,
            inbox: row.get(4)?,
            control,
            program: ProgramId::from_stored(text(10)?),
            inputs: steps::payload(row, 11)?.unwrap_or_else(|| Payload::trusted("{}")),
        })
    }

    /// Adds what stands in other tables.
    pub(super) fn complete(
        self,
        connection: &Connection,
        lease: Option<Lease>,
    ) -> InTransaction<Loaded> {
        let Self { mut execution, inbox: reported, control, program, inputs, .. } = self;
        let id = execution.id;
        let mut inbox = Vec::new();
        let has_calls = execution.requested_calls > 0 && !execution.status.is_terminal();
        if has_calls {
            let open = steps::unapplied(connection, id)?;
            if reported > 0 {
                inbox = in_order_of_arrival(&open);
            }
            let open = open.into_iter().map(|call| (call.record.id, call.current()));
            execution.open_calls = open.collect();
        }
        // Nothing has happened yet to most executions that are claimed for the first time.
        let (snapshot, tail) = if execution.next_sequence > 1 {
            let snapshot = snapshot(connection, &execution)?;
            let position = snapshot.as_ref().map_or(0, |(_, position)| *position);
            (snapshot, journal(connection, id, position, usize::MAX)?)
        } else {
            (None, Vec::new())
        };
        Ok(Loaded { execution, program, inputs, lease, snapshot, tail, inbox, control })
    }
}

/// Loads an execution with the lease that stands in the store.
pub(super) fn load(connection: &Connection, id: ExecutionId) -> InTransaction<Option<Loaded>> {
    let Some(row) = state_row(connection, id)? else { return Ok(None) };
    let lease = lease(connection, id)?.map(|(lease, _)| lease);
    row.complete(connection, lease).map(Some)
}

pub(super) fn state_row(
    connection: &Connection,
    id: ExecutionId,
) -> InTransaction<Option<StateRow>> {
    let sql = format!("SELECT {STATE_COLUMNS} FROM executions WHERE id = ?1");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([id.to_string()])?;
    rows.next()?.map(|row| StateRow::read(id, row)).transpose()
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

fn in_order_of_arrival(open: &[StoredCall]) -> Vec<(CallId, Outcome)> {
    let mut arrived: Vec<_> = open
        .iter()
        .filter_map(|call| {
            let outcome = call.outcome()?;
            Some((call.record.completed_at_ms, call.record.id, outcome))
        })
        .collect();
    arrived.sort_by_key(|(at_ms, call, _)| (*at_ms, *call));
    arrived.into_iter().map(|(_, call, outcome)| (call, outcome)).collect()
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

/// An event as it is stored.
struct StoredEvent {
    sequence: u64,
    transition: u64,
    event_type: String,
    payload: serde_json::Value,
    at_ms: UnixMs,
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
    let taken_back = match stored.first() {
        Some(first) if is_cut || stored.iter().any(|event| event.event_type == FAILED) => {
            taken_back(connection, id, first.sequence)?
        }
        _ => BTreeMap::new(),
    };
    let rows = ReferredRows::collect(connection, id, &stored)?;
    let decode = |event: StoredEvent| {
        let StoredEvent { sequence, transition, at_ms, .. } = event;
        let decoded = match taken_back.get(&transition) {
            Some(taken_back) => {
                wire::decode(&event.event_type, &event.payload, &taken_back.over(&rows))
            }
            None => wire::decode(&event.event_type, &event.payload, &rows),
        };
        let decoded = decoded.map_err(|error| {
            Error::corrupt(format!("event {sequence} of execution {id}: {error}"))
        })?;
        Ok(Recorded { sequence, transition, at_ms, event: decoded })
    };
    stored.into_iter().map(decode).collect()
}

/// The event of a transition that a retry may have taken back.
const FAILED: &str = "EXECUTION_FAILED";

/// The transitions from a place in the journal on that retries took back, by number.
fn taken_back(
    connection: &Connection,
    id: ExecutionId,
    from_sequence: u64,
) -> InTransaction<BTreeMap<u64, TakenBack>> {
    let mut statement = connection.prepare_cached(
        "SELECT transition_number, event_payload FROM execution_events
         WHERE execution_id = ?1 AND sequence >= ?2 AND event_type = ?3",
    )?;
    let from_sequence = i64::try_from(from_sequence).unwrap_or(i64::MAX);
    let mut rows =
        statement.query(params![id.to_string(), from_sequence, TakenBack::EVENT_TYPE])?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let payload = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
        let payload = serde_json::from_str(payload).map_err(|error| {
            Error::corrupt(format!("a retry of execution {id} is not JSON: {error}"))
        })?;
        // It took the transition before it back.
        found.insert(row.get::<_, i64>(0)? as u64 - 1, TakenBack::decode(&payload)?);
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
        let payload = serde_json::from_str(payload).map_err(|error| {
            Error::corrupt(format!("event {sequence} of execution {id} is not JSON: {error}"))
        })?;
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
#[derive(Default)]
struct ReferredRows {
    calls: BTreeMap<CallId, StoredCall>,
    output: Option<Payload>,
    failure: Option<Failure>,
}

impl ReferredRows {
    fn collect(
        connection: &Connection,
        id: ExecutionId,
        events: &[StoredEvent],
    ) -> InTransaction<Self> {
        let mut rows = Self::default();
        let take = |rows: &mut Self, call: Option<&serde_json::Value>| -> InTransaction<()> {
            let call = call.and_then(serde_json::Value::as_u64);
            let call = call.and_then(|call| CallId::try_from(call).ok());
            if let Some(call) = call.filter(|call| !rows.calls.contains_key(call))
                && let Some(row) = steps::one(connection, id, call)?
            {
                rows.calls.insert(call, row);
            }
            Ok(())
        };
        for event in events {
            match event.event_type.as_str() {
                "STEP_STARTED" | "TIMER_STARTED" | "STEP_COMPLETED" | "STEP_FAILED" => {
                    take(&mut rows, event.payload.get("call"))?;
                }
                TakenBack::EVENT_TYPE => {
                    let calls = event.payload.get("calls").and_then(serde_json::Value::as_array);
                    for entry in calls.into_iter().flatten() {
                        take(&mut rows, entry.get("call"))?;
                    }
                }
                "EXECUTION_COMPLETED" | FAILED => rows.take_end(connection, id)?,
                _ => {}
            }
        }
        Ok(rows)
    }

    fn take_end(&mut self, connection: &Connection, id: ExecutionId) -> InTransaction<()> {
        let mut statement = connection.prepare_cached(
            "SELECT output_payload, error_type, error, error_traceback, error_call
             FROM executions WHERE id = ?1",
        )?;
        (self.output, self.failure) = statement.query_row([id.to_string()], |row| {
            let failure = steps::failure(row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
            Ok((steps::payload(row, 0)?, failure))
        })?;
        Ok(())
    }
}

impl Rows for ReferredRows {
    fn call(&self, id: CallId) -> Option<Call> {
        self.calls.get(&id).map(|call| call.requested.clone())
    }

    fn outcome(&self, id: CallId) -> Option<Outcome> {
        self.calls.get(&id)?.outcome()
    }

    fn output(&self) -> Option<Payload> {
        self.output.clone()
    }

    fn failure(&self) -> Option<Failure> {
        self.failure.clone()
    }
}
