//! A worker: runs what others start in the same database, until its standard input is closed.
//!
//! `worker DATABASE_URL LOG_FILE`. As many of them as you like share one database. The function
//! `work` appends its process id and idempotency key to the log file, and gives its argument back;
//! with `HOLD=FILE` it waits until that file exists and notes that too. `LEASE_MS` and
//! `MAX_ACTIVE` set the engine's bounds.

use std::{
    fs::OpenOptions,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use durable::{CallRequest, Config, Durable, FunctionError, LimitedAllocator};

/// Counts what workflows allocate, so that their memory can be limited.
#[global_allocator]
static ALLOCATOR: LimitedAllocator = LimitedAllocator;

async fn work(call: CallRequest) -> Result<serde_json::Value, FunctionError> {
    let log = PathBuf::from(std::env::args().nth(2).unwrap_or_default());
    note(&log, "runs", &call)?;
    if let Some(hold) = std::env::var_os("HOLD") {
        while !Path::new(&hold).exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        note(&log, "returns", &call)?;
    }
    let mut args: Vec<serde_json::Value> = serde_json::from_str(call.args.as_str())?;
    Ok(args.pop().unwrap_or_default())
}

fn note(log: &Path, what: &str, call: &CallRequest) -> std::io::Result<()> {
    let line = format!("{what} {} {}\n", std::process::id(), call.idempotency_key());
    OpenOptions::new().create(true).append(true).open(log)?.write_all(line.as_bytes())
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    durable::run_worker_if_asked();
    let usage = "usage: worker DATABASE_URL LOG_FILE";
    let url = std::env::args().nth(1).filter(|_| std::env::args().len() == 3).ok_or(usage)?;
    let mut config = Config::default();
    if let Some(lease_ms) = number("LEASE_MS") {
        config.lease_ms = lease_ms;
    }
    if let Some(max_active) = number("MAX_ACTIVE") {
        config.max_active = usize::try_from(max_active)?;
    }
    let durable = Durable::builder(&url).config(config).function_raw("work", work).open()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    durable.close(Duration::from_secs(5));
    Ok(())
}
