//! The program asks for a call or a timer.

use super::require;
use crate::{Call, Command, Error, Execution, Result, Status};

pub(super) fn apply(execution: &mut Execution, call: &Call) -> Result<Vec<Command>> {
    require(execution, &[Status::Running, Status::Waiting], "ask for a call")?;
    let expected_order = execution.requested_calls + 1;
    if execution.open_calls.contains_key(&call.id()) || call.order != expected_order {
        return Err(Error::conflict(format!(
            "call {} of execution {} comes as number {}, expected a new call as number {expected_order}",
            call.id(),
            execution.id,
            call.order
        )));
    }
    execution.requested_calls = call.order;
    execution.groups = execution.groups.max(call.group);
    execution.open_calls.insert(call.id(), call.clone());
    execution.status = Status::Waiting;
    Ok(call.command().into_iter().collect())
}
