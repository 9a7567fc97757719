//! Checkpoints in a SQLite file.

use std::{path::PathBuf, time::Duration};

use durable_core::{Error, Lease, Owner, Result};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};

use crate::{
    Ask, CheckpointId, ExecutionName, Provider,
    checkpoints::{is_held, is_lost},
    filesystem::{expiry_ms, now_ms},
};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS saved_checkpoints (
        execution TEXT NOT NULL, number INTEGER NOT NULL, stored BLOB NOT NULL,
        PRIMARY KEY (execution, number)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS saved_checkpoint_leases (
        execution TEXT PRIMARY KEY, owner TEXT NOT NULL, epoch INTEGER NOT NULL,
        expires_at_ms INTEGER NOT NULL) WITHOUT ROWID;";

/// How long to wait for another process that writes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Checkpoints in a SQLite file, which may be the one of a store.
pub struct SqliteProvider {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl SqliteProvider {
    /// Opens or makes a file, and its tables.
    ///
    /// # Errors
    /// `Unavailable` when there can be no such file; `Corrupt` when it is none of SQLite's.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let open = || {
            let connection = Connection::open(&path)?;
            connection.busy_timeout(PATIENCE)?;
            connection.pragma_update(None, "journal_mode", "wal")?;
            connection.pragma_update(None, "synchronous", "full")?;
            connection.execute_batch(SCHEMA)?;
            Ok(connection)
        };
        match open() {
            Ok(connection) => Ok(Self { path, connection: Mutex::new(connection) }),
            Err(error) => Err(failed(&path.display().to_string(), &error)),
        }
    }

    fn run<T>(&self, run: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T> {
        run(&mut self.connection.lock()).map_err(|error| failed(&self.place(), &error))
    }
}

impl Provider for SqliteProvider {
    fn acquire(&self, ask: &Ask<'_>) -> Result<u64> {
        let sql = "
            INSERT INTO saved_checkpoint_leases AS old VALUES (?1, ?2, 1, ?3)
            ON CONFLICT (execution) DO UPDATE
            SET owner = ?2, epoch = old.epoch + 1, expires_at_ms = ?3
            WHERE old.owner IN ('', ?2, ?5) OR old.expires_at_ms <= ?4
            RETURNING epoch";
        let gone = ask.gone.map_or("", Owner::as_str);
        let name = ask.execution.as_str();
        let given =
            params![name, ask.owner.as_str(), time(expiry_ms(ask.duration)), time(now_ms()), gone];
        let epoch = self.run(|connection| {
            connection.prepare_cached(sql)?.query_row(given, |row| row.get::<_, i64>(0)).optional()
        })?;
        match epoch {
            Some(epoch) => Ok(epoch.unsigned_abs()),
            None => {
                let holder = self.holder(ask.execution)?;
                Err(is_held(ask.execution, holder.as_ref().map_or("somebody else", Owner::as_str)))
            }
        }
    }

    fn renew(&self, execution: &ExecutionName, lease: &Lease, duration: Duration) -> Result<()> {
        let sql = "UPDATE saved_checkpoint_leases SET expires_at_ms = ?4
                   WHERE execution = ?1 AND owner = ?2 AND epoch = ?3";
        let name = execution.as_str();
        let given =
            params![name, lease.owner.as_str(), time(lease.epoch), time(expiry_ms(duration))];
        let changed = self.run(|connection| connection.prepare_cached(sql)?.execute(given))?;
        if changed == 1 { Ok(()) } else { Err(is_lost(execution)) }
    }

    fn release(&self, execution: &ExecutionName, lease: &Lease) -> Result<()> {
        let sql = "UPDATE saved_checkpoint_leases SET owner = ''
                   WHERE execution = ?1 AND owner = ?2 AND epoch = ?3";
        let given = params![execution.as_str(), lease.owner.as_str(), time(lease.epoch)];
        self.run(|connection| connection.prepare_cached(sql)?.execute(given)).map(drop)
    }

    fn holder(&self, execution: &ExecutionName) -> Result<Option<Owner>> {
        let sql = "SELECT owner FROM saved_checkpoint_leases WHERE execution = ?1 AND owner <> ''";
        let owner = self.run(|connection| {
            let mut statement = connection.prepare_cached(sql)?;
            statement.query_row([execution.as_str()], |row| row.get::<_, String>(0)).optional()
        })?;
        Ok(owner.map(|owner| Owner::new(&owner)))
    }

    fn save(&self, id: &CheckpointId, lease: &Lease, stored: &[u8]) -> Result<()> {
        let sql = "INSERT INTO saved_checkpoints
                   SELECT execution, ?4, ?5 FROM saved_checkpoint_leases
                   WHERE execution = ?1 AND owner = ?2 AND epoch = ?3
                   ON CONFLICT (execution, number) DO UPDATE SET stored = excluded.stored";
        let (name, owner) = (id.execution.as_str(), lease.owner.as_str());
        let given = params![name, owner, time(lease.epoch), time(id.number), stored];
        let changed = self.run(|connection| connection.prepare_cached(sql)?.execute(given))?;
        if changed == 1 { Ok(()) } else { Err(is_lost(&id.execution)) }
    }

    fn load(&self, id: &CheckpointId) -> Result<Option<Vec<u8>>> {
        let sql = "SELECT stored FROM saved_checkpoints WHERE execution = ?1 AND number = ?2";
        let given = params![id.execution.as_str(), time(id.number)];
        self.run(|connection| {
            connection.prepare_cached(sql)?.query_row(given, |row| row.get(0)).optional()
        })
    }

    fn list(&self, execution: &ExecutionName) -> Result<Vec<u64>> {
        let sql = "SELECT number FROM saved_checkpoints WHERE execution = ?1 ORDER BY number";
        self.run(|connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map([execution.as_str()], |row| row.get::<_, i64>(0))?;
            rows.map(|number| Ok(number?.unsigned_abs())).collect()
        })
    }

    fn delete(&self, id: &CheckpointId) -> Result<bool> {
        let sql = "DELETE FROM saved_checkpoints WHERE execution = ?1 AND number = ?2";
        let given = params![id.execution.as_str(), time(id.number)];
        Ok(self.run(|connection| connection.prepare_cached(sql)?.execute(given))? == 1)
    }

    fn cleanup(&self, execution: &ExecutionName, keep_last: usize) -> Result<usize> {
        let find = "SELECT number FROM saved_checkpoints WHERE execution = ?1
                    ORDER BY number DESC LIMIT 1 OFFSET ?2";
        let remove = "DELETE FROM saved_checkpoints WHERE execution = ?1 AND number <= ?2";
        let name = execution.as_str();
        self.run(|connection| {
            // Mostly there is nothing to remove, and nothing to wait for.
            let last = |connection: &Connection| {
                let mut statement = connection.prepare_cached(find)?;
                let given = params![name, i64::try_from(keep_last).unwrap_or(i64::MAX)];
                statement.query_row(given, |row| row.get::<_, i64>(0)).optional()
            };
            if last(connection)?.is_none() {
                return Ok(0);
            }
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let removed = match last(&transaction)? {
                Some(number) => transaction.execute(remove, params![name, number])?,
                None => 0,
            };
            transaction.commit()?;
            Ok(removed)
        })
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }
}

/// Numbers and times as SQLite has them; both are far from the edge.
fn time(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn failed(place: &str, error: &rusqlite::Error) -> Error {
    use rusqlite::ErrorCode;
    let message = format!("{place}: {error}");
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Error::corrupt(message),
        Some(ErrorCode::TooBig) => Error::invalid(message),
        _ => Error::unavailable(message),
    }
}
