//! The schema in a MySQL database: recognising it, creating it, bringing it up to date.

use durable_core::{Error, Result};

use super::{
    MysqlOptions,
    error::{Fault, Outcome, unavailable},
    session::{Connection, Sessions, get},
};

/// One file for each version, in order; what was released is never changed.
const MIGRATIONS: &[&str] = &[include_str!("migrations/0001_initial.sql")];

/// The schema version that this build reads and writes.
pub const SCHEMA_VERSION: u32 = MIGRATIONS.len() as u32;

/// How long one process waits for another that migrates.
const LOCK_TIMEOUT_S: i64 = 30;

/// Creates the schema in a MySQL database, or brings it up to date. The versions before and after;
/// 0 is a database without our tables. Several processes may do so at once: one works, the others
/// wait for it. When it is cut off in the middle it goes on from there the next time.
///
/// [`crate::MysqlStore::open`] does the same.
///
/// # Errors
/// `Invalid` when the database was written by a newer version, or has tables of our names that are
/// not ours; it is left as it was. `Unavailable` when it can't be reached.
pub fn migrate(options: &MysqlOptions) -> Result<(u32, u32)> {
    let sessions = Sessions::open(options)?;
    Ok(prepare(&sessions, options.database())?)
}

/// What [`migrate`] would do to a database: the versions before and after, and the SQL it would
/// run. Nothing is changed.
///
/// # Errors
/// As [`migrate`].
pub fn plan(options: &MysqlOptions) -> Result<(u32, u32, &'static [&'static str])> {
    let sessions = Sessions::open(options)?;
    let from = sessions.block_on(async {
        let mut connection = sessions.connection().await?;
        match current_version(&mut connection).await? {
            Some(version) => Ok(version),
            None => refuse_other_tables(&mut connection).await.map(|()| 0),
        }
    })?;
    Ok((from, SCHEMA_VERSION, &MIGRATIONS[from as usize..]))
}

/// Applies what is missing.
pub(super) fn prepare(sessions: &Sessions, database: &str) -> Outcome<(u32, u32)> {
    sessions.block_on(async {
        let mut connection = sessions.connection().await?;
        let from = match current_version(&mut connection).await? {
            Some(SCHEMA_VERSION) => SCHEMA_VERSION,
            _ => {
                // A name of a lock is for the whole server, and not longer than 64 characters.
                let lock: String = format!("durable:{database}").chars().take(64).collect();
                take(&mut connection, &lock).await?;
                let applied = apply_missing(&mut connection).await;
                connection.ask("DO RELEASE_LOCK(?)", &[&lock]).await?;
                applied?
            }
        };
        if from != SCHEMA_VERSION {
            tracing::info!(from, to = SCHEMA_VERSION, "migrated the database");
        }
        Ok((from, SCHEMA_VERSION))
    })
}

async fn take(connection: &mut Connection<'_>, lock: &str) -> Outcome<()> {
    let rows = connection.ask("SELECT GET_LOCK(?, ?)", &[&lock, &LOCK_TIMEOUT_S]).await?;
    let taken: Option<i64> = rows.first().map(|row| get(row, 0)).transpose()?.flatten();
    if taken == Some(1) {
        return Ok(());
    }
    Err(Fault::Failed(unavailable("another process migrates the database", "it takes long")))
}

/// Applies what is missing, one version after the other. The version found.
async fn apply_missing(connection: &mut Connection<'_>) -> Outcome<u32> {
    // Another process may have been faster: only what is read under the lock counts.
    let from = match current_version(connection).await? {
        Some(version) => version,
        None => {
            refuse_other_tables(connection).await?;
            connection.ask(VERSIONS, &[]).await?;
            0
        }
    };
    for (index, script) in MIGRATIONS.iter().enumerate().skip(from as usize) {
        connection.script(script).await?;
        let note = "INSERT INTO durable_versions (version, applied_at)
                    VALUES (?, UNIX_TIMESTAMP(NOW(3)) * 1000)";
        connection.ask(note, &[&(index as u64 + 1)]).await?;
    }
    Ok(from)
}

/// Made first: it says that the tables are ours, also when making them was cut off.
const VERSIONS: &str = "
CREATE TABLE IF NOT EXISTS durable_versions (
    version bigint NOT NULL PRIMARY KEY,
    applied_at bigint NOT NULL
) ENGINE=InnoDB";

/// The version of our schema in this database, 0 when it was begun; `None` when it is not there.
async fn current_version(connection: &mut Connection<'_>) -> Outcome<Option<u32>> {
    let there = "SELECT 1 FROM information_schema.tables
                 WHERE table_schema = DATABASE() AND table_name = 'durable_versions'";
    if connection.ask(there, &[]).await?.is_empty() {
        return Ok(None);
    }
    let rows = connection.ask("SELECT MAX(version) FROM durable_versions", &[]).await?;
    let version: Option<i64> = rows.first().map(|row| get(row, 0)).transpose()?.flatten();
    let version = version.unwrap_or(0);
    let known = u32::try_from(version).ok().filter(|version| *version <= SCHEMA_VERSION);
    known.map(Some).ok_or_else(|| {
        Fault::Failed(Error::invalid(format!(
            "the database has schema version {version}, this build knows versions up to \
             {SCHEMA_VERSION}: upgrade durable"
        )))
    })
}

async fn refuse_other_tables(connection: &mut Connection<'_>) -> Outcome<()> {
    let taken = "
        SELECT table_name FROM information_schema.tables
        WHERE table_schema = DATABASE() AND table_name IN ('programs', 'executions',
            'execution_steps', 'calls', 'execution_events', 'execution_state', 'execution_locks',
            'workers', 'tokens', 'writers')
        ORDER BY table_name";
    let rows = connection.ask(taken, &[]).await?;
    match rows.first() {
        None => Ok(()),
        Some(row) => Err(Fault::Failed(Error::invalid(format!(
            "the database has a table '{}' of another application: use a database of its own for \
             durable",
            get::<String>(row, 0)?
        )))),
    }
}
