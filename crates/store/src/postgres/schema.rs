//! The schema in a Postgres database: recognising it, creating it, bringing it up to date.

use durable_core::{Error, Result};

use super::{
    PostgresOptions,
    error::{Fault, Outcome},
    session::{Connection, Frame, Sessions, Statement},
    value::Value,
};

/// One file for each version, in order; what was released is never changed.
const MIGRATIONS: &[&str] = &[include_str!("migrations/0001_initial.sql")];

/// The schema version that this build reads and writes.
pub const SCHEMA_VERSION: u32 = MIGRATIONS.len() as u32;

/// "dura" in ASCII: the advisory lock under which one process at a time migrates.
const LOCK: i64 = 0x6475_7261;

/// Creates the schema in a Postgres database, or brings it up to date; all of it or nothing. The
/// versions before and after; 0 is a database without our tables. Several processes may do so at
/// once: one works, the others wait for it.
///
/// [`crate::PostgresStore::open`] does the same.
///
/// # Errors
/// `Invalid` when the database was written by a newer version, or has tables of our names that are
/// not ours; it is left as it was. `Unavailable` when it can't be reached.
pub fn migrate(options: &PostgresOptions) -> Result<(u32, u32)> {
    let sessions = Sessions::open(options)?;
    Ok(prepare(&sessions)?)
}

/// What [`migrate`] would do: the versions before and after, and the scripts it would run. Nothing
/// is changed.
///
/// # Errors
/// As [`migrate`].
pub fn plan(options: &PostgresOptions) -> Result<(u32, u32, &'static [&'static str])> {
    let sessions = Sessions::open(options)?;
    let from = sessions.block_on(async {
        let connection = sessions.connection().await?;
        let from = current_version(&connection, Frame::Bare).await?;
        if from == 0 {
            refuse_other_tables(&connection).await?;
        }
        Ok::<_, Fault>(from)
    })?;
    Ok((from, SCHEMA_VERSION, &MIGRATIONS[from as usize..]))
}

/// Applies what is missing.
pub(super) fn prepare(sessions: &Sessions) -> Outcome<(u32, u32)> {
    sessions.block_on(async {
        let connection = sessions.connection().await?;
        let from = match current_version(&connection, Frame::Bare).await? {
            SCHEMA_VERSION => SCHEMA_VERSION,
            _ => {
                let applied = apply_missing(&connection).await;
                if applied.is_err() {
                    connection.roll_back().await;
                }
                applied?
            }
        };
        if from != SCHEMA_VERSION {
            tracing::info!(from, to = SCHEMA_VERSION, "migrated the database");
        }
        Ok((from, SCHEMA_VERSION))
    })
}

/// Applies what is missing in one transaction. The version found.
async fn apply_missing(connection: &Connection<'_>) -> Outcome<u32> {
    let lock = "SELECT pg_advisory_xact_lock($1)";
    connection.run(Frame::Begin, &[Statement::new(lock, vec![Value::Number(Some(LOCK))])]).await?;
    // Another process may have been faster: only what is read under the lock counts.
    let from = current_version(connection, Frame::Bare).await?;
    if from == 0 {
        refuse_other_tables(connection).await?;
    }
    for (index, script) in MIGRATIONS.iter().enumerate().skip(from as usize) {
        connection.simple(script).await?;
        let version = Value::from(index as u64 + 1);
        let note = "INSERT INTO durable_versions (version) VALUES ($1)";
        connection.run(Frame::Bare, &[Statement::new(note, vec![version])]).await?;
    }
    connection.run(Frame::Commit, &[]).await?;
    Ok(from)
}

/// The version of our schema in this database; 0 when it is not there.
async fn current_version(connection: &Connection<'_>, frame: Frame) -> Outcome<u32> {
    // Not `to_regclass`: inside of a transaction it may remember what was not there before.
    let there = "
        SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relname = 'durable_versions' AND n.nspname = ANY (current_schemas(false)))";
    let there = connection.run(frame, &[Statement::new(there, Vec::new())]).await?;
    if !there.iter().flatten().any(|row| row.get(0)) {
        return Ok(0);
    }
    let newest = "SELECT max(version) FROM durable_versions";
    let rows = connection.run(frame, &[Statement::new(newest, Vec::new())]).await?;
    let version: Option<i64> = rows.iter().flatten().next().and_then(|row| row.get(0));
    let version = version.unwrap_or(0);
    u32::try_from(version).ok().filter(|version| *version <= SCHEMA_VERSION).ok_or_else(|| {
        Fault::Failed(Error::invalid(format!(
            "the database has schema version {version}, this build knows versions up to \
             {SCHEMA_VERSION}: upgrade durable"
        )))
    })
}

async fn refuse_other_tables(connection: &Connection<'_>) -> Outcome<()> {
    let taken = "
        SELECT name FROM unnest(ARRAY['programs', 'executions', 'execution_steps', 'calls',
            'execution_events', 'execution_state', 'execution_locks', 'workers', 'tokens',
            'writers']) AS name
        WHERE to_regclass(quote_ident(current_schema()) || '.' || name) IS NOT NULL";
    let rows = connection.run(Frame::Bare, &[Statement::new(taken, Vec::new())]).await?;
    match rows.iter().flatten().next() {
        None => Ok(()),
        Some(row) => Err(Fault::Failed(Error::invalid(format!(
            "the database has a table '{}' of another application: use a database or a schema of \
             its own for durable",
            row.get::<_, &str>(0)
        )))),
    }
}
