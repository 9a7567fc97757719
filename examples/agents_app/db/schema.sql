-- The tables of durable-monty on Postgres. Written by scripts/write_schema.py: change nothing here.
--
--     psql -h localhost -U workflow -d workflow -f db/schema.sql
--
-- It may be applied any number of times, before or after `durable migrate` or the application has
-- made the tables: what is there is left as it is.

DO $durable$
DECLARE
    found bigint := 0;
BEGIN
    -- The lock under which `durable migrate` works.
    PERFORM pg_advisory_xact_lock(x'64757261'::bigint);
    IF to_regclass(quote_ident(current_schema()) || '.durable_versions') IS NOT NULL THEN
        EXECUTE 'SELECT coalesce(max(version), 0) FROM durable_versions' INTO found;
    END IF;

    IF found < 1 THEN
        EXECUTE $migration_1$
-- Instants are timestamptz, exact to the millisecond; what lies beyond their range is infinity.
-- Ids are text, as on every other store. A payload is `json`, not `jsonb`: the program must be
-- given exactly what it was, and jsonb drops the order of keys and the sign of zero, rewrites
-- numbers and refuses \u0000. `->`, `->>` and `::text` work on it all the same, and
-- `column::jsonb` gives the rest. NUL, which text can't hold, is written as '␛@' (and ␛ as '␛␛').
-- A payload is stored once: events refer to rows by call number.

CREATE TABLE durable_versions (                -- of this schema
    version bigint NOT NULL PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE programs (
    id text COLLATE "C" NOT NULL PRIMARY KEY,   -- BLAKE3 of the definition
    definition json NOT NULL,                   -- canonical
    dictionary bytea,                           -- its first dump, for compressing the later ones
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE executions (
    id text COLLATE "C" NOT NULL PRIMARY KEY,
    workflow_id text NOT NULL,
    program_id text COLLATE "C" NOT NULL,
    status text NOT NULL DEFAULT 'SCHEDULED',
    input_payload json NOT NULL DEFAULT '{}',
    output_payload json,
    error_type text,
    error text,                                 -- for PAUSED and CANCELLED: the reason
    error_traceback text,
    error_call bigint,                          -- the call whose failure was the cause
    parent_id text COLLATE "C",
    namespace text NOT NULL DEFAULT 'default',
    queue text NOT NULL DEFAULT 'default',
    tags jsonb,                                 -- array of words
    idempotency_key text,
    priority integer NOT NULL DEFAULT 0,
    version bigint NOT NULL DEFAULT 0,          -- number of transitions
    next_sequence bigint NOT NULL DEFAULT 1,    -- of the next event
    lease_epoch bigint NOT NULL DEFAULT 0,      -- of the last lease; never goes back
    inbox bigint NOT NULL DEFAULT 0,            -- calls closed from outside, not taken in yet
    control text,                               -- what an operator asks for
    control_reason text,                        -- and why
    wake_at timestamptz,                        -- when to claim it; NULL while it is leased
    requested_calls bigint NOT NULL DEFAULT 0,
    resume_groups bigint NOT NULL DEFAULT 0,
    closed_calls bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    started_at timestamptz,
    completed_at timestamptz
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX executions_idempotency_key
    ON executions (namespace, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX executions_wake_at ON executions (wake_at, id) WHERE wake_at IS NOT NULL;
CREATE INDEX executions_inbox ON executions (id) WHERE inbox > 0;
CREATE INDEX executions_control ON executions (id) WHERE control IS NOT NULL;
-- What people look for among many that went well.
CREATE INDEX executions_unwell ON executions (status, id)
    WHERE status IN ('FAILED', 'CANCELLED', 'PAUSED');

CREATE TABLE execution_steps (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    execution_id text COLLATE "C" NOT NULL,
    call_id bigint NOT NULL,
    step_order bigint NOT NULL,
    resume_group_id text COLLATE "C" NOT NULL,  -- 'execution id:group number'
    kind text NOT NULL DEFAULT 'function',
    step_name text NOT NULL,                    -- what the program calls it
    function text,                              -- what executors call it
    args json,
    kwargs json,
    options json,                               -- retry policy and timeout of this call
    line bigint NOT NULL DEFAULT 0,
    "column" bigint NOT NULL DEFAULT 0,
    delay_ms bigint,                            -- of a timer
    status text NOT NULL DEFAULT 'PENDING',
    retry_count bigint NOT NULL DEFAULT 0,
    attempts bigint NOT NULL DEFAULT 1,
    due_at timestamptz,                         -- when a timer fires or the next attempt begins
    job_id text,
    result json,
    error_type text,
    error text,
    error_traceback text,
    applied boolean NOT NULL DEFAULT false,     -- the program was given what came of it
    created_at timestamptz NOT NULL,
    started_at timestamptz,
    completed_at timestamptz,
    UNIQUE (execution_id, call_id)
) WITH (fillfactor = 80);
CREATE INDEX execution_steps_group ON execution_steps (resume_group_id, status);
CREATE INDEX execution_steps_job ON execution_steps (job_id) WHERE job_id IS NOT NULL;

CREATE VIEW calls AS SELECT * FROM execution_steps WHERE kind <> 'timer';

CREATE TABLE execution_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    execution_id text COLLATE "C" NOT NULL,
    sequence bigint NOT NULL,                   -- dense from 1
    transition_number bigint NOT NULL,          -- the version after the transition that wrote it
    event_type text NOT NULL,
    event_payload json NOT NULL,
    timestamp timestamptz NOT NULL,
    UNIQUE (execution_id, sequence)
);

CREATE TABLE execution_state (
    execution_id text COLLATE "C" NOT NULL PRIMARY KEY,
    state_snapshot bytea,
    current_step bigint NOT NULL DEFAULT 0,     -- calls that had ended
    position bigint NOT NULL DEFAULT 0,         -- the last event that is in the snapshot
    updated_at timestamptz NOT NULL
) WITH (fillfactor = 50);
-- Snapshots are compressed already.
ALTER TABLE execution_state ALTER COLUMN state_snapshot SET STORAGE EXTERNAL;

-- Leases: a row only while somebody holds one.
CREATE TABLE execution_locks (
    execution_id text COLLATE "C" NOT NULL PRIMARY KEY,
    locked_by text COLLATE "C" NOT NULL,
    acquired_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    epoch bigint NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE workers (
    id text COLLATE "C" NOT NULL PRIMARY KEY,   -- as in execution_locks.locked_by
    host text NOT NULL,
    pid bigint NOT NULL,
    queues text[] NOT NULL,                     -- empty for all
    functions text[] NOT NULL,
    concurrency bigint NOT NULL,
    version text NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE tokens (
    id text COLLATE "C" NOT NULL PRIMARY KEY,   -- the public half
    name text NOT NULL,
    role text NOT NULL,
    namespace text,                             -- NULL for all
    secret_hash bytea NOT NULL,                 -- BLAKE3 of the secret half
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz
);

-- The last batch that each open store has committed. When the answer to a commit is lost, this
-- tells whether it happened.
CREATE TABLE writers (
    id text COLLATE "C" NOT NULL PRIMARY KEY,
    batch bigint NOT NULL,
    seen_at timestamptz NOT NULL
) WITH (fillfactor = 20);

-- Ends the transaction unless as many rows were written as had to be: a writer has lost its
-- comparison.
CREATE FUNCTION durable_require(written bigint, expected bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF written <> expected THEN
        RAISE EXCEPTION 'durable: % of % rows', written, expected USING ERRCODE = 'DU001';
    END IF;
END $$;

-- Whoever closes a call from outside (a worker's report, an ORM, plain SQL) thereby puts it into
-- the inbox. The engine's own closing sets applied in the same statement.
CREATE FUNCTION durable_report() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE executions SET inbox = inbox + 1 WHERE id = NEW.execution_id;
    RETURN NULL;
END $$;
CREATE TRIGGER execution_steps_report
AFTER UPDATE OF status ON execution_steps FOR EACH ROW
WHEN (NOT NEW.applied AND NEW.status IN ('SUCCESS', 'FAILED')
      AND OLD.status IN ('PENDING', 'SUBMITTED'))
EXECUTE FUNCTION durable_report();

-- Instead of foreign keys, which would cost a look-up for each row that is inserted.
CREATE FUNCTION durable_delete() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM execution_steps WHERE execution_id = OLD.id;
    DELETE FROM execution_events WHERE execution_id = OLD.id;
    DELETE FROM execution_state WHERE execution_id = OLD.id;
    DELETE FROM execution_locks WHERE execution_id = OLD.id;
    RETURN NULL;
END $$;
CREATE TRIGGER executions_delete
AFTER DELETE ON executions FOR EACH ROW EXECUTE FUNCTION durable_delete();
$migration_1$;
        EXECUTE 'INSERT INTO durable_versions (version) VALUES (1)';
    END IF;
END
$durable$;
