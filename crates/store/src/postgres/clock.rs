//! Asking the database for the time.

use std::time::Instant;

use super::{
    error::{Fault, Outcome},
    session::{Connection, Frame, Statement},
    value,
};
use crate::clock::Clock;

/// Sets the clock; `false` when the answers took too long for that.
pub(super) async fn measure(clock: &Clock, connection: &Connection<'_>) -> Outcome<bool> {
    let mut is_set = false;
    // The first exchange on a connection takes longer: it prepares the statement.
    for _ in 0..2 {
        let statement = Statement::new("SELECT clock_timestamp()", Vec::new());
        let asked = Instant::now();
        let rows = connection.run(Frame::Bare, &[statement]).await?;
        let answered = Instant::now();
        let row = rows.iter().flatten().next().ok_or(Fault::Lost)?;
        let value::Instant(then_ms) = row.try_get(0)?;
        is_set |= clock.set(asked, answered, then_ms);
    }
    Ok(is_set)
}
