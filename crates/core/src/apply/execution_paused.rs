//! An operator pauses the execution, or the engine parks it.

use super::require;
use crate::{Command, Execution, Result, Status};

pub(super) fn apply(execution: &mut Execution) -> Result<Vec<Command>> {
    require(execution, &[Status::Scheduled, Status::Running, Status::Waiting], "be paused")?;
    execution.status = Status::Paused;
    Ok(Vec::new())
}
