//! Connections, and sending them many statements at once.
//!
//! All statements of a transaction, from `START TRANSACTION` to `COMMIT`, usually travel together
//! and are answered together: one round trip. The first that fails is the last that is run.

use std::{future::Future, mem, time::Duration};

use durable_core::{Error, Result};
use mysql_async::{
    Conn, FromValueError, Opts, Row,
    prelude::{FromValue, Queryable as _},
};
use parking_lot::Mutex;
use tokio::{
    runtime::{Builder, Runtime},
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{
    MysqlOptions,
    error::{Fault, Outcome, unavailable},
    statement::{Literal, Statement},
};
use crate::waiting::block_on;

/// Most connections that are open at once: one commits, the others read.
const MAX_CONNECTIONS: usize = 8;
/// What a packet holds beside our statements.
const PACKET_SLACK: usize = 1 << 10;

const BEGIN: &[u8] = b"START TRANSACTION";
/// One state of the database is seen.
const BEGIN_READ: &[u8] = b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;\
    START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";

/// The way to the database: connections and the thread that serves them.
pub(super) struct Sessions {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    opts: Opts,
    /// Those that nobody uses; the last one used is used first.
    idle: Mutex<Vec<Conn>>,
    permits: Semaphore,
    /// Longest packet that the server takes.
    max_packet_bytes: usize,
    connect_timeout: Duration,
    reply_timeout: Duration,
}

impl Sessions {
    /// Makes the first connection.
    pub(super) fn open(options: &MysqlOptions) -> Outcome<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("durable-mysql")
            .enable_all()
            .build()
            .map_err(|error| {
                Error::unavailable(format!("can't start a thread for MySQL: {error}"))
            })?;
        let mut sessions = Self {
            runtime: Some(runtime),
            opts: options.connection()?,
            idle: Mutex::new(Vec::new()),
            permits: Semaphore::new(MAX_CONNECTIONS),
            max_packet_bytes: PACKET_SLACK,
            connect_timeout: options.connect_timeout,
            reply_timeout: options.statement_timeout,
        };
        sessions.max_packet_bytes = sessions.block_on(async {
            let mut connection = sessions.connection().await?;
            let rows = connection.ask("SELECT @@max_allowed_packet", &[]).await?;
            let bytes = rows.first().map(|row| get::<u64>(row, 0)).transpose()?;
            Ok(usize::try_from(bytes.unwrap_or(0)).unwrap_or(usize::MAX))
        })?;
        Ok(sessions)
    }

    pub(super) fn runtime(&self) -> Result<&Runtime> {
        self.runtime.as_ref().ok_or_else(|| Error::unavailable("the store is closed"))
    }

    /// Waits for a future on this thread, also when the thread belongs to another runtime.
    pub(super) fn block_on<T>(&self, future: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        let _context = self.runtime()?.enter();
        block_on(future)
    }

    /// A connection that works, as far as is known.
    pub(super) async fn connection(&self) -> Outcome<Connection<'_>> {
        let closed = |_| Error::unavailable("the store is closed");
        let permit = self.permits.acquire().await.map_err(closed)?;
        let idle = self.idle.lock().pop();
        let conn = match idle {
            Some(conn) => conn,
            None => match timeout(self.connect_timeout, Conn::new(self.opts.clone())).await {
                Ok(conn) => conn?,
                Err(_) => {
                    return Err(Fault::Broken(unavailable("no connection", "it took too long")));
                }
            },
        };
        Ok(Connection { conn: Some(conn), is_open: false, sessions: self, _permit: permit })
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        // Not waiting: the store may be dropped on a thread of another runtime.
        if let Some(runtime) = self.runtime.take() {
            {
                let _context = runtime.enter();
                self.idle.lock().clear();
            }
            runtime.shutdown_background();
        }
    }
}

/// A connection while it is used. It is given back afterwards, unless a transaction is open.
pub(super) struct Connection<'a> {
    /// `None` when it is lost.
    conn: Option<Conn>,
    /// Whether a transaction may be open.
    is_open: bool,
    sessions: &'a Sessions,
    _permit: SemaphorePermit<'a>,
}

/// Where in a transaction a stretch of statements stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    /// All of it.
    Whole,
    /// Its beginning.
    Begin,
    /// The beginning of one that writes nothing: one consistent state is seen.
    Read,
    /// A part of it, or statements that stand alone.
    Bare,
    /// Its end.
    Commit,
}

impl Connection<'_> {
    /// Sends all statements, and gives back their rows in order; the first fault if there is one.
    /// Then a transaction that was begun here is taken back, when all of it was to be sent.
    pub(super) async fn run(
        &mut self,
        frame: Frame,
        statements: &[Statement],
    ) -> Outcome<Vec<Vec<Row>>> {
        let answered = timeout(self.sessions.reply_timeout, self.exchange(frame, statements)).await;
        let answered = answered.unwrap_or_else(|_| {
            Err(Fault::Broken(unavailable("no answer", "the connection hangs")))
        });
        match &answered {
            Ok(_) => {}
            Err(Fault::Broken(_)) => {
                self.conn = None;
                // The others are older.
                self.sessions.idle.lock().clear();
            }
            Err(_) if frame == Frame::Whole => self.roll_back().await,
            Err(_) => {}
        }
        answered
    }

    async fn exchange(&mut self, frame: Frame, statements: &[Statement]) -> Outcome<Vec<Vec<Row>>> {
        let begin = match frame {
            Frame::Whole | Frame::Begin => Some((BEGIN, 1)),
            Frame::Read => Some((BEGIN_READ, 2)),
            Frame::Bare | Frame::Commit => None,
        };
        let mut packet = Packet::default();
        if let Some((sql, count)) = begin {
            packet.add(sql, count, false);
            self.is_open = true;
        }
        let limit = self.sessions.max_packet_bytes.saturating_sub(PACKET_SLACK);
        let mut answers = Vec::with_capacity(statements.len());
        for Statement { sql, count } in statements {
            if !packet.sql.is_empty() && packet.sql.len() + sql.len() > limit {
                self.send(mem::take(&mut packet), &mut answers).await?;
            }
            if sql.len() > limit && limit > 0 {
                // As if the server had said it: what comes before is run.
                return Err(Fault::Member(Error::invalid(format!(
                    "a value makes a statement of {} bytes, and MySQL's max_allowed_packet is {}: \
                     raise it, or store such data elsewhere and pass a reference to it",
                    sql.len(),
                    self.sessions.max_packet_bytes
                ))));
            }
            packet.add(sql, *count, true);
        }
        let is_end = matches!(frame, Frame::Whole | Frame::Commit);
        if is_end {
            packet.add(b"COMMIT", 1, false);
        }
        self.send(packet, &mut answers).await?;
        if is_end {
            self.is_open = false;
        }
        Ok(answers)
    }

    async fn send(&mut self, packet: Packet, answers: &mut Vec<Vec<Row>>) -> Outcome<()> {
        if packet.sql.is_empty() {
            return Ok(());
        }
        let conn = self.conn.as_mut().ok_or_else(lost)?;
        let mut result = conn.query_iter(packet.sql).await?;
        for (count, is_asked) in packet.parts {
            let first = result.collect::<Row>().await?;
            for _ in 1..count {
                result.collect::<Row>().await?;
            }
            if is_asked {
                answers.push(first);
            }
        }
        Ok(result.drop_result().await?)
    }

    /// The rows of one statement.
    pub(super) async fn ask(&mut self, sql: &str, values: &[&dyn Literal]) -> Outcome<Vec<Row>> {
        let answers = self.run(Frame::Bare, &[Statement::new(sql, values)]).await?;
        Ok(answers.into_iter().next().unwrap_or_default())
    }

    /// Runs a file of statements, however long that takes.
    pub(super) async fn script(&mut self, script: &str) -> Outcome<()> {
        let conn = self.conn.as_mut().ok_or_else(lost)?;
        Ok(conn.query_drop(script).await?)
    }

    /// Ends whatever transaction is open, or the connection.
    pub(super) async fn roll_back(&mut self) {
        let Some(conn) = self.conn.as_mut() else { return };
        match timeout(self.sessions.reply_timeout, conn.query_drop("ROLLBACK")).await {
            Ok(Ok(())) => self.is_open = false,
            Ok(Err(_)) | Err(_) => self.conn = None,
        }
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take().filter(|_| !self.is_open) {
            self.sessions.idle.lock().push(conn);
        }
    }
}

fn lost() -> Fault {
    Fault::Broken(unavailable("the connection was lost", "it is used no more"))
}

/// Statements that are sent together.
#[derive(Default)]
struct Packet {
    sql: Vec<u8>,
    /// How many results each part has, and whether anybody asked for its rows.
    parts: Vec<(usize, bool)>,
}

impl Packet {
    fn add(&mut self, sql: &[u8], count: usize, is_asked: bool) {
        if !self.sql.is_empty() {
            self.sql.push(b';');
        }
        self.sql.extend_from_slice(sql);
        self.parts.push((count, is_asked));
    }
}

/// The value in a column.
pub(super) fn get<T: FromValue>(row: &Row, column: usize) -> Outcome<T> {
    match row.get_opt::<T, _>(column) {
        Some(value) => Ok(value.map_err(|error: FromValueError| Fault::from(error))?),
        None => Err(Error::internal(format!("a row has no column {column}")).into()),
    }
}
