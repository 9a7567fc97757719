//! Questions that people and engines ask.

use durable_core::{CallId, Error, ExecutionId, Owner, Payload, ProgramId, Status, UnixMs};
use mysql_async::Row;

use super::{
    error::Outcome,
    load::payload,
    session::{Connection, get},
    statement::{List, Literal},
};
use crate::{
    ExecutionRecord, ListFilter, Role, StoredProgram, TokenRecord, WorkerRecord,
    rows::{self, ExecutionRow, parse_id},
};

macro_rules! executions {
    () => {
        "SELECT e.id, e.workflow_id, e.program_id, e.status, e.input_payload, e.output_payload,
            e.error_type, e.error, e.error_traceback, e.error_call, e.version, e.created_at,
            e.started_at, e.completed_at, l.locked_by, e.idempotency_key, e.namespace, e.queue,
            e.tags
         FROM executions e LEFT JOIN execution_locks l ON l.execution_id = e.id WHERE "
    };
}

pub(super) async fn execution(
    connection: &mut Connection<'_>,
    id: ExecutionId,
) -> Outcome<Option<ExecutionRecord>> {
    const ONE: &str = concat!(executions!(), "e.id = ?");
    let rows = connection.ask(ONE, &[&id.to_string()]).await?;
    rows.first().map(read_execution).transpose()
}

fn read_execution(row: &Row) -> Outcome<ExecutionRecord> {
    let row = ExecutionRow {
        id: parse_id(&get::<String>(row, 0)?)?,
        workflow_id: get(row, 1)?,
        program: ProgramId::from_stored(&get::<String>(row, 2)?),
        status: Status::from_stored(&get::<String>(row, 3)?)?,
        inputs: payload(row, 4)?,
        output: payload(row, 5)?,
        error_type: get(row, 6)?,
        error: get(row, 7)?,
        error_traceback: get(row, 8)?,
        error_call: get::<Option<i64>>(row, 9)?.map(|call| call as CallId),
        version: get::<i64>(row, 10)? as u64,
        created_at_ms: get(row, 11)?,
        started_at_ms: get(row, 12)?,
        completed_at_ms: get(row, 13)?,
        locked_by: get(row, 14)?,
        idempotency_key: get(row, 15)?,
        namespace: get(row, 16)?,
        queue: get(row, 17)?,
        tags: rows::words(get::<Option<String>>(row, 18)?.as_deref())?,
    };
    Ok(row.into_record())
}

pub(super) async fn list(
    connection: &mut Connection<'_>,
    filter: &ListFilter,
) -> Outcome<Vec<ExecutionRecord>> {
    let before = filter.before.map(|id| id.to_string());
    let tag = filter.tag.as_ref().map(|tag| Payload::from_value(&serde_json::json!(tag)));
    let statuses = filter.statuses.iter().map(|status| status.as_stored()).collect::<Vec<_>>();
    let statuses = (!statuses.is_empty()).then_some(List(statuses));
    // What the filter asks for and nothing else, so that the server plans for that.
    let asked: [(&str, Option<&dyn Literal>); 7] = [
        ("e.id < ?", some(&before)),
        ("e.status IN ?", some(&statuses)),
        ("e.namespace = ?", some(&filter.namespace)),
        ("e.workflow_id = ?", some(&filter.workflow_id)),
        ("JSON_CONTAINS(e.tags, ?)", some(&tag)),
        ("e.created_at >= ?", some(&filter.since_ms)),
        ("e.created_at < ?", some(&filter.until_ms)),
    ];
    let mut sql = format!("{}TRUE", executions!());
    let mut values = Vec::with_capacity(asked.len() + 1);
    for (condition, value) in asked {
        if let Some(value) = value {
            sql.push_str(" AND ");
            sql.push_str(condition);
            values.push(value);
        }
    }
    sql.push_str(" ORDER BY e.id DESC LIMIT ?");
    let limit = if filter.limit == 0 { 100 } else { filter.limit as u64 };
    values.push(&limit);
    let rows = connection.ask(&sql, &values).await?;
    rows.iter().map(read_execution).collect()
}

fn some<T: Literal>(value: &Option<T>) -> Option<&dyn Literal> {
    value.as_ref().map(|value| value as &dyn Literal)
}

pub(super) async fn program(
    connection: &mut Connection<'_>,
    id: &ProgramId,
) -> Outcome<Option<StoredProgram>> {
    let sql = "SELECT definition, dictionary FROM programs WHERE id = ?";
    let rows = connection.ask(sql, &[&id.as_str()]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let dictionary: Option<Vec<u8>> = get(row, 1)?;
    Ok(Some(rows::program(id, &get::<String>(row, 0)?, dictionary.map(Into::into))?))
}

pub(super) async fn inboxes(
    connection: &mut Connection<'_>,
    owner: &Owner,
) -> Outcome<Vec<ExecutionId>> {
    const INBOXES: &str = "
        SELECT e.id FROM executions e JOIN execution_locks l ON l.execution_id = e.id
        WHERE e.inbox > 0 AND l.locked_by = ?
        UNION
        SELECT e.id FROM executions e JOIN execution_locks l ON l.execution_id = e.id
        WHERE e.control IS NOT NULL AND l.locked_by = ?
        ORDER BY id";
    let rows = connection.ask(INBOXES, &[&owner.as_str(), &owner.as_str()]).await?;
    rows.iter().map(|row| Ok(parse_id(&get::<String>(row, 0)?)?)).collect()
}

/// The condition that `e` is of one of these queues; empty for all.
pub(super) struct OfQueues<'a>(pub(super) &'a [String]);

impl Literal for OfQueues<'_> {
    fn write(&self, sql: &mut Vec<u8>) {
        if self.0.is_empty() {
            return true.write(sql);
        }
        sql.extend_from_slice(b"e.queue IN ");
        List(self.0.iter().collect()).write(sql);
    }
}

pub(super) async fn next_due_ms(
    connection: &mut Connection<'_>,
    owner: &Owner,
    queues: &[String],
) -> Outcome<Option<UnixMs>> {
    // An execution that is paused waits for an operator only.
    const NEXT: &str = "
        SELECT EXISTS (
            SELECT 1 FROM executions e
            WHERE e.inbox > 0 AND e.status IN ('SCHEDULED', 'RUNNING', 'WAITING') AND ?
              AND NOT EXISTS (SELECT 1 FROM execution_locks l WHERE l.execution_id = e.id)
        ) OR EXISTS (
            SELECT 1 FROM executions e
            WHERE e.control IS NOT NULL
              AND e.status IN ('SCHEDULED', 'RUNNING', 'WAITING', 'PAUSED') AND ?
              AND NOT EXISTS (SELECT 1 FROM execution_locks l WHERE l.execution_id = e.id)
        ), (
            SELECT e.wake_at FROM executions e
            WHERE e.wake_at IS NOT NULL AND e.status IN ('SCHEDULED', 'RUNNING', 'WAITING')
              AND ?
              AND NOT EXISTS (SELECT 1 FROM execution_locks l WHERE l.execution_id = e.id)
            ORDER BY e.wake_at, e.id LIMIT 1
        ), (
            SELECT MIN(l.expires_at)
            FROM execution_locks l JOIN executions e ON e.id = l.execution_id
            WHERE ? AND l.locked_by <> ?
              AND (e.status IN ('SCHEDULED', 'RUNNING', 'WAITING')
                   OR e.status = 'PAUSED' AND e.control IS NOT NULL)
        )";
    let queues = &OfQueues(queues);
    let rows = connection.ask(NEXT, &[queues, queues, queues, queues, &owner.as_str()]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    if get::<bool>(row, 0)? {
        return Ok(Some(UnixMs::MIN));
    }
    let (wake_at_ms, expires_at_ms): (Option<UnixMs>, Option<UnixMs>) =
        (get(row, 1)?, get(row, 2)?);
    Ok(wake_at_ms.into_iter().chain(expires_at_ms).min())
}

pub(super) async fn other_owners(
    connection: &mut Connection<'_>,
    owner: &Owner,
) -> Outcome<Vec<Owner>> {
    let sql = "SELECT DISTINCT locked_by FROM execution_locks WHERE locked_by <> ?
               ORDER BY locked_by";
    let rows = connection.ask(sql, &[&owner.as_str()]).await?;
    rows.iter().map(|row| Ok(Owner::new(&get::<String>(row, 0)?))).collect()
}

pub(super) async fn call_of_job(
    connection: &mut Connection<'_>,
    job_id: &str,
) -> Outcome<Option<(ExecutionId, CallId)>> {
    let sql = "SELECT execution_id, call_id FROM execution_steps WHERE job_id = ?
               ORDER BY execution_id, call_id LIMIT 1";
    let rows = connection.ask(sql, &[&job_id]).await?;
    let found = rows.first().map(|row| -> Outcome<_> {
        Ok((parse_id(&get::<String>(row, 0)?)?, get::<i64>(row, 1)? as CallId))
    });
    found.transpose()
}

pub(super) async fn workers(connection: &mut Connection<'_>) -> Outcome<Vec<WorkerRecord>> {
    let sql = "SELECT id, host, pid, queues, functions, concurrency, version, started_at, seen_at,
                   (SELECT COUNT(*) FROM execution_locks WHERE locked_by = workers.id)
               FROM workers ORDER BY id";
    let read = |row: &Row| -> Outcome<WorkerRecord> {
        let words = |column| -> Outcome<Vec<String>> {
            Ok(rows::words(get::<Option<String>>(row, column)?.as_deref())?)
        };
        Ok(WorkerRecord {
            owner: Owner::new(&get::<String>(row, 0)?),
            host: get(row, 1)?,
            pid: get::<i64>(row, 2)? as u32,
            queues: words(3)?,
            functions: words(4)?,
            concurrency: get::<i64>(row, 5)? as u32,
            version: get(row, 6)?,
            started_at_ms: get(row, 7)?,
            seen_at_ms: get(row, 8)?,
            held: get::<i64>(row, 9)? as u32,
        })
    };
    connection.ask(sql, &[]).await?.iter().map(read).collect()
}

pub(super) async fn tokens(connection: &mut Connection<'_>) -> Outcome<Vec<TokenRecord>> {
    let sql = "SELECT id, name, role, namespace, secret_hash, created_at, expires_at, revoked_at
               FROM tokens ORDER BY created_at, id";
    let read = |row: &Row| -> Outcome<TokenRecord> {
        let id: String = get(row, 0)?;
        let secret_hash = get::<Vec<u8>>(row, 4)?.try_into();
        Ok(TokenRecord {
            secret_hash: secret_hash
                .map_err(|_| Error::corrupt(format!("the hash of token '{id}' is not 32 bytes")))?,
            id,
            name: get(row, 1)?,
            role: Role::parse(&get::<String>(row, 2)?)?,
            namespace: get(row, 3)?,
            created_at_ms: get(row, 5)?,
            expires_at_ms: get(row, 6)?,
            revoked_at_ms: get(row, 7)?,
        })
    };
    connection.ask(sql, &[]).await?.iter().map(read).collect()
}
