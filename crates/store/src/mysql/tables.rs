//! The statements that write rows, a few for each table.
//!
//! Where rows are compared and changed they are a table `n` that is joined first: then each row is
//! found, and locked, by its key. An assignment sees the assignments before it: a column that
//! others depend on comes last.

use super::statement::Template;

pub(super) static PUT_PROGRAMS: Template = Template {
    columns: &["id", "definition"],
    sql: "INSERT INTO programs (id, definition, created_at)
          SELECT n.id, n.definition, UNIX_TIMESTAMP(NOW(3)) * 1000 FROM ({rows}) n
          ON DUPLICATE KEY UPDATE id = programs.id",
    is_exact: false,
};

// An id or a key that is taken is an error of its own.
pub(super) static CREATE: Template = Template {
    columns: &[
        "id",
        "workflow_id",
        "program_id",
        "inputs",
        "idempotency_key",
        "epoch",
        "wake_at",
        "created_at",
        "namespace",
        "queue",
        "tags",
    ],
    sql: "INSERT INTO executions (id, workflow_id, program_id, input_payload, idempotency_key,
              lease_epoch, wake_at, created_at, namespace, queue, tags)
          SELECT n.id, n.workflow_id, n.program_id, n.inputs, n.idempotency_key, n.epoch,
              n.wake_at, n.created_at, n.namespace, n.queue, n.tags
          FROM ({rows}) n STRAIGHT_JOIN programs p ON p.id = n.program_id",
    is_exact: true,
};

pub(super) static PUT_LEASES: Template = Template {
    columns: &[],
    sql: "INSERT INTO execution_locks (execution_id, locked_by, acquired_at, expires_at, epoch)
          VALUES {rows}",
    is_exact: false,
};

// The epoch is compared in the execution's own row, which is locked: a lease that was taken over
// in this very moment is seen.
pub(super) static ADVANCE: Template = Template {
    columns: &[
        "id",
        "expected_version",
        "first_sequence",
        "owner",
        "epoch",
        "version",
        "next_sequence",
        "status",
        "wake_at",
        "requested_calls",
        "resume_groups",
        "closed_calls",
        "ended",
        "taken",
        "clear_control",
        "moot_control",
        "is_retry",
        "started",
        "started_at",
        "completed_at",
        "output",
        "set_error",
        "error_type",
        "error",
        "error_traceback",
        "error_call",
    ],
    sql: "UPDATE ({rows}) n
          STRAIGHT_JOIN executions e ON e.id = n.id
          LEFT JOIN execution_locks l
              ON l.execution_id = n.id AND l.locked_by = n.owner AND l.epoch = n.epoch
          SET e.version = n.version, e.next_sequence = n.next_sequence, e.status = n.status,
              e.wake_at = n.wake_at, e.requested_calls = n.requested_calls,
              e.resume_groups = n.resume_groups, e.closed_calls = n.closed_calls,
              e.inbox = IF(n.ended, 0, GREATEST(e.inbox - n.taken, 0)),
              e.control_reason = IF(n.clear_control OR e.control = n.moot_control, NULL,
                  e.control_reason),
              e.control = IF(n.clear_control OR e.control = n.moot_control, NULL, e.control),
              e.started_at = IF(n.started, COALESCE(e.started_at, n.started_at), NULL),
              e.completed_at = n.completed_at, e.output_payload = n.output,
              e.error_type = IF(n.set_error, n.error_type, e.error_type),
              e.error = IF(n.set_error, n.error, e.error),
              e.error_traceback = IF(n.set_error, n.error_traceback, e.error_traceback),
              e.error_call = IF(n.set_error, n.error_call, e.error_call)
          WHERE e.version = n.expected_version AND e.next_sequence = n.first_sequence
              AND (n.is_retry OR e.lease_epoch = n.epoch AND l.epoch IS NOT NULL)",
    is_exact: true,
};

pub(super) static INSERT_EVENTS: Template = Template {
    columns: &[],
    sql: "INSERT INTO execution_events (execution_id, sequence, transition_number, event_type,
              event_payload, timestamp)
          VALUES {rows}",
    is_exact: false,
};

// Calls are handed out as soon as the transition has committed: that is when they start.
pub(super) static INSERT_CALLS: Template = Template {
    columns: &[],
    sql: "INSERT INTO execution_steps (execution_id, call_id, step_order, resume_group_id, kind,
              step_name, `function`, args, kwargs, options, line, `column`, delay_ms, due_at,
              created_at, started_at)
          VALUES {rows}",
    is_exact: false,
};

pub(super) static RETRY_CALLS: Template = Template {
    columns: &["id", "call_id", "attempt", "due_at", "error_type", "error", "error_traceback"],
    sql: "UPDATE ({rows}) n
          STRAIGHT_JOIN execution_steps s ON s.execution_id = n.id AND s.call_id = n.call_id
          SET s.status = 'PENDING', s.attempts = n.attempt + 1, s.retry_count = n.attempt,
              s.due_at = n.due_at, s.job_id = NULL, s.error_type = n.error_type,
              s.error = n.error, s.error_traceback = n.error_traceback
          WHERE s.status IN ('PENDING', 'SUBMITTED')",
    is_exact: true,
};

pub(super) static COMPLETE_CALLS: Template = Template {
    columns: &["id", "call_id", "attempt", "at", "result"],
    sql: "UPDATE ({rows}) n
          STRAIGHT_JOIN execution_steps s ON s.execution_id = n.id AND s.call_id = n.call_id
          SET s.status = 'SUCCESS', s.applied = 1, s.attempts = n.attempt,
              s.retry_count = GREATEST(n.attempt - 1, 0), s.due_at = NULL, s.completed_at = n.at,
              s.result = n.result, s.error_type = NULL, s.error = NULL, s.error_traceback = NULL
          WHERE s.status IN ('PENDING', 'SUBMITTED')",
    is_exact: true,
};

pub(super) static FAIL_CALLS: Template = Template {
    columns: &["id", "call_id", "attempt", "at", "error_type", "error", "error_traceback"],
    sql: "UPDATE ({rows}) n
          STRAIGHT_JOIN execution_steps s ON s.execution_id = n.id AND s.call_id = n.call_id
          SET s.status = 'FAILED', s.applied = 1, s.attempts = n.attempt,
              s.retry_count = GREATEST(n.attempt - 1, 0), s.due_at = NULL, s.completed_at = n.at,
              s.error_type = n.error_type, s.error = n.error,
              s.error_traceback = n.error_traceback
          WHERE s.status IN ('PENDING', 'SUBMITTED')",
    is_exact: true,
};

pub(super) static FIRE_TIMERS: Template = Template {
    columns: &["id", "call_id", "at"],
    sql: "UPDATE ({rows}) n
          STRAIGHT_JOIN execution_steps s ON s.execution_id = n.id AND s.call_id = n.call_id
          SET s.status = 'SUCCESS', s.applied = 1, s.completed_at = n.at
          WHERE s.status IN ('PENDING', 'SUBMITTED')",
    is_exact: true,
};

pub(super) static TAKE_IN: Template = Template {
    columns: &["id", "call_id", "status"],
    sql: "UPDATE ({rows}) n
          STRAIGHT_JOIN execution_steps s ON s.execution_id = n.id AND s.call_id = n.call_id
          SET s.applied = 1, s.due_at = IF(s.kind = 'timer', s.due_at, NULL)
          WHERE NOT s.applied AND s.status IN ('SUCCESS', 'FAILED')
              AND (n.status IS NULL OR s.status = n.status)",
    is_exact: true,
};

// Cancels what an end leaves open; nobody will take in what came from outside since.
pub(super) static CANCEL_CALLS: Template = Template {
    columns: &["id", "at"],
    sql: "UPDATE ({rows}) n STRAIGHT_JOIN execution_steps s ON s.execution_id = n.id
          SET s.status = IF(s.status IN ('PENDING', 'SUBMITTED'), 'CANCELLED', s.status),
              s.due_at = IF(s.kind = 'timer', s.due_at, NULL),
              s.completed_at = COALESCE(s.completed_at, n.at), s.applied = 1
          WHERE NOT s.applied",
    is_exact: false,
};

pub(super) static PUT_SNAPSHOTS: Template = Template {
    columns: &[],
    sql: "INSERT INTO execution_state
              (execution_id, state_snapshot, current_step, position, updated_at)
          VALUES {rows}
          ON DUPLICATE KEY UPDATE state_snapshot = VALUES(state_snapshot),
              current_step = VALUES(current_step), position = VALUES(position),
              updated_at = VALUES(updated_at)",
    is_exact: false,
};

pub(super) static END_STATES: Template = Template {
    columns: &["id", "step", "at"],
    sql: "UPDATE ({rows}) n STRAIGHT_JOIN execution_state s ON s.execution_id = n.id
          SET s.current_step = n.step, s.updated_at = n.at",
    is_exact: false,
};

pub(super) static DROP_CALLS: Template = Template {
    columns: &["id", "call_id"],
    sql: "DELETE s FROM ({rows}) n
          STRAIGHT_JOIN execution_steps s ON s.execution_id = n.id AND s.call_id = n.call_id",
    is_exact: false,
};

/// Whether a call runs again.
macro_rules! again {
    ($then:literal, $otherwise:literal) => {
        concat!(
            "IF(n.again OR s.kind = 'timer' OR s.status = 'CANCELLED', ",
            $then,
            ", ",
            $otherwise,
            ")"
        )
    };
}

// What failed with the execution, what its end cancelled and timers run again; what came of the
// others comes in again.
pub(super) static REOPEN_CALLS: Template = Template {
    columns: &["id", "call_id", "again", "attempt", "due_at"],
    sql: concat!(
        "UPDATE ({rows}) n
         STRAIGHT_JOIN execution_steps s ON s.execution_id = n.id AND s.call_id = n.call_id
         SET s.applied = 0, s.attempts = ",
        again!("n.attempt", "s.attempts"),
        ", s.retry_count = ",
        again!("GREATEST(n.attempt - 1, 0)", "s.retry_count"),
        ", s.due_at = ",
        again!("n.due_at", "s.due_at"),
        ", s.job_id = ",
        again!("NULL", "s.job_id"),
        ", s.result = ",
        again!("NULL", "s.result"),
        ", s.error_type = ",
        again!("NULL", "s.error_type"),
        ", s.error = ",
        again!("NULL", "s.error"),
        ", s.error_traceback = ",
        again!("NULL", "s.error_traceback"),
        ", s.completed_at = ",
        again!("NULL", "s.completed_at"),
        ", s.status = ",
        again!("'PENDING'", "s.status"),
    ),
    is_exact: false,
};

pub(super) const COUNT_INBOXES: &str = "
UPDATE executions e SET e.inbox = (
    SELECT COUNT(*) FROM execution_steps s
    WHERE s.execution_id = e.id AND NOT s.applied AND s.status IN ('SUCCESS', 'FAILED'))
WHERE e.id IN ?";

pub(super) const GIVE_BACK: &str = "DELETE FROM execution_locks WHERE execution_id IN ?";

pub(super) static NOTE_JOBS: Template = Template {
    columns: &["id", "owner", "epoch", "call_id", "job_id"],
    sql: "UPDATE ({rows}) n
          STRAIGHT_JOIN execution_locks l
              ON l.execution_id = n.id AND l.locked_by = n.owner AND l.epoch = n.epoch
          STRAIGHT_JOIN execution_steps s ON s.execution_id = n.id AND s.call_id = n.call_id
          SET s.status = 'SUBMITTED', s.job_id = n.job_id
          WHERE s.kind <> 'timer' AND s.status IN ('PENDING', 'SUBMITTED')",
    is_exact: true,
};

// A trigger of the schema puts what is closed so into the inbox. Attempt and due time stay: they
// belong to the state of the execution, in which the call is open until it is taken in.
pub(super) static REPORT: Template = Template {
    columns: &["id", "call_id", "status", "result", "error_type", "error", "error_traceback", "at"],
    sql: "UPDATE ({rows}) n
          STRAIGHT_JOIN execution_steps s ON s.execution_id = n.id AND s.call_id = n.call_id
          SET s.result = n.result, s.error_type = n.error_type, s.error = n.error,
              s.error_traceback = n.error_traceback, s.completed_at = n.at, s.status = n.status
          WHERE s.kind <> 'timer' AND s.status IN ('PENDING', 'SUBMITTED')",
    is_exact: true,
};

const LEASES: &[&str] = &["id", "owner", "epoch", "wake_at"];

pub(super) static RELEASE: Template = Template {
    columns: LEASES,
    sql: "UPDATE ({rows}) n
          STRAIGHT_JOIN execution_locks l
              ON l.execution_id = n.id AND l.locked_by = n.owner AND l.epoch = n.epoch
          STRAIGHT_JOIN executions e ON e.id = n.id
          SET e.wake_at = n.wake_at",
    is_exact: false,
};

pub(super) static DROP_LEASES: Template = Template {
    columns: LEASES,
    sql: "DELETE l FROM ({rows}) n
          STRAIGHT_JOIN execution_locks l
              ON l.execution_id = n.id AND l.locked_by = n.owner AND l.epoch = n.epoch",
    is_exact: false,
};
