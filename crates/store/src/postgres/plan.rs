//! What a batch writes: its members as columns of a few statements.
//!
//! Every statement ends the transaction unless it writes as many rows as it has to, so that all of
//! them can be sent at once, with the `COMMIT`.
//!
//! Statuses that a row must have are named by those it must not have. There is an index that holds
//! the status of every call, for people who look for it within a resume group; as long as the
//! server knows no better (a young database, one never analyzed) it takes `status IN (…)` for a
//! reason to read the whole of that index.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write as _,
};

use durable_core::{
    CallId, ExecutionId, Failure, Lease, Outcome, Payload, Result, Retried, Transition, UnixMs,
};

use super::{
    load::locking,
    session::Statement,
    value::{Columns, Text, Value},
};
use crate::{
    NewExecution, Write,
    batch::place,
    control::{clears_control, moot_control},
    rows::{Closing, TransitionRows},
};

/// Room for the text of a usual statement.
const SQL_BYTES: usize = 6 << 10;

/// Members that are written side by side, each kind of row by one statement. Members that concern
/// the same execution are of different kinds, in the order in which the kinds are written.
#[derive(Default)]
pub(super) struct Wave {
    /// The last kind of member for each execution.
    last: HashMap<ExecutionId, u8>,
    /// A call is written more than once: then by one statement after the other.
    is_stepwise: bool,
    programs: Columns,
    creations: Columns,
    leases: Columns,
    advances: Columns,
    events: Columns,
    new_calls: Columns,
    retries: Columns,
    completions: Columns,
    failures: Columns,
    firings: Columns,
    taken_in: Columns,
    cancellations: Columns,
    snapshots: Columns,
    ends: Columns,
    given_back: Columns,
    dropped: Columns,
    reopened: Columns,
    counted: Columns,
    jobs: Columns,
    reports: Columns,
    releases: Columns,
}

/// The statements for members that are all written in waves, with one more part in the first.
///
/// # Errors
/// `Internal` when something can't be put into words of the database.
pub(super) fn statements(members: &[Write], mark: Option<Part>) -> Result<Vec<Statement>> {
    let mut statements = Vec::new();
    let mut mark = mark;
    let mut wave = Wave::default();
    for member in members {
        let Some((kind, execution)) = place(member) else { continue };
        let is_later = match execution {
            Some(execution) => wave.last.get(&execution).is_some_and(|last| *last >= kind),
            None => !wave.creations.is_empty(),
        };
        if is_later {
            std::mem::take(&mut wave).finish(&mut mark, &mut statements);
        }
        if let Some(execution) = execution {
            wave.last.insert(execution, kind);
        }
        wave.add(member)?;
    }
    wave.finish(&mut mark, &mut statements);
    Ok(statements)
}

impl Wave {
    fn add(&mut self, member: &Write) -> Result<()> {
        match member {
            Write::PutProgram(program) => {
                self.programs
                    .push([Value::text(program.id().as_str()), Value::json(program.to_json())]);
            }
            Write::Create(new) => self.create(new),
            Write::Transition(transition) => self.transition(transition)?,
            Write::NoteJob { execution, lease, call, job_id } => {
                let [id, owner, epoch] = held(*execution, lease);
                self.jobs.push([id, owner, epoch, (*call).into(), Value::text(job_id)]);
            }
            Write::Report { execution, call, outcome, now_ms } => {
                self.report(*execution, *call, outcome, *now_ms);
            }
            Write::Release { execution, lease, wake_at_ms } => {
                let [id, owner, epoch] = held(*execution, lease);
                self.releases.push([id, owner, epoch, Value::maybe_at(*wake_at_ms)]);
            }
            _ => debug_assert!(false, "no member of a wave: {member:?}"),
        }
        Ok(())
    }

    fn create(&mut self, new: &NewExecution) {
        let (epoch, wake_at_ms) = match new.lease {
            Some(_) => (1_u64, None),
            None => (0, Some(new.created_at_ms)),
        };
        let labels = &new.labels;
        let tags: Vec<_> = labels.tags.iter().map(|tag| Text::stored(tag)).collect();
        let tags = (!tags.is_empty()).then(|| serde_json::json!(tags).to_string());
        let id = Value::Text(Some(new.id.to_string()));
        self.creations.push([
            id.clone(),
            Value::text(&new.workflow_id),
            Value::text(new.program.as_str()),
            Value::json(new.inputs.as_str()),
            Value::maybe_text(new.idempotency_key.as_deref()),
            epoch.into(),
            Value::maybe_at(wake_at_ms),
            Value::at(new.created_at_ms),
            Value::text(&labels.namespace),
            Value::text(&labels.queue),
            Value::Text(tags),
        ]);
        if let Some((owner, expires_at_ms)) = &new.lease {
            self.leases.push([
                id,
                Value::text(owner.as_str()),
                Value::at(new.created_at_ms),
                Value::at(*expires_at_ms),
            ]);
        }
    }

    fn report(&mut self, id: ExecutionId, call: CallId, outcome: &Outcome, now_ms: UnixMs) {
        let (status, result, failure) = match outcome {
            Outcome::Completed(result) => ("SUCCESS", Some(result), None),
            Outcome::Failed(failure) => ("FAILED", None, Some(failure)),
        };
        let [error_type, error, traceback] = error_columns(failure);
        self.reports.push([
            Value::Text(Some(id.to_string())),
            call.into(),
            Value::text(status),
            Value::maybe_json(result.map(Payload::as_str)),
            error_type,
            error,
            traceback,
            Value::at(now_ms),
        ]);
    }

    fn transition(&mut self, transition: &Transition) -> Result<()> {
        let rows = TransitionRows::of(transition)?;
        let id = rows.id().to_string();
        self.advance(&id, &rows);
        let at = || Value::at(transition.at_ms);
        let text = || Value::Text(Some(id.clone()));
        for event in &rows.events {
            self.events.push([
                text(),
                event.sequence.into(),
                transition.after.version.into(),
                Value::text(event.event_type),
                Value::json(&event.payload),
                at(),
            ]);
        }
        self.calls(&id, &rows);
        if !transition.cancelled.is_empty() {
            self.cancellations.push([text(), at()]);
        }
        let after = &transition.after;
        if let Some(snapshot) = &transition.snapshot {
            self.snapshots.push([
                text(),
                Value::Bytes(Some(snapshot.0.to_vec())),
                after.closed_calls.into(),
                (after.next_sequence - 1).into(),
                at(),
            ]);
        } else if after.status.is_terminal() {
            // People read current_step; it need not be right before the end.
            self.ends.push([text(), after.closed_calls.into(), at()]);
        }
        if let Some(retried) = rows.retried {
            self.take_back(&id, retried);
        }
        if rows.gives_lease_back() {
            self.given_back.push([text()]);
        }
        Ok(())
    }

    fn take_back(&mut self, id: &str, retried: &Retried) {
        let text = || Value::Text(Some(id.to_owned()));
        for call in &retried.dropped {
            self.dropped.push([text(), call.id().into()]);
        }
        for call in &retried.open {
            let is_again = retried.again.iter().any(|(again, _)| *again == call.id());
            self.reopened.push([
                text(),
                call.id().into(),
                Value::Flag(is_again),
                call.attempt.into(),
                Value::maybe_at(call.due_ms),
            ]);
        }
        self.counted.push([text()]);
    }

    fn advance(&mut self, id: &str, rows: &TransitionRows<'_>) {
        let (transition, end) = (rows.transition, &rows.end);
        let after = &transition.after;
        let ended = after.status.is_terminal();
        let [error_type, _, traceback] = error_columns(end.failure);
        self.advances.push([
            Value::Text(Some(id.to_owned())),
            transition.expected_version.into(),
            transition.first_sequence.into(),
            Value::text(transition.lease.owner.as_str()),
            transition.lease.epoch.into(),
            after.version.into(),
            after.next_sequence.into(),
            Value::text(after.status.as_stored()),
            Value::maybe_at(rows.wake_at_ms()),
            after.requested_calls.into(),
            after.groups.into(),
            after.closed_calls.into(),
            Value::Flag(ended),
            (transition.inbox_taken.len() as u64).into(),
            Value::Flag(clears_control(transition)),
            Value::text(moot_control(after.status).as_stored()),
            Value::Flag(transition.is_retry()),
            Value::Flag(after.started),
            Value::maybe_at(end.started_at_ms),
            Value::maybe_at(ended.then_some(transition.at_ms)),
            Value::maybe_json(end.output.map(Payload::as_str)),
            Value::Flag(end.sets_error),
            error_type,
            Value::maybe_text(end.message()),
            traceback,
            Value::Number(end.failure.and_then(|failure| failure.cause_call).map(i64::from)),
        ]);
    }

    fn calls(&mut self, id: &str, rows: &TransitionRows<'_>) {
        let at = || Value::at(rows.transition.at_ms);
        let text = || Value::Text(Some(id.to_owned()));
        let json = |payload: Option<&Payload>| Value::maybe_json(payload.map(Payload::as_str));
        let mut written: BTreeSet<CallId> =
            rows.new_calls.iter().map(|row| row.call.id()).collect();
        let mut changed = rows.retries.keys().chain(rows.closings.iter().map(|(call, _)| call));
        self.is_stepwise |= !changed.all(|call| written.insert(*call));
        for row in &rows.new_calls {
            let position = row.call.new.position;
            self.new_calls.push([
                text(),
                row.call.id().into(),
                row.call.order.into(),
                Value::Text(Some(format!("{id}:{}", row.call.group))),
                Value::text(row.kind),
                Value::text(row.call.name()),
                Value::maybe_text(row.function),
                json(row.args),
                json(row.kwargs),
                Value::maybe_json(row.options.as_deref()),
                position.line.into(),
                position.column.into(),
                Value::Number(row.delay_ms),
                Value::maybe_at(row.call.due_ms),
                at(),
            ]);
        }
        for (call, (attempt, failure, due_ms)) in &rows.retries {
            let [error_type, error, traceback] = error_columns(Some(failure));
            self.retries.push([
                text(),
                (*call).into(),
                (*attempt).into(),
                Value::at(*due_ms),
                error_type,
                error,
                traceback,
            ]);
        }
        for (call, closing) in &rows.closings {
            let call = Value::from(*call);
            match closing {
                Closing::Completed { attempt, result } => {
                    let result = Value::json(result.as_str());
                    self.completions.push([text(), call, (*attempt).into(), at(), result]);
                }
                Closing::Failed { attempt, failure } => {
                    let [error_type, error, traceback] = error_columns(Some(failure));
                    let attempt = (*attempt).into();
                    self.failures.push([text(), call, attempt, at(), error_type, error, traceback]);
                }
                Closing::Fired => self.firings.push([text(), call, at()]),
                Closing::TakenIn(status) => {
                    let status = status.map(|status| status.as_stored());
                    self.taken_in.push([text(), call, Value::maybe_text(status)]);
                }
            }
        }
    }

    /// The statements of this wave, in order. What one statement writes the same statement does
    /// not see, so that what has to be seen stands in an earlier one.
    fn finish(self, mark: &mut Option<Part>, statements: &mut Vec<Statement>) {
        // A single transition locks its row itself.
        let locks = self.last.len() > 1 || self.advances.is_empty() && !self.last.is_empty();
        let transitions = vec![
            Part::counted(ADVANCE, self.advances),
            Part::new(INSERT_EVENTS, self.events),
            Part::new(INSERT_CALLS, self.new_calls),
            Part::counted(RETRY_CALLS, self.retries),
            Part::counted(COMPLETE_CALLS, self.completions),
            Part::counted(FAIL_CALLS, self.failures),
            Part::counted(FIRE_TIMERS, self.firings),
            Part::counted(TAKE_IN, self.taken_in),
            Part::new(PUT_SNAPSHOTS, self.snapshots),
            Part::new(END_STATES, self.ends),
            Part::new(DROP_CALLS, self.dropped),
            Part::new(REOPEN_CALLS, self.reopened),
            Part::of_arrays(GIVE_BACK, self.given_back),
        ];
        let creations =
            vec![Part::counted(CREATE, self.creations), Part::new(PUT_LEASES, self.leases)];
        let mut groups = vec![vec![Part::new(PUT_PROGRAMS, self.programs)], creations];
        if self.is_stepwise {
            groups.extend(transitions.into_iter().map(|part| vec![part]));
        } else {
            groups.push(transitions);
        }
        groups.extend([
            vec![Part::new(CANCEL_CALLS, self.cancellations)],
            vec![Part::of_arrays(COUNT_INBOXES, self.counted)],
            vec![Part::counted(NOTE_JOBS, self.jobs)],
            vec![Part::counted(REPORT, self.reports)],
            vec![
                Part::new(WAKE_RELEASED, self.releases.clone()),
                Part::new(TAKE_LEASES_BACK, self.releases),
            ],
        ]);
        if locks {
            statements.push(locking(self.last.keys().copied()));
        }
        for mut group in groups {
            group.retain(|part| !part.values.is_empty());
            if !group.is_empty() {
                group.extend(mark.take());
                statements.push(compose(group));
            }
        }
    }
}

/// A part of a statement: it writes rows of one kind.
#[derive(Default)]
pub(super) struct Part {
    /// With parameters from `$1`, and the word `ROWS` where a table of them stands.
    sql: &'static str,
    rows: String,
    values: Vec<Value>,
    /// How many rows it has to write; it can't write more. 0 for any number.
    required: u64,
}

impl Part {
    fn new(sql: &'static str, columns: Columns) -> Self {
        if columns.is_empty() {
            return Self::default();
        }
        let (rows, values) = columns.into_rows();
        Self { sql, rows, values, required: 0 }
    }

    /// One whose parameters are arrays.
    fn of_arrays(sql: &'static str, columns: Columns) -> Self {
        Self { sql, values: columns.into_arrays(), ..Self::default() }
    }

    /// One that has to write all of its rows.
    fn counted(sql: &'static str, columns: Columns) -> Self {
        let required = columns.len() as u64;
        Self { required, ..Self::new(sql, columns) }
    }

    /// One that has to write exactly one row.
    pub(super) fn of_one_row(sql: &'static str, values: Vec<Value>) -> Self {
        Self { sql, values, required: 1, ..Self::default() }
    }

    /// Writes it with parameters that begin after `first` others.
    fn write(&self, sql: &mut String, first: usize) {
        let (before, after) = self.sql.split_once("ROWS").unwrap_or((self.sql, ""));
        for text in [before, &self.rows, after] {
            let mut pieces = text.split('$');
            sql.push_str(pieces.next().unwrap_or_default());
            for piece in pieces {
                let end = piece.find(|letter: char| !letter.is_ascii_digit());
                let (number, rest) = piece.split_at(end.unwrap_or(piece.len()));
                let number = first + number.parse::<usize>().unwrap_or(0);
                let _ = write!(sql, "${number}{rest}");
            }
        }
    }
}

/// Puts parts together to one statement, which ends the transaction unless all of them write as
/// many rows as they have to. What it costs to send and to answer a statement is paid once.
pub(super) fn compose(parts: Vec<Part>) -> Statement {
    let (mut sql, mut written) = (String::with_capacity(SQL_BYTES), String::from("0"));
    let (mut required, mut values) = (0, Vec::new());
    for (index, part) in parts.into_iter().enumerate() {
        let _ = write!(sql, "{} part_{index} AS (", if index == 0 { "WITH" } else { "," });
        part.write(&mut sql, values.len());
        sql.push(')');
        values.extend(part.values);
        if part.required > 0 {
            required += part.required;
            let _ = write!(written, " + (SELECT count(*) FROM part_{index})");
        }
    }
    values.push(required.into());
    let _ = write!(sql, " SELECT durable_require({written}, ${})", values.len());
    Statement::made(sql, values)
}

/// What names a lease.
fn held(id: ExecutionId, lease: &Lease) -> [Value; 3] {
    [Value::Text(Some(id.to_string())), Value::text(lease.owner.as_str()), lease.epoch.into()]
}

/// Type, message and traceback.
fn error_columns(failure: Option<&Failure>) -> [Value; 3] {
    [
        Value::maybe_text(failure.map(|failure| failure.error_type.as_str())),
        Value::maybe_text(failure.map(|failure| failure.message.as_str())),
        Value::maybe_text(failure.and_then(|failure| failure.traceback.as_deref())),
    ]
}

const PUT_PROGRAMS: &str = "
INSERT INTO programs (id, definition)
SELECT * FROM ROWS AS new
ON CONFLICT (id) DO NOTHING";

// An id or a key that is taken is an error of its own.
const CREATE: &str = "
    INSERT INTO executions (id, workflow_id, program_id, input_payload, idempotency_key,
        lease_epoch, wake_at, created_at, namespace, queue, tags)
    SELECT new.id, new.workflow_id, new.program_id, new.inputs, new.key, new.epoch,
        new.wake_at, new.created_at, new.namespace, new.queue, new.tags::jsonb
    FROM ROWS AS new (id, workflow_id, program_id, inputs, key, epoch, wake_at, created_at, namespace,
            queue, tags)
    JOIN programs p ON p.id = new.program_id
    RETURNING 1";

const PUT_LEASES: &str = "
    INSERT INTO execution_locks (execution_id, locked_by, acquired_at, expires_at, epoch)
    SELECT id, owner, at, expires_at, 1
    FROM ROWS AS new (id, owner, at, expires_at)";

// The epoch is compared in the execution's own row, which is locked: a lease that was taken over
// in this very moment is seen.
const ADVANCE: &str = "
    UPDATE executions e SET
        version = new.version, next_sequence = new.next_sequence, status = new.status,
        wake_at = new.wake_at, requested_calls = new.requested_calls,
        resume_groups = new.resume_groups, closed_calls = new.closed_calls,
        inbox = CASE WHEN new.ended THEN 0 ELSE greatest(e.inbox - new.taken, 0) END,
        control = CASE WHEN new.clear_control OR e.control = new.moot_control THEN NULL
                  ELSE e.control END,
        control_reason = CASE WHEN new.clear_control OR e.control = new.moot_control THEN NULL
                         ELSE e.control_reason END,
        started_at = CASE WHEN new.started THEN coalesce(e.started_at, new.started_at) END,
        completed_at = new.completed_at,
        output_payload = new.output,
        error_type = CASE WHEN new.set_error THEN new.error_type ELSE e.error_type END,
        error = CASE WHEN new.set_error THEN new.error ELSE e.error END,
        error_traceback = CASE WHEN new.set_error THEN new.error_traceback
                          ELSE e.error_traceback END,
        error_call = CASE WHEN new.set_error THEN new.error_call ELSE e.error_call END
    FROM ROWS AS new (id, expected_version, first_sequence, owner, epoch, version, next_sequence, status,
            wake_at, requested_calls, resume_groups, closed_calls, ended, taken, clear_control,
            moot_control, is_retry, started, started_at, completed_at, output, set_error, error_type, error,
            error_traceback, error_call)
    LEFT JOIN execution_locks l
        ON l.execution_id = new.id AND l.locked_by = new.owner AND l.epoch = new.epoch
    WHERE e.id = new.id AND e.version = new.expected_version
      AND e.next_sequence = new.first_sequence
      AND (new.is_retry OR e.lease_epoch = new.epoch AND l.epoch IS NOT NULL)
    RETURNING 1";

const INSERT_EVENTS: &str = "
    INSERT INTO execution_events (execution_id, sequence, transition_number, event_type,
        event_payload, timestamp)
    SELECT * FROM ROWS AS new";

// Calls are handed out as soon as the transition has committed: that is when they start.
const INSERT_CALLS: &str = r#"
    INSERT INTO execution_steps (execution_id, call_id, step_order, resume_group_id, kind,
        step_name, function, args, kwargs, options, line, "column", delay_ms, due_at, created_at,
        started_at)
    SELECT id, call, step_order, resume_group, kind, name, function, args, kwargs, options, line,
        col, delay_ms, due_at, at, at
    FROM ROWS AS new (id, call, step_order, resume_group, kind, name, function, args, kwargs, options,
            line, col, delay_ms, due_at, at)"#;

const RETRY_CALLS: &str = "
    UPDATE execution_steps s SET status = 'PENDING', attempts = new.attempt + 1,
        retry_count = new.attempt, due_at = new.due_at, job_id = NULL,
        error_type = new.error_type, error = new.error, error_traceback = new.error_traceback
    FROM ROWS AS new (id, call, attempt, due_at, error_type, error, error_traceback)
    WHERE s.execution_id = new.id AND s.call_id = new.call
      AND s.status NOT IN ('SUCCESS', 'FAILED', 'CANCELLED')
    RETURNING 1";

const COMPLETE_CALLS: &str = "
    UPDATE execution_steps s SET status = 'SUCCESS', applied = true, attempts = new.attempt,
        retry_count = greatest(new.attempt - 1, 0), due_at = NULL, completed_at = new.at,
        result = new.result, error_type = NULL, error = NULL, error_traceback = NULL
    FROM ROWS AS new (id, call, attempt, at, result)
    WHERE s.execution_id = new.id AND s.call_id = new.call
      AND s.status NOT IN ('SUCCESS', 'FAILED', 'CANCELLED')
    RETURNING 1";

const FAIL_CALLS: &str = "
    UPDATE execution_steps s SET status = 'FAILED', applied = true, attempts = new.attempt,
        retry_count = greatest(new.attempt - 1, 0), due_at = NULL, completed_at = new.at,
        error_type = new.error_type, error = new.error, error_traceback = new.error_traceback
    FROM ROWS AS new (id, call, attempt, at, error_type, error, error_traceback)
    WHERE s.execution_id = new.id AND s.call_id = new.call
      AND s.status NOT IN ('SUCCESS', 'FAILED', 'CANCELLED')
    RETURNING 1";

const FIRE_TIMERS: &str = "
    UPDATE execution_steps s SET status = 'SUCCESS', applied = true, completed_at = new.at
    FROM ROWS AS new (id, call, at)
    WHERE s.execution_id = new.id AND s.call_id = new.call
      AND s.status NOT IN ('SUCCESS', 'FAILED', 'CANCELLED')
    RETURNING 1";

const TAKE_IN: &str = "
    UPDATE execution_steps s SET applied = true,
        due_at = CASE WHEN s.kind = 'timer' THEN s.due_at END
    FROM ROWS AS new (id, call, status)
    WHERE s.execution_id = new.id AND s.call_id = new.call AND NOT s.applied
      AND s.status NOT IN ('PENDING', 'SUBMITTED', 'CANCELLED')
      AND (new.status IS NULL OR s.status = new.status)
    RETURNING 1";

// Cancels what an end leaves open; nobody will take in what came from outside since.
const CANCEL_CALLS: &str = "
UPDATE execution_steps s SET
    status = CASE WHEN s.status IN ('PENDING', 'SUBMITTED') THEN 'CANCELLED' ELSE s.status END,
    due_at = CASE WHEN s.kind = 'timer' THEN s.due_at END,
    completed_at = coalesce(s.completed_at, new.at), applied = true
FROM ROWS AS new (id, at)
WHERE s.execution_id = new.id AND NOT s.applied";

const PUT_SNAPSHOTS: &str = "
INSERT INTO execution_state (execution_id, state_snapshot, current_step, position, updated_at)
SELECT * FROM ROWS AS new
ON CONFLICT (execution_id) DO UPDATE SET state_snapshot = excluded.state_snapshot,
    current_step = excluded.current_step, position = excluded.position,
    updated_at = excluded.updated_at";

const END_STATES: &str = "
UPDATE execution_state s SET current_step = new.step, updated_at = new.at
FROM ROWS AS new (id, step, at)
WHERE s.execution_id = new.id";

const DROP_CALLS: &str = "
DELETE FROM execution_steps s USING ROWS AS old (id, call)
WHERE s.execution_id = old.id AND s.call_id = old.call";

// What failed with the execution, what its end cancelled and timers run again; what came of the
// others comes in again.
const REOPEN_CALLS: &str = "
UPDATE execution_steps s SET applied = false,
    (status, attempts, retry_count, due_at, job_id, result, error_type, error, error_traceback,
     completed_at) = (
        SELECT 'PENDING', new.attempt, greatest(new.attempt - 1, 0), new.due_at, NULL, NULL::json,
            NULL, NULL, NULL, NULL::timestamptz
        WHERE new.again OR s.kind = 'timer' OR s.status = 'CANCELLED'
        UNION ALL
        SELECT s.status, s.attempts, s.retry_count, s.due_at, s.job_id, s.result, s.error_type,
            s.error, s.error_traceback, s.completed_at
        WHERE NOT (new.again OR s.kind = 'timer' OR s.status = 'CANCELLED'))
FROM ROWS AS new (id, call, again, attempt, due_at)
WHERE s.execution_id = new.id AND s.call_id = new.call";

const COUNT_INBOXES: &str = "
UPDATE executions e SET inbox = (
    SELECT count(*) FROM execution_steps s
    WHERE s.execution_id = e.id AND NOT s.applied
      AND s.status NOT IN ('PENDING', 'SUBMITTED', 'CANCELLED'))
WHERE e.id = ANY($1)";

const GIVE_BACK: &str = "DELETE FROM execution_locks WHERE execution_id = ANY($1)";

const NOTE_JOBS: &str = "
    UPDATE execution_steps s SET status = 'SUBMITTED', job_id = new.job
    FROM ROWS AS new (id, owner, epoch, call, job)
    JOIN execution_locks l
        ON l.execution_id = new.id AND l.locked_by = new.owner AND l.epoch = new.epoch
    WHERE s.execution_id = new.id AND s.call_id = new.call AND s.kind <> 'timer'
      AND s.status NOT IN ('SUCCESS', 'FAILED', 'CANCELLED')
    RETURNING 1";

// A trigger of the schema puts what is closed so into the inbox. Attempt and due time stay: they
// belong to the state of the execution, in which the call is open until it is taken in.
const REPORT: &str = "
    UPDATE execution_steps s SET status = new.status, result = new.result,
        error_type = new.error_type, error = new.error, error_traceback = new.error_traceback,
        completed_at = new.at
    FROM ROWS AS new (id, call, status, result, error_type, error, error_traceback, at)
    JOIN executions e ON e.id = new.id AND e.status NOT IN ('SUCCESS', 'FAILED', 'CANCELLED')
    WHERE s.execution_id = new.id AND s.call_id = new.call AND s.kind <> 'timer'
      AND s.status NOT IN ('SUCCESS', 'FAILED', 'CANCELLED')
    RETURNING 1";

const TAKE_LEASES_BACK: &str = "
DELETE FROM execution_locks l
USING ROWS
    AS new (id, owner, epoch, wake_at)
WHERE l.execution_id = new.id AND l.locked_by = new.owner AND l.epoch = new.epoch";

// Only what the same statement takes back.
const WAKE_RELEASED: &str = "
UPDATE executions e SET wake_at = new.wake_at
FROM ROWS AS new (id, owner, epoch, wake_at)
JOIN execution_locks l
    ON l.execution_id = new.id AND l.locked_by = new.owner AND l.epoch = new.epoch
WHERE e.id = new.id";
