//! A server's clock, which all machines share.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant},
};

use durable_core::UnixMs;

/// How often the difference between the clocks is measured anew.
pub(crate) const REFRESH: Duration = Duration::from_secs(60);

/// The server's clock, read off this machine's steady one.
pub(crate) struct Clock {
    origin: Instant,
    /// The server's time at the origin.
    at_origin_ms: AtomicI64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { origin: Instant::now(), at_origin_ms: AtomicI64::new(0) }
    }

    pub(crate) fn now_ms(&self) -> UnixMs {
        self.at_origin_ms.load(Ordering::Relaxed) + self.elapsed_ms(Instant::now())
    }

    fn elapsed_ms(&self, at: Instant) -> i64 {
        i64::try_from(at.duration_since(self.origin).as_millis()).unwrap_or(i64::MAX)
    }

    /// The server has just told the time: it was that half-way between question and answer.
    pub(crate) fn set(&self, asked: Instant, then_ms: UnixMs) {
        let then = asked + asked.elapsed() / 2;
        self.at_origin_ms.store(then_ms - self.elapsed_ms(then), Ordering::Relaxed);
    }
}
