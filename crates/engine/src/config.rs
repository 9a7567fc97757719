//! The engine's own bounds and intervals.

use durable_core::ExecutionId;

/// What a worker process says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The machine it runs on.
    pub host: String,
    /// The functions it runs, by name.
    pub functions: Vec<String>,
    /// How many calls it runs at once.
    pub concurrency: u32,
}

/// What an engine takes up while an executor is attached, and how it is shown. By default all
/// queues, unlisted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Duty {
    /// Executions of these queues only; empty for all.
    pub queues: Vec<String>,
    /// How it is shown among the workers; `None` when it is not listed.
    pub announcement: Option<Announcement>,
}

/// How an engine behaves. Every field has a default that suits one machine.
#[derive(Debug, Clone)]
pub struct Config {
    /// Most executions this engine holds leases on at once.
    pub max_active: usize,
    /// Most executions leased in one go.
    pub max_claim: usize,
    /// Take up this execution only, and leave all others to other engines.
    pub only: Option<ExecutionId>,
    /// How long a lease lasts unless it is renewed; renewed three times within it.
    pub lease_ms: u64,
    /// How often the store is asked whether somebody else changed it. A ceiling on how late
    /// the work of another process is noticed; local work never waits for it.
    pub poll_ms: u64,
    /// How often leases of engines that are gone are looked for, and everything else that nobody
    /// told of; 0 for what suits the store: seldom where several machines share it.
    pub sweep_ms: u64,
    /// An execution that waits for nothing but timers at least this far off is given back to
    /// the store and takes no memory meanwhile.
    pub hold_ms: u64,
    /// Most members of one group commit.
    pub max_batch: usize,
    /// How often an advance that its runner lost is tried again before the execution is parked.
    pub max_lost_advances: u32,
    /// How often in a row a transition that is not committed is tried again before the execution
    /// is left to whoever leases it next.
    pub max_failed_commits: u32,
    /// Wait before a commit that the store could not take is tried again.
    pub retry_commit_ms: u64,
    /// Most programs kept compiled and checked in memory.
    pub max_cached_programs: usize,
}

impl Config {
    /// How often to sweep a store, which other machines may share.
    pub(crate) fn sweep_ms(&self, is_shared: bool) -> i64 {
        match self.sweep_ms {
            // Every engine asks a shared store: together they must cost it next to nothing.
            0 if is_shared => 5_000,
            0 => 1_000,
            chosen => i64::try_from(chosen).unwrap_or(i64::MAX),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_active: 1_000,
            max_claim: 256,
            only: None,
            lease_ms: 15_000,
            poll_ms: 50,
            sweep_ms: 0,
            hold_ms: 1_000,
            max_batch: 512,
            max_lost_advances: 3,
            max_failed_commits: 20,
            retry_commit_ms: 200,
            max_cached_programs: 1_000,
        }
    }
}
