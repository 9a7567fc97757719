//! Connections, and sending them many statements at once.
//!
//! All statements of a transaction, from `BEGIN` to `COMMIT`, usually travel together and are
//! answered together: one round trip.

use std::{
    borrow::Cow,
    future::{Future, poll_fn},
    panic::resume_unwind,
    pin::{Pin, pin},
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
    thread,
    time::{Duration, Instant},
};

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Timeouts};
use durable_core::{Error, Result};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_postgres::Row;

use super::{
    PostgresOptions,
    error::{Fault, Outcome, from_pool, unavailable},
    tls,
    value::Value,
};
use crate::waiting::block_on;

/// Most connections that are open for reading at once.
const MAX_READERS: usize = 7;
/// How long a writer that is alone looks out for its answer before it goes to sleep: about as long
/// as a step of a workflow takes to commit. To be woken costs a good part of that.
const LOOK_OUT: Duration = Duration::from_micros(600);
/// A turn that takes so long was somebody else's.
const SOMEBODY_ELSE: Duration = Duration::from_micros(20);
/// The parameter that only a session of our own keeps. The statements are made for arrays of any
/// length: planning each afresh would cost more than running it.
const SESSION_MARK: &str = "force_generic_plan";

/// A statement with its parameters.
#[derive(Clone)]
pub(super) struct Statement {
    sql: Cow<'static, str>,
    values: Vec<Value>,
}

impl Statement {
    pub(super) fn new(sql: &'static str, values: Vec<Value>) -> Self {
        Self { sql: Cow::Borrowed(sql), values }
    }

    /// One whose text is put together; there are few of them.
    pub(super) fn made(sql: String, values: Vec<Value>) -> Self {
        Self { sql: Cow::Owned(sql), values }
    }
}

/// The way to the database: a pool of connections and what drives them.
pub(super) struct Sessions {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    pool: Pool,
    /// Whether statements may stay prepared: not when a pooler gives every transaction another
    /// session.
    prepares: AtomicBool,
    /// Whether sessions are ours, with no pooler in between.
    are_own: bool,
    /// What a transaction begins with.
    begin: String,
    begin_read: String,
    reply_timeout: Duration,
}

impl Sessions {
    /// Those of readers: a thread of its own drives the connections, for any number of callers.
    /// The first connection tells what lies between.
    pub(super) fn open(options: &PostgresOptions) -> Outcome<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("durable-postgres")
            .enable_all()
            .build();
        let mut sessions = Self::new(options, runtime, MAX_READERS, true)?;
        if !sessions.block_on(sessions.is_own_session())? {
            tracing::info!("a pooler stands before Postgres: no session state is used");
            let runtime = sessions.runtime.take();
            let runtime = runtime.ok_or_else(|| std::io::Error::other("it is closed"));
            sessions = Self::new(options, runtime, MAX_READERS, false)?;
        }
        Ok(sessions)
    }

    /// The one of the writer, beside those of readers. Whoever writes drives it himself: a step
    /// of a workflow that waits for its commit waits for no other thread of this process.
    pub(super) fn of_writer(options: &PostgresOptions, readers: &Self) -> Outcome<Self> {
        // Each time round it looks for answers.
        let runtime = Builder::new_current_thread().event_interval(1).enable_all().build();
        let sessions = Self::new(options, runtime, 1, readers.are_own)?;
        sessions.prepares.store(readers.prepares.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(sessions)
    }

    fn new(
        options: &PostgresOptions,
        runtime: std::io::Result<Runtime>,
        most: usize,
        are_own: bool,
    ) -> Outcome<Self> {
        let runtime = runtime.map_err(|error| {
            Error::unavailable(format!("can't drive connections to Postgres: {error}"))
        })?;
        let manager = Manager::from_config(
            options.connection(are_own),
            tls::connector(options)?,
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let wait = Some(options.connect_timeout);
        let pool = Pool::builder(manager)
            .max_size(most)
            .timeouts(Timeouts { wait, create: wait, recycle: wait })
            .runtime(deadpool_postgres::Runtime::Tokio1)
            .build()
            .map_err(|error| Error::internal(format!("no pool of connections: {error}")))?;
        Ok(Self {
            runtime: Some(runtime),
            pool,
            prepares: AtomicBool::new(options.prepare.unwrap_or(are_own)),
            are_own,
            begin: options.begin(are_own),
            begin_read: options.begin_read(are_own),
            reply_timeout: options.statement_timeout + options.connect_timeout,
        })
    }

    /// Whether what a session is told stays with us. PgBouncer refuses the parameter, or forgets it.
    async fn is_own_session(&self) -> Outcome<bool> {
        let connection = match self.pool.get().await.map_err(from_pool) {
            Err(Fault::Broken(error) | Fault::Failed(error))
                if error.to_string().contains("unsupported startup parameter") =>
            {
                return Ok(false);
            }
            connection => connection?,
        };
        let row = connection.query_typed("SELECT current_setting('plan_cache_mode')", &[]).await?;
        Ok(row.first().is_some_and(|row| row.get::<_, &str>(0) == SESSION_MARK))
    }

    /// Whether sessions are ours: then one can listen.
    pub(super) fn are_own(&self) -> bool {
        self.are_own
    }

    pub(super) fn runtime(&self) -> Result<&Runtime> {
        self.runtime.as_ref().ok_or_else(|| Error::unavailable("the store is closed"))
    }

    /// Waits for a future on this thread, also when the thread belongs to another runtime.
    pub(super) fn block_on<T>(&self, future: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        let _context = self.runtime()?.enter();
        block_on(future)
    }

    /// As [`Self::block_on`], driving the connection on this thread, and looking out for the
    /// answer for a moment before it goes to sleep when that is asked for.
    pub(super) fn drive<T: Send>(
        &self,
        looks_out: bool,
        future: impl Future<Output = Outcome<T>> + Send,
    ) -> Outcome<T> {
        let runtime = self.runtime()?;
        let future = looking_out(if looks_out { LOOK_OUT } else { Duration::ZERO }, future);
        if Handle::try_current().is_err() {
            return runtime.block_on(future);
        }
        // A thread that belongs to a runtime may not drive another one.
        let driven = thread::scope(|scope| scope.spawn(|| runtime.block_on(future)).join());
        driven.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// A connection that works, as far as is known.
    pub(super) async fn connection(&self) -> Outcome<Connection<'_>> {
        let object = self.pool.get().await.map_err(from_pool)?;
        Ok(Connection { object, sessions: self })
    }

    /// No statement is kept prepared any more.
    pub(super) fn stop_preparing(&self) {
        if self.prepares.swap(false, Ordering::Relaxed) {
            tracing::info!("Postgres forgets prepared statements: none is kept any more");
        }
    }
}

/// Waits for a future awake until that time is over or somebody else wants the processor, and then
/// asleep.
async fn looking_out<T>(patience: Duration, future: impl Future<Output = T>) -> T {
    let until = Instant::now() + patience;
    let mut is_awake = !patience.is_zero();
    let mut future = pin!(future);
    poll_fn(|context| {
        let polled = future.as_mut().poll(context);
        if is_awake && polled.is_pending() {
            let before = Instant::now();
            thread::yield_now();
            let now = Instant::now();
            is_awake = now < until && now - before < SOMEBODY_ELSE;
            context.waker().wake_by_ref();
        }
        polled
    })
    .await
}

impl Drop for Sessions {
    fn drop(&mut self) {
        // Not waiting: the store may be dropped on a thread of another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A connection out of the pool.
pub(super) struct Connection<'a> {
    object: Object,
    sessions: &'a Sessions,
}

/// Where in a transaction a pipeline stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    /// All of it: from `BEGIN` to `COMMIT`.
    Whole,
    /// All of it, and it writes nothing: one consistent state is seen.
    Read,
    /// Its beginning.
    Begin,
    /// A part of it, or statements that stand alone.
    Bare,
    /// Its end.
    Commit,
}

impl Connection<'_> {
    /// Sends all statements, and gives back their rows in order; the first fault if there is one.
    pub(super) async fn run(
        &self,
        frame: Frame,
        statements: &[Statement],
    ) -> Outcome<Vec<Vec<Row>>> {
        let answered =
            tokio::time::timeout(self.sessions.reply_timeout, self.exchange(frame, statements));
        match answered.await {
            Ok(answer) => answer,
            Err(_) => Err(Fault::Broken(unavailable("no answer", "the connection hangs"))),
        }
    }

    async fn exchange(&self, frame: Frame, statements: &[Statement]) -> Outcome<Vec<Vec<Row>>> {
        let prepared = self.prepare(statements).await?;
        let client = &*self.object;
        let simple = |sql: &'static str| -> Reply<'_> {
            Box::pin(async move { Ok(client.batch_execute(sql).await.map(|()| Vec::new())?) })
        };
        let mut replies: Vec<Reply<'_>> = Vec::with_capacity(statements.len() + 2);
        match frame {
            Frame::Whole | Frame::Begin => replies.push(self.begin(&self.sessions.begin)),
            Frame::Read => replies.push(self.begin(&self.sessions.begin_read)),
            Frame::Bare | Frame::Commit => {}
        }
        let skipped = replies.len();
        for (index, Statement { sql, values }) in statements.iter().enumerate() {
            let prepared = prepared.get(index);
            replies.push(Box::pin(async move {
                Ok(match prepared {
                    Some(prepared) => {
                        let values: Vec<_> = values.iter().map(Value::sql).collect();
                        client.query(prepared, &values).await?
                    }
                    None => {
                        let values: Vec<_> =
                            values.iter().map(|value| (value.sql(), value.kind())).collect();
                        client.query_typed(sql, &values).await?
                    }
                })
            }));
        }
        if matches!(frame, Frame::Whole | Frame::Read | Frame::Commit) {
            replies.push(simple("COMMIT"));
        }
        let mut rows = Vec::with_capacity(replies.len());
        for answer in in_order(replies).await {
            rows.push(answer?);
        }
        rows.truncate(skipped + statements.len());
        Ok(rows.split_off(skipped))
    }

    fn begin<'a>(&'a self, sql: &'a str) -> Reply<'a> {
        let client = &*self.object;
        Box::pin(async move { Ok(client.batch_execute(sql).await.map(|()| Vec::new())?) })
    }

    /// The prepared statements, or none at all when they are not kept.
    async fn prepare(&self, statements: &[Statement]) -> Outcome<Vec<tokio_postgres::Statement>> {
        let mut prepared = Vec::new();
        if self.sessions.prepares.load(Ordering::Relaxed) {
            for statement in statements {
                let kinds: Vec<_> = statement.values.iter().map(Value::kind).collect();
                prepared.push(self.object.prepare_typed_cached(&statement.sql, &kinds).await?);
            }
        }
        Ok(prepared)
    }

    /// Sends SQL without parameters.
    pub(super) async fn simple(&self, sql: &str) -> Outcome<()> {
        Ok(self.object.batch_execute(sql).await?)
    }

    /// Ends whatever transaction is open, or the connection.
    pub(super) async fn roll_back(self) {
        if self.simple("ROLLBACK").await.is_err() {
            self.discard();
        }
    }

    /// Never to be used again.
    pub(super) fn discard(self) {
        drop(Object::take(self.object));
    }
}

type Reply<'a> = Pin<Box<dyn Future<Output = Outcome<Vec<Row>>> + Send + 'a>>;

/// Polls the futures in order, so that their requests leave in order, until all are done.
async fn in_order(mut replies: Vec<Reply<'_>>) -> Vec<Outcome<Vec<Row>>> {
    let mut answers: Vec<Option<Outcome<Vec<Row>>>> = replies.iter().map(|_| None).collect();
    let mut sent = false;
    let mut next = 0;
    poll_fn(move |context| {
        if !sent {
            sent = true;
            for (reply, answer) in replies.iter_mut().zip(&mut answers) {
                if let Poll::Ready(ready) = reply.as_mut().poll(context) {
                    *answer = Some(ready);
                }
            }
        }
        // Answers come in order: only the first one that is missing is worth asking for.
        while let Some(answer) = answers.get_mut(next) {
            if answer.is_none() {
                match replies[next].as_mut().poll(context) {
                    Poll::Ready(ready) => *answer = Some(ready),
                    Poll::Pending => return Poll::Pending,
                }
            }
            next += 1;
        }
        Poll::Ready(answers.drain(..).flatten().collect())
    })
    .await
}
