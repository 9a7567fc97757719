//! Bounds on everything a program and its execution may use.

use serde::{Deserialize, Serialize};

/// The limits of one program. They are part of it and of its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest time one advance (from one suspension to the next) may compute.
    pub max_advance_ms: u64,
    /// Most memory the interpreter may hold for one execution.
    pub max_memory_bytes: u64,
    /// Deepest nesting of Python calls.
    pub max_recursion: u32,
    /// Most calls and timers one execution may ask for in its life.
    pub max_calls: u32,
    /// Most calls and timers that may be open at once.
    pub max_open_calls: u32,
    /// Largest single payload: inputs, arguments of one call, one result, the output.
    pub max_payload_bytes: u64,
    /// Largest snapshot as stored.
    pub max_snapshot_bytes: u64,
    /// Most text an advance may print; the rest is cut and the cut is marked.
    pub max_output_bytes: u64,
    /// Longest source text.
    pub max_source_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_advance_ms: 5_000,
            max_memory_bytes: 256 << 20,
            max_recursion: 1_000,
            max_calls: 1_000_000,
            max_open_calls: 100_000,
            max_payload_bytes: 10 << 20,
            max_snapshot_bytes: 64 << 20,
            max_output_bytes: 1 << 20,
            max_source_bytes: 1 << 20,
        }
    }
}
