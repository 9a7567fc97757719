//! Committing a transition: the compare-and-set, the journal, and the rows its events speak of.

use std::collections::BTreeSet;

use durable_core::{
    Call, CallId, CallStatus, Event, ExecutionId, Failure, Lease, Outcome, Payload, Request,
    Retried, Transition, UnixMs, wire,
};
use rusqlite::{Connection, OptionalExtension, named_params, params};

use super::error::Outcome as InTransaction;
use crate::{
    control::{clears_control, moot_control},
    refusal,
    rows::{End, TIMER, kind_of},
};

/// Commits a transition. The comparison comes first: a writer that lost has written nothing.
pub(super) fn commit(connection: &Connection, transition: &Transition) -> InTransaction<()> {
    let id = transition.after.id.to_string();
    let taken = transition.inbox_taken.iter().copied().collect();
    let writer = Writer { connection, id, transition, taken };
    writer.advance_execution()?;
    writer.write_events()?;
    writer.cancel_open_calls()?;
    writer.write_snapshot()?;
    writer.give_lease_back()
}

struct Writer<'a> {
    connection: &'a Connection,
    /// The execution's id as it is stored.
    id: String,
    transition: &'a Transition,
    /// The calls that are taken in from the inbox.
    taken: BTreeSet<CallId>,
}

impl Writer<'_> {
    fn advance_execution(&self) -> InTransaction<()> {
        let transition = self.transition;
        let after = &transition.after;
        let ended = after.status.is_terminal();
        let end = End::of(transition);
        let changed = self.connection.prepare_cached(ADVANCE)?.execute(named_params! {
            ":id": self.id,
            ":expected_version": transition.expected_version as i64,
            ":first_sequence": transition.first_sequence as i64,
            ":owner": transition.lease.owner.as_str(),
            ":epoch": transition.lease.epoch as i64,
            ":version": after.version as i64,
            ":next_sequence": after.next_sequence as i64,
            ":status": after.status.as_stored(),
            ":wake_at": if transition.release { after.wake_at_ms() } else { None },
            ":requested_calls": after.requested_calls,
            ":resume_groups": after.groups,
            ":closed_calls": after.closed_calls,
            ":ended": ended,
            ":taken": transition.inbox_taken.len() as i64,
            ":clear_control": clears_control(transition),
            ":moot_control": moot_control(after.status).as_stored(),
            ":is_retry": transition.is_retry(),
            ":started": after.started,
            ":started_at": end.started_at_ms,
            ":completed_at": ended.then_some(transition.at_ms),
            ":output": end.output.map(Payload::as_str),
            ":set_error": end.sets_error,
            ":error_type": end.failure.map(|failure| failure.error_type.as_str()),
            ":error": end.message(),
            ":error_traceback": end.failure.and_then(|failure| failure.traceback.as_deref()),
            ":error_call": end.failure.and_then(|failure| failure.cause_call),
        })?;
        if changed == 1 { Ok(()) } else { Err(self.why_lost()?.into()) }
    }

    /// Finds the words for a comparison that was lost.
    fn why_lost(&self) -> InTransaction<durable_core::Error> {
        let id = self.transition.after.id;
        let version: Option<i64> = self
            .connection
            .prepare_cached("SELECT version FROM executions WHERE id = ?1")?
            .query_row([&self.id], |row| row.get(0))
            .optional()?;
        let expected = self.transition.expected_version;
        Ok(match version {
            None => refusal::deleted(id),
            Some(version) if version as u64 != expected => {
                refusal::outdated(id, expected, version as u64)
            }
            Some(_) => refusal::lease_lost(id),
        })
    }

    fn write_events(&self) -> InTransaction<()> {
        let mut sequence = self.transition.first_sequence;
        for events in self.transition.events.chunks(INSERT_EVENTS.len()) {
            self.insert_events(sequence, events)?;
            sequence += events.len() as u64;
        }
        self.transition.events.iter().try_for_each(|event| self.write_row_of(event))
    }

    /// Writes as many events as one statement takes.
    fn insert_events(&self, first_sequence: u64, events: &[Event]) -> InTransaction<()> {
        let mut insert = self.connection.prepare_cached(INSERT_EVENTS[events.len() - 1])?;
        insert.raw_bind_parameter(1, &self.id)?;
        insert.raw_bind_parameter(2, self.transition.after.version as i64)?;
        insert.raw_bind_parameter(3, self.transition.at_ms)?;
        for (index, event) in events.iter().enumerate() {
            let wire = wire::encode(event);
            let first = 4 + 3 * index;
            insert.raw_bind_parameter(first, (first_sequence + index as u64) as i64)?;
            insert.raw_bind_parameter(first + 1, wire.event_type)?;
            insert.raw_bind_parameter(first + 2, wire.payload.to_string())?;
        }
        insert.raw_execute()?;
        Ok(())
    }

    fn write_row_of(&self, event: &Event) -> InTransaction<()> {
        match event {
            Event::CallRequested(call) | Event::TimerStarted(call) => self.insert_call(call),
            Event::CallRetrying { call, attempt, failure, due_ms } => {
                self.retry_call(*call, *attempt, failure, *due_ms)
            }
            Event::CallCompleted { call, attempt, result } => {
                self.close_call(*call, *attempt, &Outcome::Completed(result.clone()))
            }
            Event::CallFailed { call, attempt, failure } => {
                self.close_call(*call, *attempt, &Outcome::Failed(failure.clone()))
            }
            Event::TimerFired { call } => self.fire_timer(*call),
            Event::ExecutionStarted { .. }
            | Event::AgentInvoked { .. }
            | Event::AgentResponded { .. }
            | Event::Printed { .. }
            | Event::VariablesSet { .. }
            | Event::ExecutionPaused { .. }
            | Event::ExecutionResumed
            | Event::ExecutionCompleted { .. }
            | Event::ExecutionFailed { .. }
            | Event::ExecutionCancelled { .. } => Ok(()),
            Event::ExecutionRetried(retried) => self.take_back(retried),
        }
    }

    /// Puts the rows of calls back to where they were before the transition that failed: made
    /// again, or in the inbox.
    fn take_back(&self, retried: &Retried) -> InTransaction<()> {
        for call in &retried.dropped {
            let sql = "DELETE FROM execution_steps WHERE execution_id = ?1 AND call_id = ?2";
            self.connection.prepare_cached(sql)?.execute(params![self.id, call.id()])?;
        }
        for call in &retried.open {
            let is_again = retried.again.iter().any(|(again, _)| *again == call.id());
            self.connection.prepare_cached(REOPEN_CALL)?.execute(params![
                self.id,
                call.id(),
                is_again,
                call.attempt,
                call.attempt.saturating_sub(1),
                call.due_ms,
            ])?;
        }
        self.connection.prepare_cached(COUNT_INBOX)?.execute([&self.id])?;
        Ok(())
    }

    fn insert_call(&self, call: &Call) -> InTransaction<()> {
        let group = format!("{}:{}", self.id, call.group);
        let at_ms = self.transition.at_ms;
        let position = call.new.position;
        let inserted = match &call.new.request {
            Request::Function { name, args, kwargs, options } => {
                let target = options.target.as_deref().unwrap_or(name);
                let options = (*options != Default::default())
                    .then(|| serde_json::to_string(options))
                    .transpose()
                    .map_err(|error| {
                        durable_core::Error::internal(format!("options can't be stored: {error}"))
                    })?;
                self.connection.prepare_cached(INSERT_CALL)?.execute(params![
                    self.id,
                    call.id(),
                    call.order,
                    group,
                    kind_of(&call.new.request),
                    name,
                    target,
                    args.as_str(),
                    kwargs.as_str(),
                    options,
                    position.line,
                    position.column,
                    at_ms,
                ])?
            }
            Request::Timer { delay_ms } => {
                self.connection.prepare_cached(INSERT_TIMER)?.execute(params![
                    self.id,
                    call.id(),
                    call.order,
                    group,
                    TIMER,
                    call.name(),
                    *delay_ms as i64,
                    call.due_ms,
                    position.line,
                    position.column,
                    at_ms,
                ])?
            }
        };
        if inserted == 1 {
            return Ok(());
        }
        Err(refusal::call_exists(self.transition.after.id, call.id()).into())
    }

    fn retry_call(
        &self,
        call: CallId,
        attempt: u32,
        failure: &Failure,
        due_ms: UnixMs,
    ) -> InTransaction<()> {
        let changed = self.connection.prepare_cached(RETRY_CALL)?.execute(params![
            self.id,
            call,
            attempt.saturating_add(1),
            attempt,
            due_ms,
            failure.error_type,
            failure.message,
            failure.traceback,
        ])?;
        self.closed_unless(changed == 1, call)
    }

    fn close_call(&self, call: CallId, attempt: u32, outcome: &Outcome) -> InTransaction<()> {
        if self.taken.contains(&call) {
            let status = match outcome {
                Outcome::Completed(_) => CallStatus::Completed,
                Outcome::Failed(_) => CallStatus::Failed,
            };
            return self.take_in(call, Some(status.as_stored()));
        }
        let at_ms = self.transition.at_ms;
        let changed = match outcome {
            Outcome::Completed(result) => {
                self.connection.prepare_cached(COMPLETE_CALL)?.execute(params![
                    self.id,
                    call,
                    attempt,
                    attempt.saturating_sub(1),
                    at_ms,
                    result.as_str()
                ])?
            }
            Outcome::Failed(failure) => {
                self.connection.prepare_cached(FAIL_CALL)?.execute(params![
                    self.id,
                    call,
                    attempt,
                    attempt.saturating_sub(1),
                    at_ms,
                    failure.error_type,
                    failure.message,
                    failure.traceback,
                ])?
            }
        };
        self.closed_unless(changed == 1, call)
    }

    fn fire_timer(&self, call: CallId) -> InTransaction<()> {
        if self.taken.contains(&call) {
            return self.take_in(call, None);
        }
        let changed = self.connection.prepare_cached(FIRE_TIMER)?.execute(params![
            self.id,
            call,
            self.transition.at_ms
        ])?;
        self.closed_unless(changed == 1, call)
    }

    /// Marks a call that was closed from outside as taken in.
    fn take_in(&self, call: CallId, status: Option<&str>) -> InTransaction<()> {
        let changed =
            self.connection.prepare_cached(TAKE_IN)?.execute(params![self.id, call, status])?;
        if changed == 1 {
            return Ok(());
        }
        Err(refusal::not_in_inbox(self.transition.after.id, call).into())
    }

    fn closed_unless(&self, was_open: bool, call: CallId) -> InTransaction<()> {
        if was_open {
            return Ok(());
        }
        Err(refusal::call_closed(self.transition.after.id, call).into())
    }

    /// Cancels what an end leaves open; nobody will take in what came from outside since.
    fn cancel_open_calls(&self) -> InTransaction<()> {
        if !self.transition.cancelled.is_empty() {
            self.connection
                .prepare_cached(CANCEL_CALLS)?
                .execute(params![self.id, self.transition.at_ms])?;
        }
        Ok(())
    }

    fn write_snapshot(&self) -> InTransaction<()> {
        let transition = self.transition;
        let after = &transition.after;
        if let Some(snapshot) = &transition.snapshot {
            let position = (after.next_sequence - 1) as i64;
            let row =
                params![self.id, &snapshot.0[..], after.closed_calls, position, transition.at_ms,];
            // Not an upsert: that costs half as much again.
            if self.connection.prepare_cached(UPDATE_SNAPSHOT)?.execute(row)? == 0 {
                self.connection.prepare_cached(INSERT_SNAPSHOT)?.execute(row)?;
            }
        } else if after.status.is_terminal() {
            // People read current_step; it need not be right before the end.
            self.connection.prepare_cached(END_STATE)?.execute(params![
                self.id,
                after.closed_calls,
                transition.at_ms,
            ])?;
        }
        Ok(())
    }

    fn give_lease_back(&self) -> InTransaction<()> {
        if self.transition.release || self.transition.after.status.is_terminal() {
            self.connection
                .prepare_cached("DELETE FROM execution_locks WHERE execution_id = ?1")?
                .execute([&self.id])?;
        }
        Ok(())
    }
}

/// Notes the job of a call under a lease.
pub(super) fn note_job(
    connection: &Connection,
    id: ExecutionId,
    lease: &Lease,
    call: CallId,
    job_id: &str,
) -> InTransaction<()> {
    let text = id.to_string();
    let changed = connection.prepare_cached(NOTE_JOB)?.execute(params![
        text,
        call,
        job_id,
        lease.owner.as_str(),
        lease.epoch as i64
    ])?;
    if changed == 1 {
        return Ok(());
    }
    let held = connection
        .prepare_cached(
            "SELECT 1 FROM execution_locks WHERE execution_id = ?1 AND locked_by = ?2 AND epoch = ?3",
        )?
        .exists(params![text, lease.owner.as_str(), lease.epoch as i64])?;
    Err(if held { refusal::call_closed(id, call) } else { refusal::lease_lost(id) }.into())
}

const ADVANCE: &str = "
UPDATE executions SET
    version = :version, next_sequence = :next_sequence, status = :status, wake_at = :wake_at,
    requested_calls = :requested_calls, resume_groups = :resume_groups,
    closed_calls = :closed_calls,
    inbox = CASE WHEN :ended THEN 0 ELSE max(inbox - :taken, 0) END,
    control = CASE WHEN :clear_control OR control = :moot_control THEN NULL ELSE control END,
    control_reason = CASE WHEN :clear_control OR control = :moot_control THEN NULL
                     ELSE control_reason END,
    started_at = CASE WHEN :started THEN coalesce(started_at, :started_at) END,
    completed_at = :completed_at,
    output_payload = :output,
    error_type = CASE WHEN :set_error THEN :error_type ELSE error_type END,
    error = CASE WHEN :set_error THEN :error ELSE error END,
    error_traceback = CASE WHEN :set_error THEN :error_traceback ELSE error_traceback END,
    error_call = CASE WHEN :set_error THEN :error_call ELSE error_call END
WHERE id = :id AND version = :expected_version AND next_sequence = :first_sequence
  AND (:is_retry OR EXISTS (SELECT 1 FROM execution_locks
              WHERE execution_id = :id AND locked_by = :owner AND epoch = :epoch))";

macro_rules! insert_events {
    ($($row:literal),+) => {
        concat!(
            "INSERT OR FAIL INTO execution_events (execution_id, transition_number, timestamp,
                 sequence, event_type, event_payload) VALUES (?1, ?2, ?3, ",
            insert_events!(@rows $($row),+),
            ")"
        )
    };
    (@rows $row:literal) => { $row };
    (@rows $row:literal, $($rest:literal),+) => {
        concat!($row, "), (?1, ?2, ?3, ", insert_events!(@rows $($rest),+))
    };
}

/// Statements for one event, for two, and so on: a statement costs about as much as a row.
const INSERT_EVENTS: [&str; 4] = [
    insert_events!("?4, ?5, ?6"),
    insert_events!("?4, ?5, ?6", "?7, ?8, ?9"),
    insert_events!("?4, ?5, ?6", "?7, ?8, ?9", "?10, ?11, ?12"),
    insert_events!("?4, ?5, ?6", "?7, ?8, ?9", "?10, ?11, ?12", "?13, ?14, ?15"),
];

// Calls are handed out as soon as the transition has committed: that is when they start.
const INSERT_CALL: &str = r#"
INSERT INTO execution_steps
    (execution_id, call_id, step_order, resume_group_id, kind, step_name, function, args, kwargs,
     options, line, "column", created_at, started_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?13)
ON CONFLICT (execution_id, call_id) DO NOTHING"#;

const INSERT_TIMER: &str = r#"
INSERT INTO execution_steps
    (execution_id, call_id, step_order, resume_group_id, kind, step_name, delay_ms, due_at, line,
     "column", created_at, started_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11)
ON CONFLICT (execution_id, call_id) DO NOTHING"#;

// A plain UPDATE of a table with a trigger keeps a copy of every page it changes, to undo itself
// if it fails half-way. OR FAIL does without: a member that fails is undone as a whole anyway.
const RETRY_CALL: &str = "
UPDATE OR FAIL execution_steps SET status = 'PENDING', attempts = ?3, retry_count = ?4, due_at = ?5,
    job_id = NULL, error_type = ?6, error = ?7, error_traceback = ?8
WHERE execution_id = ?1 AND call_id = ?2 AND status IN ('PENDING', 'SUBMITTED')";

const COMPLETE_CALL: &str = "
UPDATE OR FAIL execution_steps SET status = 'SUCCESS', applied = 1, attempts = ?3, retry_count = ?4,
    due_at = NULL, completed_at = ?5, result = ?6,
    error_type = NULL, error = NULL, error_traceback = NULL
WHERE execution_id = ?1 AND call_id = ?2 AND status IN ('PENDING', 'SUBMITTED')";

const FAIL_CALL: &str = "
UPDATE OR FAIL execution_steps SET status = 'FAILED', applied = 1, attempts = ?3, retry_count = ?4,
    due_at = NULL, completed_at = ?5, error_type = ?6, error = ?7, error_traceback = ?8
WHERE execution_id = ?1 AND call_id = ?2 AND status IN ('PENDING', 'SUBMITTED')";

const FIRE_TIMER: &str = "
UPDATE OR FAIL execution_steps SET status = 'SUCCESS', applied = 1, completed_at = ?3
WHERE execution_id = ?1 AND call_id = ?2 AND status IN ('PENDING', 'SUBMITTED')";

const TAKE_IN: &str = "
UPDATE OR FAIL execution_steps SET applied = 1, due_at = CASE WHEN kind = 'timer' THEN due_at END
WHERE execution_id = ?1 AND call_id = ?2 AND applied = 0 AND status IN ('SUCCESS', 'FAILED')
  AND (?3 IS NULL OR status = ?3)";

// What failed with the execution, what its end cancelled and timers run again; what came of the
// others comes in again.
const REOPEN_CALL: &str = "
UPDATE OR FAIL execution_steps SET applied = 0,
    (status, attempts, retry_count, due_at, job_id, result, error_type, error, error_traceback,
     completed_at) = (
        SELECT 'PENDING', ?4, ?5, ?6, NULL, NULL, NULL, NULL, NULL, NULL
        WHERE ?3 OR kind = 'timer' OR status = 'CANCELLED'
        UNION ALL
        SELECT status, attempts, retry_count, due_at, job_id, result, error_type, error,
               error_traceback, completed_at
        WHERE NOT (?3 OR kind = 'timer' OR status = 'CANCELLED'))
WHERE execution_id = ?1 AND call_id = ?2";

const COUNT_INBOX: &str = "
UPDATE executions SET inbox = (
    SELECT count(*) FROM execution_steps
    WHERE execution_id = ?1 AND applied = 0 AND status IN ('SUCCESS', 'FAILED'))
WHERE id = ?1";

// Both cases in one statement, by the index of the calls that are not applied.
const CANCEL_CALLS: &str = "
UPDATE execution_steps SET
    status = CASE WHEN status IN ('PENDING', 'SUBMITTED') THEN 'CANCELLED' ELSE status END,
    due_at = CASE WHEN kind = 'timer' THEN due_at END,
    completed_at = coalesce(completed_at, ?2), applied = 1
WHERE execution_id = ?1 AND applied = 0";

const UPDATE_SNAPSHOT: &str = "
UPDATE execution_state SET state_snapshot = ?2, current_step = ?3, position = ?4, updated_at = ?5
WHERE execution_id = ?1";

const INSERT_SNAPSHOT: &str = "
INSERT INTO execution_state (execution_id, state_snapshot, current_step, position, updated_at)
VALUES (?1, ?2, ?3, ?4, ?5)";

const END_STATE: &str =
    "UPDATE execution_state SET current_step = ?2, updated_at = ?3 WHERE execution_id = ?1";

const NOTE_JOB: &str = "
UPDATE execution_steps SET status = 'SUBMITTED', job_id = ?3
WHERE execution_id = ?1 AND call_id = ?2 AND kind <> 'timer' AND status IN ('PENDING', 'SUBMITTED')
  AND EXISTS (SELECT 1 FROM execution_locks
              WHERE execution_id = ?1 AND locked_by = ?4 AND epoch = ?5)";
