//! Stored payloads one by one.

use tokio_postgres::Row;

use super::{
    error::Outcome,
    session::{Connection, Frame, Statement},
    value::{Json, Text, Value},
};
use crate::payloads::{Kind, PayloadChange, PayloadRow, PayloadTable, StoredPayload};

pub(super) async fn rows(
    connection: &Connection<'_>,
    table: PayloadTable,
    after: &(String, u64),
    limit: usize,
) -> Outcome<Vec<PayloadRow>> {
    let layout = table.layout();
    let sql = layout.page(["$1", "$1", "$2", "$3"]);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let values = vec![Value::text(&after.0), after.1.into(), limit.into()];
    let answers = connection.run(Frame::Bare, &[Statement::made(sql, values)]).await?;
    let read = |row: &Row| {
        let payloads =
            layout.columns.iter().zip(3..).map(|((_, kind), at)| payload(row, at, *kind));
        Ok(PayloadRow {
            id: row.try_get(0)?,
            number: number(row)?,
            word: row.try_get::<_, Text>(2)?.0,
            payloads: payloads.collect::<Outcome<_>>()?,
        })
    };
    answers.iter().flatten().map(read).collect()
}

/// Where a table has no column of numbers it gives a constant, which is of a smaller type.
fn number(row: &Row) -> Outcome<u64> {
    Ok(match row.try_get::<_, i64>(1) {
        Ok(number) => number as u64,
        Err(_) => row.try_get::<_, i32>(1)? as u64,
    })
}

fn payload(row: &Row, column: usize, kind: Kind) -> Outcome<Option<StoredPayload>> {
    Ok(match kind {
        Kind::Json => row
            .try_get::<_, Option<Json<&str>>>(column)?
            .map(|json| StoredPayload::Text(json.0.to_owned())),
        Kind::Text => {
            row.try_get::<_, Option<Text>>(column)?.map(|text| StoredPayload::Text(text.0))
        }
        Kind::Bytes => row.try_get::<_, Option<Vec<u8>>>(column)?.map(StoredPayload::Bytes),
    })
}

pub(super) async fn replace(
    connection: &Connection<'_>,
    table: PayloadTable,
    changes: &[PayloadChange],
) -> Outcome<()> {
    let layout = table.layout();
    let mut statements = Vec::with_capacity(changes.len());
    for PayloadChange { row: (id, number), column, from, to } in changes {
        let Some((column, kind)) = layout.columns.get(*column) else { continue };
        let (as_compared, cast) = match kind {
            Kind::Json => ("::text", "::json"),
            Kind::Text | Kind::Bytes => ("", ""),
        };
        let sql = format!(
            "UPDATE {} SET {column} = $1{cast}
             WHERE {} = $2 AND {} = $3 AND {column}{as_compared} = $4",
            layout.table, layout.id, layout.number
        );
        let values = vec![value(to, *kind), Value::text(id), (*number).into(), value(from, *kind)];
        statements.push(Statement::made(sql, values));
    }
    connection.run(Frame::Whole, &statements).await.map(drop)
}

fn value(payload: &StoredPayload, kind: Kind) -> Value {
    match (payload, kind) {
        (StoredPayload::Text(text), Kind::Text) => Value::text(text),
        // What JSON holds is escaped already.
        (StoredPayload::Text(text), _) => Value::Text(Some(text.clone())),
        (StoredPayload::Bytes(bytes), _) => Value::Bytes(Some(bytes.clone())),
    }
}
