//! The execution ends: completed, failed or cancelled. What is still open is cancelled.

use super::require;
use crate::{Command, Execution, Result, Status};

pub(super) fn apply(execution: &mut Execution, end: Status) -> Result<Vec<Command>> {
    assert!(end.is_terminal(), "{end} is no end");
    let from: &[Status] = match end {
        Status::Cancelled => &[Status::Scheduled, Status::Running, Status::Waiting, Status::Paused],
        Status::Completed
        | Status::Failed
        | Status::Scheduled
        | Status::Running
        | Status::Waiting
        | Status::Paused => &[Status::Running, Status::Waiting],
    };
    require(execution, from, "end")?;
    let open = std::mem::take(&mut execution.open_calls);
    execution.status = end;
    let cancelled = open.values().filter(|call| !call.is_timer());
    let mut commands: Vec<_> =
        cancelled.map(|call| Command::CancelCall { call: call.id() }).collect();
    commands.push(Command::Finish);
    Ok(commands)
}
