//! A Postgres server for tests, and a place in it for each of them.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::{Client, NoTls};

use super::block_on;

/// The server that tests are given.
pub(crate) struct Server {
    url: String,
}

/// The server, or `None` where there is none; in CI there must be one.
pub(crate) fn server() -> Option<Server> {
    given("DURABLE_TEST_POSTGRES").map(|url| Server { url })
}

/// PgBouncer before that server, in the same way.
pub(crate) fn pooler() -> Option<Server> {
    given("DURABLE_TEST_PGBOUNCER").map(|url| Server { url })
}

fn given(variable: &str) -> Option<String> {
    match std::env::var(variable) {
        Ok(url) if !url.is_empty() => Some(url),
        _ if std::env::var_os("CI").is_some() => panic!("{variable} is not set: scripts/services"),
        _ => {
            eprintln!("skipped: {variable} is not set; `scripts/services up` starts a server");
            None
        }
    }
}

fn new_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("t{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Server {
    /// The URL of a new, empty database: what a pooler can tell from another, which knows no
    /// `options`.
    pub(crate) fn new_whole_database(&self) -> String {
        let name = new_name();
        self.run(&format!("DROP DATABASE IF EXISTS {name}"));
        self.run(&format!("CREATE DATABASE {name} TEMPLATE template0"));
        let (place, _) = self.url.rsplit_once('/').unwrap();
        format!("{place}/{name}")
    }

    /// The URL of a new, empty place: a schema of its own in the server's database.
    pub(crate) fn new_database(&self) -> String {
        let name = new_name();
        self.run(&format!("DROP SCHEMA IF EXISTS {name} CASCADE; CREATE SCHEMA {name}"));
        format!("{}?options=-csearch_path%3D{name}", self.url)
    }

    /// Runs SQL past the store.
    pub(crate) fn run(&self, sql: &str) {
        block_on(async {
            let client = connect(&self.url).await;
            client.batch_execute(sql).await.unwrap();
        });
    }
}

/// A client of its own for a URL of [`Server::new_database`].
pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
