//! The vocabulary and the pure state machine of durable-monty.
//!
//! Nothing here does I/O, reads a clock, draws a random number or starts a task; everything of
//! that kind arrives as an argument.

mod error;
mod failure;
mod ids;
mod limits;
mod payload;
mod program;
mod retry;

pub use error::{Error, Result};
pub use failure::{Failure, Outcome};
pub use ids::{CallId, ExecutionId, Lease, Owner, ProgramId, UnixMs};
pub use limits::Limits;
pub use payload::Payload;
pub use program::{
    Advance, AdvanceDone, Advanced, Base, Definition, Dictionary, End, FunctionOptions, Group,
    NewCall, Position, Program, Reached, Request, Runner, Snapshot, StateToken,
};
pub use retry::RetryPolicy;
