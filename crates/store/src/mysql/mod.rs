//! The store in a MySQL or MariaDB database, shared by any number of processes on any number of
//! machines.

mod claim;
mod clock;
mod commit;
mod error;
mod explain;
mod inspect;
mod load;
mod news;
mod options;
mod payloads;
mod plan;
mod read;
pub mod schema;
mod session;
mod solo;
mod statement;
mod tables;

use std::{
    fmt,
    sync::{Arc, Weak},
};

use durable_core::{CallId, Error, ExecutionId, Owner, ProgramId, Recorded, Result, UnixMs};
use parking_lot::Mutex;

use crate::{
    CallRecord, ExecutionRecord, ListFilter, Loaded, PayloadChange, PayloadRow, PayloadTable,
    Store, StoredProgram, TokenRecord, WorkerRecord, Write, Written,
    batch::concerns_others,
    clock::{Clock, REFRESH, set_first},
    waiting::{PATIENCE, Pauses},
};
use commit::Writer;
use error::Outcome;
use news::News;
pub use options::MysqlOptions;
use session::{Connection, Frame, Sessions, get};

/// Executions in a database of MySQL 8.0.17 or later, or MariaDB 10.6 or later.
///
/// It may be used from any thread, also from one that belongs to an async runtime: it blocks that
/// thread, and does its own work on another.
///
/// ```no_run
/// use durable_store::{ListFilter, MysqlOptions, MysqlStore, Store};
/// let options = MysqlOptions::parse("mysql://durable:secret@localhost/durable")?;
/// let store = MysqlStore::open(&options)?;
/// assert!(store.list(&ListFilter::default())?.is_empty());
/// # Ok::<(), durable_core::Error>(())
/// ```
pub struct MysqlStore {
    writer: Mutex<Writer>,
    news: News,
    clock: Arc<Clock>,
    sessions: Arc<Sessions>,
    place: String,
}

impl MysqlStore {
    /// Connects to a database; creates its schema, or brings it up to date, when that is needed.
    /// Warns when the server is set up so that it may lose what it has acknowledged.
    ///
    /// # Errors
    /// As [`schema::migrate`].
    pub fn open(options: &MysqlOptions) -> Result<Self> {
        let sessions = Arc::new(Sessions::open(options)?);
        schema::prepare(&sessions, options.database())?;
        let id = writer_id()?;
        let clock = Arc::new(Clock::new());
        let news = News::new(id.clone());
        sessions.block_on(async {
            let mut connection = sessions.connection().await?;
            warn_of_loss(&mut connection).await?;
            news.look(&mut connection).await?;
            set_first(async || clock::measure(&clock, &mut connection).await).await
        })?;
        sessions.runtime()?.spawn(refresh(Arc::downgrade(&sessions), clock.clone()));
        let writer = Mutex::new(Writer::new(id));
        Ok(Self { writer, news, clock, sessions, place: options.to_string() })
    }

    /// Asks until there is an answer, or for a while.
    fn read<T>(&self, ask: impl AsyncFn(&mut Connection<'_>) -> Outcome<T>) -> Result<T> {
        let patiently = async {
            let mut pauses = Pauses::new(PATIENCE);
            loop {
                let asked = match self.sessions.connection().await {
                    Ok(mut connection) => ask(&mut connection).await,
                    Err(fault) => Err(fault),
                };
                match asked {
                    Err(fault) if fault.is_passing() => {
                        if !pauses.pause().await {
                            return Err(fault);
                        }
                    }
                    answered => return answered,
                }
            }
        };
        Ok(self.sessions.block_on(patiently)?)
    }

    /// Writes members that may be written twice: each by itself, without a transaction around it.
    fn keep_up(&self, batch: &[Write]) -> Option<Result<Vec<Result<Written>>>> {
        let statements: Option<Vec<_>> = batch.iter().map(solo::heartbeat).collect();
        let statements = statements?;
        let written = self.read(async |connection| connection.run(Frame::Bare, &statements).await);
        Some(written.map(|_| batch.iter().map(|_| Ok(Written::Done)).collect()))
    }
}

/// A commit is on the disk when it is acknowledged only if the server does it so.
async fn warn_of_loss(connection: &mut Connection<'_>) -> Outcome<()> {
    let sql = "SELECT @@innodb_flush_log_at_trx_commit, @@log_bin, @@sync_binlog";
    let rows = connection.ask(sql, &[]).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let (flush, log_bin, sync_binlog): (i64, i64, i64) = (get(row, 0)?, get(row, 1)?, get(row, 2)?);
    if flush != 1 {
        tracing::warn!(
            innodb_flush_log_at_trx_commit = flush,
            "a crash of the server may lose what it has acknowledged: set it to 1"
        );
    }
    if log_bin != 0 && sync_binlog != 1 {
        tracing::warn!(
            sync_binlog,
            "a power loss may lose what the server has acknowledged: set it to 1"
        );
    }
    Ok(())
}

/// Measures the clock anew for as long as the store is there.
async fn refresh(sessions: Weak<Sessions>, clock: Arc<Clock>) {
    loop {
        tokio::time::sleep(REFRESH).await;
        let Some(sessions) = sessions.upgrade() else { return };
        let measured = match sessions.connection().await {
            Ok(mut connection) => clock::measure(&clock, &mut connection).await,
            Err(fault) => Err(fault),
        };
        if let Err(fault) = measured {
            let error = Error::from(fault);
            tracing::debug!(%error, "the database was not asked for the time");
        }
    }
}

/// A name that no other store has.
fn writer_id() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::unavailable(format!("no randomness for a name: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Store for MysqlStore {
    fn commit(&self, batch: &[Write]) -> Result<Vec<Result<Written>>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(answers) = self.keep_up(batch) {
            return answers;
        }
        self.news.stir();
        let is_news = concerns_others(batch, self.clock.now_ms());
        let mut writer = self.writer.lock();
        Ok(self.sessions.block_on(writer.commit(&self.sessions, batch, is_news))?)
    }

    fn execution(&self, id: ExecutionId) -> Result<Option<ExecutionRecord>> {
        self.read(async |connection| read::execution(connection, id).await)
    }

    fn calls(&self, id: ExecutionId) -> Result<Vec<CallRecord>> {
        let calls = self.read(async |connection| load::calls(connection, id).await)?;
        Ok(calls.into_iter().map(|call| call.record).collect())
    }

    fn list(&self, filter: &ListFilter) -> Result<Vec<ExecutionRecord>> {
        self.read(async |connection| read::list(connection, filter).await)
    }

    fn journal(&self, id: ExecutionId, after_sequence: u64, limit: usize) -> Result<Vec<Recorded>> {
        self.read(async |connection| load::journal(connection, id, after_sequence, limit).await)
    }

    fn program(&self, id: &ProgramId) -> Result<Option<StoredProgram>> {
        self.read(async |connection| read::program(connection, id).await)
    }

    fn load(&self, id: ExecutionId) -> Result<Option<Loaded>> {
        let found =
            self.read(async |connection| load::load(connection, Frame::Read, &[id]).await)?;
        found.into_iter().next().map(|(_, loaded)| loaded).transpose()
    }

    fn inboxes(&self, owner: &Owner) -> Result<Vec<ExecutionId>> {
        self.read(async |connection| read::inboxes(connection, owner).await)
    }

    fn next_due_ms(&self, owner: &Owner, queues: &[String]) -> Result<Option<UnixMs>> {
        self.read(async |connection| read::next_due_ms(connection, owner, queues).await)
    }

    fn other_owners(&self, owner: &Owner) -> Result<Vec<Owner>> {
        self.read(async |connection| read::other_owners(connection, owner).await)
    }

    fn change_token(&self) -> Result<u64> {
        if self.news.is_due() {
            self.read(async |connection| self.news.look(connection).await)?;
        }
        Ok(self.news.token())
    }

    fn clock_ms(&self) -> Option<UnixMs> {
        Some(self.clock.now_ms())
    }

    fn call_of_job(&self, job_id: &str) -> Result<Option<(ExecutionId, CallId)>> {
        self.read(async |connection| read::call_of_job(connection, job_id).await)
    }

    fn workers(&self) -> Result<Vec<WorkerRecord>> {
        self.read(async |connection| read::workers(connection).await)
    }

    fn tokens(&self) -> Result<Vec<TokenRecord>> {
        self.read(async |connection| read::tokens(connection).await)
    }

    fn payloads(
        &self,
        table: PayloadTable,
        after: &(String, u64),
        limit: usize,
    ) -> Result<Vec<PayloadRow>> {
        self.read(async |connection| payloads::rows(connection, table, after, limit).await)
    }

    fn replace_payloads(&self, table: PayloadTable, changes: &[PayloadChange]) -> Result<()> {
        self.read(async |connection| payloads::replace(connection, table, changes).await)
    }

    fn check(&self) -> Result<Vec<String>> {
        self.read(async |connection| inspect::check(connection).await)
    }
}

impl fmt::Debug for MysqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MysqlStore({})", self.place)
    }
}
