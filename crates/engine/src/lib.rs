//! The engine: leases executions, advances them, commits what came of it, hands out their calls.
//!
//! The way of data has no shortcut: lease and load, run to the next suspension, turn what
//! happened into events, commit them as one transition, and only then let commands leave. See
//! the `dispatcher` module for the decisions and `shell` for the I/O around them.
//!
//! What can be done with a whole execution stands on the engine's face: [`checkpoints`] to look
//! into it and to fork it, [`portable`] to take it elsewhere, [`Session`] to feed it.

pub mod checkpoints;
mod clockwork;
mod committer;
mod config;
mod dispatcher;
mod engine;
mod executor;
mod owner;
pub mod portable;
mod ports;
mod programs;
mod session;
mod shell;

pub use config::{Announcement, Config, Duty};
pub use engine::{Engine, Parts, Registration, Start};
pub use executor::{CallRequest, Executor, Outcomes};
pub use owner::{ProcessTable, new_owner};
pub use ports::{Clock, OwnerProbe, Random, Spawn, StoreClock, SystemClock, SystemRandom, Threads};
pub use session::{Came, Feed, FeedError, FeedRecord, Session};
pub use shell::whole_journal;
