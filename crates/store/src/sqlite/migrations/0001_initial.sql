-- Rows lie in the order they arrive (rowid tables) with narrow secondary indexes.
-- Instants are Unix milliseconds, ids are text, payloads are JSON text, statuses are
-- upper-case words. A payload is stored once: events refer to rows by call number.

CREATE TABLE IF NOT EXISTS programs (
    id TEXT NOT NULL PRIMARY KEY,       -- BLAKE3 of the definition
    definition TEXT NOT NULL,           -- canonical JSON
    dictionary BLOB,                    -- its first dump, for compressing the later ones
    created_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
);

CREATE TABLE IF NOT EXISTS executions (
    id TEXT NOT NULL PRIMARY KEY,
    workflow_id TEXT NOT NULL,
    program_id TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'SCHEDULED',
    input_payload TEXT NOT NULL DEFAULT '{}',
    output_payload TEXT,
    error_type TEXT,
    error TEXT,                         -- for PAUSED and CANCELLED: the reason
    error_traceback TEXT,
    error_call INTEGER,                 -- the call whose failure was the cause
    parent_id TEXT,
    tags TEXT,
    idempotency_key TEXT,
    priority INTEGER NOT NULL DEFAULT 0,
    queue TEXT,
    version INTEGER NOT NULL DEFAULT 0,         -- number of transitions
    next_sequence INTEGER NOT NULL DEFAULT 1,   -- of the next event
    lease_epoch INTEGER NOT NULL DEFAULT 0,     -- of the last lease; never goes back
    inbox INTEGER NOT NULL DEFAULT 0,           -- calls closed from outside, not taken in yet
    control TEXT,                               -- what an operator asks for
    wake_at INTEGER,                            -- when to claim it; NULL while it is leased
    requested_calls INTEGER NOT NULL DEFAULT 0,
    resume_groups INTEGER NOT NULL DEFAULT 0,
    closed_calls INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    completed_at INTEGER
);
CREATE UNIQUE INDEX IF NOT EXISTS executions_idempotency_key
    ON executions (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX IF NOT EXISTS executions_wake_at
    ON executions (wake_at, id) WHERE wake_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS executions_inbox ON executions (id) WHERE inbox > 0;
CREATE INDEX IF NOT EXISTS executions_control ON executions (id) WHERE control IS NOT NULL;

CREATE TABLE IF NOT EXISTS execution_steps (
    id INTEGER PRIMARY KEY,
    execution_id TEXT NOT NULL,
    call_id INTEGER NOT NULL,
    step_order INTEGER NOT NULL,
    resume_group_id TEXT NOT NULL,      -- 'execution id:group number'
    kind TEXT NOT NULL DEFAULT 'function',
    step_name TEXT NOT NULL,            -- what the program calls it
    function TEXT,                      -- what executors call it
    args TEXT,
    kwargs TEXT,
    options TEXT,                       -- retry policy and timeout of this call
    line INTEGER NOT NULL DEFAULT 0,
    "column" INTEGER NOT NULL DEFAULT 0,
    delay_ms INTEGER,                   -- of a timer
    status TEXT NOT NULL DEFAULT 'PENDING',
    retry_count INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 1,
    due_at INTEGER,                     -- when a timer fires or the next attempt begins
    job_id TEXT,
    result TEXT,
    error_type TEXT,
    error TEXT,
    error_traceback TEXT,
    applied INTEGER NOT NULL DEFAULT 0, -- the program was given what came of it
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    completed_at INTEGER,
    UNIQUE (execution_id, call_id)
);
CREATE INDEX IF NOT EXISTS execution_steps_group ON execution_steps (resume_group_id, status);
-- The calls an execution still waits for, found without looking at those it is done with.
CREATE INDEX IF NOT EXISTS execution_steps_open ON execution_steps (execution_id) WHERE applied = 0;

CREATE VIEW IF NOT EXISTS calls AS SELECT * FROM execution_steps WHERE kind <> 'timer';

CREATE TABLE IF NOT EXISTS execution_events (
    id INTEGER PRIMARY KEY,
    execution_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,          -- dense from 1
    transition_number INTEGER NOT NULL, -- the version after the transition that wrote it
    event_type TEXT NOT NULL,
    event_payload TEXT NOT NULL,
    timestamp INTEGER NOT NULL,
    UNIQUE (execution_id, sequence)
);

CREATE TABLE IF NOT EXISTS execution_state (
    execution_id TEXT NOT NULL PRIMARY KEY,
    state_snapshot BLOB,
    current_step INTEGER NOT NULL DEFAULT 0, -- calls that had ended
    position INTEGER NOT NULL DEFAULT 0,     -- the last event that is in the snapshot
    updated_at INTEGER NOT NULL
);

-- Leases: a row only while somebody holds one.
CREATE TABLE IF NOT EXISTS execution_locks (
    execution_id TEXT NOT NULL PRIMARY KEY,
    locked_by TEXT NOT NULL,
    acquired_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    epoch INTEGER NOT NULL
) WITHOUT ROWID;

-- Whoever closes a call from outside (a worker's report, an ORM, plain SQL) thereby puts it into
-- the inbox. The engine's own closing sets applied = 1 in the same statement.
CREATE TRIGGER IF NOT EXISTS execution_steps_report
AFTER UPDATE OF status ON execution_steps
WHEN NEW.applied = 0
    AND NEW.status IN ('SUCCESS', 'FAILED')
    AND OLD.status IN ('PENDING', 'SUBMITTED')
BEGIN
    UPDATE executions SET inbox = inbox + 1 WHERE id = NEW.execution_id;
END;

-- Instead of foreign keys, which would cost a look-up for each row that is inserted.
CREATE TRIGGER IF NOT EXISTS executions_delete
AFTER DELETE ON executions
BEGIN
    DELETE FROM execution_steps WHERE execution_id = OLD.id;
    DELETE FROM execution_events WHERE execution_id = OLD.id;
    DELETE FROM execution_state WHERE execution_id = OLD.id;
    DELETE FROM execution_locks WHERE execution_id = OLD.id;
END;
