//! The database's clock, which all machines share.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant},
};

use durable_core::UnixMs;

use super::{
    error::{Fault, Outcome},
    session::{Connection, get},
};

/// How often the difference between the clocks is measured anew.
pub(super) const REFRESH: Duration = Duration::from_secs(60);

/// The database's clock, read off this machine's steady one.
pub(super) struct Clock {
    origin: Instant,
    /// The database's time at the origin.
    at_origin_ms: AtomicI64,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), at_origin_ms: AtomicI64::new(0) }
    }

    pub(super) fn now_ms(&self) -> UnixMs {
        self.at_origin_ms.load(Ordering::Relaxed) + self.elapsed_ms(Instant::now())
    }

    fn elapsed_ms(&self, at: Instant) -> i64 {
        i64::try_from(at.duration_since(self.origin).as_millis()).unwrap_or(i64::MAX)
    }

    /// Asks the database for the time; it was that half-way between question and answer.
    pub(super) async fn measure(&self, connection: &mut Connection<'_>) -> Outcome<()> {
        let asked = Instant::now();
        let sql = "SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)";
        let rows = connection.ask(sql, &[]).await?;
        let answered = asked + asked.elapsed() / 2;
        let then_ms: i64 = get(rows.first().ok_or(Fault::Lost)?, 0)?;
        self.at_origin_ms.store(then_ms - self.elapsed_ms(answered), Ordering::Relaxed);
        Ok(())
    }
}
