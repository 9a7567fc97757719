//! Loading executions: their state, their snapshots, the journal since. Many at once cost as many
//! round trips as one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use durable_core::{
    CallId, CallStatus, Execution, ExecutionId, Failure, Lease, Owner, Payload, Position,
    ProgramId, Recorded, Result, Snapshot, Status, UnixMs,
};
use mysql_async::Row;

use super::{
    error::Outcome,
    session::{Connection, Frame, get},
    statement::{List, Literal, Statement},
};
use crate::{
    Loaded,
    rows::{
        CallRow, ReferredRows, StateRow, StoredCall, StoredEvent, TIMER, TakenBacks, failure,
        parse_id,
    },
};

/// Calls by execution.
type Calls = BTreeMap<ExecutionId, BTreeSet<CallId>>;

/// Loads executions with the leases that stand in the store, each by itself: one whose rows can't
/// be read harms no other. Those that are not there are left out. The frame is that of all of it:
/// [`Frame::Read`] for one consistent state, [`Frame::Bare`] inside of a transaction.
pub(super) async fn load(
    connection: &mut Connection<'_>,
    frame: Frame,
    ids: &[ExecutionId],
) -> Outcome<Vec<(ExecutionId, Result<Loaded>)>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let of = || List(ids.iter().map(ToString::to_string).collect());
    let statements = [
        Statement::new(STATES, &[&of()]),
        Statement::new(UNAPPLIED, &[&of()]),
        Statement::new(SNAPSHOTS, &[&of()]),
    ];
    let mut answers = connection.run(frame, &statements).await?.into_iter();
    let mut next = || answers.next().unwrap_or_default();
    let states = next();
    let (mut unapplied, mut snapshots) = (by_execution(next())?, by_execution(next())?);
    let mut found = Vec::with_capacity(states.len());
    let mut tails_after = Vec::new();
    for row in states {
        let id = parse_id(&get::<String>(&row, 0)?)?;
        let snapshot = snapshots.remove(&id).unwrap_or_default().first().map(read_snapshot);
        let snapshot = snapshot.transpose()?;
        let position = snapshot.as_ref().map_or(0, |(_, position)| *position);
        if get::<i64>(&row, 3)? as u64 > position + 1 {
            tails_after.push((id, position));
        }
        let unapplied = unapplied.remove(&id).unwrap_or_default();
        found.push((id, Parts { row, unapplied, snapshot }));
    }
    let mut tails = tails(connection, &tails_after).await?;
    let mut referred = referred(connection, frame, &tails).await?;
    let loaded = found.into_iter().map(|(id, parts)| {
        let tail = tails.remove(&id).unwrap_or_else(|| Ok(Vec::new()));
        let referred = referred.remove(&id).unwrap_or_default();
        (id, parts.loaded(id, tail, &referred).map_err(Into::into))
    });
    Ok(loaded.collect())
}

/// The rows of one execution, but for its journal.
struct Parts {
    row: Row,
    unapplied: Vec<Row>,
    snapshot: Option<(Snapshot, u64)>,
}

impl Parts {
    fn loaded(
        self,
        id: ExecutionId,
        tail: Outcome<Vec<StoredEvent>>,
        calls: &[Row],
    ) -> Outcome<Loaded> {
        let state = read_state(id, &self.row)?;
        let lease = read_lease(&self.row, 14)?;
        let mut unapplied = Vec::new();
        if state.has_calls() {
            for call in &self.unapplied {
                unapplied.push(read_call(id, call)?);
            }
        }
        let mut rows = referred_rows(id, calls)?;
        (rows.output, rows.failure) = read_end(&self.row, 16)?;
        let tail = tail?;
        let taken_backs = TakenBacks::of(&tail)?;
        let tail = rows.decode(id, tail, &taken_backs)?;
        Ok(state.complete(lease, unapplied, self.snapshot, tail))
    }
}

/// Rows by the execution that their first column names.
fn by_execution(rows: Vec<Row>) -> Outcome<HashMap<ExecutionId, Vec<Row>>> {
    let mut sorted: HashMap<_, Vec<Row>> = HashMap::new();
    for row in rows {
        sorted.entry(parse_id(&get::<String>(&row, 0)?)?).or_default().push(row);
    }
    Ok(sorted)
}

/// The journals after the snapshots, each by itself.
async fn tails(
    connection: &mut Connection<'_>,
    after: &[(ExecutionId, u64)],
) -> Outcome<HashMap<ExecutionId, Outcome<Vec<StoredEvent>>>> {
    if after.is_empty() {
        return Ok(HashMap::new());
    }
    let mut statements = Vec::with_capacity(after.len());
    for (id, position) in after {
        statements.push(Statement::new(EVENTS, &[&id.to_string(), position, &i64::MAX]));
    }
    let answers = connection.run(Frame::Bare, &statements).await?;
    let read = |((id, _), rows): (&(ExecutionId, u64), &Vec<Row>)| (*id, read_events(*id, rows));
    Ok(after.iter().zip(&answers).map(read).collect())
}

/// The calls that the tails refer to; this ends the transaction when it was begun here.
async fn referred(
    connection: &mut Connection<'_>,
    frame: Frame,
    tails: &HashMap<ExecutionId, Outcome<Vec<StoredEvent>>>,
) -> Outcome<HashMap<ExecutionId, Vec<Row>>> {
    let mut calls = Calls::new();
    for (id, tail) in tails {
        let of_tail = tail.iter().flatten().flat_map(StoredEvent::calls);
        calls.entry(*id).or_default().extend(of_tail);
    }
    let statements: Vec<_> = calls
        .into_iter()
        .filter(|(_, calls)| !calls.is_empty())
        .map(|(id, calls)| referred_by(id, calls))
        .collect();
    let end = if frame == Frame::Read { Frame::Commit } else { Frame::Bare };
    let answers = connection.run(end, &statements).await?;
    by_execution(answers.into_iter().flatten().collect())
}

fn referred_by(id: ExecutionId, calls: BTreeSet<CallId>) -> Statement {
    let list = List(calls.into_iter().collect());
    Statement::new(REFERRED, &[&id.to_string(), &list as &dyn Literal])
}

fn referred_rows(id: ExecutionId, rows: &[Row]) -> Outcome<ReferredRows> {
    let mut referred = ReferredRows::default();
    for row in rows {
        let call = read_call(id, row)?;
        referred.calls.insert(call.record.id, call);
    }
    Ok(referred)
}

fn read_state(id: ExecutionId, row: &Row) -> Outcome<StateRow> {
    let number = |column| get::<i64>(row, column);
    let status = Status::from_stored(&get::<String>(row, 1)?)?;
    let mut execution: Execution = StateRow::state(id, status);
    execution.version = number(2)? as u64;
    execution.next_sequence = number(3)? as u64;
    execution.requested_calls = number(7)? as u32;
    execution.groups = number(8)? as u32;
    execution.closed_calls = number(9)? as u32;
    execution.started = get::<bool>(row, 10)?;
    Ok(StateRow {
        execution,
        lease_epoch: number(4)? as u64,
        inbox: number(5)?,
        control: StateRow::control(get::<Option<String>>(row, 6)?.as_deref(), get(row, 13)?)?,
        program: ProgramId::from_stored(&get::<String>(row, 11)?),
        inputs: Payload::trusted(get::<String>(row, 12)?),
    })
}

/// The lease in two columns.
pub(super) fn read_lease(row: &Row, column: usize) -> Outcome<Option<Lease>> {
    let owner: Option<String> = get(row, column)?;
    let epoch: Option<i64> = get(row, column + 1)?;
    Ok(owner
        .zip(epoch)
        .map(|(owner, epoch)| Lease { owner: Owner::new(&owner), epoch: epoch as u64 }))
}

/// The output and the failure in five columns.
fn read_end(row: &Row, column: usize) -> Outcome<(Option<Payload>, Option<Failure>)> {
    let output = payload(row, column)?;
    let call = get::<Option<i64>>(row, column + 4)?.map(|call| call as CallId);
    let failure =
        failure(get(row, column + 1)?, get(row, column + 2)?, get(row, column + 3)?, call);
    Ok((output, failure))
}

fn read_snapshot(row: &Row) -> Outcome<(Snapshot, u64)> {
    let bytes: Vec<u8> = get(row, 1)?;
    Ok((Snapshot(bytes.into()), get::<i64>(row, 2)? as u64))
}

fn read_events(id: ExecutionId, rows: &[Row]) -> Outcome<Vec<StoredEvent>> {
    let mut events = Vec::with_capacity(rows.len());
    for row in rows {
        let sequence = get::<i64>(row, 0)? as u64;
        events.push(StoredEvent {
            sequence,
            transition: get::<i64>(row, 1)? as u64,
            event_type: get(row, 2)?,
            payload: StoredEvent::parse(id, sequence, &get::<String>(row, 3)?)?,
            at_ms: get(row, 4)?,
        });
    }
    Ok(events)
}

/// A row of [`calls!`].
fn read_call(id: ExecutionId, row: &Row) -> Outcome<StoredCall> {
    let number =
        |column| get::<i64>(row, column).map(|number| u32::try_from(number).unwrap_or(u32::MAX));
    let row = CallRow {
        call: number(1)?,
        order: number(2)?,
        resume_group_id: get(row, 3)?,
        is_timer: get::<String>(row, 4)? == TIMER,
        name: get(row, 5)?,
        function: get(row, 6)?,
        args: payload(row, 7)?,
        kwargs: payload(row, 8)?,
        options: get(row, 9)?,
        position: Position { line: number(10)?, column: number(11)? },
        delay_ms: get(row, 12)?,
        status: CallStatus::from_stored(&get::<String>(row, 13)?)?,
        attempts: number(14)?,
        due_at_ms: get(row, 15)?,
        job_id: get(row, 16)?,
        result: payload(row, 17)?,
        failure: failure(get(row, 18)?, get(row, 19)?, get(row, 20)?, None),
        created_at_ms: get(row, 21)?,
        completed_at_ms: get(row, 22)?,
    };
    Ok(StoredCall::read(id, row)?)
}

pub(super) fn payload(row: &Row, column: usize) -> Outcome<Option<Payload>> {
    Ok(get::<Option<String>>(row, column)?.map(Payload::trusted))
}

/// All calls and timers of an execution in the order they were asked for.
pub(super) async fn calls(
    connection: &mut Connection<'_>,
    id: ExecutionId,
) -> Outcome<Vec<StoredCall>> {
    let rows = connection.ask(ALL_CALLS, &[&id.to_string()]).await?;
    rows.iter().map(|row| read_call(id, row)).collect()
}

/// The journal after a place in it, with the payloads it refers to.
pub(super) async fn journal(
    connection: &mut Connection<'_>,
    id: ExecutionId,
    after_sequence: u64,
    limit: usize,
) -> Outcome<Vec<Recorded>> {
    let text = id.to_string();
    let after = i64::try_from(after_sequence).unwrap_or(i64::MAX);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let statements = [
        Statement::new(EVENTS, &[&text, &after, &limit]),
        Statement::new(ENDS, &[&text]),
        Statement::new(RETRIES, &[&text, &after]),
    ];
    let answers = connection.run(Frame::Read, &statements).await?;
    let [events, ends, retries] = &answers[..] else { return Ok(Vec::new()) };
    let (events, retries) = (read_events(id, events), read_events(id, retries));
    let mut calls = BTreeSet::new();
    calls.extend(events.iter().flatten().flat_map(StoredEvent::calls));
    let answers = connection.run(Frame::Commit, &[referred_by(id, calls)]).await?;
    let calls: Vec<_> = answers.into_iter().flatten().collect();
    let mut referred = referred_rows(id, &calls)?;
    if let Some(end) = ends.first() {
        (referred.output, referred.failure) = read_end(end, 0)?;
    }
    // A retry takes back what may stand before the end of this stretch.
    let taken_backs = TakenBacks::of(&retries?)?;
    Ok(referred.decode(id, events?, &taken_backs)?)
}

/// Locks the rows of executions, always in the same order: two batches never wait for each other.
pub(super) fn locking(ids: impl IntoIterator<Item = ExecutionId>) -> Statement {
    let ids = List(ids.into_iter().map(|id| id.to_string()).collect());
    Statement::new("SELECT 1 FROM executions WHERE id IN ? ORDER BY id FOR UPDATE", &[&ids])
}

/// The lease on an execution and when it expires.
pub(super) async fn lease(
    connection: &mut Connection<'_>,
    id: ExecutionId,
) -> Outcome<Option<(Lease, UnixMs)>> {
    let sql = "SELECT locked_by, epoch, expires_at FROM execution_locks WHERE execution_id = ?";
    let rows = connection.ask(sql, &[&id.to_string()]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let expires_at_ms = get(row, 2)?;
    Ok(read_lease(row, 0)?.map(|lease| (lease, expires_at_ms)))
}

/// The status of an execution, and its row locked.
pub(super) async fn status(
    connection: &mut Connection<'_>,
    id: ExecutionId,
) -> Outcome<Option<Status>> {
    let sql = "SELECT status FROM executions WHERE id = ? FOR UPDATE";
    let rows = connection.ask(sql, &[&id.to_string()]).await?;
    rows.first().map(|row| Ok(Status::from_stored(&get::<String>(row, 0)?)?)).transpose()
}

const STATES: &str = "
SELECT e.id, e.status, e.version, e.next_sequence, e.lease_epoch, e.inbox, e.control,
    e.requested_calls, e.resume_groups, e.closed_calls, e.started_at IS NOT NULL, e.program_id,
    e.input_payload, e.control_reason, l.locked_by, l.epoch,
    e.output_payload, e.error_type, e.error, e.error_traceback, e.error_call
FROM executions e LEFT JOIN execution_locks l ON l.execution_id = e.id
WHERE e.id IN ?";

macro_rules! calls {
    () => {
        "SELECT s.execution_id, s.call_id, s.step_order, s.resume_group_id, s.kind, s.step_name,
            s.`function`, s.args, s.kwargs, s.options, s.line, s.`column`, s.delay_ms, s.status,
            s.attempts, s.due_at, s.job_id, s.result, s.error_type, s.error, s.error_traceback,
            s.created_at, s.completed_at FROM execution_steps s "
    };
}

const ALL_CALLS: &str =
    concat!(calls!(), "WHERE s.execution_id = ? ORDER BY s.step_order, s.call_id");

const UNAPPLIED: &str =
    concat!(calls!(), "WHERE s.execution_id IN ? AND NOT s.applied ORDER BY s.call_id");

const REFERRED: &str = concat!(calls!(), "WHERE s.execution_id = ? AND s.call_id IN ?");

// A snapshot is only a cache: one that can't belong to the journal is as good as none.
const SNAPSHOTS: &str = "
SELECT s.execution_id, s.state_snapshot, s.position
FROM execution_state s JOIN executions e ON e.id = s.execution_id
WHERE s.execution_id IN ? AND s.state_snapshot IS NOT NULL
  AND s.position BETWEEN 1 AND e.next_sequence - 1";

const EVENTS: &str = "
SELECT sequence, transition_number, event_type, event_payload, timestamp
FROM execution_events WHERE execution_id = ? AND sequence > ? ORDER BY sequence LIMIT ?";

const RETRIES: &str = "
SELECT sequence, transition_number, event_type, event_payload, timestamp
FROM execution_events
WHERE execution_id = ? AND sequence > ? AND event_type = 'EXECUTION_RETRIED'";

const ENDS: &str = "
SELECT output_payload, error_type, error, error_traceback, error_call
FROM executions WHERE id = ?";
