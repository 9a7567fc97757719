//! A call ends with a result or a failure, or a timer fires.

use super::{require, under_way};
use crate::{CallId, Command, Error, Execution, Result, Status};

/// `attempt` is the attempt that ended; a timer has none.
pub(super) fn apply(
    execution: &mut Execution,
    id: CallId,
    attempt: Option<u32>,
) -> Result<Vec<Command>> {
    require(execution, &[Status::Waiting], "take a result")?;
    let fits = execution.open_calls.get(&id).is_some_and(|call| match attempt {
        Some(attempt) => !call.is_timer() && attempt <= call.attempt,
        None => call.is_timer(),
    });
    if !fits {
        return Err(Error::conflict(format!(
            "call {id} of execution {} is not open: its result was late, repeated or not asked for",
            execution.id
        )));
    }
    execution.open_calls.remove(&id);
    execution.closed_calls += 1;
    execution.status = under_way(execution);
    Ok(Vec::new())
}
