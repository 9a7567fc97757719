//! Where a workload keeps its executions: a new SQLite file, a new schema of a Postgres database, or
//! a new database of a MySQL server.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Result, bail};
use mysql_async::{
    Conn, Opts,
    prelude::{FromRow, Queryable as _},
};
use tokio_postgres::{Client, NoTls};

use crate::measure::Settings;

/// A database of its own; removed when it is dropped.
pub(crate) enum Place {
    Sqlite(tempfile::TempDir),
    Postgres { server: String, schema: String },
    Mysql { server: String, database: String },
}

impl Place {
    pub(crate) fn new(settings: &Settings) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let Some(server) = &settings.db else {
            fs::create_dir_all(&settings.dir)?;
            return Ok(Self::Sqlite(tempfile::tempdir_in(fs::canonicalize(&settings.dir)?)?));
        };
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let schema = format!("bench_{}_{count}", std::process::id());
        if server.starts_with("mysql") {
            ask_mysql::<i64>(server, &format!("CREATE DATABASE {schema}"))?;
            return Ok(Self::Mysql { server: server.clone(), database: schema });
        }
        with_client(server, async |client| {
            Ok(client.batch_execute(&format!("CREATE SCHEMA {schema}")).await?)
        })?;
        Ok(Self::Postgres { server: server.clone(), schema })
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Sqlite(dir) => format!("sqlite:///{}", dir.path().join("bench.db").display()),
            Self::Postgres { server, schema } => {
                let separator = if server.contains('?') { '&' } else { '?' };
                format!("{server}{separator}options=-csearch_path%3D{schema}")
            }
            Self::Mysql { server, database } => {
                let (place, _) = server.rsplit_once('/').unwrap_or((server, ""));
                format!("{place}/{database}")
            }
        }
    }

    /// Bytes of the database. SQLite's log, which has a fixed size, is first written into it.
    pub(crate) fn bytes(&self) -> Result<i64> {
        match self {
            Self::Sqlite(dir) => sqlite_bytes(dir.path()),
            Self::Postgres { server, schema } => with_client(server, async |client| {
                let sql = "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
                           WHERE relkind = 'r' AND relnamespace = $1::text::regnamespace";
                Ok(client.query_one(sql, &[schema]).await?.get(0))
            }),
            Self::Mysql { server, database } => {
                // As of the last analysis, which the server does now and then.
                let sql = format!(
                    "SELECT CAST(SUM(data_length + index_length) AS SIGNED)
                     FROM information_schema.tables WHERE table_schema = '{database}'"
                );
                Ok(ask_mysql::<i64>(server, &sql)?.unwrap_or(0))
            }
        }
    }

    /// The SQLite file.
    pub(crate) fn sqlite(&self) -> Result<rusqlite::Connection> {
        let Self::Sqlite(dir) = self else { bail!("it is no SQLite file") };
        Ok(rusqlite::Connection::open(dir.path().join("bench.db"))?)
    }

    /// How many statements the server was asked so far, where it can be told.
    pub(crate) fn statements(&self) -> Option<i64> {
        if let Self::Mysql { server, .. } = self {
            let found = ask_mysql::<(String, i64)>(server, "SHOW GLOBAL STATUS LIKE 'Questions'");
            return found.ok().flatten().map(|(_, count)| count);
        }
        let Self::Postgres { server, .. } = self else { return None };
        let sql = "SELECT sum(calls)::bigint FROM pg_stat_statements
                   WHERE query NOT LIKE '%pg_stat_statements%'";
        let counted = with_client(server, async |client| {
            // The server has it loaded, but not every database shows it.
            client.batch_execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await?;
            Ok(client.query_one(sql, &[]).await?.get(0))
        });
        counted.ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Self::Postgres { server, schema } = self {
            let dropped = with_client(server, async |client| {
                let sql = format!("SET client_min_messages = error; DROP SCHEMA {schema} CASCADE");
                Ok(client.batch_execute(&sql).await?)
            });
            if let Err(error) = dropped {
                eprintln!("schema {schema} is left: {error}");
            }
        }
        if let Self::Mysql { server, database } = self
            && let Err(error) = ask_mysql::<i64>(server, &format!("DROP DATABASE {database}"))
        {
            eprintln!("database {database} is left: {error}");
        }
    }
}

fn with_client<T>(server: &str, ask: impl AsyncFnOnce(&Client) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(server, NoTls).await?;
        runtime.spawn(connection);
        ask(&client).await
    })
}

fn ask_mysql<T: FromRow + Send + 'static>(server: &str, sql: &str) -> Result<Option<T>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut connection = Conn::new(Opts::from_url(server)?).await?;
        let found = connection.query_first(sql).await?;
        connection.disconnect().await?;
        Ok(found)
    })
}

fn sqlite_bytes(dir: &Path) -> Result<i64> {
    let database = rusqlite::Connection::open(dir.join("bench.db"))?;
    database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        bytes += i64::try_from(entry?.metadata()?.len())?;
    }
    Ok(bytes)
}
