//! The vocabulary and the pure state machine of durable-monty.
//!
//! Nothing here does I/O, reads a clock, draws a random number or starts a task; everything of
//! that kind arrives as an argument.

mod agent;
mod apply;
mod command;
mod error;
mod event;
mod failure;
mod ids;
mod inspection;
mod limits;
mod payload;
mod program;
pub mod replay;
pub mod report;
mod retry;
pub mod seal;
mod state;
mod status;
mod transition;
pub mod wire;

pub use apply::apply;
pub use command::Command;
pub use error::{Error, Result};
pub use event::{CHECKPOINT, Call, Event, Recorded, Retried};
pub use failure::{Failure, Outcome};
pub use ids::{CallId, ExecutionId, Lease, Owner, ProgramId, UnixMs};
pub use inspection::{Assignment, Frame, Inspection};
pub use limits::Limits;
pub use payload::Payload;
pub use program::{
    Advance, AdvanceDone, Advanced, Base, Definition, Dictionary, End, FunctionOptions, Group,
    Language, NewCall, Position, Program, Reached, Request, Runner, Snapshot, StateToken,
};
pub use retry::RetryPolicy;
pub use state::Execution;
pub use status::{CallStatus, Status};
pub use transition::{Draft, Transition};
