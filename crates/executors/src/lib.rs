//! Where calls run, behind the engine's `Executor` trait.

mod functions;
mod pull;
mod routed;
mod subprocess;
mod tasks;

pub use functions::{FunctionError, Functions};
pub use pull::PullQueue;
pub use routed::Routed;
pub use subprocess::{Serve, Subprocess, SubprocessConfig};
pub use tasks::{Claim, Task, TaskId, TaskQueue};
