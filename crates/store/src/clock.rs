//! A server's clock, which all machines share.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant},
};

use durable_core::{Error, UnixMs};

/// How often the difference between the clocks is measured anew.
pub(crate) const REFRESH: Duration = Duration::from_secs(60);

/// The longest that an answer may be under way: the server reads its clock at some moment of that,
/// so half of it is how far this one may be off.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(1);

/// How often the time is asked for until an answer is fast enough to begin with.
const MAX_FIRST_TRIES: usize = 5;

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

    /// The server has told the time: it was that half-way between question and answer. `false`
    /// when that took so long that it tells little: the clock goes on as it was.
    #[must_use]
    pub(crate) fn set(&self, asked: Instant, answered: Instant, then_ms: UnixMs) -> bool {
        let round_trip = answered.duration_since(asked);
        if round_trip > MAX_ROUND_TRIP {
            tracing::debug!(?round_trip, "the database took too long to tell the time");
            return false;
        }
        let then = asked + round_trip / 2;
        self.at_origin_ms.store(then_ms - self.elapsed_ms(then), Ordering::Relaxed);
        true
    }
}

/// Sets a clock that has not been set yet; `measure` tells whether it did.
///
/// # Errors
/// What `measure` fails with; `Unavailable` when one answer after the other takes too long.
pub(crate) async fn set_first<E: From<Error>>(
    mut measure: impl AsyncFnMut() -> Result<bool, E>,
) -> Result<(), E> {
    for _ in 0..MAX_FIRST_TRIES {
        if measure().await? {
            return Ok(());
        }
    }
    let limit = MAX_ROUND_TRIP.as_secs();
    Err(E::from(Error::unavailable(format!(
        "the database took over {limit} s to tell the time, {MAX_FIRST_TRIES} times in a row: \
         timers and leases need its clock; look at its load and the network, and try again"
    ))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::waiting::block_on;

    const NOON_MS: UnixMs = 1_000_000_000_000;
    const DAY_MS: UnixMs = 24 * 3_600_000;

    #[test]
    fn an_answer_that_was_long_under_way_does_not_move_the_clock() {
        let clock = Clock::new();
        let asked = Instant::now();
        let after = |ms| asked + Duration::from_millis(ms);
        assert!(clock.set(asked, after(1_000), NOON_MS), "the middle of it is known well enough");
        assert!(!clock.set(asked, after(25_000), NOON_MS + DAY_MS));
        assert!(clock.now_ms() < NOON_MS + DAY_MS / 2, "it goes on as it was");
        assert!(clock.set(asked, after(10), NOON_MS + DAY_MS));
        assert!(clock.now_ms() > NOON_MS + DAY_MS / 2);
    }

    #[test]
    fn the_first_answer_is_asked_for_again_when_it_is_slow_and_not_for_ever() {
        let asked_until_fast_at = |fast: usize| {
            let mut tries = 0;
            let set = block_on(set_first::<Error>(async || {
                tries += 1;
                Ok(tries == fast)
            }));
            (tries, set)
        };
        assert_eq!(asked_until_fast_at(3), (3, Ok(())));
        let (tries, refused) = asked_until_fast_at(usize::MAX);
        assert_eq!(tries, MAX_FIRST_TRIES);
        assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    }
}
