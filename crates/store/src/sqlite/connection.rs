//! Connections: one that writes, some that read.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use durable_core::{Error, Result};
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, config::DbConfig};

use super::{
    Synchronous,
    error::{Outcome, from_sqlite, is_busy},
};

/// Measured on the workload of `examples/floor.rs`.
const PAGE_SIZE: u32 = 4096;
/// Pages in the write-ahead log before they are carried over to the file. The hot pages are
/// written over and over: the more of that happens in the log, the less reaches the file.
const CHECKPOINT_PAGES: u32 = 2_000;
/// The log is made this long ahead: a commit that makes it grow takes twice as long.
pub(super) const LOG_BYTES: u64 = CHECKPOINT_PAGES as u64 * (PAGE_SIZE as u64 + 24);
/// A log that grew under a long read is cut back to this.
const LOG_LIMIT_BYTES: u64 = 64 << 20;
/// Page cache of the writer, in KiB (SQLite wants it negative).
const WRITER_CACHE_KIB: i64 = -6 << 10;
/// Readers kept open for the next read.
const MAX_IDLE_READERS: usize = 4;
/// Statements kept prepared by a connection; more than there are.
const STATEMENTS: usize = 64;

/// Opens a file for writing, and creates it when it is not there.
pub(super) fn open_writer(path: &Path, busy_timeout: Duration) -> Result<Connection> {
    if path.as_os_str() == ":memory:" {
        return Err(Error::invalid("the SQLite store needs a file: use MemoryStore instead"));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(busy_timeout)?;
        keep_statements(&connection)?;
        connection.pragma_update(None, "cache_size", WRITER_CACHE_KIB)?;
        connection.pragma_update(None, "temp_store", "memory")?;
        connection.pragma_update(None, "foreign_keys", false)?;
        // Without effect unless the file is empty.
        connection.pragma_update(None, "page_size", PAGE_SIZE)?;
        Ok(connection)
    };
    open().map_err(|error| match from_sqlite(&error) {
        Error::Unavailable(message) => Error::unavailable(format!("{}: {message}", path.display())),
        other => other,
    })
}

/// Keeps statements prepared, whatever is bound to them: without the stability guarantee SQLite
/// prepares a statement again for each new value that its plan could depend on.
fn keep_statements(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Switches the file to a write-ahead log, so that readers and the writer don't block each other.
pub(super) fn use_wal(connection: &Connection) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mode = loop {
        // SQLite does not wait here by itself when another process switches at the same time.
        let switched = connection
            .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0));
        match switched {
            Err(error) if is_busy(&error) && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            other => break other.map_err(|error| from_sqlite(&error))?,
        }
    };
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(Error::unavailable(format!(
            "the file system does not carry SQLite's write-ahead log (journal_mode is {mode}): \
             put the database on a local disk"
        )));
    }
    Ok(())
}

/// The settings that hold for the life of the writer.
pub(super) fn configure_writer(
    connection: &Connection,
    path: &Path,
    synchronous: Synchronous,
) -> Result<()> {
    let configure = || -> rusqlite::Result<()> {
        connection.pragma_update(None, "synchronous", synchronous.as_pragma())?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        connection.pragma_update(None, "journal_size_limit", LOG_LIMIT_BYTES as i64)?;
        Ok(())
    };
    configure().map_err(|error| from_sqlite(&error))?;
    if synchronous == Synchronous::Full
        && log_bytes(path) < LOG_BYTES
        && let Err(error) = lengthen_log(connection)
    {
        // Nothing depends on it; another process may be writing, or the disk may be full.
        tracing::debug!(%error, "the log was not made longer ahead");
    }
    Ok(())
}

/// How long the log is; 0 when there is none.
pub(super) fn log_bytes(path: &Path) -> u64 {
    // SQLite puts it beside the file that a link points to.
    let mut log = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).into_os_string();
    log.push("-wal");
    fs::metadata(log).map_or(0, |metadata| metadata.len())
}

/// Writes the log's blocks in a transaction that is rolled back: it is too large for the page
/// cache, so its pages go to the log, and stay there as space for the commits to come.
fn lengthen_log(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "cache_size", 16)?;
    let filled = connection.unchecked_transaction().and_then(|transaction| {
        transaction.execute_batch("CREATE TABLE filler (bytes BLOB)")?;
        // The cache keeps the last few.
        let bytes = (LOG_BYTES + LOG_BYTES / 16) as i64;
        transaction.execute("INSERT INTO filler VALUES (zeroblob(?1))", [bytes])?;
        transaction.rollback()
    });
    connection.pragma_update(None, "cache_size", WRITER_CACHE_KIB)?;
    filled
}

/// Connections that only read, opened when they are needed.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    busy_timeout: Duration,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: &Path, busy_timeout: Duration) -> Self {
        Self { path: path.to_owned(), busy_timeout, idle: Mutex::default() }
    }

    /// Reads one consistent state of the database.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Connection) -> Outcome<T>) -> Result<T> {
        let idle = self.idle.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.open().map_err(|error| from_sqlite(&error))?,
        };
        let found = consistently(&connection, read).map_err(Error::from);
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IDLE_READERS {
            idle.push(connection);
        }
        found
    }

    fn open(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(self.busy_timeout)?;
        keep_statements(&connection)?;
        connection.pragma_update(None, "temp_store", "memory")?;
        Ok(connection)
    }
}

fn consistently<T>(
    connection: &Connection,
    read: impl FnOnce(&Connection) -> Outcome<T>,
) -> Outcome<T> {
    // Dropped, and thereby ended, whatever becomes of the read.
    let transaction = connection.unchecked_transaction()?;
    read(&transaction)
}
