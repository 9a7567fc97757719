//! The smallest executable that can be a worker; the tests and the example use it. Programs that
//! embed the pool call `worker_main` from an executable of their own.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: durable_interpreter::LimitedAllocator = durable_interpreter::LimitedAllocator;

fn main() -> ExitCode {
    durable_interpreter::worker_main()
}
