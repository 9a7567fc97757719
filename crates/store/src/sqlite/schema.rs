//! The schema of the SQLite file: recognising it, creating it, bringing it up to date.

use std::{collections::BTreeSet, path::Path, time::Duration};

use durable_core::{Error, Result};
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::{
    connection,
    error::{Outcome, from_sqlite},
};

/// One file for each version, in order; what was released is never changed.
const MIGRATIONS: &[&str] =
    &[include_str!("migrations/0001_initial.sql"), include_str!("migrations/0002_fleet.sql")];

/// The schema version that this build reads and writes.
pub const SCHEMA_VERSION: u32 = MIGRATIONS.len() as u32;

/// "dura" in ASCII: marks a SQLite file as ours (`PRAGMA application_id`).
pub const APPLICATION_ID: u32 = 0x6475_7261;

/// What [`migrate`] did: the versions before and after. 0 is a file without our tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    /// The version that was found.
    pub from: u32,
    /// The version now.
    pub to: u32,
}

/// Creates the schema in a SQLite file, or brings it up to date; all of it or nothing. Several
/// processes may do so at once: one works, the others wait for it.
///
/// [`crate::SqliteStore::open`] does the same.
///
/// # Errors
/// `Invalid` when the file was written by a newer version, belongs to another application, or has
/// tables of our names with other columns; it is left as it was. `Unavailable` when it can't be
/// opened or written.
pub fn migrate(path: &Path) -> Result<Migrated> {
    let mut connection = connection::open_writer(path, Duration::from_secs(5))?;
    prepare(&mut connection)
}

/// What [`migrate`] would do to a file: the versions before and after, and the SQL it would run.
/// Nothing is changed.
///
/// # Errors
/// As [`migrate`].
pub fn plan(path: &Path) -> Result<(Migrated, &'static [&'static str])> {
    let from = if path.exists() {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection =
            Connection::open_with_flags(path, flags).map_err(|error| from_sqlite(&error))?;
        current_version(&connection)?
    } else {
        0
    };
    Ok((Migrated { from, to: SCHEMA_VERSION }, &MIGRATIONS[from as usize..]))
}

/// Recognises the file, switches it to WAL and applies the migrations it lacks.
pub(super) fn prepare(connection: &mut Connection) -> Result<Migrated> {
    // Before anything is written: a foreign file is left alone.
    let from = current_version(connection)?;
    connection::use_wal(connection)?;
    if from == SCHEMA_VERSION {
        return Ok(Migrated { from, to: from });
    }
    let from = apply_missing(connection)?;
    if from != SCHEMA_VERSION {
        tracing::info!(from, to = SCHEMA_VERSION, "migrated the database");
    }
    Ok(Migrated { from, to: SCHEMA_VERSION })
}

/// Applies what is missing in one transaction. The version found.
fn apply_missing(connection: &mut Connection) -> Result<u32> {
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|error| from_sqlite(&error))?;
    // Another process may have been faster: only what is read under the write lock counts.
    let from = current_version(&transaction)?;
    let apply = || {
        for script in &MIGRATIONS[from as usize..] {
            transaction.execute_batch(script)?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)
    };
    apply().and_then(|()| transaction.commit()).map_err(|error| from_sqlite(&error))?;
    Ok(from)
}

/// The version of our schema in this file; 0 when it is not there.
fn current_version(connection: &Connection) -> Result<u32> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let application = pragma("application_id").map_err(|error| from_sqlite(&error))?;
    let version = pragma("user_version").map_err(|error| from_sqlite(&error))?;
    match (application, version) {
        (application, version) if application == i64::from(APPLICATION_ID) => {
            let known = u32::try_from(version).ok().filter(|version| *version <= SCHEMA_VERSION);
            known.ok_or_else(|| {
                Error::invalid(format!(
                    "the database has schema version {version}, this build knows versions up to \
                     {SCHEMA_VERSION}: upgrade durable"
                ))
            })
        }
        (0, 0) => refuse_other_tables(connection).map(|()| 0),
        _ => Err(Error::invalid(format!(
            "the SQLite file belongs to another application (application_id {application}, \
             user_version {version}): use a file of its own for durable"
        ))),
    }
}

/// An application may share its file with us, as long as no table of ours is in the way.
fn refuse_other_tables(connection: &Connection) -> Result<()> {
    let compare = || -> Outcome<()> {
        let ours = Connection::open_in_memory()?;
        for script in MIGRATIONS {
            ours.execute_batch(script)?;
        }
        for table in tables(&ours)? {
            let (expected, found) = (columns(&ours, &table)?, columns(connection, &table)?);
            if !found.is_empty() && expected != found {
                return Err(Error::invalid(format!(
                    "the SQLite file has a table '{table}' of another application, with other \
                     columns than ours: use a file of its own for durable"
                ))
                .into());
            }
        }
        Ok(())
    };
    compare().map_err(Error::from)
}

/// Names of tables and views.
fn tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    connection
        .prepare("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')")?
        .query_map([], |row| row.get(0))?
        .collect()
}

fn columns(connection: &Connection, table: &str) -> rusqlite::Result<BTreeSet<String>> {
    connection
        .prepare("SELECT name FROM pragma_table_info(?1)")?
        .query_map([table], |row| row.get(0))?
        .collect()
}
