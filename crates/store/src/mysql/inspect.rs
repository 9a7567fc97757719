//! Looking for damage.

use durable_core::{ExecutionId, replay};
use mysql_async::Row;

use super::{
    error::Outcome,
    load,
    session::{Connection, Frame, get},
    statement::Statement,
};
use crate::{check, rows::parse_id};

/// Most findings of one kind that are reported.
const MAX_FINDINGS: usize = 100;

/// Looks for damage, the worst first: the journals, the rows, what is stranded.
pub(super) async fn check(connection: &mut Connection<'_>) -> Outcome<Vec<String>> {
    let sql = [GAPS, UNFINISHED, ORPHANS, INBOXES, STRANDED];
    let statements = sql.map(|sql| Statement::new(sql, &[]));
    let answers = connection.run(Frame::Read, &statements).await?;
    connection.run(Frame::Commit, &[]).await?;
    let [gaps, unfinished, orphans, inboxes, stranded] = &answers[..] else {
        return Ok(Vec::new());
    };
    let text = get::<String>;
    let number = get::<i64>;
    let mut findings = Vec::new();
    for row in gaps {
        let (id, next, count) = (text(row, 0)?, number(row, 1)?, number(row, 2)?);
        findings.push(format!(
            "execution {id}: the journal holds {count} events, its row counts {}",
            next - 1
        ));
    }
    findings.extend(folded_journals(connection, unfinished).await?);
    for row in orphans {
        let (table, id) = (text(row, 0)?, text(row, 1)?);
        findings.push(format!("{table} holds rows of execution {id}, which does not exist"));
    }
    for row in inboxes {
        let (id, counted, found) = (text(row, 0)?, number(row, 1)?, number(row, 2)?);
        findings.push(format!(
            "execution {id}: its inbox holds {found} calls, its row counts {counted}"
        ));
    }
    for row in stranded {
        let id = text(row, 0)?;
        findings.push(format!(
            "execution {id} is stranded, nobody holds it and nothing will wake it: \
             UPDATE executions SET wake_at = UNIX_TIMESTAMP() * 1000 WHERE id = '{id}'"
        ));
    }
    Ok(findings)
}

/// Compares the journals of executions that have not ended with their rows.
async fn folded_journals(connection: &mut Connection<'_>, rows: &[Row]) -> Outcome<Vec<String>> {
    let mut findings = Vec::new();
    for row in rows {
        let text: String = get(row, 0)?;
        let finding = match parse_id(&text) {
            Ok(id) => match difference(connection, id).await {
                Ok(finding) => finding,
                Err(fault) if fault.is_of_one_member() => {
                    Some(durable_core::Error::from(fault).to_string())
                }
                Err(fault) => return Err(fault),
            },
            Err(error) => Some(error.to_string()),
        };
        findings.extend(finding.map(|finding| format!("execution {text}: {finding}")));
        if findings.len() >= MAX_FINDINGS {
            break;
        }
    }
    Ok(findings)
}

async fn difference(connection: &mut Connection<'_>, id: ExecutionId) -> Outcome<Option<String>> {
    // The state and the journal are read one after the other: when a worker has written in between
    // they are read again.
    for _ in 0..3 {
        let found = load::load(connection, Frame::Read, &[id]).await?.into_iter().next();
        let Some((_, loaded)) = found else { return Ok(None) };
        let loaded = loaded?;
        let journal = load::journal(connection, id, 0, usize::MAX).await?;
        let last = journal.last().map_or(0, |recorded| recorded.sequence);
        if last + 1 > loaded.execution.next_sequence {
            continue;
        }
        let folded = replay::fold(id, &journal)?;
        return Ok(
            (folded != loaded.execution).then(|| check::difference(&folded, &loaded.execution))
        );
    }
    Ok(None)
}

const UNFINISHED: &str =
    "SELECT id FROM executions WHERE completed_at IS NULL ORDER BY id LIMIT 10000";

const GAPS: &str = "
SELECT e.id, e.next_sequence, COUNT(v.sequence) FROM executions e
LEFT JOIN execution_events v ON v.execution_id = e.id
GROUP BY e.id, e.next_sequence
HAVING COUNT(v.sequence) <> e.next_sequence - 1
    OR COALESCE(MAX(v.sequence), 0) <> e.next_sequence - 1
ORDER BY e.id LIMIT 100";

const ORPHANS: &str = "
SELECT DISTINCT kind, id FROM (
    SELECT 'execution_steps' AS kind, execution_id AS id FROM execution_steps
    UNION ALL SELECT 'execution_events', execution_id FROM execution_events
    UNION ALL SELECT 'execution_state', execution_id FROM execution_state
    UNION ALL SELECT 'execution_locks', execution_id FROM execution_locks
) held
WHERE NOT EXISTS (SELECT 1 FROM executions e WHERE e.id = held.id)
ORDER BY kind, id LIMIT 100";

const INBOXES: &str = "
SELECT e.id, e.inbox, COUNT(s.id) FROM executions e
LEFT JOIN execution_steps s
    ON s.execution_id = e.id AND NOT s.applied AND s.status IN ('SUCCESS', 'FAILED')
WHERE e.status NOT IN ('SUCCESS', 'FAILED', 'CANCELLED')
GROUP BY e.id, e.inbox HAVING e.inbox <> COUNT(s.id)
ORDER BY e.id LIMIT 100";

// An idle session waits for its next feed, for as long as it takes.
const STRANDED: &str = "
SELECT e.id FROM executions e
WHERE e.status IN ('SCHEDULED', 'RUNNING', 'WAITING')
  AND e.wake_at IS NULL AND e.inbox = 0 AND e.control IS NULL
  AND NOT EXISTS (SELECT 1 FROM execution_locks l WHERE l.execution_id = e.id)
  AND NOT EXISTS (SELECT 1 FROM execution_steps s
    WHERE s.execution_id = e.id AND s.step_name = '__feed__' AND s.status = 'PENDING')
ORDER BY e.id LIMIT 100";
