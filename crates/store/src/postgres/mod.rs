//! The store in a Postgres database, shared by any number of processes on any number of machines.

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
mod tls;
mod value;

use std::{fmt, sync::Arc};

use durable_core::{CallId, ExecutionId, Owner, ProgramId, Recorded, Result, UnixMs};
use parking_lot::Mutex;

use crate::{
    CallRecord, ExecutionRecord, ListFilter, Loaded, PayloadChange, PayloadRow, PayloadTable,
    Store, StoredProgram, TokenRecord, Wake, WorkerRecord, Write, Written,
    clock::{Clock, REFRESH, set_first},
    waiting::{PATIENCE, Pauses},
};
use commit::Writer;
use error::{Fault, Outcome};
use news::News;
pub use options::PostgresOptions;
use session::{Connection, Frame, Sessions, Statement};

/// Batches of so few members are those of somebody who waits; larger ones are many at work.
const FEW: usize = 2;

/// Executions in a Postgres database, version 12 or later, also through PgBouncer.
///
/// It may be used from any thread, also from one that belongs to an async runtime: it blocks that
/// thread, and does its own work on another.
///
/// ```no_run
/// use durable_store::{ListFilter, PostgresOptions, PostgresStore, Store};
/// let options = PostgresOptions::parse("postgresql://durable@localhost/durable")?;
/// let store = PostgresStore::open(&options)?;
/// assert!(store.list(&ListFilter::default())?.is_empty());
/// # Ok::<(), durable_core::Error>(())
/// ```
pub struct PostgresStore {
    writer: Mutex<Writer>,
    news: Arc<News>,
    clock: Arc<Clock>,
    sessions: Arc<Sessions>,
    /// Of the writer.
    session: Sessions,
    place: String,
}

impl PostgresStore {
    /// Connects to a database; creates its schema, or brings it up to date, when that is needed.
    ///
    /// # Errors
    /// As [`schema::migrate`].
    pub fn open(options: &PostgresOptions) -> Result<Self> {
        let sessions = Arc::new(Sessions::open(options)?);
        schema::prepare(&sessions)?;
        let id = writer_id()?;
        let clock = Arc::new(Clock::new());
        let schema = sessions.block_on(async {
            let connection = sessions.connection().await?;
            set_first(async || clock::measure(&clock, &connection).await).await?;
            let sql = "SELECT current_schema()::text";
            let rows = connection.run(Frame::Bare, &[Statement::new(sql, Vec::new())]).await?;
            Ok(rows.iter().flatten().next().map_or(String::new(), |row| row.get(0)))
        })?;
        let news = News::new(id.clone(), &schema);
        if sessions.are_own() {
            let listen = news.clone().listen(options.clone(), tls::connector(options)?);
            sessions.runtime()?.spawn(listen);
            news.wait_until_listening();
        }
        sessions.runtime()?.spawn(refresh(Arc::downgrade(&sessions), clock.clone()));
        let session = Sessions::of_writer(options, &sessions)?;
        let writer = Mutex::new(Writer::new(id));
        Ok(Self { writer, news, clock, sessions, session, place: options.to_string() })
    }

    /// Asks until there is an answer, or for a while.
    fn read<T>(&self, ask: impl AsyncFn(&Connection<'_>) -> Outcome<T>) -> Result<T> {
        let patiently = async {
            let mut pauses = Pauses::new(PATIENCE);
            loop {
                let fault = match self.sessions.connection().await {
                    Ok(connection) => match ask(&connection).await {
                        Ok(found) => return Ok(found),
                        Err(fault) => {
                            if matches!(fault, Fault::Broken(_)) {
                                connection.discard();
                            }
                            fault
                        }
                    },
                    Err(fault) => fault,
                };
                if matches!(fault, Fault::Pooled(_)) {
                    self.sessions.stop_preparing();
                }
                if !fault.is_passing() || !pauses.pause().await {
                    return Err(fault);
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

/// Measures the clock anew for as long as the store is there.
async fn refresh(sessions: std::sync::Weak<Sessions>, clock: Arc<Clock>) {
    loop {
        tokio::time::sleep(REFRESH).await;
        let Some(sessions) = sessions.upgrade() else { return };
        let measured = match sessions.connection().await {
            Ok(connection) => clock::measure(&clock, &connection).await,
            Err(fault) => Err(fault),
        };
        if let Err(fault) = measured {
            let error = durable_core::Error::from(fault);
            tracing::debug!(%error, "the database was not asked for the time");
        }
    }
}

/// A name that no other store has.
fn writer_id() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        durable_core::Error::unavailable(format!("no randomness for a name: {error}"))
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Store for PostgresStore {
    fn commit(&self, batch: &[Write]) -> Result<Vec<Result<Written>>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(answers) = self.keep_up(batch) {
            return answers;
        }
        self.news.stir();
        let news = self.news.of(batch, self.clock.now_ms());
        let mut writer = self.writer.lock();
        Ok(self.session.drive(batch.len() <= FEW, writer.commit(&self.session, batch, news))?)
    }

    fn execution(&self, id: ExecutionId) -> Result<Option<ExecutionRecord>> {
        self.read(async |connection| read::execution(connection, id).await)
    }

    fn calls(&self, id: ExecutionId) -> Result<Vec<CallRecord>> {
        let calls = self.read(async |connection| load::calls(connection, Frame::Bare, id).await)?;
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
        Ok(self.news.token())
    }

    fn subscribe(&self, wake: Wake) {
        self.news.subscribe(wake);
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

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresStore({})", self.place)
    }
}
