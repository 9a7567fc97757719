//! Where checkpoints are kept: the [`Provider`] trait and its implementations.
//!
//! [`Checkpoints`] stands before a provider and is what everybody uses: it validates names, seals,
//! compresses and checks contents, holds leases, and keeps the number of checkpoints bounded. A
//! provider only keeps bytes under a name, and refuses writers whose lease is gone.

mod checkpoints;
pub mod conformance;
mod connect;
mod drive;
mod envelope;
mod filesystem;
mod name;
mod objects;
mod postgres;
mod redis;
mod sqlite;

use std::time::Duration;

use durable_core::{Lease, Owner, Result};

pub use checkpoints::{Checkpoints, Latest, Options, Saved};
pub use connect::connect;
pub use durable_store::KeyRing;
pub use filesystem::FilesystemProvider;
pub use name::{CheckpointId, ExecutionName};
pub use objects::ObjectProvider;
pub use postgres::PostgresProvider;
pub use redis::RedisProvider;
pub use sqlite::SqliteProvider;

/// Keeps checkpoints. It blocks the thread that calls it; any thread may.
///
/// Every implementation passes [`conformance::run`].
pub trait Provider: Send + Sync {
    /// Leases an execution for `duration`, unless somebody else holds a live lease: one that has
    /// not expired, and whose owner is not `gone`. The answer is the epoch of the new tenure,
    /// greater than those of all tenures before. Who holds the lease already begins a new tenure,
    /// too.
    ///
    /// # Errors
    /// `Conflict` that names the holder; `Unavailable`.
    fn acquire(&self, ask: &Ask<'_>) -> Result<u64>;

    /// Moves the expiry of a lease. An expired lease that nobody took over still counts.
    ///
    /// # Errors
    /// `Conflict` when the lease is lost; `Unavailable`.
    fn renew(&self, execution: &ExecutionName, lease: &Lease, duration: Duration) -> Result<()>;

    /// Gives a lease back; nothing happens when it was lost already.
    ///
    /// # Errors
    /// `Unavailable`.
    fn release(&self, execution: &ExecutionName, lease: &Lease) -> Result<()>;

    /// Who holds the lease of an execution, whether it has expired or not.
    ///
    /// # Errors
    /// `Unavailable`.
    fn holder(&self, execution: &ExecutionName) -> Result<Option<Owner>>;

    /// Keeps `stored` under an id, in place of what was there. When this returns it survives
    /// whatever the provider promises to survive.
    ///
    /// # Errors
    /// `Conflict` when the lease is lost: then nothing was written that a reader would ever
    /// prefer to what the new holder writes. `Unavailable`.
    fn save(&self, id: &CheckpointId, lease: &Lease, stored: &[u8]) -> Result<()>;

    /// What is kept under an id.
    ///
    /// # Errors
    /// `Unavailable`.
    fn load(&self, id: &CheckpointId) -> Result<Option<Vec<u8>>>;

    /// The numbers of the checkpoints of an execution, in ascending order.
    ///
    /// # Errors
    /// `Unavailable`.
    fn list(&self, execution: &ExecutionName) -> Result<Vec<u64>>;

    /// Removes a checkpoint; whether it was there.
    ///
    /// # Errors
    /// `Unavailable`.
    fn delete(&self, id: &CheckpointId) -> Result<bool>;

    /// Removes all but the last checkpoints of an execution; how many were removed.
    ///
    /// # Errors
    /// `Unavailable`.
    fn cleanup(&self, execution: &ExecutionName, keep_last: usize) -> Result<usize> {
        let numbers = self.list(execution)?;
        let mut removed = 0;
        for number in &numbers[..numbers.len().saturating_sub(keep_last)] {
            removed += usize::from(self.delete(&execution.checkpoint(*number))?);
        }
        Ok(removed)
    }

    /// Where this is, for messages: no secrets.
    fn place(&self) -> String;
}

/// A wish for a lease.
#[derive(Debug)]
pub struct Ask<'a> {
    /// On what.
    pub execution: &'a ExecutionName,
    /// For whom.
    pub owner: &'a Owner,
    /// How long it lasts unless it is renewed.
    pub duration: Duration,
    /// An owner that is known to be gone: its lease counts as expired.
    pub gone: Option<&'a Owner>,
}
