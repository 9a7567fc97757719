//! The members of a batch, one function for each kind of write.
//!
//! Each compares first and writes only if it has won: a member that loses costs nothing.

use durable_core::{
    CallId, Dictionary, ExecutionId, Lease, Outcome, Owner, Program, ProgramId, Status, UnixMs,
};
use rusqlite::{Connection, OptionalExtension, params};

use super::{claim, error::Outcome as InTransaction, load, registry, steps, transition};
use crate::{
    Control, NewExecution, Write, Written, control::moot_control, refusal, rows::parse_id,
};

pub(super) fn apply(connection: &Connection, write: &Write) -> InTransaction<Written> {
    match write {
        Write::PutProgram(program) => put_program(connection, program),
        Write::PutDictionary { program, dictionary } => {
            put_dictionary(connection, program, dictionary)
        }
        Write::Create(new) => create(connection, new),
        Write::Transition(transition) => {
            transition::commit(connection, transition).map(|()| Written::Done)
        }
        Write::Claim { owner, now_ms, expires_at_ms, dead, queues, limit } => {
            let terms = claim::Terms::new(owner, *now_ms, *expires_at_ms, dead, queues);
            claim::claim(connection, &terms, *limit)
        }
        Write::ClaimOne { execution, owner, now_ms, expires_at_ms, dead } => {
            let terms = claim::Terms::new(owner, *now_ms, *expires_at_ms, dead, &[]);
            claim::claim_one(connection, &terms, *execution)
        }
        Write::Renew { owner, expires_at_ms } => renew(connection, owner, *expires_at_ms),
        Write::Release { execution, lease, wake_at_ms } => {
            release(connection, *execution, lease, *wake_at_ms)
        }
        Write::Report { execution, call, outcome, now_ms } => {
            report(connection, *execution, *call, outcome, *now_ms)
        }
        Write::Request { execution, control, reason } => {
            request(connection, *execution, *control, reason)
        }
        Write::Announce(worker) => registry::announce(connection, worker),
        Write::Withdraw(owner) => registry::withdraw(connection, owner),
        Write::PutToken(token) => registry::put_token(connection, token),
        Write::RevokeToken { id, now_ms } => registry::revoke_token(connection, id, *now_ms),
        Write::NoteJob { execution, lease, call, job_id } => {
            transition::note_job(connection, *execution, lease, *call, job_id)
                .map(|()| Written::Done)
        }
        Write::Delete { execution, owner, now_ms } => {
            delete(connection, *execution, owner, *now_ms)
        }
    }
}

fn put_program(connection: &Connection, program: &Program) -> InTransaction<Written> {
    connection
        .prepare_cached(
            "INSERT INTO programs (id, definition) VALUES (?1, ?2) ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![program.id().as_str(), program.to_json()])?;
    Ok(Written::Done)
}

fn put_dictionary(
    connection: &Connection,
    program: &ProgramId,
    dictionary: &Dictionary,
) -> InTransaction<Written> {
    let sql = "UPDATE programs SET dictionary = ?2 WHERE id = ?1 AND dictionary IS NULL";
    connection.prepare_cached(sql)?.execute(params![program.as_str(), &dictionary[..]])?;
    let kept: Option<Vec<u8>> = connection
        .prepare_cached("SELECT dictionary FROM programs WHERE id = ?1")?
        .query_row([program.as_str()], |row| row.get(0))
        .optional()?;
    match kept {
        Some(kept) => Ok(Written::Dictionary(kept.into())),
        None => Err(refusal::no_program(program).into()),
    }
}

fn create(connection: &Connection, new: &NewExecution) -> InTransaction<Written> {
    if let Some(key) = &new.idempotency_key {
        let sql = "SELECT id FROM executions WHERE namespace = ?1 AND idempotency_key = ?2";
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query([&new.labels.namespace, key])?;
        if let Some(row) = rows.next()? {
            let id = parse_id(row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?)?;
            return Ok(Written::Created { id, existing: true });
        }
    }
    let id = new.id.to_string();
    let (epoch, wake_at_ms) = match new.lease {
        Some(_) => (1, None),
        None => (0, Some(new.created_at_ms)),
    };
    let known = connection
        .prepare_cached("SELECT 1 FROM programs WHERE id = ?1")?
        .exists([new.program.as_str()])?;
    if !known {
        return Err(refusal::no_program(&new.program).into());
    }
    let labels = &new.labels;
    let inserted = connection
        .prepare_cached(
            "INSERT INTO executions (id, workflow_id, program_id, input_payload, idempotency_key,
                                     lease_epoch, wake_at, created_at, namespace, queue, tags)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
             ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![
            id,
            new.workflow_id,
            new.program.as_str(),
            new.inputs.as_str(),
            new.idempotency_key,
            epoch,
            wake_at_ms,
            new.created_at_ms,
            labels.namespace,
            labels.queue,
            (!labels.tags.is_empty()).then(|| serde_json::json!(labels.tags).to_string())
        ])?;
    if inserted == 0 {
        return Err(refusal::id_taken(new.id).into());
    }
    if let Some((owner, expires_at_ms)) = &new.lease {
        claim::put_lease(connection, &id, owner, new.created_at_ms, *expires_at_ms, 1)?;
    }
    Ok(Written::Created { id: new.id, existing: false })
}

fn renew(connection: &Connection, owner: &Owner, expires_at_ms: UnixMs) -> InTransaction<Written> {
    connection
        .prepare_cached("UPDATE execution_locks SET expires_at = ?2 WHERE locked_by = ?1")?
        .execute(params![owner.as_str(), expires_at_ms])?;
    Ok(Written::Done)
}

fn release(
    connection: &Connection,
    id: ExecutionId,
    lease: &Lease,
    wake_at_ms: Option<UnixMs>,
) -> InTransaction<Written> {
    let text = id.to_string();
    let released = connection
        .prepare_cached(
            "DELETE FROM execution_locks WHERE execution_id = ?1 AND locked_by = ?2 AND epoch = ?3",
        )?
        .execute(params![text, lease.owner.as_str(), lease.epoch as i64])?;
    if released == 1 {
        connection
            .prepare_cached("UPDATE executions SET wake_at = ?2 WHERE id = ?1")?
            .execute(params![text, wake_at_ms])?;
    }
    Ok(Written::Done)
}

/// Closes the row of a call; a trigger of the schema puts it into the inbox, as it does for
/// everybody else who closes one. Attempt and due time stay: they belong to the state of the
/// execution, in which the call is open until the program is given the outcome.
fn report(
    connection: &Connection,
    id: ExecutionId,
    call: CallId,
    outcome: &Outcome,
    now_ms: UnixMs,
) -> InTransaction<Written> {
    let (status, result, failure) = match outcome {
        Outcome::Completed(result) => ("SUCCESS", Some(result), None),
        Outcome::Failed(failure) => ("FAILED", None, Some(failure)),
    };
    let changed = connection
        .prepare_cached(
            "UPDATE execution_steps SET status = ?3, result = ?4, error_type = ?5, error = ?6,
                 error_traceback = ?7, completed_at = ?8
             WHERE execution_id = ?1 AND call_id = ?2 AND kind <> 'timer'
               AND status IN ('PENDING', 'SUBMITTED')
               AND EXISTS (SELECT 1 FROM executions WHERE id = ?1
                           AND status NOT IN ('SUCCESS', 'FAILED', 'CANCELLED'))",
        )?
        .execute(params![
            id.to_string(),
            call,
            status,
            result.map(|result| result.as_str()),
            failure.map(|failure| failure.error_type.as_str()),
            failure.map(|failure| failure.message.as_str()),
            failure.and_then(|failure| failure.traceback.as_deref()),
            now_ms
        ])?;
    if changed == 1 {
        return Ok(Written::Done);
    }
    let status = live_status(connection, id);
    Err(match steps::one(connection, id, call)? {
        _ if status.is_err() => return status.map(|_| Written::Done),
        None => refusal::no_call(id, call),
        Some(row) if row.record.is_timer => refusal::call_is_timer(id, call),
        Some(_) => refusal::call_closed(id, call),
    }
    .into())
}

/// The status of an execution that has not ended.
fn live_status(connection: &Connection, id: ExecutionId) -> InTransaction<Status> {
    match load::state_row(connection, id)? {
        None => Err(refusal::no_execution(id).into()),
        Some(row) if row.execution.status.is_terminal() => {
            Err(refusal::ended(id, row.execution.status).into())
        }
        Some(row) => Ok(row.execution.status),
    }
}

fn request(
    connection: &Connection,
    id: ExecutionId,
    control: Control,
    reason: &str,
) -> InTransaction<Written> {
    let status = live_status(connection, id)?;
    let control = (control != moot_control(status)).then(|| control.as_stored());
    let reason = control.map(|_| reason);
    connection
        .prepare_cached(
            "UPDATE executions SET control = ?2, control_reason = ?3
             WHERE id = ?1 AND control IS NOT 'CANCEL'",
        )?
        .execute(params![id.to_string(), control, reason])?;
    Ok(Written::Done)
}

fn delete(
    connection: &Connection,
    id: ExecutionId,
    owner: &Owner,
    now_ms: UnixMs,
) -> InTransaction<Written> {
    if let Some((lease, expires_at_ms)) = load::lease(connection, id)?
        && lease.owner != *owner
        && expires_at_ms > now_ms
    {
        return Err(refusal::held(id, lease.owner.as_str(), expires_at_ms).into());
    }
    // A trigger of the schema removes the rows of the other tables.
    let deleted = connection
        .prepare_cached("DELETE FROM executions WHERE id = ?1")?
        .execute([id.to_string()])?;
    if deleted == 1 { Ok(Written::Done) } else { Err(refusal::no_execution(id).into()) }
}
