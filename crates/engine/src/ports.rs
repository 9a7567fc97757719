//! What the engine takes from outside: clock, randomness, threads, knowledge of other engines.
//! A simulation brings its own.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use durable_core::{Error, Owner, Result, UnixMs};
use durable_store::Store;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> UnixMs;
}

/// Draws random numbers.
pub trait Random: Send + Sync {
    /// 64 random bits.
    fn next_u64(&self) -> u64;
}

/// Runs a long-lived piece of the engine beside the caller.
pub trait Spawn: Send + Sync {
    /// Starts `body` under a name.
    ///
    /// # Errors
    /// `Unavailable` when no thread can be had.
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> Result<()>;
}

/// Knows which other engines are surely gone.
pub trait OwnerProbe: Send + Sync {
    /// Whether the owner can never write again. `false` whenever that is not certain.
    fn is_gone(&self, owner: &Owner) -> bool;
}

/// The machine's clock. It never goes backwards within one process.
#[derive(Debug, Default)]
pub struct SystemClock {
    last_ms: AtomicI64,
}

impl Clock for SystemClock {
    fn now_ms(&self) -> UnixMs {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now_ms = since_epoch.map_or(0, |elapsed| elapsed.as_millis() as UnixMs);
        // Journal times must not run backwards when the wall clock is set back a little.
        self.last_ms.fetch_max(now_ms, Ordering::Relaxed).max(now_ms)
    }
}

/// The clock of a store that several machines share, so that it does not matter how far their own
/// clocks are apart. It never goes backwards within one process.
pub struct StoreClock {
    store: Arc<dyn Store>,
    machine: SystemClock,
    last_ms: AtomicI64,
}

impl StoreClock {
    /// Takes the time from a store; from this machine when the store has none.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, machine: SystemClock::default(), last_ms: AtomicI64::new(0) }
    }
}

impl Clock for StoreClock {
    fn now_ms(&self) -> UnixMs {
        let now_ms = self.store.clock_ms().unwrap_or_else(|| self.machine.now_ms());
        self.last_ms.fetch_max(now_ms, Ordering::Relaxed).max(now_ms)
    }
}

/// The operating system's randomness.
#[derive(Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn next_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        // Without randomness ids could repeat, and nothing sensible can go on.
        assert!(getrandom::fill(&mut bytes).is_ok(), "the operating system gives no randomness");
        u64::from_le_bytes(bytes)
    }
}

/// One operating-system thread for each piece.
#[derive(Debug, Default)]
pub struct Threads;

impl Spawn for Threads {
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> Result<()> {
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .map(drop)
            .map_err(|error| Error::unavailable(format!("can't start thread {name}: {error}")))
    }
}
