//! Database URLs.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use durable_core::{Error, Result};
use durable_store::{MemoryStore, SqliteOptions, SqliteStore, Store, Synchronous};

use crate::Durability;

/// Where a URL points.
///
/// ```
/// use durable::Location;
/// assert_eq!(Location::parse("sqlite:///app.db")?, Location::Sqlite("app.db".into()));
/// assert_eq!(Location::parse("sqlite:////tmp/app.db")?, Location::Sqlite("/tmp/app.db".into()));
/// assert!(Location::parse("oracle://x").is_err());
/// # Ok::<(), durable::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A SQLite file.
    Sqlite(PathBuf),
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
            Some(path) if !path.is_empty() => Ok(Self::Sqlite(path.into())),
            _ => Err(Error::invalid(format!(
                "'{url}' names no store: expected sqlite:///relative/file.db, \
                 sqlite:////absolute/file.db or memory:"
            ))),
        }
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
        })
    }

    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(path) => Some(path),
            Self::Memory => None,
        }
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
    }
}
