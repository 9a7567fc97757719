//! Stored payloads one by one.

use rusqlite::{
    Connection, Row, ToSql, params,
    types::{ToSqlOutput, ValueRef},
};

use super::{begin, error::Outcome};
use crate::payloads::{PayloadChange, PayloadRow, PayloadTable, StoredPayload};

impl ToSql for StoredPayload {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

pub(super) fn rows(
    connection: &Connection,
    table: PayloadTable,
    after: &(String, u64),
    limit: usize,
) -> Outcome<Vec<PayloadRow>> {
    let layout = table.layout();
    let sql = layout.page(["?1", "?1", "?2", "?3"]);
    let mut statement = connection.prepare_cached(&sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![after.0, after.1 as i64, limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let payloads = (3..3 + layout.columns.len()).map(|column| payload(row, column));
        found.push(PayloadRow {
            id: row.get(0)?,
            number: row.get::<_, i64>(1)? as u64,
            word: row.get(2)?,
            payloads: payloads.collect::<rusqlite::Result<_>>()?,
        });
    }
    Ok(found)
}

fn payload(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<StoredPayload>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => None,
        ValueRef::Blob(bytes) => Some(StoredPayload::Bytes(bytes.to_owned())),
        _ => Some(StoredPayload::Text(row.get(column)?)),
    })
}

pub(super) fn replace(
    writer: &Connection,
    table: PayloadTable,
    changes: &[PayloadChange],
) -> Outcome<()> {
    let layout = table.layout();
    let transaction = begin(writer)?;
    for PayloadChange { row: (id, number), column, from, to } in changes {
        let Some((column, _)) = layout.columns.get(*column) else { continue };
        let sql = format!(
            "UPDATE {} SET {column} = ?1 WHERE {} = ?2 AND {} = ?3 AND {column} = ?4",
            layout.table, layout.id, layout.number
        );
        transaction.prepare_cached(&sql)?.execute(params![to, id, *number as i64, from])?;
    }
    Ok(transaction.commit()?)
}
