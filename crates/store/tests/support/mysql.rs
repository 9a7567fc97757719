//! A MySQL or MariaDB server for tests, and a place in it for each of them.

use std::sync::atomic::{AtomicU32, Ordering};

use mysql_async::{Conn, Opts, prelude::Queryable as _};

use super::block_on;

const VARIABLE: &str = "DURABLE_TEST_MYSQL";

/// The server that tests are given.
pub(crate) struct Server {
    url: String,
}

/// The server, or `None` where there is none; in CI there must be one.
pub(crate) fn server() -> Option<Server> {
    match std::env::var(VARIABLE) {
        Ok(url) if !url.is_empty() => Some(Server::at(&url)),
        _ if std::env::var_os("CI").is_some() => panic!("{VARIABLE} is not set: scripts/services"),
        _ => {
            eprintln!("skipped: {VARIABLE} is not set; `scripts/services up` starts a server");
            None
        }
    }
}

impl Server {
    pub(crate) fn at(url: &str) -> Self {
        Self { url: url.to_owned() }
    }

    /// The URL of a new, empty database.
    pub(crate) fn new_database(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("t{}_{count}", std::process::id());
        run(&self.url, &format!("DROP DATABASE IF EXISTS {name}; CREATE DATABASE {name}"));
        let (place, _) = self.url.rsplit_once('/').unwrap();
        format!("{place}/{name}")
    }
}

/// Runs SQL past the store.
pub(crate) fn run(url: &str, sql: &str) {
    block_on(async {
        let mut connection = connect(url).await;
        connection.query_drop(sql).await.unwrap();
        connection.disconnect().await.unwrap();
    });
}

/// The first column of the first row.
pub(crate) fn ask(url: &str, sql: &str) -> String {
    block_on(async {
        let mut connection = connect(url).await;
        let found: Option<String> = connection.query_first(sql).await.unwrap();
        connection.disconnect().await.unwrap();
        found.unwrap()
    })
}

async fn connect(url: &str) -> Conn {
    Conn::new(Opts::from_url(url).unwrap()).await.unwrap()
}
