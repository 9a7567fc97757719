//! Members of a batch that are written by themselves: they look before they write.

use durable_core::{Dictionary, ExecutionId, Owner, ProgramId, Status, UnixMs};
use tokio_postgres::Row;

use super::{
    claim::{self, Terms},
    error::Outcome,
    load,
    session::{Connection, Frame, Statement},
    value::{Text, Value},
};
use crate::{Control, TokenRecord, WorkerRecord, Write, Written, control::moot_control, refusal};

/// Writes a member inside of a transaction.
pub(super) async fn write(connection: &Connection<'_>, member: &Write) -> Outcome<Written> {
    match member {
        Write::PutDictionary { program, dictionary } => {
            put_dictionary(connection, program, dictionary).await
        }
        Write::Claim { owner, now_ms, expires_at_ms, dead, queues, limit } => {
            let (now_ms, expires_at_ms) = (*now_ms, *expires_at_ms);
            let terms = Terms { owner, now_ms, expires_at_ms, dead };
            claim::claim(connection, &terms, queues, *limit).await
        }
        Write::ClaimOne { execution, owner, now_ms, expires_at_ms, dead } => {
            let (now_ms, expires_at_ms) = (*now_ms, *expires_at_ms);
            let terms = Terms { owner, now_ms, expires_at_ms, dead };
            claim::claim_one(connection, &terms, *execution).await
        }
        Write::Request { execution, control, reason } => {
            request(connection, *execution, *control, reason).await
        }
        Write::PutToken(token) => put_token(connection, token).await,
        Write::RevokeToken { id, now_ms } => {
            let sql = "UPDATE tokens SET revoked_at = coalesce(revoked_at, $2) WHERE id = $1
                       RETURNING id";
            let values = vec![Value::text(id), Value::at(*now_ms)];
            match write_one(connection, sql, values).await? {
                Some(_) => Ok(Written::Done),
                None => Err(refusal::no_token(id).into()),
            }
        }
        Write::Delete { execution, owner, now_ms } => {
            delete(connection, *execution, owner, *now_ms).await
        }
        other => {
            if let Some(statement) = heartbeat(other) {
                connection.run(Frame::Bare, &[statement]).await?;
            }
            Ok(Written::Done)
        }
    }
}

/// The one statement of a member that may be written twice without harm.
pub(super) fn heartbeat(member: &Write) -> Option<Statement> {
    Some(match member {
        Write::Renew { owner, expires_at_ms } => Statement::new(
            "UPDATE execution_locks SET expires_at = $2 WHERE locked_by = $1",
            vec![Value::text(owner.as_str()), Value::at(*expires_at_ms)],
        ),
        Write::Announce(worker) => announce(worker),
        Write::Withdraw(owner) => {
            Statement::new("DELETE FROM workers WHERE id = $1", vec![Value::text(owner.as_str())])
        }
        _ => return None,
    })
}

fn announce(worker: &WorkerRecord) -> Statement {
    const ANNOUNCE: &str = "
        INSERT INTO workers
            (id, host, pid, queues, functions, concurrency, version, started_at, seen_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        ON CONFLICT (id) DO UPDATE SET host = excluded.host, pid = excluded.pid,
            queues = excluded.queues, functions = excluded.functions,
            concurrency = excluded.concurrency, version = excluded.version,
            started_at = excluded.started_at, seen_at = excluded.seen_at";
    Statement::new(
        ANNOUNCE,
        vec![
            Value::text(worker.owner.as_str()),
            Value::text(&worker.host),
            worker.pid.into(),
            Value::texts(worker.queues.iter().map(String::as_str)),
            Value::texts(worker.functions.iter().map(String::as_str)),
            worker.concurrency.into(),
            Value::text(&worker.version),
            Value::at(worker.started_at_ms),
            Value::at(worker.seen_at_ms),
        ],
    )
}

async fn write_one(
    connection: &Connection<'_>,
    sql: &'static str,
    values: Vec<Value>,
) -> Outcome<Option<Row>> {
    let rows = connection.run(Frame::Bare, &[Statement::new(sql, values)]).await?;
    Ok(rows.into_iter().flatten().next())
}

async fn put_dictionary(
    connection: &Connection<'_>,
    program: &ProgramId,
    dictionary: &Dictionary,
) -> Outcome<Written> {
    let sql = "UPDATE programs SET dictionary = coalesce(dictionary, $2) WHERE id = $1
               RETURNING dictionary";
    let values = vec![Value::text(program.as_str()), Value::Bytes(Some(dictionary.to_vec()))];
    match write_one(connection, sql, values).await? {
        Some(row) => Ok(Written::Dictionary(row.try_get::<_, &[u8]>(0)?.into())),
        None => Err(refusal::no_program(program).into()),
    }
}

/// The status of an execution that has not ended; its row is locked.
pub(super) async fn live_status(connection: &Connection<'_>, id: ExecutionId) -> Outcome<Status> {
    match load::status(connection, id).await? {
        None => Err(refusal::no_execution(id).into()),
        Some(status) if status.is_terminal() => Err(refusal::ended(id, status).into()),
        Some(status) => Ok(status),
    }
}

async fn request(
    connection: &Connection<'_>,
    id: ExecutionId,
    control: Control,
    reason: &str,
) -> Outcome<Written> {
    let status = live_status(connection, id).await?;
    let control = (control != moot_control(status)).then(|| control.as_stored());
    let sql = "UPDATE executions SET control = $2, control_reason = $3
               WHERE id = $1 AND control IS DISTINCT FROM 'CANCEL'";
    let values = vec![
        Value::text(&id.to_string()),
        Value::maybe_text(control),
        Value::maybe_text(control.map(|_| reason)),
    ];
    write_one(connection, sql, values).await?;
    Ok(Written::Done)
}

async fn delete(
    connection: &Connection<'_>,
    id: ExecutionId,
    owner: &Owner,
    now_ms: UnixMs,
) -> Outcome<Written> {
    load::lock(connection, &[id]).await?;
    if let Some((lease, expires_at_ms)) = load::lease(connection, id).await?
        && lease.owner != *owner
        && expires_at_ms > now_ms
    {
        return Err(refusal::held(id, lease.owner.as_str(), expires_at_ms).into());
    }
    // A trigger of the schema removes the rows of the other tables.
    let sql = "DELETE FROM executions WHERE id = $1 RETURNING id";
    match write_one(connection, sql, vec![Value::text(&id.to_string())]).await? {
        Some(_) => Ok(Written::Done),
        None => Err(refusal::no_execution(id).into()),
    }
}

async fn put_token(connection: &Connection<'_>, token: &TokenRecord) -> Outcome<Written> {
    let sql = "INSERT INTO tokens
                   (id, name, role, namespace, secret_hash, created_at, expires_at, revoked_at)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING RETURNING id";
    let values = vec![
        Value::text(&token.id),
        Value::text(&token.name),
        Value::text(token.role.as_str()),
        Value::Text(token.namespace.as_deref().map(|name| Text::stored(name).into_owned())),
        Value::Bytes(Some(token.secret_hash.to_vec())),
        Value::at(token.created_at_ms),
        Value::maybe_at(token.expires_at_ms),
        Value::maybe_at(token.revoked_at_ms),
    ];
    match write_one(connection, sql, values).await? {
        Some(_) => Ok(Written::Done),
        None => Err(refusal::token_taken(&token.id).into()),
    }
}
