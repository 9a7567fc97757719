//! Asking the database for the time.

use std::time::Instant;

use super::{
    error::{Fault, Outcome},
    session::{Connection, get},
};
use crate::clock::Clock;

/// Sets the clock; `false` when the answer took too long for that.
pub(super) async fn measure(clock: &Clock, connection: &mut Connection<'_>) -> Outcome<bool> {
    let asked = Instant::now();
    let sql = "SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)";
    let rows = connection.ask(sql, &[]).await?;
    let answered = Instant::now();
    Ok(clock.set(asked, answered, get(rows.first().ok_or(Fault::Lost)?, 0)?))
}
