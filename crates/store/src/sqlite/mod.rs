//! The store in one SQLite file.
//!
//! One connection writes, and commits a whole batch as one transaction; a few others read beside
//! it (the file has a write-ahead log). Several processes may use one file.

mod claim;
mod connection;
mod error;
mod inspect;
mod load;
mod payloads;
mod read;
mod registry;
pub mod schema;
mod steps;
mod transition;
mod write;

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use durable_core::{CallId, Error, ExecutionId, Owner, ProgramId, Recorded, Result, UnixMs};
use parking_lot::Mutex;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::{
    CallRecord, ExecutionRecord, ListFilter, Loaded, PayloadChange, PayloadRow, PayloadTable,
    Store, StoredProgram, TokenRecord, WorkerRecord, Write, Written,
};
use connection::Readers;
use error::{Fault, Outcome};

/// How sure a commit is when it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Synchronous {
    /// It survives a power loss.
    #[default]
    Full,
    /// It survives a crash of the process; a power loss may take the last commits back.
    Normal,
    /// It survives a crash of the process; a power loss may damage the file. For tests.
    Off,
}

impl Synchronous {
    fn as_pragma(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Normal => "NORMAL",
            Self::Off => "OFF",
        }
    }
}

/// How a [`SqliteStore`] is opened.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// How sure a commit is when it is acknowledged.
    pub synchronous: Synchronous,
    /// How long to wait for another process that is writing.
    pub busy_timeout: Duration,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { synchronous: Synchronous::Full, busy_timeout: Duration::from_secs(5) }
    }
}

/// Executions in a SQLite file.
///
/// ```
/// use durable_store::{ListFilter, SqliteOptions, SqliteStore, Store};
/// # let directory = tempfile::tempdir().map_err(|error| durable_core::Error::internal(error.to_string()))?;
/// let path = directory.path().join("durable.db");
/// let store = SqliteStore::open(&path, SqliteOptions::default())?;
/// assert!(store.list(&ListFilter::default())?.is_empty());
/// # Ok::<(), durable_core::Error>(())
/// ```
#[derive(Debug)]
pub struct SqliteStore {
    writer: Mutex<Connection>,
    readers: Readers,
    /// SQLite's count of other connections' commits, as the writer saw it last.
    seen: AtomicU64,
}

impl SqliteStore {
    /// Opens a file; creates it, or brings its schema up to date, when that is needed.
    ///
    /// # Errors
    /// As [`schema::migrate`].
    pub fn open(path: &Path, options: SqliteOptions) -> Result<Self> {
        let mut writer = connection::open_writer(path, options.busy_timeout)?;
        schema::prepare(&mut writer)?;
        connection::configure_writer(&writer, path, options.synchronous)?;
        let store = Self {
            writer: Mutex::new(writer),
            readers: Readers::new(path, options.busy_timeout),
            seen: AtomicU64::new(0),
        };
        store.change_token()?;
        Ok(store)
    }
}

/// Whether each member of a batch gets a savepoint of its own to go back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Savepoints {
    None,
    EachMember,
}

/// The answers of a batch, or `None` when a member failed after it had written something and
/// there was no savepoint to go back to.
type Answers = Option<Vec<Result<Written>>>;

/// Runs a batch as one transaction.
///
/// A member that loses nearly always loses its first comparison, before it has written anything.
/// So a batch is first run without savepoints, which cost about as much as a member itself; only
/// if a member fails half-way, all of it is run again with them.
fn run(writer: &Connection, batch: &[Write], savepoints: Savepoints) -> Outcome<Answers> {
    let transaction = begin(writer)?;
    let mut answers = Vec::with_capacity(batch.len());
    for write in batch {
        let changes_before = transaction.total_changes();
        if savepoints == Savepoints::EachMember {
            transaction.prepare_cached("SAVEPOINT member")?.execute([])?;
        }
        match write::apply(&transaction, write) {
            Ok(written) => answers.push(Ok(written)),
            Err(fault) if !fault.is_of_one_member() => return Err(fault),
            Err(fault) => {
                let wrote = transaction.total_changes() != changes_before;
                match savepoints {
                    Savepoints::None if wrote => return Ok(None),
                    Savepoints::None => {}
                    Savepoints::EachMember => {
                        transaction.prepare_cached("ROLLBACK TO member")?.execute([])?;
                    }
                }
                answers.push(Err(fault.into()));
            }
        }
        if savepoints == Savepoints::EachMember {
            transaction.prepare_cached("RELEASE member")?.execute([])?;
        }
    }
    transaction.commit()?;
    Ok(Some(answers))
}

/// Takes the write lock. It is rolled back when it is dropped.
fn begin(writer: &Connection) -> Outcome<Transaction<'_>> {
    let begin =
        || Transaction::new_unchecked(writer, TransactionBehavior::Immediate).map_err(Fault::from);
    match begin() {
        // The busy timeout has passed; once more, for SQLite does not wait in every case.
        Err(fault) if fault.is_busy() => begin(),
        other => other,
    }
}

impl Store for SqliteStore {
    fn commit(&self, batch: &[Write]) -> Result<Vec<Result<Written>>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let writer = self.writer.lock();
        let answers = match run(&writer, batch, Savepoints::None)? {
            Some(answers) => answers,
            None => run(&writer, batch, Savepoints::EachMember)?
                .ok_or_else(|| Error::internal("a savepoint was not gone back to"))?,
        };
        if let Err(error) = self.note_changes(&writer) {
            // The batch is durable; that must be said whatever else fails.
            tracing::debug!(%error, "the change counter could not be read");
        }
        Ok(answers)
    }

    fn execution(&self, id: ExecutionId) -> Result<Option<ExecutionRecord>> {
        self.readers.read(|connection| read::execution(connection, id))
    }

    fn calls(&self, id: ExecutionId) -> Result<Vec<CallRecord>> {
        self.readers.read(|connection| read::calls(connection, id))
    }

    fn list(&self, filter: &ListFilter) -> Result<Vec<ExecutionRecord>> {
        self.readers.read(|connection| read::list(connection, filter))
    }

    fn journal(&self, id: ExecutionId, after_sequence: u64, limit: usize) -> Result<Vec<Recorded>> {
        self.readers.read(|connection| load::journal(connection, id, after_sequence, limit))
    }

    fn program(&self, id: &ProgramId) -> Result<Option<StoredProgram>> {
        self.readers.read(|connection| read::program(connection, id))
    }

    fn load(&self, id: ExecutionId) -> Result<Option<Loaded>> {
        self.readers.read(|connection| load::load(connection, id))
    }

    fn inboxes(&self, owner: &Owner) -> Result<Vec<ExecutionId>> {
        self.readers.read(|connection| read::inboxes(connection, owner))
    }

    fn next_due_ms(&self, owner: &Owner, queues: &[String]) -> Result<Option<UnixMs>> {
        self.readers.read(|connection| read::next_due_ms(connection, owner, queues))
    }

    fn other_owners(&self, owner: &Owner) -> Result<Vec<Owner>> {
        self.readers.read(|connection| read::other_owners(connection, owner))
    }

    fn change_token(&self) -> Result<u64> {
        // The writer is asked because its own commits don't count for it. While it is busy
        // committing, the number from before is good enough: each commit ends by noting it.
        if let Some(writer) = self.writer.try_lock() {
            self.note_changes(&writer)?;
        }
        Ok(self.seen.load(Ordering::Acquire))
    }

    fn call_of_job(&self, job_id: &str) -> Result<Option<(ExecutionId, CallId)>> {
        self.readers.read(|connection| registry::call_of_job(connection, job_id))
    }

    fn workers(&self) -> Result<Vec<WorkerRecord>> {
        self.readers.read(registry::workers)
    }

    fn tokens(&self) -> Result<Vec<TokenRecord>> {
        self.readers.read(registry::tokens)
    }

    fn payloads(
        &self,
        table: PayloadTable,
        after: &(String, u64),
        limit: usize,
    ) -> Result<Vec<PayloadRow>> {
        self.readers.read(|connection| payloads::rows(connection, table, after, limit))
    }

    fn replace_payloads(&self, table: PayloadTable, changes: &[PayloadChange]) -> Result<()> {
        Ok(payloads::replace(&self.writer.lock(), table, changes)?)
    }

    fn check(&self) -> Result<Vec<String>> {
        self.readers.read(inspect::check)
    }
}

impl SqliteStore {
    fn note_changes(&self, writer: &Connection) -> Result<()> {
        let version = || -> rusqlite::Result<i64> {
            writer.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
        };
        let version = version().map_err(|error| error::from_sqlite(&error))?;
        self.seen.store(version as u64, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use durable_core::{Definition, Language, Program};

    use super::*;

    fn program(source: &str) -> Write {
        Write::PutProgram(Arc::new(Program::new(Definition {
            language: Language::Python,
            source: source.into(),
            functions: Default::default(),
            inputs: Vec::new(),
            limits: Default::default(),
        })))
    }

    #[test]
    fn a_full_disk_fails_the_batch_and_leaves_the_rest_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("full.db");
        let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
        store.commit(&[program("first")]).unwrap();
        // The file must not grow any more: what SQLite says then is what it says of a full disk.
        let limit_pages = |pages: i64| {
            let writer = store.writer.lock();
            writer.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
        };
        limit_pages(1);
        let answer = store.commit(&[program("second"), program(&"x".repeat(1 << 20))]);
        assert!(
            matches!(&answer, Err(Error::Unavailable(message)) if message.contains("full")),
            "{answer:?}"
        );
        let Write::PutProgram(second) = program("second") else { unreachable!() };
        assert!(store.program(second.id()).unwrap().is_none());
        assert!(store.check().unwrap().is_empty());
        limit_pages(1 << 30);
        store.commit(&[program("second")]).unwrap().remove(0).unwrap();
        assert!(store.program(second.id()).unwrap().is_some());
    }

    #[test]
    fn a_statement_is_prepared_once_for_all_values() {
        let directory = tempfile::tempdir().unwrap();
        let store =
            SqliteStore::open(&directory.path().join("p.db"), SqliteOptions::default()).unwrap();
        let prepared_again = |connection: &Connection| {
            for seed in 0..3 {
                let id = ExecutionId::new(0, [seed; 10]);
                assert!(read::execution(connection, id)?.is_none());
            }
            let statement = read::execution_by_id(connection)?;
            Ok(statement.get_status(rusqlite::StatementStatus::RePrepare))
        };
        assert_eq!(store.readers.read(prepared_again).unwrap(), 0);
        assert_eq!(prepared_again(&store.writer.lock()).unwrap(), 0);
    }

    #[test]
    fn commits_find_the_log_long_enough_and_the_file_stays_small() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log.db");
        let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
        let log_bytes = connection::log_bytes(&path);
        assert!(log_bytes >= connection::LOG_BYTES);
        for name in ["first", "second"] {
            store.commit(&[program(name)]).unwrap().remove(0).unwrap();
            // A second process finds it long enough as well.
            SqliteStore::open(&path, SqliteOptions::default()).unwrap();
            assert_eq!(connection::log_bytes(&path), log_bytes);
        }
        drop(store);
        assert_eq!(connection::log_bytes(&path), 0);
        assert!(path.metadata().unwrap().len() < log_bytes / 8);
    }

    #[test]
    fn synchronous_is_full_unless_asked_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        for (options, expected) in [
            (SqliteOptions::default(), 2),
            (SqliteOptions { synchronous: Synchronous::Normal, ..Default::default() }, 1),
            (SqliteOptions { synchronous: Synchronous::Off, ..Default::default() }, 0),
        ] {
            let store = SqliteStore::open(&directory.path().join("s.db"), options).unwrap();
            let pragma = |name: &str| {
                let writer = store.writer.lock();
                writer.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap()
            };
            assert_eq!(pragma("synchronous"), expected);
            assert_eq!(pragma("foreign_keys"), 0);
        }
    }
}
