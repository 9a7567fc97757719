//! Members of a batch that are written by themselves: they look before they write.

use durable_core::{Dictionary, ExecutionId, Owner, ProgramId, Status, UnixMs};

use super::{
    claim::{self, Terms},
    error::Outcome,
    load,
    session::{Connection, Frame, get},
    statement::Statement,
};
use crate::{Control, TokenRecord, WorkerRecord, Write, Written, control::moot_control, refusal};

/// Writes a member inside of a transaction.
pub(super) async fn write(connection: &mut Connection<'_>, member: &Write) -> Outcome<Written> {
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
        Write::RevokeToken { id, now_ms } => revoke_token(connection, id, *now_ms).await,
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
            "UPDATE execution_locks SET expires_at = ? WHERE locked_by = ?",
            &[expires_at_ms, &owner.as_str()],
        ),
        Write::Announce(worker) => announce(worker),
        Write::Withdraw(owner) => {
            Statement::new("DELETE FROM workers WHERE id = ?", &[&owner.as_str()])
        }
        _ => return None,
    })
}

fn announce(worker: &WorkerRecord) -> Statement {
    Statement::new(
        "REPLACE INTO workers
             (id, host, pid, queues, functions, concurrency, version, started_at, seen_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        &[
            &worker.owner.as_str(),
            &worker.host,
            &worker.pid,
            &serde_json::json!(worker.queues).to_string(),
            &serde_json::json!(worker.functions).to_string(),
            &worker.concurrency,
            &worker.version,
            &worker.started_at_ms,
            &worker.seen_at_ms,
        ],
    )
}

async fn put_dictionary(
    connection: &mut Connection<'_>,
    program: &ProgramId,
    dictionary: &Dictionary,
) -> Outcome<Written> {
    let put = "UPDATE programs SET dictionary = COALESCE(dictionary, ?) WHERE id = ?";
    connection.ask(put, &[&&**dictionary, &program.as_str()]).await?;
    let kept = "SELECT dictionary FROM programs WHERE id = ?";
    let rows = connection.ask(kept, &[&program.as_str()]).await?;
    match rows.first() {
        Some(row) => Ok(Written::Dictionary(get::<Vec<u8>>(row, 0)?.into())),
        None => Err(refusal::no_program(program).into()),
    }
}

/// The status of an execution that has not ended; its row is locked.
pub(super) async fn live_status(
    connection: &mut Connection<'_>,
    id: ExecutionId,
) -> Outcome<Status> {
    match load::status(connection, id).await? {
        None => Err(refusal::no_execution(id).into()),
        Some(status) if status.is_terminal() => Err(refusal::ended(id, status).into()),
        Some(status) => Ok(status),
    }
}

async fn request(
    connection: &mut Connection<'_>,
    id: ExecutionId,
    control: Control,
    reason: &str,
) -> Outcome<Written> {
    let status = live_status(connection, id).await?;
    let control = (control != moot_control(status)).then(|| control.as_stored());
    let reason = control.map(|_| reason);
    let sql = "UPDATE executions SET control = ?, control_reason = ?
               WHERE id = ? AND (control IS NULL OR control <> 'CANCEL')";
    connection.ask(sql, &[&control, &reason, &id.to_string()]).await?;
    Ok(Written::Done)
}

async fn delete(
    connection: &mut Connection<'_>,
    id: ExecutionId,
    owner: &Owner,
    now_ms: UnixMs,
) -> Outcome<Written> {
    load::status(connection, id).await?.ok_or_else(|| refusal::no_execution(id))?;
    if let Some((lease, expires_at_ms)) = load::lease(connection, id).await?
        && lease.owner != *owner
        && expires_at_ms > now_ms
    {
        return Err(refusal::held(id, lease.owner.as_str(), expires_at_ms).into());
    }
    // A trigger of the schema removes the rows of the other tables.
    connection.ask("DELETE FROM executions WHERE id = ?", &[&id.to_string()]).await?;
    Ok(Written::Done)
}

async fn put_token(connection: &mut Connection<'_>, token: &TokenRecord) -> Outcome<Written> {
    let taken = "SELECT 1 FROM tokens WHERE id = ? FOR UPDATE";
    if !connection.ask(taken, &[&token.id]).await?.is_empty() {
        return Err(refusal::token_taken(&token.id).into());
    }
    let put = "INSERT INTO tokens
                   (id, name, role, namespace, secret_hash, created_at, expires_at, revoked_at)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    let hash = &token.secret_hash[..];
    let values: [&dyn super::statement::Literal; 8] = [
        &token.id,
        &token.name,
        &token.role.as_str(),
        &token.namespace,
        &hash,
        &token.created_at_ms,
        &token.expires_at_ms,
        &token.revoked_at_ms,
    ];
    connection.ask(put, &values).await?;
    Ok(Written::Done)
}

async fn revoke_token(
    connection: &mut Connection<'_>,
    id: &str,
    now_ms: UnixMs,
) -> Outcome<Written> {
    let taken = "SELECT 1 FROM tokens WHERE id = ? FOR UPDATE";
    if connection.ask(taken, &[&id]).await?.is_empty() {
        return Err(refusal::no_token(id).into());
    }
    let revoke = "UPDATE tokens SET revoked_at = COALESCE(revoked_at, ?) WHERE id = ?";
    connection.ask(revoke, &[&now_ms, &id]).await?;
    Ok(Written::Done)
}
