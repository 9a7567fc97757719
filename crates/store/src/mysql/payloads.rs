//! Stored payloads one by one.

use mysql_async::Row;

use super::{
    error::Outcome,
    session::{Connection, Frame, get},
    statement::{Literal, Statement},
};
use crate::payloads::{Kind, PayloadChange, PayloadRow, PayloadTable, StoredPayload};

impl Literal for StoredPayload {
    fn write(&self, sql: &mut Vec<u8>) {
        match self {
            Self::Text(text) => text.write(sql),
            Self::Bytes(bytes) => bytes.as_slice().write(sql),
        }
    }
}

pub(super) async fn rows(
    connection: &mut Connection<'_>,
    table: PayloadTable,
    after: &(String, u64),
    limit: usize,
) -> Outcome<Vec<PayloadRow>> {
    let layout = table.layout();
    let sql = layout.page(["?"; 4]);
    let (id, number) = after;
    let found = connection.ask(&sql, &[id, id, number, &(limit as u64)]).await?;
    let read = |row: &Row| {
        let payloads =
            layout.columns.iter().zip(3..).map(|((_, kind), at)| payload(row, at, *kind));
        Ok(PayloadRow {
            id: get(row, 0)?,
            number: get::<i64>(row, 1)? as u64,
            word: get(row, 2)?,
            payloads: payloads.collect::<Outcome<_>>()?,
        })
    };
    found.iter().map(read).collect()
}

fn payload(row: &Row, column: usize, kind: Kind) -> Outcome<Option<StoredPayload>> {
    Ok(match kind {
        Kind::Json | Kind::Text => get::<Option<String>>(row, column)?.map(StoredPayload::Text),
        Kind::Bytes => get::<Option<Vec<u8>>>(row, column)?.map(StoredPayload::Bytes),
    })
}

pub(super) async fn replace(
    connection: &mut Connection<'_>,
    table: PayloadTable,
    changes: &[PayloadChange],
) -> Outcome<()> {
    let layout = table.layout();
    let mut statements = Vec::with_capacity(changes.len());
    for PayloadChange { row: (id, number), column, from, to } in changes {
        let Some((column, _)) = layout.columns.get(*column) else { continue };
        let sql = format!(
            "UPDATE {} SET {column} = ? WHERE {} = ? AND {} = ? AND {column} = ?",
            layout.table, layout.id, layout.number
        );
        statements.push(Statement::new(&sql, &[to, id, number, from]));
    }
    connection.run(Frame::Whole, &statements).await.map(drop)
}
