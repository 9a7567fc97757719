//! Where calls run, behind the engine's `Executor` trait.

mod functions;
mod pull;

pub use functions::{FunctionError, Functions};
pub use pull::PullQueue;
