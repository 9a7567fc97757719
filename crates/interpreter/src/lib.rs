//! Runs workflow programs in the monty sandbox: validate, start, resume, snapshot, isolate.
//!
//! [`Pool`] is this crate's [`durable_core::Runner`]. It runs programs in worker processes (or,
//! for trusted code, on threads), one advance a round trip:
//!
//! - a worker restores a state ([`durable_core::Base`]), applies results, runs the program until
//!   it waits again, and answers with the calls it asked for and a dump of its state;
//! - the pool checks and seals snapshots, remembers which worker still holds which execution
//!   live, kills a worker that passes its deadline, replaces workers that die, and finds out
//!   whose fault that was.
//!
//! | module | what |
//! |---|---|
//! | `pool`, `scheduler` | the parent: which worker gets which request, and what a death means |
//! | `process`, `thread` | the two kinds of worker, as the parent sees them |
//! | `child`, `worker` | the worker's side |
//! | `protocol` | what they say to each other |
//! | `program`, `session` | a compiled program; one execution of it on the interpreter |
//! | `live`, `memory` | what a worker holds, and may hold |
//! | `dictionary`, `snapshot` | states as they are stored |
//! | `tree`, `inspect`, `edit` | the variables of a waiting program: looked at, and set |
//! | [`value`] | Python values as JSON |
//! | `validate` | static checks, with messages for the author |

mod child;
mod dictionary;
mod edit;
mod inspect;
mod live;
mod memory;
mod pool;
mod process;
mod program;
mod programs;
mod protocol;
mod scheduler;
mod session;
mod snapshot;
mod thread;
mod tree;
mod validate;
pub mod value;
mod worker;

pub use child::worker_main;
pub use durable_core::seal::SnapshotKey;
pub use monty_alloc::LimitedAllocator;
pub use pool::{Isolation, Pool, PoolConfig};
pub use process::WorkerCommand;
