//! What a batch writes: its members as rows of a few statements.
//!
//! Every statement ends the transaction unless it writes as many rows as it has to, so that all of
//! them can be sent at once, with the `COMMIT`.

use std::collections::HashMap;

use durable_core::{
    CallId, ExecutionId, Failure, Lease, Outcome, Result, Retried, Transition, UnixMs,
};

use super::{
    load::locking,
    statement::{List, Literal, Rows, Statement, require},
    tables,
};
use crate::{
    NewExecution, Write,
    batch::place,
    control::{clears_control, moot_control},
    rows::{Closing, TransitionRows},
};

/// Members that are written side by side, each kind of row by one statement. Members that concern
/// the same execution are of different kinds, in the order in which the kinds are written.
struct Wave {
    /// The last kind of member for each execution.
    last: HashMap<ExecutionId, u8>,
    programs: Rows,
    creations: Rows,
    leases: Rows,
    advances: Rows,
    events: Rows,
    new_calls: Rows,
    retries: Rows,
    completions: Rows,
    failures: Rows,
    firings: Rows,
    taken_in: Rows,
    cancellations: Rows,
    snapshots: Rows,
    ends: Rows,
    dropped: Rows,
    reopened: Rows,
    /// Executions whose inboxes are counted anew.
    counted: Vec<String>,
    /// Executions whose leases end with their transitions.
    given_back: Vec<String>,
    jobs: Rows,
    reports: Rows,
    /// Executions that are reported on.
    reported: Vec<String>,
    releases: Rows,
    /// The same rows, once more.
    released: Rows,
}

impl Default for Wave {
    fn default() -> Self {
        Self {
            last: HashMap::new(),
            programs: Rows::new(&tables::PUT_PROGRAMS),
            creations: Rows::new(&tables::CREATE),
            leases: Rows::new(&tables::PUT_LEASES),
            advances: Rows::new(&tables::ADVANCE),
            events: Rows::new(&tables::INSERT_EVENTS),
            new_calls: Rows::new(&tables::INSERT_CALLS),
            retries: Rows::new(&tables::RETRY_CALLS),
            completions: Rows::new(&tables::COMPLETE_CALLS),
            failures: Rows::new(&tables::FAIL_CALLS),
            firings: Rows::new(&tables::FIRE_TIMERS),
            taken_in: Rows::new(&tables::TAKE_IN),
            cancellations: Rows::new(&tables::CANCEL_CALLS),
            snapshots: Rows::new(&tables::PUT_SNAPSHOTS),
            ends: Rows::new(&tables::END_STATES),
            dropped: Rows::new(&tables::DROP_CALLS),
            reopened: Rows::new(&tables::REOPEN_CALLS),
            counted: Vec::new(),
            given_back: Vec::new(),
            jobs: Rows::new(&tables::NOTE_JOBS),
            reports: Rows::new(&tables::REPORT),
            reported: Vec::new(),
            releases: Rows::new(&tables::RELEASE),
            released: Rows::new(&tables::DROP_LEASES),
        }
    }
}

/// The statements for members that are all written in waves.
///
/// # Errors
/// `Internal` when something can't be put into words of the database.
pub(super) fn statements(members: &[Write]) -> Result<Vec<Statement>> {
    let mut statements = Vec::new();
    let mut wave = Wave::default();
    for member in members {
        let Some((kind, execution)) = place(member) else { continue };
        let is_later = match execution {
            Some(execution) => wave.last.get(&execution).is_some_and(|last| *last >= kind),
            None => !wave.creations.is_empty(),
        };
        if is_later {
            std::mem::take(&mut wave).finish(&mut statements);
        }
        if let Some(execution) = execution {
            wave.last.insert(execution, kind);
        }
        wave.add(member)?;
    }
    wave.finish(&mut statements);
    Ok(statements)
}

impl Wave {
    fn add(&mut self, member: &Write) -> Result<()> {
        match member {
            Write::PutProgram(program) => {
                self.programs.push(&[&program.id().as_str(), &program.to_json()]);
            }
            Write::Create(new) => self.create(new),
            Write::Transition(transition) => self.transition(transition)?,
            Write::NoteJob { execution, lease, call, job_id } => {
                let Lease { owner, epoch } = lease;
                self.jobs.push(&[&execution.to_string(), &owner.as_str(), epoch, call, job_id]);
            }
            Write::Report { execution, call, outcome, now_ms } => {
                self.report(*execution, *call, outcome, *now_ms);
            }
            Write::Release { execution, lease, wake_at_ms } => {
                let (id, Lease { owner, epoch }) = (execution.to_string(), lease);
                let row: [&dyn Literal; 4] = [&id, &owner.as_str(), epoch, wake_at_ms];
                self.releases.push(&row);
                self.released.push(&row);
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
        let tags = &labels.tags;
        let tags = (!tags.is_empty()).then(|| serde_json::json!(tags).to_string());
        let id = new.id.to_string();
        self.creations.push(&[
            &id,
            &new.workflow_id,
            &new.program.as_str(),
            &new.inputs,
            &new.idempotency_key,
            &epoch,
            &wake_at_ms,
            &new.created_at_ms,
            &labels.namespace,
            &labels.queue,
            &tags,
        ]);
        if let Some((owner, expires_at_ms)) = &new.lease {
            self.leases.push(&[&id, &owner.as_str(), &new.created_at_ms, expires_at_ms, &1_i64]);
        }
    }

    fn report(&mut self, id: ExecutionId, call: CallId, outcome: &Outcome, now_ms: UnixMs) {
        let (status, result, failure) = match outcome {
            Outcome::Completed(result) => ("SUCCESS", Some(result), None),
            Outcome::Failed(failure) => ("FAILED", None, Some(failure)),
        };
        let [error_type, error, traceback] = error_columns(failure);
        let id = id.to_string();
        self.reports.push(&[
            &id,
            &call,
            &status,
            &result,
            &error_type,
            &error,
            &traceback,
            &now_ms,
        ]);
        self.reported.push(id);
    }

    fn transition(&mut self, transition: &Transition) -> Result<()> {
        let rows = TransitionRows::of(transition)?;
        let (after, at_ms) = (&transition.after, &transition.at_ms);
        let id = rows.id().to_string();
        self.advance(&id, &rows);
        for event in &rows.events {
            self.events.push(&[
                &id,
                &event.sequence,
                &after.version,
                &event.event_type,
                &event.payload,
                at_ms,
            ]);
        }
        self.calls(&id, &rows);
        if !transition.cancelled.is_empty() {
            self.cancellations.push(&[&id, at_ms]);
        }
        if let Some(snapshot) = &transition.snapshot {
            let position = after.next_sequence - 1;
            self.snapshots.push(&[&id, &&*snapshot.0, &after.closed_calls, &position, at_ms]);
        } else if after.status.is_terminal() {
            // People read current_step; it need not be right before the end.
            self.ends.push(&[&id, &after.closed_calls, at_ms]);
        }
        if let Some(retried) = rows.retried {
            self.take_back(&id, retried);
        }
        if rows.gives_lease_back() {
            self.given_back.push(id);
        }
        Ok(())
    }

    fn take_back(&mut self, id: &str, retried: &Retried) {
        for call in &retried.dropped {
            self.dropped.push(&[&id, &call.id()]);
        }
        for call in &retried.open {
            let is_again = retried.again.iter().any(|(again, _)| *again == call.id());
            self.reopened.push(&[&id, &call.id(), &is_again, &call.attempt, &call.due_ms]);
        }
        self.counted.push(id.to_owned());
    }

    fn advance(&mut self, id: &str, rows: &TransitionRows<'_>) {
        let (transition, end) = (rows.transition, &rows.end);
        let after = &transition.after;
        let ended = after.status.is_terminal();
        let [error_type, _, traceback] = error_columns(end.failure);
        self.advances.push(&[
            &id,
            &transition.expected_version,
            &transition.first_sequence,
            &transition.lease.owner.as_str(),
            &transition.lease.epoch,
            &after.version,
            &after.next_sequence,
            &after.status.as_stored(),
            &rows.wake_at_ms(),
            &after.requested_calls,
            &after.groups,
            &after.closed_calls,
            &ended,
            &(transition.inbox_taken.len() as u64),
            &clears_control(transition),
            &moot_control(after.status).as_stored(),
            &transition.is_retry(),
            &after.started,
            &end.started_at_ms,
            &ended.then_some(transition.at_ms),
            &end.output,
            &end.sets_error,
            &error_type,
            &end.message(),
            &traceback,
            &end.failure.and_then(|failure| failure.cause_call),
        ]);
    }

    fn calls(&mut self, id: &str, rows: &TransitionRows<'_>) {
        let at_ms = &rows.transition.at_ms;
        for row in &rows.new_calls {
            let position = row.call.new.position;
            self.new_calls.push(&[
                &id,
                &row.call.id(),
                &row.call.order,
                &format!("{id}:{}", row.call.group),
                &row.kind,
                &row.call.name(),
                &row.function,
                &row.args,
                &row.kwargs,
                &row.options,
                &position.line,
                &position.column,
                &row.delay_ms,
                &row.call.due_ms,
                at_ms,
                at_ms,
            ]);
        }
        for (call, (attempt, failure, due_ms)) in &rows.retries {
            let [error_type, error, traceback] = error_columns(Some(failure));
            self.retries.push(&[&id, call, attempt, due_ms, &error_type, &error, &traceback]);
        }
        for (call, closing) in &rows.closings {
            match closing {
                Closing::Completed { attempt, result } => {
                    self.completions.push(&[&id, call, attempt, at_ms, result]);
                }
                Closing::Failed { attempt, failure } => {
                    let [error_type, error, traceback] = error_columns(Some(failure));
                    self.failures.push(&[
                        &id,
                        call,
                        attempt,
                        at_ms,
                        &error_type,
                        &error,
                        &traceback,
                    ]);
                }
                Closing::Fired => self.firings.push(&[&id, call, at_ms]),
                Closing::TakenIn(status) => {
                    self.taken_in.push(&[&id, call, &status.map(|status| status.as_stored())]);
                }
            }
        }
    }

    /// The statements of this wave, in order.
    fn finish(self, statements: &mut Vec<Statement>) {
        statements.extend(self.programs.into_statements());
        // A single transition locks its row itself.
        if self.last.len() > 1 || self.advances.is_empty() && !self.last.is_empty() {
            statements.push(locking(self.last.keys().copied()));
        }
        for rows in [
            self.creations,
            self.leases,
            self.advances,
            self.events,
            self.new_calls,
            self.retries,
            self.completions,
            self.failures,
            self.firings,
            self.taken_in,
            self.cancellations,
            self.snapshots,
            self.ends,
            self.dropped,
            self.reopened,
        ] {
            statements.extend(rows.into_statements());
        }
        if !self.counted.is_empty() {
            statements.push(Statement::new(tables::COUNT_INBOXES, &[&List(self.counted)]));
        }
        if !self.given_back.is_empty() {
            statements.push(Statement::new(tables::GIVE_BACK, &[&List(self.given_back)]));
        }
        statements.extend(self.jobs.into_statements());
        if !self.reported.is_empty() {
            // A trigger changes executions: the statement that calls it must not read them.
            const LIVE: &str = require!(
                "(SELECT COUNT(*) FROM executions WHERE id IN ?
                  AND status NOT IN ('SUCCESS', 'FAILED', 'CANCELLED')) = ?"
            );
            let count = self.reported.len() as u64;
            statements.push(Statement::new(LIVE, &[&List(self.reported), &count]));
        }
        for rows in [self.reports, self.releases, self.released] {
            statements.extend(rows.into_statements());
        }
    }
}

/// Type, message and traceback.
fn error_columns(failure: Option<&Failure>) -> [Option<&str>; 3] {
    [
        failure.map(|failure| failure.error_type.as_str()),
        failure.map(|failure| failure.message.as_str()),
        failure.and_then(|failure| failure.traceback.as_deref()),
    ]
}
