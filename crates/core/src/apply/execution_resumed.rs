//! An operator lets a paused execution go on.

use super::{require, under_way};
use crate::{Command, Execution, Result, Status};

pub(super) fn apply(execution: &mut Execution) -> Result<Vec<Command>> {
    require(execution, &[Status::Paused], "be resumed")?;
    execution.status = if execution.started { under_way(execution) } else { Status::Scheduled };
    Ok(execution.open_commands())
}
