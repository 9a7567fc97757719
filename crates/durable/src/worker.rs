//! Interpreter workers: how they are started, and how an executable becomes one.

use std::{
    ffi::OsString,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use durable_core::{Error, Result};
use durable_interpreter::{Pool, PoolConfig, SnapshotKey, WorkerCommand};

use crate::Isolation;

/// The argument that makes an executable a worker.
const ARGUMENT: &str = "__durable_worker";

/// Whether this executable can be started as a worker.
static CAN_BE_WORKER: AtomicBool = AtomicBool::new(false);

/// Turns this process into an interpreter worker if that is what it was started for.
///
/// The first thing `main` does in a program that uses [`Isolation::Process`]: the engine starts
/// the program's own executable again to run workflow code in. Returns at once otherwise.
pub fn run_worker_if_asked() {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == ARGUMENT) {
        worker_main();
        // The parent watches the pipe, not the exit code.
        std::process::exit(0);
    }
    CAN_BE_WORKER.store(true, Ordering::Relaxed);
}

/// The body of an interpreter worker: serves requests on standard input until it is closed.
pub fn worker_main() -> ExitCode {
    durable_interpreter::worker_main()
}

pub(crate) fn pool(isolation: Isolation, workers: usize, key: SnapshotKey) -> Result<Pool> {
    let isolation = match isolation {
        Isolation::Thread => durable_interpreter::Isolation::Thread,
        Isolation::Command(command) => durable_interpreter::Isolation::Process(command),
        Isolation::Process => durable_interpreter::Isolation::Process(own_command()?),
    };
    let mut config = PoolConfig::new(isolation, key);
    config.workers = workers;
    Pool::new(config)
}

fn own_command() -> Result<WorkerCommand> {
    // Starting an executable that does not expect it would run its main program again.
    if !CAN_BE_WORKER.load(Ordering::Relaxed) {
        return Err(Error::invalid(
            "isolation by processes needs durable::run_worker_if_asked() at the beginning of \
             main; or choose Isolation::Thread for code you trust",
        ));
    }
    let program = std::env::current_exe()
        .map_err(|error| Error::unavailable(format!("can't find this executable: {error}")))?;
    Ok(WorkerCommand { program, args: vec![OsString::from(ARGUMENT)], env: Vec::new() })
}
