//! An operator lets a failed execution go on: the transition that failed it is taken back.

use super::require;
use crate::{Command, Error, Execution, Result, Retried, Status};

pub(super) fn apply(execution: &mut Execution, retried: &Retried) -> Result<Vec<Command>> {
    require(execution, &[Status::Failed], "be retried")?;
    let Retried { open, dropped, .. } = retried;
    let requested = (execution.requested_calls as usize).checked_sub(dropped.len());
    let closed = requested.and_then(|requested| requested.checked_sub(open.len()));
    let fits = match (requested, closed) {
        // A program that begins anew has asked for nothing yet.
        (Some(requested), Some(_)) => !open.is_empty() || requested == 0,
        _ => false,
    };
    let (Some(requested), Some(closed), true) = (requested, closed, fits) else {
        return Err(Error::conflict(format!(
            "execution {} asked for {} calls: a retry can't open {} of them and drop {}",
            execution.id,
            execution.requested_calls,
            open.len(),
            dropped.len()
        )));
    };
    // Both are smaller than what was there.
    (execution.requested_calls, execution.closed_calls) = (requested as u32, closed as u32);
    // What one transition asks for is one group.
    execution.groups -= u32::from(!dropped.is_empty()).min(execution.groups);
    execution.open_calls = open.iter().map(|call| (call.id(), call.clone())).collect();
    execution.started = !open.is_empty();
    execution.status = if execution.started { Status::Waiting } else { Status::Scheduled };
    Ok(execution.open_commands())
}
