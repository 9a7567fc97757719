//! Checkpoints in a Postgres database. Every operation is one statement, so that it also works
//! through a pooler.

use std::{sync::Arc, time::Duration};

use durable_core::{Error, Lease, Owner, Result};
use durable_store::PostgresOptions;
use parking_lot::Mutex;
use tokio_postgres::{
    Client, Row,
    types::{ToSql, Type},
};

use crate::{
    Ask, CheckpointId, ExecutionName, Provider,
    checkpoints::{is_held, is_lost},
    drive::Driver,
};

const SCHEMA: &str = "
    SELECT pg_advisory_xact_lock(6873245601);
    CREATE TABLE IF NOT EXISTS saved_checkpoints (
        execution text NOT NULL, number bigint NOT NULL, stored bytea NOT NULL,
        PRIMARY KEY (execution, number));
    CREATE TABLE IF NOT EXISTS saved_checkpoint_leases (
        execution text PRIMARY KEY, owner text NOT NULL, epoch bigint NOT NULL,
        expires_at timestamptz NOT NULL);";

/// Checkpoints in a Postgres database, shared by any number of machines. The clock of leases is the
/// database's.
pub struct PostgresProvider {
    options: PostgresOptions,
    driver: Driver,
    client: Mutex<Option<Arc<Client>>>,
}

/// A parameter.
type Given = (Value, Type);

#[derive(Clone)]
enum Value {
    Text(String),
    Number(i64),
    Bytes(Vec<u8>),
}

impl Value {
    fn as_sql(&self) -> &(dyn ToSql + Sync) {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => number,
            Self::Bytes(bytes) => bytes,
        }
    }
}

fn text(text: impl ToString) -> Given {
    (Value::Text(text.to_string()), Type::TEXT)
}

fn number(number: u64) -> Given {
    (Value::Number(i64::try_from(number).unwrap_or(i64::MAX)), Type::INT8)
}

fn ms(duration: Duration) -> Given {
    number(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(1 << 40))
}

impl PostgresProvider {
    /// Connects, and makes the tables when they are not there.
    ///
    /// # Errors
    /// `Unavailable` when the server can't be reached; `Invalid` when it refuses.
    pub fn open(options: &PostgresOptions) -> Result<Self> {
        let driver = Driver::new("durable-checkpoints")?;
        let provider = Self { options: options.clone(), driver, client: Mutex::new(None) };
        // Also whoever may not make tables may use them.
        if provider
            .query(
                "SELECT 1 FROM pg_class WHERE oid = to_regclass('saved_checkpoint_leases')",
                vec![],
            )?
            .is_empty()
        {
            let client = provider.client()?;
            provider.driver.run(async move {
                client.batch_execute(SCHEMA).await.map_err(|error| failed(&error))
            })?;
        }
        Ok(provider)
    }

    fn client(&self) -> Result<Arc<Client>> {
        let mut kept = self.client.lock();
        if let Some(client) = kept.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let options = self.options.clone();
        let client = Arc::new(self.driver.run(async move { options.connect().await })?);
        Ok(kept.insert(client).clone())
    }

    fn query(&self, sql: &'static str, given: Vec<Given>) -> Result<Vec<Row>> {
        let client = self.client()?;
        let asked = self.ask(&client, sql, given.clone());
        match asked {
            // A connection that idled away. Everything here may be done twice.
            Err(_) if client.is_closed() => self.ask(&self.client()?, sql, given),
            asked => asked,
        }
    }

    fn ask(&self, client: &Arc<Client>, sql: &'static str, given: Vec<Given>) -> Result<Vec<Row>> {
        let client = client.clone();
        self.driver.run(async move {
            let given: Vec<_> =
                given.iter().map(|(value, kind)| (value.as_sql(), kind.clone())).collect();
            client.query_typed(sql, &given).await.map_err(|error| failed(&error))
        })
    }
}

impl Provider for PostgresProvider {
    fn acquire(&self, ask: &Ask<'_>) -> Result<u64> {
        let sql = "
            INSERT INTO saved_checkpoint_leases AS old
            VALUES ($1, $2, 1, clock_timestamp() + $3 * interval '1 ms')
            ON CONFLICT (execution) DO UPDATE
            SET owner = excluded.owner, epoch = old.epoch + 1, expires_at = excluded.expires_at
            WHERE old.owner IN ('', $2, $4) OR old.expires_at <= clock_timestamp()
            RETURNING epoch";
        let gone = ask.gone.map_or("", Owner::as_str);
        let given = vec![text(ask.execution), text(ask.owner), ms(ask.duration), text(gone)];
        match self.query(sql, given)?.first() {
            Some(row) => Ok(row.get::<_, i64>(0).unsigned_abs()),
            None => {
                let holder = self.holder(ask.execution)?;
                Err(is_held(ask.execution, holder.as_ref().map_or("somebody else", Owner::as_str)))
            }
        }
    }

    fn renew(&self, execution: &ExecutionName, lease: &Lease, duration: Duration) -> Result<()> {
        let sql = "
            UPDATE saved_checkpoint_leases
            SET expires_at = clock_timestamp() + $4 * interval '1 ms'
            WHERE execution = $1 AND owner = $2 AND epoch = $3 RETURNING 1";
        let given = vec![text(execution), text(&lease.owner), number(lease.epoch), ms(duration)];
        let is_held = !self.query(sql, given)?.is_empty();
        if is_held { Ok(()) } else { Err(is_lost(execution)) }
    }

    fn release(&self, execution: &ExecutionName, lease: &Lease) -> Result<()> {
        let sql = "UPDATE saved_checkpoint_leases SET owner = ''
                   WHERE execution = $1 AND owner = $2 AND epoch = $3";
        let given = vec![text(execution), text(&lease.owner), number(lease.epoch)];
        self.query(sql, given).map(drop)
    }

    fn holder(&self, execution: &ExecutionName) -> Result<Option<Owner>> {
        let sql = "SELECT owner FROM saved_checkpoint_leases WHERE execution = $1 AND owner <> ''";
        let rows = self.query(sql, vec![text(execution)])?;
        Ok(rows.first().map(|row| Owner::new(row.get(0))))
    }

    fn save(&self, id: &CheckpointId, lease: &Lease, stored: &[u8]) -> Result<()> {
        // The row of the lease stays locked to the end of the statement: nobody takes it over
        // between the look at it and the write.
        let sql = "
            WITH held AS MATERIALIZED (
                SELECT execution FROM saved_checkpoint_leases
                WHERE execution = $1 AND owner = $2 AND epoch = $3 FOR UPDATE)
            INSERT INTO saved_checkpoints SELECT execution, $4, $5 FROM held
            ON CONFLICT (execution, number) DO UPDATE SET stored = excluded.stored
            RETURNING 1";
        let given = vec![
            text(&id.execution),
            text(&lease.owner),
            number(lease.epoch),
            number(id.number),
            (Value::Bytes(stored.to_vec()), Type::BYTEA),
        ];
        let is_held = !self.query(sql, given)?.is_empty();
        if is_held { Ok(()) } else { Err(is_lost(&id.execution)) }
    }

    fn load(&self, id: &CheckpointId) -> Result<Option<Vec<u8>>> {
        let sql = "SELECT stored FROM saved_checkpoints WHERE execution = $1 AND number = $2";
        let rows = self.query(sql, vec![text(&id.execution), number(id.number)])?;
        Ok(rows.first().map(|row| row.get(0)))
    }

    fn list(&self, execution: &ExecutionName) -> Result<Vec<u64>> {
        let sql = "SELECT number FROM saved_checkpoints WHERE execution = $1 ORDER BY number";
        let rows = self.query(sql, vec![text(execution)])?;
        Ok(rows.iter().map(|row| row.get::<_, i64>(0).unsigned_abs()).collect())
    }

    fn delete(&self, id: &CheckpointId) -> Result<bool> {
        let sql = "DELETE FROM saved_checkpoints WHERE execution = $1 AND number = $2 RETURNING 1";
        Ok(!self.query(sql, vec![text(&id.execution), number(id.number)])?.is_empty())
    }

    fn cleanup(&self, execution: &ExecutionName, keep_last: usize) -> Result<usize> {
        let sql = "
            DELETE FROM saved_checkpoints WHERE execution = $1 AND number <= (
                SELECT number FROM saved_checkpoints WHERE execution = $1
                ORDER BY number DESC OFFSET $2 LIMIT 1)
            RETURNING 1";
        Ok(self.query(sql, vec![text(execution), number(keep_last as u64)])?.len())
    }

    fn place(&self) -> String {
        self.options.to_string()
    }
}

fn failed(error: &tokio_postgres::Error) -> Error {
    use std::error::Error as _;
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    let refused = error.code().is_some_and(|code| ["42", "28", "3D"].contains(&&code.code()[..2]));
    let message = format!("Postgres: {text}");
    if refused { Error::invalid(message) } else { Error::unavailable(message) }
}
