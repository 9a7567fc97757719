//! Database URLs.

use std::{path::PathBuf, sync::Arc};

use durable_core::{Error, Result};
use durable_store::{
    MemoryStore, MysqlOptions, MysqlStore, PostgresOptions, PostgresStore, SqliteOptions,
    SqliteStore, Store, Synchronous, mysql_schema, postgres_schema,
};

use crate::Durability;

/// Where a URL points.
///
/// ```
/// use durable::Location;
/// assert_eq!(Location::parse("sqlite:///app.db")?, Location::Sqlite("app.db".into()));
/// assert_eq!(Location::parse("sqlite:////tmp/app.db")?, Location::Sqlite("/tmp/app.db".into()));
/// assert!(matches!(Location::parse("postgresql://me@host/app")?, Location::Postgres(_)));
/// assert!(matches!(Location::parse("mysql+pymysql://me@host/app")?, Location::Mysql(_)));
/// assert!(Location::parse("oracle://x").is_err());
/// # Ok::<(), durable::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A Postgres database.
    Postgres(Box<PostgresOptions>),
    /// A MySQL or MariaDB database.
    Mysql(Box<MysqlOptions>),
    /// This process's memory, gone with it.
    Memory,
}

impl Location {
    /// Reads a URL.
    ///
    /// # Errors
    /// `Invalid` with the forms there are.
    pub fn parse(url: &str) -> Result<Self> {
        match url {
            "memory:" | "sqlite://" | "sqlite:///:memory:" => return Ok(Self::Memory),
            _ => {}
        }
        match url.strip_prefix("sqlite:///") {
            Some(path) if !path.is_empty() => return Ok(Self::Sqlite(path.into())),
            _ => {}
        }
        let scheme = url.split_once("://").map_or(url, |(scheme, _)| scheme);
        if scheme.starts_with("postgres") {
            return Ok(Self::Postgres(Box::new(PostgresOptions::parse(url)?)));
        }
        if scheme.starts_with("mysql") || scheme.starts_with("mariadb") {
            return Ok(Self::Mysql(Box::new(MysqlOptions::parse(url)?)));
        }
        // What follows the scheme may hold a password.
        Err(Error::invalid(format!(
            "'{scheme}' names no store: expected sqlite:///relative/file.db, \
             sqlite:////absolute/file.db, postgresql://user@host/database, \
             mysql://user@host/database or memory:"
        )))
    }

    pub(crate) fn open(&self, durability: Durability) -> Result<Arc<dyn Store>> {
        let synchronous = match durability {
            Durability::Full => Synchronous::Full,
            Durability::Process => Synchronous::Normal,
            Durability::None => Synchronous::Off,
        };
        Ok(match self {
            Self::Memory => Arc::new(MemoryStore::new()),
            Self::Sqlite(path) => {
                let options = SqliteOptions { synchronous, ..SqliteOptions::default() };
                Arc::new(SqliteStore::open(path, options)?)
            }
            Self::Postgres(options) => {
                let mut options = options.clone();
                options.synchronous = durability == Durability::Full;
                Arc::new(PostgresStore::open(&options)?)
            }
            // How durable a commit is the server decides, for everybody.
            Self::Mysql(options) => Arc::new(MysqlStore::open(options)?),
        })
    }
}

/// Brings the schema behind a URL up to date: its versions before and after.
///
/// # Errors
/// `Invalid` when the schema is newer than this program.
pub fn migrate(url: &str) -> Result<(u32, u32)> {
    match Location::parse(url)? {
        Location::Memory => Ok((0, 0)),
        Location::Sqlite(path) => {
            let migrated = durable_store::schema::migrate(&path)?;
            Ok((migrated.from, migrated.to))
        }
        Location::Postgres(options) => postgres_schema::migrate(&options),
        Location::Mysql(options) => mysql_schema::migrate(&options),
    }
}

/// What [`migrate`] would do behind a URL: the schema's versions before and after, and the SQL it
/// would run. Nothing is changed.
///
/// # Errors
/// As [`migrate`].
pub fn plan_migration(url: &str) -> Result<(u32, u32, &'static [&'static str])> {
    match Location::parse(url)? {
        Location::Memory => Ok((0, 0, &[])),
        Location::Sqlite(path) => {
            let (migrated, scripts) = durable_store::schema::plan(&path)?;
            Ok((migrated.from, migrated.to, scripts))
        }
        Location::Postgres(options) => postgres_schema::plan(&options),
        Location::Mysql(options) => mysql_schema::plan(&options),
    }
}
