-- For MySQL 8.0.17 or later and MariaDB 10.6 or later. Every statement may be run again: a schema
-- change is no transaction here, so a migration that was cut off is done again from its start.
--
-- Instants are Unix milliseconds: DATETIME knows no time zone, and every program that reads one
-- thinks of another. FROM_UNIXTIME(created_at / 1000) shows them.
-- Ids are text, as on every other store, and compare as they are stored: with case and with
-- trailing spaces. Each server has another name for that, and reads only its own of the comments.
-- JSON is longtext: MySQL's json sorts keys and rewrites numbers, but the program must be given
-- exactly what it was; MariaDB's json is longtext anyway. JSON_VALUE and the like take it.
-- A payload is stored once: events refer to rows by call number.

CREATE TABLE IF NOT EXISTS programs (
    id varchar(64) NOT NULL PRIMARY KEY,        -- BLAKE3 of the definition
    definition longtext NOT NULL,               -- canonical JSON
    dictionary longblob,                        -- its first dump, for compressing the later ones
    created_at bigint NOT NULL
) ENGINE=InnoDB CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;

CREATE TABLE IF NOT EXISTS executions (
    id varchar(36) NOT NULL PRIMARY KEY,
    workflow_id text NOT NULL,
    program_id varchar(64) NOT NULL,
    status varchar(16) NOT NULL DEFAULT 'SCHEDULED',
    input_payload longtext NOT NULL,
    output_payload longtext,
    error_type text,
    error longtext,                             -- for PAUSED and CANCELLED: the reason
    error_traceback longtext,
    error_call bigint,                          -- the call whose failure was the cause
    parent_id varchar(36),
    namespace varchar(128) NOT NULL DEFAULT 'default',
    queue varchar(255) NOT NULL DEFAULT 'default',
    tags longtext,                              -- array of words
    idempotency_key varchar(640),
    priority int NOT NULL DEFAULT 0,
    version bigint NOT NULL DEFAULT 0,          -- number of transitions
    next_sequence bigint NOT NULL DEFAULT 1,    -- of the next event
    lease_epoch bigint NOT NULL DEFAULT 0,      -- of the last lease; never goes back
    inbox bigint NOT NULL DEFAULT 0,            -- calls closed from outside, not taken in yet
    control varchar(16),                        -- what an operator asks for
    control_reason longtext,                    -- and why
    wake_at bigint,                             -- when to claim it; NULL while it is leased
    requested_calls bigint NOT NULL DEFAULT 0,
    resume_groups bigint NOT NULL DEFAULT 0,
    closed_calls bigint NOT NULL DEFAULT 0,
    created_at bigint NOT NULL,
    started_at bigint,
    completed_at bigint,
    UNIQUE INDEX executions_idempotency_key (namespace, idempotency_key),
    INDEX executions_wake_at (wake_at, id),
    INDEX executions_inbox (inbox, id),
    INDEX executions_control (control, id),
    INDEX executions_status (status, id)
) ENGINE=InnoDB CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;

CREATE TABLE IF NOT EXISTS execution_steps (
    id bigint NOT NULL AUTO_INCREMENT PRIMARY KEY,
    execution_id varchar(36) NOT NULL,
    call_id bigint NOT NULL,
    step_order bigint NOT NULL,
    resume_group_id varchar(64) NOT NULL,       -- 'execution id:group number'
    kind varchar(16) NOT NULL DEFAULT 'function',
    step_name text NOT NULL,                    -- what the program calls it
    `function` text,                            -- what executors call it
    args longtext,
    kwargs longtext,
    options longtext,                           -- retry policy and timeout of this call
    line bigint NOT NULL DEFAULT 0,
    `column` bigint NOT NULL DEFAULT 0,
    delay_ms bigint,                            -- of a timer
    status varchar(16) NOT NULL DEFAULT 'PENDING',
    retry_count bigint NOT NULL DEFAULT 0,
    attempts bigint NOT NULL DEFAULT 1,
    due_at bigint,                              -- when a timer fires or the next attempt begins
    job_id text,
    result longtext,
    error_type text,
    error longtext,
    error_traceback longtext,
    applied boolean NOT NULL DEFAULT false,     -- the program was given what came of it
    created_at bigint NOT NULL,
    started_at bigint,
    completed_at bigint,
    UNIQUE INDEX execution_steps_call (execution_id, call_id),
    INDEX execution_steps_group (resume_group_id, status),
    INDEX execution_steps_job (job_id(64))
) ENGINE=InnoDB CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;

CREATE OR REPLACE VIEW calls AS SELECT * FROM execution_steps WHERE kind <> 'timer';

CREATE TABLE IF NOT EXISTS execution_events (
    id bigint NOT NULL AUTO_INCREMENT PRIMARY KEY,
    execution_id varchar(36) NOT NULL,
    sequence bigint NOT NULL,                   -- dense from 1
    transition_number bigint NOT NULL,          -- the version after the transition that wrote it
    event_type varchar(64) NOT NULL,
    event_payload longtext NOT NULL,
    timestamp bigint NOT NULL,
    UNIQUE INDEX execution_events_sequence (execution_id, sequence)
) ENGINE=InnoDB CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;

CREATE TABLE IF NOT EXISTS execution_state (
    execution_id varchar(36) NOT NULL PRIMARY KEY,
    state_snapshot longblob,
    current_step bigint NOT NULL DEFAULT 0,     -- calls that had ended
    position bigint NOT NULL DEFAULT 0,         -- the last event that is in the snapshot
    updated_at bigint NOT NULL
) ENGINE=InnoDB CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;

-- Leases: a row only while somebody holds one.
CREATE TABLE IF NOT EXISTS execution_locks (
    execution_id varchar(36) NOT NULL PRIMARY KEY,
    locked_by varchar(255) NOT NULL,
    acquired_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    epoch bigint NOT NULL,
    INDEX execution_locks_owner (locked_by)
) ENGINE=InnoDB CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;

CREATE TABLE IF NOT EXISTS workers (
    id varchar(255) NOT NULL PRIMARY KEY,       -- as in execution_locks.locked_by
    host text NOT NULL,
    pid bigint NOT NULL,
    queues longtext NOT NULL,                   -- array; empty for all
    functions longtext NOT NULL,                -- array
    concurrency bigint NOT NULL,
    version text NOT NULL,
    started_at bigint NOT NULL,
    seen_at bigint NOT NULL
) ENGINE=InnoDB CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;

CREATE TABLE IF NOT EXISTS tokens (
    id varchar(255) NOT NULL PRIMARY KEY,       -- the public half
    name text NOT NULL,
    role varchar(16) NOT NULL,
    namespace varchar(128),                     -- NULL for all
    secret_hash varbinary(32) NOT NULL,         -- BLAKE3 of the secret half
    created_at bigint NOT NULL,
    expires_at bigint,
    revoked_at bigint
) ENGINE=InnoDB CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;

-- The last batch that each open store has committed, and how many of them were news to others.
-- When the answer to a commit is lost, this tells whether it happened.
CREATE TABLE IF NOT EXISTS writers (
    id varchar(64) NOT NULL PRIMARY KEY,
    batch bigint NOT NULL,
    news bigint NOT NULL DEFAULT 0,
    seen_at bigint NOT NULL
) ENGINE=InnoDB CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;

-- Whoever closes a call from outside (a worker's report, an ORM, plain SQL) thereby puts it into
-- the inbox. The engine's own closing sets applied in the same statement.
DROP TRIGGER IF EXISTS execution_steps_report;
CREATE TRIGGER execution_steps_report AFTER UPDATE ON execution_steps FOR EACH ROW
IF NOT NEW.applied AND NEW.status IN ('SUCCESS', 'FAILED')
        AND OLD.status IN ('PENDING', 'SUBMITTED') THEN
    UPDATE executions SET inbox = inbox + 1 WHERE id = NEW.execution_id;
END IF;

-- Instead of foreign keys, which would cost a look-up for each row that is inserted.
DROP TRIGGER IF EXISTS executions_delete;
CREATE TRIGGER executions_delete AFTER DELETE ON executions FOR EACH ROW
BEGIN
    DELETE FROM execution_steps WHERE execution_id = OLD.id;
    DELETE FROM execution_events WHERE execution_id = OLD.id;
    DELETE FROM execution_state WHERE execution_id = OLD.id;
    DELETE FROM execution_locks WHERE execution_id = OLD.id;
END;
