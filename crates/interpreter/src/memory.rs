//! The memory ceiling of a worker process.
//!
//! With [`crate::LimitedAllocator`] as the global allocator every byte is counted: the
//! interpreter raises `MemoryError` at the program's limit, and an operation that would pass it
//! in one go ends the process. Without, the kernel's limit on address space must do. A thread of
//! the parent has neither.

use std::sync::atomic::Ordering;

use durable_core::Limits;
use monty_types::{BASELINE_MEMORY, LIVE_MEMORY};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a worker needs beyond what the program holds: frames, JSON text, exceptions.
const HEADROOM_BYTES: u64 = 32 << 20;

/// Room for stacks, code and the other live states, where only address space is limited.
const ADDRESS_SPACE_BYTES: u64 = 512 << 20;

/// How this worker's memory is limited.
pub(crate) enum Memory {
    /// By counting allocations.
    Counted,
    /// By the kernel; the value is what was last set.
    AddressSpace(Option<u64>),
    /// Not at all.
    Unlimited,
}

impl Memory {
    /// What this process offers.
    pub(crate) fn of_process() -> Self {
        match monty_alloc::set_hard_limit(None) {
            Ok(()) => Self::Counted,
            Err(_) => Self::AddressSpace(None),
        }
    }

    /// Whether the interpreter itself can watch the limit.
    pub(crate) fn is_counted(&self) -> bool {
        matches!(self, Self::Counted)
    }

    /// Begins an advance: from here on one program's memory is counted, starting with the `own`
    /// bytes that its live state holds already. What other live states hold does not count.
    pub(crate) fn begin(&mut self, own: usize, limits: &Limits) {
        let headroom = HEADROOM_BYTES.saturating_add(limits.max_payload_bytes.saturating_mul(4));
        let budget = limits.max_memory_bytes.saturating_add(headroom);
        match self {
            Self::Counted => {
                let live = LIVE_MEMORY.load(Ordering::Relaxed);
                BASELINE_MEMORY.store(live.saturating_sub(own), Ordering::Relaxed);
                arm(budget);
            }
            Self::AddressSpace(set) if *set != Some(budget) => {
                let limit = budget.saturating_add(ADDRESS_SPACE_BYTES);
                let maximum = getrlimit(Resource::As).maximum;
                let current = Some(maximum.map_or(limit, |maximum| limit.min(maximum)));
                // Best effort: without it the operating system's own limits remain.
                let _ = setrlimit(Resource::As, Rlimit { current, maximum });
                *set = Some(budget);
            }
            _ => {}
        }
    }

    /// Makes room for writing the state down: a dump is a copy.
    pub(crate) fn widen(&self, limits: &Limits) {
        if self.is_counted() {
            arm(limits.max_memory_bytes.saturating_mul(4).saturating_add(4 * HEADROOM_BYTES));
        }
    }

    /// Bytes allocated since [`Memory::begin`], the live state's own included.
    pub(crate) fn used(&self) -> Option<usize> {
        self.is_counted().then(|| {
            let live = LIVE_MEMORY.load(Ordering::Relaxed);
            live.saturating_sub(BASELINE_MEMORY.load(Ordering::Relaxed))
        })
    }

    /// Ends an advance.
    pub(crate) fn end(&self) {
        if self.is_counted() {
            let _ = monty_alloc::set_hard_limit(None);
        }
    }
}

fn arm(budget: u64) {
    let budget = usize::try_from(budget).unwrap_or(usize::MAX);
    // Can't fail: that the allocator is there was found out at the start.
    let _ = monty_alloc::set_hard_limit(Some(budget));
}
