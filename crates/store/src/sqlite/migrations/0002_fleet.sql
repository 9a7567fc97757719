-- Many workers, many tenants: queues and namespaces, the list of workers, access tokens.

ALTER TABLE executions ADD COLUMN namespace TEXT NOT NULL DEFAULT 'default';
ALTER TABLE executions ADD COLUMN control_reason TEXT; -- why an operator asks for it

UPDATE executions SET queue = 'default' WHERE queue IS NULL;

DROP INDEX executions_idempotency_key;
CREATE UNIQUE INDEX executions_idempotency_key
    ON executions (namespace, idempotency_key) WHERE idempotency_key IS NOT NULL;
-- What people look for among many that went well. Not IN (...): no query would use that, and each
-- update would make a table of the words.
CREATE INDEX executions_unwell ON executions (status, id)
    WHERE status = 'FAILED' OR status = 'CANCELLED' OR status = 'PAUSED';

CREATE INDEX execution_steps_job ON execution_steps (job_id) WHERE job_id IS NOT NULL;

CREATE TABLE IF NOT EXISTS workers (
    id TEXT NOT NULL PRIMARY KEY,       -- as in execution_locks.locked_by
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    queues TEXT NOT NULL,               -- JSON array; empty for all
    functions TEXT NOT NULL,            -- JSON array
    concurrency INTEGER NOT NULL,
    version TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS tokens (
    id TEXT NOT NULL PRIMARY KEY,       -- the public half
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    namespace TEXT,                     -- NULL for all
    secret_hash BLOB NOT NULL,          -- BLAKE3 of the secret half
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER
) WITHOUT ROWID;
