//! What the tests of the embedding crate share. Each of them uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod kills;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use durable::{
    Builder, CallRecord, CallRequest, Durability, Durable, Engine, ExecutionId, ExecutionRecord,
    Isolation, Recorded, Status, WorkerCommand, wire,
};
use mysql_async::prelude::Queryable as _;

/// Far longer than anything here takes: only a test that fails waits for so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A database of its own for a test.
pub struct Scene {
    dir: tempfile::TempDir,
    /// Where it is, when it is no SQLite file.
    server: Option<String>,
}

impl Scene {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), server: None }
    }

    /// One on the Postgres server that tests are given; `None` where there is none. In CI there
    /// must be one.
    pub fn on_postgres() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let Ok(server) = std::env::var("DURABLE_TEST_POSTGRES") else {
            assert!(std::env::var_os("CI").is_none(), "DURABLE_TEST_POSTGRES is not set");
            eprintln!("skipped: DURABLE_TEST_POSTGRES is not set; see `scripts/services`");
            return None;
        };
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let schema = format!("scene_{}_{count}", std::process::id());
        ask_postgres(&server, &format!("CREATE SCHEMA {schema}"));
        Some(Self::at(format!("{server}?options=-csearch_path%3D{schema}")))
    }

    /// One on the MySQL or MariaDB server that tests are given; `None` where there is none. In CI
    /// there must be one.
    pub fn on_mysql() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let Ok(server) = std::env::var("DURABLE_TEST_MYSQL") else {
            assert!(std::env::var_os("CI").is_none(), "DURABLE_TEST_MYSQL is not set");
            eprintln!("skipped: DURABLE_TEST_MYSQL is not set; see `scripts/services`");
            return None;
        };
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("scene_{}_{count}", std::process::id());
        ask_mysql(&server, &format!("DROP DATABASE IF EXISTS {name}; CREATE DATABASE {name}"));
        let (place, _) = server.rsplit_once('/').unwrap();
        Some(Self::at(format!("{place}/{name}")))
    }

    /// One behind a URL.
    pub fn at(url: String) -> Self {
        Self { server: Some(url), ..Self::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn database(&self) -> PathBuf {
        self.path("durable.db")
    }

    pub fn url(&self) -> String {
        let file = || format!("sqlite:///{}", self.database().display());
        self.server.clone().unwrap_or_else(file)
    }

    /// An engine to be opened, with programs on threads.
    pub fn builder(&self) -> Builder {
        Durable::builder(&self.url())
            .isolation(Isolation::Thread)
            .durability(Durability::Process)
            .workers(1)
    }

    /// A second look at the database, past the engine.
    pub fn sql(&self) -> rusqlite::Connection {
        let connection = rusqlite::Connection::open(self.database()).unwrap();
        connection.busy_timeout(PATIENCE).unwrap();
        connection
    }

    pub fn count(&self, sql: &str) -> i64 {
        match &self.server {
            Some(url) if url.starts_with("mysql") => ask_mysql(url, sql).unwrap(),
            Some(url) => ask_postgres(url, sql).unwrap(),
            None => self.sql().query_row(sql, [], |row| row.get(0)).unwrap(),
        }
    }
}

/// Runs SQL on a Postgres server: the number that it gives, if it gives one.
pub fn ask_postgres(url: &str, sql: &str) -> Option<i64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, connection) =
            tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        runtime.spawn(connection);
        let rows = client.query(sql, &[]).await.unwrap();
        rows.first().map(|row| row.get(0))
    })
}

/// Runs SQL on a MySQL server: the number that it gives, if it gives one.
pub fn ask_mysql(url: &str, sql: &str) -> Option<i64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = mysql_async::Opts::from_url(url).unwrap();
        let mut connection = mysql_async::Conn::new(options).await.unwrap();
        let found = connection.query_first(sql).await.unwrap();
        connection.disconnect().await.unwrap();
        found
    })
}

/// Which calls ran: the idempotency key of every attempt, over all engines of a test.
#[derive(Clone, Default)]
pub struct Calls(Arc<Mutex<Vec<String>>>);

impl Calls {
    pub fn note(&self, call: &CallRequest) {
        self.0.lock().unwrap().push(call.idempotency_key());
    }

    pub fn keys(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// How often each call ran.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for key in self.keys() {
            *counts.entry(key).or_default() += 1;
        }
        counts
    }

    pub fn assert_each_ran_once(&self) {
        let again: Vec<_> = self.counts().into_iter().filter(|(_, count)| *count != 1).collect();
        assert!(again.is_empty(), "ran more than once: {again:?}");
    }
}

/// Lets nobody through until it is opened, and then as many as it was opened for.
#[derive(Clone)]
pub struct Gate(Arc<tokio::sync::Semaphore>);

impl Gate {
    pub fn closed() -> Self {
        Self(Arc::new(tokio::sync::Semaphore::new(0)))
    }

    pub fn open_for(&self, count: usize) {
        self.0.add_permits(count);
    }

    pub async fn pass(&self) {
        self.0.acquire().await.unwrap().forget();
    }
}

/// Waits for the end of an execution.
pub fn ended(engine: &Engine, id: ExecutionId) -> ExecutionRecord {
    match engine.wait(id, Some(PATIENCE)).unwrap() {
        Some(record) => record,
        None => panic!("it has not ended: {:?}", engine.execution(id).unwrap()),
    }
}

/// Waits for the output of an execution.
pub fn output(engine: &Engine, id: ExecutionId) -> String {
    let record = ended(engine, id);
    assert_eq!(record.status, Status::Completed, "{:?}", record.failure);
    record.output.unwrap().as_str().to_owned()
}

/// Looks again and again for something that nothing announces.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up_at = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < give_up_at, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until an execution is in a status that is no end.
pub fn reaches(engine: &Engine, id: ExecutionId, status: Status) {
    until(status.as_str(), || engine.execution(id).unwrap().status == status);
}

pub fn journal(engine: &Engine, id: ExecutionId) -> Vec<Recorded> {
    engine.store().journal(id, 0, 10_000).unwrap()
}

/// The words of a journal's events, in order.
pub fn events(engine: &Engine, id: ExecutionId) -> Vec<String> {
    journal(engine, id)
        .iter()
        .map(|recorded| wire::encode(&recorded.event).event_type.to_owned())
        .collect()
}

pub fn calls(engine: &Engine, id: ExecutionId) -> Vec<CallRecord> {
    engine.store().calls(id).unwrap()
}

/// An example. `cargo test` builds them all; before `cargo test --test NAME` they are built with
/// `cargo build --examples`.
pub fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let release = tests.parent().unwrap().parent().unwrap();
    let path = release.join("examples").join(name);
    assert!(path.exists(), "{} is missing: cargo build --examples", path.display());
    path
}

/// Interpreters in processes of their own.
pub fn processes() -> Isolation {
    let mut command = WorkerCommand::new(example("worker"));
    command.args.push("__durable_worker".into());
    Isolation::Command(command)
}

/// Sends a signal to a process that the test started.
pub fn signal(process: &std::process::Child, name: &str) {
    let id = process.id().to_string();
    let sent = std::process::Command::new("kill").args(["-s", name, &id]).status().unwrap();
    assert!(sent.success(), "no signal {name} to {id}");
}
