//! Loading executions: their state, their snapshots, the journal since. Many at once cost as many
//! round trips as one.

use std::collections::HashMap;

use durable_core::{
    CallId, CallStatus, ExecutionId, Lease, Owner, Payload, Position, ProgramId, Recorded, Result,
    Snapshot, Status,
};
use tokio_postgres::Row;

use super::{
    error::Outcome,
    session::{Connection, Frame, Statement},
    value::{Columns, Instant, Json, Text, Value},
};
use crate::{
    Loaded,
    rows::{
        CallRow, ReferredRows, StateRow, StoredCall, StoredEvent, TIMER, TakenBacks, failure,
        parse_id,
    },
};

/// Loads executions with the leases that stand in the store, each by itself: one whose rows can't
/// be read harms no other. Those that are not there are left out.
pub(super) async fn load(
    connection: &Connection<'_>,
    frame: Frame,
    ids: &[ExecutionId],
) -> Outcome<Vec<(ExecutionId, Result<Loaded>)>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let texts: Vec<_> = ids.iter().map(ToString::to_string).collect();
    let of = || Value::texts(texts.iter().map(String::as_str));
    let statements = [
        Statement::new(STATES, vec![of()]),
        Statement::new(UNAPPLIED, vec![of()]),
        Statement::new(SNAPSHOTS, vec![of()]),
        Statement::new(TAILS, vec![of()]),
        // Asking for the rows that the tails refer to at once costs less than asking again.
        Statement::new(REFERRED, vec![of()]),
    ];
    let mut answers = connection.run(frame, &statements).await?.into_iter();
    let mut next = || answers.next().unwrap_or_default();
    let states = next();
    let (mut unapplied, mut snapshots, mut tails, mut referred) =
        (by_execution(next()), by_execution(next()), by_execution(next()), by_execution(next()));
    let mut found = Vec::with_capacity(states.len());
    for state in &states {
        let text: &str = state.try_get(0)?;
        let id = parse_id(text)?;
        let rows = Parts {
            unapplied: unapplied.remove(text).unwrap_or_default(),
            snapshot: snapshots.remove(text).unwrap_or_default(),
            tail: tails.remove(text).unwrap_or_default(),
            referred: referred.remove(text).unwrap_or_default(),
        };
        found.push((id, rows.loaded(id, state).map_err(Into::into)));
    }
    Ok(found)
}

/// The rows of one execution in the other tables.
struct Parts {
    unapplied: Vec<Row>,
    snapshot: Vec<Row>,
    tail: Vec<Row>,
    referred: Vec<Row>,
}

impl Parts {
    fn loaded(self, id: ExecutionId, row: &Row) -> Outcome<Loaded> {
        let state = read_state(id, row)?;
        let lease = read_lease(row, 14)?;
        let mut unapplied = Vec::new();
        if state.has_calls() {
            for call in &self.unapplied {
                unapplied.push(read_call(id, call)?);
            }
        }
        let snapshot = self.snapshot.first().map(read_snapshot).transpose()?;
        let mut referred = ReferredRows::default();
        for call in &self.referred {
            let call = read_call(id, call)?;
            referred.calls.insert(call.record.id, call);
        }
        (referred.output, referred.failure) = read_end(row, 16)?;
        let tail = read_events(id, &self.tail)?;
        let taken_backs = TakenBacks::of(&tail)?;
        let tail = referred.decode(id, tail, &taken_backs)?;
        Ok(state.complete(lease, unapplied, snapshot, tail))
    }
}

/// Rows by the execution that their first column names.
fn by_execution(rows: Vec<Row>) -> HashMap<String, Vec<Row>> {
    let mut sorted: HashMap<String, Vec<Row>> = HashMap::new();
    for row in rows {
        sorted.entry(row.get(0)).or_default().push(row);
    }
    sorted
}

fn read_state(id: ExecutionId, row: &Row) -> Outcome<StateRow> {
    let number = |column| row.try_get::<_, i64>(column);
    let mut execution = StateRow::state(id, Status::from_stored(row.try_get(1)?)?);
    execution.version = number(2)? as u64;
    execution.next_sequence = number(3)? as u64;
    execution.requested_calls = number(7)? as u32;
    execution.groups = number(8)? as u32;
    execution.closed_calls = number(9)? as u32;
    execution.started = row.try_get::<_, bool>(10)?;
    let reason = row.try_get::<_, Option<Text>>(13)?.map(|Text(reason)| reason);
    Ok(StateRow {
        execution,
        lease_epoch: number(4)? as u64,
        inbox: number(5)?,
        control: StateRow::control(row.try_get(6)?, reason)?,
        program: ProgramId::from_stored(row.try_get(11)?),
        inputs: Payload::trusted(row.try_get::<_, Json<&str>>(12)?.0),
    })
}

/// The lease in two columns.
pub(super) fn read_lease(row: &Row, column: usize) -> Outcome<Option<Lease>> {
    let owner: Option<&str> = row.try_get(column)?;
    let epoch: Option<i64> = row.try_get(column + 1)?;
    Ok(owner
        .zip(epoch)
        .map(|(owner, epoch)| Lease { owner: Owner::new(owner), epoch: epoch as u64 }))
}

/// The output and the failure in five columns.
fn read_end(row: &Row, column: usize) -> Outcome<(Option<Payload>, Option<durable_core::Failure>)> {
    let output = payload(row, column)?;
    let failure = failure(
        text(row, column + 1)?,
        text(row, column + 2)?,
        text(row, column + 3)?,
        row.try_get::<_, Option<i64>>(column + 4)?.map(|call| call as CallId),
    );
    Ok((output, failure))
}

fn read_snapshot(row: &Row) -> Outcome<(Snapshot, u64)> {
    let bytes: &[u8] = row.try_get(1)?;
    Ok((Snapshot(bytes.into()), row.try_get::<_, i64>(2)? as u64))
}

fn read_events(id: ExecutionId, rows: &[Row]) -> Outcome<Vec<StoredEvent>> {
    let mut events = Vec::with_capacity(rows.len());
    for row in rows {
        let sequence = row.try_get::<_, i64>(1)? as u64;
        let Json(payload) = row.try_get(4)?;
        events.push(StoredEvent {
            sequence,
            transition: row.try_get::<_, i64>(2)? as u64,
            event_type: row.try_get(3)?,
            payload: StoredEvent::parse(id, sequence, payload)?,
            at_ms: row.try_get::<_, Instant>(5)?.0,
        });
    }
    Ok(events)
}

/// A row of [`CALLS`].
fn read_call(id: ExecutionId, row: &Row) -> Outcome<StoredCall> {
    let number = |column| {
        row.try_get::<_, i64>(column).map(|number| u32::try_from(number).unwrap_or(u32::MAX))
    };
    let at = |column| row.try_get::<_, Option<Instant>>(column).map(|at| at.map(|at| at.0));
    let is_timer = row.try_get::<_, &str>(4)? == TIMER;
    let created_at_ms = row.try_get::<_, Instant>(21)?.0;
    let delay_ms: Option<i64> = row.try_get(12)?;
    let due_at_ms = match at(15)? {
        // Beyond what a timestamp holds; the delay says it exactly.
        Some(i64::MAX) if is_timer => {
            let delay_ms = delay_ms.unwrap_or(0) as u64;
            Some(created_at_ms.saturating_add(i64::try_from(delay_ms).unwrap_or(i64::MAX)))
        }
        due_at_ms => due_at_ms,
    };
    let row = CallRow {
        call: number(1)?,
        order: number(2)?,
        resume_group_id: row.try_get(3)?,
        is_timer,
        name: text(row, 5)?.unwrap_or_default(),
        function: text(row, 6)?,
        args: payload(row, 7)?,
        kwargs: payload(row, 8)?,
        options: row.try_get::<_, Option<Json<&str>>>(9)?.map(|Json(text)| text.to_owned()),
        position: Position { line: number(10)?, column: number(11)? },
        delay_ms,
        status: CallStatus::from_stored(row.try_get(13)?)?,
        attempts: number(14)?,
        due_at_ms,
        job_id: text(row, 16)?,
        result: payload(row, 17)?,
        failure: failure(text(row, 18)?, text(row, 19)?, text(row, 20)?, None),
        created_at_ms,
        completed_at_ms: at(22)?,
    };
    Ok(StoredCall::read(id, row)?)
}

pub(super) fn text(row: &Row, column: usize) -> Outcome<Option<String>> {
    Ok(row.try_get::<_, Option<Text>>(column)?.map(|Text(text)| text))
}

pub(super) fn payload(row: &Row, column: usize) -> Outcome<Option<Payload>> {
    Ok(row.try_get::<_, Option<Json<&str>>>(column)?.map(|Json(text)| Payload::trusted(text)))
}

/// All calls and timers of an execution in the order they were asked for.
pub(super) async fn calls(
    connection: &Connection<'_>,
    frame: Frame,
    id: ExecutionId,
) -> Outcome<Vec<StoredCall>> {
    let statement = Statement::new(ALL_CALLS, vec![Value::text(&id.to_string())]);
    let rows = connection.run(frame, &[statement]).await?;
    rows.iter().flatten().map(|row| read_call(id, row)).collect()
}

/// The journal after a place in it, with the payloads it refers to.
pub(super) async fn journal(
    connection: &Connection<'_>,
    id: ExecutionId,
    after_sequence: u64,
    limit: usize,
) -> Outcome<Vec<Recorded>> {
    let text = id.to_string();
    let after = i64::try_from(after_sequence).unwrap_or(i64::MAX);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let place = || vec![Value::text(&text), Value::Number(Some(after)), Value::Number(Some(limit))];
    let statements = [
        Statement::new(EVENTS, place()),
        Statement::new(REFERRED_BY, place()),
        Statement::new(ENDS, vec![Value::text(&text)]),
        Statement::new(RETRIES, vec![Value::text(&text), Value::Number(Some(after))]),
    ];
    let answers = connection.run(Frame::Read, &statements).await?;
    let [events, calls, ends, retries] = &answers[..] else { return Ok(Vec::new()) };
    let mut referred = ReferredRows::default();
    for call in calls {
        let call = read_call(id, call)?;
        referred.calls.insert(call.record.id, call);
    }
    if let Some(end) = ends.first() {
        (referred.output, referred.failure) = read_end(end, 0)?;
    }
    // A retry takes back what may stand before the end of this stretch.
    let taken_backs = TakenBacks::of(&read_events(id, retries)?)?;
    Ok(referred.decode(id, read_events(id, events)?, &taken_backs)?)
}

/// Locks the rows of executions, always in the same order: two batches never wait for each other.
pub(super) fn locking(ids: impl IntoIterator<Item = ExecutionId>) -> Statement {
    let mut columns = Columns::default();
    for id in ids {
        columns.push([Value::text(&id.to_string())]);
    }
    Statement::new(LOCK, columns.into_arrays())
}

pub(super) async fn lock(connection: &Connection<'_>, ids: &[ExecutionId]) -> Outcome<()> {
    connection.run(Frame::Bare, &[locking(ids.iter().copied())]).await.map(drop)
}

/// The lease on an execution and when it expires.
pub(super) async fn lease(
    connection: &Connection<'_>,
    id: ExecutionId,
) -> Outcome<Option<(Lease, durable_core::UnixMs)>> {
    let sql = "SELECT locked_by, epoch, expires_at FROM execution_locks WHERE execution_id = $1";
    let statement = Statement::new(sql, vec![Value::text(&id.to_string())]);
    let rows = connection.run(Frame::Bare, &[statement]).await?;
    let Some(row) = rows.iter().flatten().next() else { return Ok(None) };
    let lease = read_lease(row, 0)?;
    Ok(lease.map(|lease| (lease, row.get::<_, Instant>(2).0)))
}

/// The status of an execution, and its row locked.
pub(super) async fn status(
    connection: &Connection<'_>,
    id: ExecutionId,
) -> Outcome<Option<Status>> {
    let sql = "SELECT status FROM executions WHERE id = $1 FOR UPDATE";
    let statement = Statement::new(sql, vec![Value::text(&id.to_string())]);
    let rows = connection.run(Frame::Bare, &[statement]).await?;
    let row = rows.iter().flatten().next();
    row.map(|row| Ok(Status::from_stored(row.try_get(0)?)?)).transpose()
}

const LOCK: &str = "SELECT FROM executions WHERE id = ANY($1) ORDER BY id FOR UPDATE";

const STATES: &str = "
SELECT e.id, e.status, e.version, e.next_sequence, e.lease_epoch, e.inbox, e.control,
    e.requested_calls, e.resume_groups, e.closed_calls, e.started_at IS NOT NULL, e.program_id,
    e.input_payload, e.control_reason, l.locked_by, l.epoch,
    e.output_payload, e.error_type, e.error, e.error_traceback, e.error_call
FROM executions e LEFT JOIN execution_locks l ON l.execution_id = e.id
WHERE e.id = ANY($1)";

macro_rules! calls {
    () => {
        r#"SELECT s.execution_id, s.call_id, s.step_order, s.resume_group_id, s.kind, s.step_name,
            s.function, s.args, s.kwargs, s.options, s.line, s."column", s.delay_ms, s.status,
            s.attempts, s.due_at, s.job_id, s.result, s.error_type, s.error, s.error_traceback,
            s.created_at, s.completed_at FROM execution_steps s "#
    };
}

const ALL_CALLS: &str =
    concat!(calls!(), "WHERE s.execution_id = $1 ORDER BY s.step_order, s.call_id");

const UNAPPLIED: &str =
    concat!(calls!(), "WHERE s.execution_id = ANY($1) AND NOT s.applied ORDER BY s.call_id");

// A snapshot is only a cache: one that can't belong to the journal is as good as none.
const SNAPSHOTS: &str = "
SELECT s.execution_id, s.state_snapshot, s.position
FROM execution_state s JOIN executions e ON e.id = s.execution_id
WHERE s.execution_id = ANY($1) AND s.state_snapshot IS NOT NULL
  AND s.position BETWEEN 1 AND e.next_sequence - 1";

/// `$after` the position of the snapshot of `e`.
macro_rules! after_snapshot {
    () => {
        "coalesce((SELECT s.position FROM execution_state s
            WHERE s.execution_id = e.id AND s.state_snapshot IS NOT NULL
              AND s.position BETWEEN 1 AND e.next_sequence - 1), 0)"
    };
}

const TAILS: &str = concat!(
    "SELECT v.execution_id, v.sequence, v.transition_number, v.event_type, v.event_payload,
        v.timestamp
     FROM executions e JOIN execution_events v ON v.execution_id = e.id
     WHERE e.id = ANY($1) AND v.sequence > ",
    after_snapshot!(),
    " ORDER BY v.execution_id, v.sequence"
);

/// The call that the event `v` refers to. Only these payloads are looked into: others may hold
/// what `->>` can't show.
macro_rules! referred_call {
    () => {
        "CASE WHEN v.event_type IN ('STEP_STARTED', 'TIMER_STARTED', 'STEP_COMPLETED', 'STEP_FAILED')
              THEN (v.event_payload ->> 'call')::bigint END"
    };
}

const REFERRED: &str = concat!(
    calls!(),
    "WHERE (s.execution_id, s.call_id) IN (SELECT v.execution_id, ",
    referred_call!(),
    " FROM executions e JOIN execution_events v ON v.execution_id = e.id
      WHERE e.id = ANY($1) AND v.sequence > ",
    after_snapshot!(),
    ") OR s.execution_id IN (SELECT v.execution_id
      FROM executions e JOIN execution_events v ON v.execution_id = e.id
      WHERE e.id = ANY($1) AND v.event_type = 'EXECUTION_RETRIED' AND v.sequence > ",
    after_snapshot!(),
    ")"
);

const EVENTS: &str = "
SELECT execution_id, sequence, transition_number, event_type, event_payload, timestamp
FROM execution_events WHERE execution_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3";

const RETRIES: &str = "
SELECT execution_id, sequence, transition_number, event_type, event_payload, timestamp
FROM execution_events
WHERE execution_id = $1 AND sequence > $2 AND event_type = 'EXECUTION_RETRIED'";

// A retry refers to many calls; it is rare enough for all of them to be read.
const REFERRED_BY: &str = concat!(
    calls!(),
    "WHERE s.execution_id = $1 AND EXISTS (SELECT FROM (
            SELECT * FROM execution_events WHERE execution_id = $1 AND sequence > $2
            ORDER BY sequence LIMIT $3) v
        WHERE v.event_type = 'EXECUTION_RETRIED' OR s.call_id = ",
    referred_call!(),
    ")"
);

const ENDS: &str = "
SELECT output_payload, error_type, error, error_traceback, error_call
FROM executions WHERE id = $1";
