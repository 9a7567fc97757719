//! Looking for damage.

use durable_core::{ExecutionId, replay};
use rusqlite::{Connection, Row};

use super::{error::Outcome, load};
use crate::rows::parse_id;

/// Most findings of one kind that are reported.
const MAX_FINDINGS: u32 = 100;
/// Most executions whose journals are folded.
const MAX_FOLDED: u32 = 10_000;

/// Looks for damage, the worst first: the file, the journals, the rows, what is stranded.
pub(super) fn check(connection: &Connection) -> Outcome<Vec<String>> {
    let sql = format!("PRAGMA quick_check({MAX_FINDINGS})");
    let mut findings = findings(connection, &sql, |row| row.get(0))?;
    findings.retain(|finding| finding != "ok");
    if !findings.is_empty() {
        // Nothing that a damaged file says can be relied on.
        return Ok(findings);
    }
    findings.extend(self::findings(connection, GAPS, |row| {
        let (id, next, count): (String, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(format!("execution {id}: the journal holds {count} events, its row counts {}", next - 1))
    })?);
    findings.extend(folded_journals(connection)?);
    findings.extend(self::findings(connection, ORPHANS, |row| {
        let (table, id): (String, String) = (row.get(0)?, row.get(1)?);
        Ok(format!("{table} holds rows of execution {id}, which does not exist"))
    })?);
    findings.extend(self::findings(connection, INBOXES, |row| {
        let (id, counted, found): (String, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(format!("execution {id}: its inbox holds {found} calls, its row counts {counted}"))
    })?);
    findings.extend(self::findings(connection, STRANDED, |row| {
        let id: String = row.get(0)?;
        Ok(format!(
            "execution {id} is stranded, nobody holds it and nothing will wake it: \
             UPDATE executions SET wake_at = 0 WHERE id = '{id}'"
        ))
    })?);
    Ok(findings)
}

fn findings(
    connection: &Connection,
    sql: &str,
    describe: impl Fn(&Row<'_>) -> rusqlite::Result<String>,
) -> Outcome<Vec<String>> {
    let mut statement = connection.prepare(sql)?;
    let found = statement.query_map([], |row| describe(row))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// Compares the journals of executions that have not ended with their rows.
fn folded_journals(connection: &Connection) -> Outcome<Vec<String>> {
    let mut findings = Vec::new();
    for text in self::findings(connection, &unfinished(), |row| row.get(0))? {
        let id = parse_id(&text).map_err(Into::into);
        let finding = match id.and_then(|id| difference(connection, id)) {
            Ok(None) => continue,
            Ok(Some(finding)) => finding,
            Err(fault) if fault.is_of_one_member() => durable_core::Error::from(fault).to_string(),
            Err(fault) => return Err(fault),
        };
        findings.push(format!("execution {text}: {finding}"));
        if findings.len() >= MAX_FINDINGS as usize {
            break;
        }
    }
    Ok(findings)
}

fn difference(connection: &Connection, id: ExecutionId) -> Outcome<Option<String>> {
    let Some(loaded) = load::load(connection, id)? else { return Ok(None) };
    let folded = replay::fold(id, &load::journal(connection, id, 0, usize::MAX)?)?;
    Ok((folded != loaded.execution).then(|| crate::check::difference(&folded, &loaded.execution)))
}

fn unfinished() -> String {
    format!("SELECT id FROM executions WHERE completed_at IS NULL ORDER BY id LIMIT {MAX_FOLDED}")
}

const GAPS: &str = "
SELECT e.id, e.next_sequence, count(v.sequence) FROM executions e
LEFT JOIN execution_events v ON v.execution_id = e.id
GROUP BY e.id
HAVING count(v.sequence) <> e.next_sequence - 1
    OR coalesce(max(v.sequence), 0) <> e.next_sequence - 1
LIMIT 100";

const ORPHANS: &str = "
SELECT DISTINCT 'execution_steps', execution_id FROM execution_steps
    WHERE execution_id NOT IN (SELECT id FROM executions)
UNION ALL
SELECT DISTINCT 'execution_events', execution_id FROM execution_events
    WHERE execution_id NOT IN (SELECT id FROM executions)
UNION ALL
SELECT 'execution_state', execution_id FROM execution_state
    WHERE execution_id NOT IN (SELECT id FROM executions)
UNION ALL
SELECT 'execution_locks', execution_id FROM execution_locks
    WHERE execution_id NOT IN (SELECT id FROM executions)
LIMIT 100";

const INBOXES: &str = "
SELECT e.id, e.inbox, count(s.id) FROM executions e
LEFT JOIN execution_steps s
    ON s.execution_id = e.id AND s.applied = 0 AND s.status IN ('SUCCESS', 'FAILED')
WHERE e.status NOT IN ('SUCCESS', 'FAILED', 'CANCELLED')
GROUP BY e.id HAVING e.inbox <> count(s.id)
LIMIT 100";

// An idle session waits for its next feed, for as long as it takes.
const STRANDED: &str = "
SELECT e.id FROM executions e
WHERE e.status IN ('SCHEDULED', 'RUNNING', 'WAITING')
  AND e.wake_at IS NULL AND e.inbox = 0 AND e.control IS NULL
  AND NOT EXISTS (SELECT 1 FROM execution_locks l WHERE l.execution_id = e.id)
  AND NOT EXISTS (SELECT 1 FROM execution_steps s
    WHERE s.execution_id = e.id AND s.step_name = '__feed__' AND s.status = 'PENDING')
LIMIT 100";
