//! A database of its own for a test, on the servers that tests are given.

use std::sync::atomic::{AtomicU32, Ordering};

use durable::{Durable, Engine, Isolation};
use mysql_async::prelude::Queryable as _;

pub(crate) struct Database {
    url: String,
}

impl Database {
    /// On Postgres; `None` where there is none. In CI there must be one.
    pub(crate) fn on_postgres() -> Option<Self> {
        let server = Self { url: given("DURABLE_TEST_POSTGRES")? };
        let name = new_name();
        server.ask(&format!("CREATE SCHEMA {name}"));
        let url = &server.url;
        let url = format!("{url}?options=-csearch_path%3D{name}&application_name={name}");
        Some(Self { url })
    }

    /// On Postgres behind PgBouncer, in the same way.
    pub(crate) fn behind_pgbouncer() -> Option<Self> {
        let pooler = Self { url: given("DURABLE_TEST_PGBOUNCER")? };
        let name = new_name();
        pooler.ask(&format!("CREATE DATABASE {name}"));
        Some(Self { url: pooler.url.replace("/postgres", &format!("/{name}")) })
    }

    /// On MySQL or MariaDB, in the same way.
    pub(crate) fn on_mysql() -> Option<Self> {
        let server = Self { url: given("DURABLE_TEST_MYSQL")? };
        let name = new_name();
        server.ask(&format!("CREATE DATABASE {name}"));
        let (place, _) = server.url.rsplit_once('/').unwrap();
        Some(Self { url: format!("{place}/{name}") })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// An engine on it that runs no functions.
    pub(crate) fn engine(&self) -> Engine {
        engine(&self.url)
    }

    /// Runs SQL past the engine: the number that it gives, if it gives one.
    pub(crate) fn ask(&self, sql: &str) -> Option<i64> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            if self.url.starts_with("mysql") {
                let options = mysql_async::Opts::from_url(&self.url).unwrap();
                let mut connection = mysql_async::Conn::new(options).await.unwrap();
                let found = connection.query_first(sql).await.unwrap();
                connection.disconnect().await.unwrap();
                found
            } else {
                let (client, connection) =
                    tokio_postgres::connect(&self.url, tokio_postgres::NoTls).await.unwrap();
                runtime.spawn(connection);
                let rows = client.query(sql, &[]).await.unwrap();
                rows.first().map(|row| row.get(0))
            }
        })
    }
}

pub(crate) fn engine(url: &str) -> Engine {
    Durable::builder(url).isolation(Isolation::Thread).workers(1).open_engine().unwrap()
}

/// What `scripts/services` tells of what tests need; `None` where it does not run, except in CI.
pub(crate) fn given(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok();
    if value.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{variable} is not set: scripts/services");
        eprintln!("skipped: {variable} is not set; see `scripts/services`");
    }
    value
}

fn new_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("cli_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}
