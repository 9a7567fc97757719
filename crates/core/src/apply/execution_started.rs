//! An engine begins to run the program.

use super::require;
use crate::{Command, Execution, Result, Status};

pub(super) fn apply(execution: &mut Execution) -> Result<Vec<Command>> {
    require(execution, &[Status::Scheduled], "start")?;
    assert!(!execution.started, "a scheduled execution has not started");
    execution.started = true;
    execution.status = Status::Running;
    Ok(Vec::new())
}
