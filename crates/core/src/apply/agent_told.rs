//! An agent is about to be run for a step, or has returned. Nothing changes but the journal.

use super::require;
use crate::{CallId, Command, Error, Execution, Result, Status};

pub(super) fn apply(
    execution: &mut Execution,
    id: CallId,
    agent: &str,
    fits: impl FnOnce(u32) -> bool,
) -> Result<Vec<Command>> {
    require(execution, &[Status::Waiting, Status::Paused], "run an agent")?;
    let open = execution.open_calls.get(&id).filter(|call| call.new.request.agent() == Some(agent));
    if open.is_some_and(|call| fits(call.attempt)) {
        return Ok(Vec::new());
    }
    Err(Error::conflict(format!(
        "call {id} of execution {} has no such attempt of the agent '{agent}'",
        execution.id
    )))
}
