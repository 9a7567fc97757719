//! The workloads W1 to W6 through the Rust API: one JSON line each, beside the disk's floor.
//!
//! W1: one workflow, 1,000 steps in a row. W2: 1,000 workflows, each 3 parallel steps and then 1.
//! W3: one workflow, 1,000 parallel steps. W4: start to result of a one-step workflow.
//! W5: 10,000 suspended workflows. W6: one step workflow, 1,000 steps, 100 of them side by side.
//! SQLite with synchronous=FULL, interpreter in worker processes. And what a checkpoint costs.
//!
//! `--db postgresql://…` or `--db mysql://…` measures the same on a server, each in a place of its
//! own, and with it W2 shared by two worker processes and the statements a second of four idle ones.
//!
//! Environment: `ONLY=W1,W4`, `REPEATS=3`, `SCALE=1`, `ISOLATION=process|thread`, `BENCH_DIR`.

mod checkpoint;
mod fleet;
mod floor;
mod measure;
mod place;
mod workloads;

use anyhow::Result;

#[global_allocator]
static ALLOCATOR: durable::LimitedAllocator = durable::LimitedAllocator;

fn main() -> Result<()> {
    durable::run_worker_if_asked();
    if let Some(url) = measure::argument("--work") {
        return fleet::work(&url);
    }
    let settings = measure::Settings::from_environment();
    if settings.db.is_none() {
        floor::run(&settings)?;
    }
    workloads::run(&settings)?;
    checkpoint::run(&settings)?;
    fleet::run(&settings)
}
