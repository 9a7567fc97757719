//! Questions that people and engines ask.

use durable_core::{CallId, Error, ExecutionId, Owner, Payload, ProgramId, Status, UnixMs};
use tokio_postgres::Row;

use super::{
    error::Outcome,
    load::{payload, text},
    session::{Connection, Frame, Statement},
    value::{Instant, Json, Text, Value},
};
use crate::{
    ExecutionRecord, ListFilter, Role, StoredProgram, TokenRecord, WorkerRecord,
    rows::{self, ExecutionRow, parse_id},
};

async fn ask(
    connection: &Connection<'_>,
    sql: &'static str,
    values: Vec<Value>,
) -> Outcome<Vec<Row>> {
    let answers = connection.run(Frame::Bare, &[Statement::new(sql, values)]).await?;
    Ok(answers.into_iter().flatten().collect())
}

macro_rules! executions {
    () => {
        "SELECT e.id, e.workflow_id, e.program_id, e.status, e.input_payload, e.output_payload,
            e.error_type, e.error, e.error_traceback, e.error_call, e.version, e.created_at,
            e.started_at, e.completed_at, l.locked_by, e.idempotency_key, e.namespace, e.queue,
            e.tags::text
         FROM executions e LEFT JOIN execution_locks l ON l.execution_id = e.id WHERE "
    };
}

pub(super) async fn execution(
    connection: &Connection<'_>,
    id: ExecutionId,
) -> Outcome<Option<ExecutionRecord>> {
    const ONE: &str = concat!(executions!(), "e.id = $1");
    let rows = ask(connection, ONE, vec![Value::text(&id.to_string())]).await?;
    rows.first().map(read_execution).transpose()
}

fn read_execution(row: &Row) -> Outcome<ExecutionRecord> {
    let at = |column| row.try_get::<_, Option<Instant>>(column).map(|at| at.map(|at| at.0));
    let tags = rows::words(row.try_get(18)?)?;
    let row = ExecutionRow {
        id: parse_id(row.try_get(0)?)?,
        workflow_id: text(row, 1)?.unwrap_or_default(),
        program: ProgramId::from_stored(row.try_get(2)?),
        status: Status::from_stored(row.try_get(3)?)?,
        inputs: Some(Payload::trusted(row.try_get::<_, Json<&str>>(4)?.0)),
        output: payload(row, 5)?,
        error_type: text(row, 6)?,
        error: text(row, 7)?,
        error_traceback: text(row, 8)?,
        error_call: row.try_get::<_, Option<i64>>(9)?.map(|call| call as CallId),
        version: row.try_get::<_, i64>(10)? as u64,
        created_at_ms: row.try_get::<_, Instant>(11)?.0,
        started_at_ms: at(12)?,
        completed_at_ms: at(13)?,
        locked_by: row.try_get(14)?,
        idempotency_key: text(row, 15)?,
        namespace: text(row, 16)?.unwrap_or_default(),
        queue: text(row, 17)?,
        tags: tags.iter().map(|tag| Text::read(tag)).collect(),
    };
    Ok(row.into_record())
}

pub(super) async fn list(
    connection: &Connection<'_>,
    filter: &ListFilter,
) -> Outcome<Vec<ExecutionRecord>> {
    let limit = if filter.limit == 0 { 100 } else { filter.limit };
    let (conditions, mut values) = conditions(filter);
    values.push(Value::Number(Some(i64::try_from(limit).unwrap_or(i64::MAX))));
    let sql = format!("{} {conditions} ORDER BY e.id DESC LIMIT ${}", executions!(), values.len());
    let answers = connection.run(Frame::Bare, &[Statement::made(sql, values)]).await?;
    answers.iter().flatten().map(read_execution).collect()
}

/// What a filter asks for and nothing else, so that Postgres plans for that.
fn conditions(filter: &ListFilter) -> (String, Vec<Value>) {
    let asked = [
        ("e.id < ", filter.before.map(|id| Value::Text(Some(id.to_string())))),
        ("e.namespace = ", filter.namespace.as_deref().map(Value::text)),
        ("e.workflow_id = ", filter.workflow_id.as_deref().map(Value::text)),
        ("e.tags ? ", filter.tag.as_deref().map(Value::text)),
        ("e.created_at >= ", filter.since_ms.map(Value::at)),
        ("e.created_at < ", filter.until_ms.map(Value::at)),
    ];
    let mut conditions = vec!["true".to_owned()];
    let mut values = Vec::new();
    for (condition, value) in asked {
        if let Some(value) = value {
            values.push(value);
            conditions.push(format!("{condition}${}", values.len()));
        }
    }
    if !filter.statuses.is_empty() {
        // Words of ours, spelled out: a partial index is made for some of them.
        let words: Vec<_> = filter.statuses.iter().map(|status| status.as_stored()).collect();
        conditions.push(format!("e.status IN ('{}')", words.join("', '")));
    }
    (conditions.join(" AND "), values)
}

pub(super) async fn program(
    connection: &Connection<'_>,
    id: &ProgramId,
) -> Outcome<Option<StoredProgram>> {
    let sql = "SELECT definition, dictionary FROM programs WHERE id = $1";
    let rows = ask(connection, sql, vec![Value::text(id.as_str())]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let Json(definition) = row.try_get(0)?;
    let dictionary: Option<&[u8]> = row.try_get(1)?;
    Ok(Some(rows::program(id, definition, dictionary.map(Into::into))?))
}

pub(super) async fn inboxes(
    connection: &Connection<'_>,
    owner: &Owner,
) -> Outcome<Vec<ExecutionId>> {
    const INBOXES: &str = "
        SELECT e.id FROM executions e JOIN execution_locks l ON l.execution_id = e.id
        WHERE e.inbox > 0 AND l.locked_by = $1
        UNION
        SELECT e.id FROM executions e JOIN execution_locks l ON l.execution_id = e.id
        WHERE e.control IS NOT NULL AND l.locked_by = $1
        ORDER BY id";
    let rows = ask(connection, INBOXES, vec![Value::text(owner.as_str())]).await?;
    rows.iter().map(|row| Ok(parse_id(row.try_get(0)?)?)).collect()
}

/// The queues for SQL; NULL for all.
pub(super) fn queues(queues: &[String]) -> Value {
    match queues {
        [] => Value::Texts(vec![None]),
        some => Value::texts(some.iter().map(String::as_str)),
    }
}

/// `e` is of one of the queues in `$n`.
macro_rules! of_queues {
    ($n:literal) => {
        concat!("(", $n, "::text[] = '{NULL}' OR e.queue = ANY(", $n, "))")
    };
}
pub(super) use of_queues;

pub(super) async fn next_due_ms(
    connection: &Connection<'_>,
    owner: &Owner,
    queues: &[String],
) -> Outcome<Option<UnixMs>> {
    // An execution that is paused waits for an operator only.
    const NEXT: &str = concat!(
        "SELECT CASE WHEN EXISTS (
            SELECT FROM executions e
            WHERE e.inbox > 0 AND e.status IN ('SCHEDULED', 'RUNNING', 'WAITING') AND ",
        of_queues!("$2"),
        " AND NOT EXISTS (SELECT FROM execution_locks l WHERE l.execution_id = e.id)
        ) OR EXISTS (
            SELECT FROM executions e
            WHERE e.control IS NOT NULL
              AND e.status IN ('SCHEDULED', 'RUNNING', 'WAITING', 'PAUSED') AND ",
        of_queues!("$2"),
        " AND NOT EXISTS (SELECT FROM execution_locks l WHERE l.execution_id = e.id)
        ) THEN '-infinity'::timestamptz ELSE least((
            SELECT e.wake_at FROM executions e
            WHERE e.wake_at IS NOT NULL AND e.status IN ('SCHEDULED', 'RUNNING', 'WAITING') AND ",
        of_queues!("$2"),
        " AND NOT EXISTS (SELECT FROM execution_locks l WHERE l.execution_id = e.id)
            ORDER BY e.wake_at, e.id LIMIT 1
        ), (
            SELECT min(l.expires_at) FROM execution_locks l JOIN executions e ON e.id = l.execution_id
            WHERE l.locked_by <> $1 AND ",
        of_queues!("$2"),
        " AND (e.status IN ('SCHEDULED', 'RUNNING', 'WAITING')
                   OR e.status = 'PAUSED' AND e.control IS NOT NULL)
        )) END"
    );
    let values = vec![Value::text(owner.as_str()), self::queues(queues)];
    let rows = ask(connection, NEXT, values).await?;
    let due: Option<Instant> = rows.first().map(|row| row.try_get(0)).transpose()?.flatten();
    Ok(due.map(|due| due.0))
}

pub(super) async fn other_owners(
    connection: &Connection<'_>,
    owner: &Owner,
) -> Outcome<Vec<Owner>> {
    let sql = "SELECT DISTINCT locked_by FROM execution_locks WHERE locked_by <> $1
               ORDER BY locked_by";
    let rows = ask(connection, sql, vec![Value::text(owner.as_str())]).await?;
    rows.iter().map(|row| Ok(Owner::new(row.try_get(0)?))).collect()
}

pub(super) async fn call_of_job(
    connection: &Connection<'_>,
    job_id: &str,
) -> Outcome<Option<(ExecutionId, CallId)>> {
    let sql = "SELECT execution_id, call_id FROM execution_steps WHERE job_id = $1
               ORDER BY execution_id, call_id LIMIT 1";
    let rows = ask(connection, sql, vec![Value::text(job_id)]).await?;
    let found = rows.first().map(|row| -> Outcome<_> {
        Ok((parse_id(row.try_get(0)?)?, row.try_get::<_, i64>(1)? as CallId))
    });
    found.transpose()
}

pub(super) async fn workers(connection: &Connection<'_>) -> Outcome<Vec<WorkerRecord>> {
    let sql = "SELECT id, host, pid, queues, functions, concurrency, version, started_at, seen_at,
                   (SELECT count(*) FROM execution_locks WHERE locked_by = workers.id)
               FROM workers ORDER BY id";
    let read = |row: &Row| -> Outcome<WorkerRecord> {
        let words = |column| -> Outcome<Vec<String>> {
            let words: Vec<Text> = row.try_get(column)?;
            Ok(words.into_iter().map(|Text(word)| word).collect())
        };
        Ok(WorkerRecord {
            owner: Owner::new(row.try_get(0)?),
            host: text(row, 1)?.unwrap_or_default(),
            pid: row.try_get::<_, i64>(2)? as u32,
            queues: words(3)?,
            functions: words(4)?,
            concurrency: row.try_get::<_, i64>(5)? as u32,
            version: text(row, 6)?.unwrap_or_default(),
            started_at_ms: row.try_get::<_, Instant>(7)?.0,
            seen_at_ms: row.try_get::<_, Instant>(8)?.0,
            held: row.try_get::<_, i64>(9)? as u32,
        })
    };
    ask(connection, sql, Vec::new()).await?.iter().map(read).collect()
}

pub(super) async fn tokens(connection: &Connection<'_>) -> Outcome<Vec<TokenRecord>> {
    let sql = "SELECT id, name, role, namespace, secret_hash, created_at, expires_at, revoked_at
               FROM tokens ORDER BY created_at, id";
    let read = |row: &Row| -> Outcome<TokenRecord> {
        let at = |column| row.try_get::<_, Option<Instant>>(column).map(|at| at.map(|at| at.0));
        let id = text(row, 0)?.unwrap_or_default();
        let secret_hash = row.try_get::<_, &[u8]>(4)?.try_into();
        Ok(TokenRecord {
            secret_hash: secret_hash
                .map_err(|_| Error::corrupt(format!("the hash of token '{id}' is not 32 bytes")))?,
            id,
            name: text(row, 1)?.unwrap_or_default(),
            role: Role::parse(row.try_get(2)?)?,
            namespace: text(row, 3)?,
            created_at_ms: row.try_get::<_, Instant>(5)?.0,
            expires_at_ms: at(6)?,
            revoked_at_ms: at(7)?,
        })
    };
    ask(connection, sql, Vec::new()).await?.iter().map(read).collect()
}
