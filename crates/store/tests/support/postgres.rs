//! A Postgres server for tests, and a place in it for each of them.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::{Client, NoTls};

use super::block_on;

const VARIABLE: &str = "DURABLE_TEST_POSTGRES";

/// The server that tests are given.
pub(crate) struct Server {
    url: String,
}

/// The server, or `None` where there is none; in CI there must be one.
pub(crate) fn server() -> Option<Server> {
    match std::env::var(VARIABLE) {
        Ok(url) if !url.is_empty() => Some(Server { url }),
        _ if std::env::var_os("CI").is_some() => panic!("{VARIABLE} is not set: scripts/services"),
        _ => {
            eprintln!("skipped: {VARIABLE} is not set; `scripts/services up` starts a server");
            None
        }
    }
}

impl Server {
    /// The URL of a new, empty place: a schema of its own in the server's database.
    pub(crate) fn new_database(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("t{}_{count}", std::process::id());
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
