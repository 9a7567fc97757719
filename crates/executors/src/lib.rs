//! Where calls run, behind the engine's `Executor` trait.

mod functions;
mod pull;
mod subprocess;

pub use functions::{FunctionError, Functions};
pub use pull::PullQueue;
pub use subprocess::{Serve, Subprocess, SubprocessConfig};
