//! An attempt failed and another one will follow.

use super::require;
use crate::{CallId, Command, Error, Execution, Result, Status, UnixMs};

pub(super) fn apply(
    execution: &mut Execution,
    id: CallId,
    attempt: u32,
    due_ms: UnixMs,
) -> Result<Vec<Command>> {
    require(execution, &[Status::Waiting, Status::Paused], "retry a call")?;
    let execution_id = execution.id;
    let call = execution
        .open_calls
        .get_mut(&id)
        .filter(|call| call.attempt == attempt && !call.is_timer())
        .ok_or_else(|| {
            Error::conflict(format!(
                "call {id} of execution {execution_id} has no running attempt {attempt}"
            ))
        })?;
    call.attempt += 1;
    call.due_ms = Some(due_ms);
    Ok(vec![Command::WakeAt { call: id, due_ms }])
}
