//! The state machine: one event applied to the state of an execution.
//!
//! Source of the shape: restate's partition state machine: pure, effects as data, one transition
//! a file.

mod agent_told;
mod call_closed;
mod call_requested;
mod call_retrying;
mod execution_ended;
mod execution_paused;
mod execution_resumed;
mod execution_retried;
mod execution_started;
mod variables_set;

use crate::{Command, Error, Event, Execution, Result, Status};

/// Applies one event: changes the state and says what has to be done for it.
///
/// # Errors
/// [`Error::Conflict`] when the event can't happen in this state; the state is unchanged then.
///
/// ```
/// use durable_core::{Event, Execution, ExecutionId, Status, apply};
/// let mut execution = Execution::scheduled(ExecutionId::new(0, [0; 10]));
/// let commands = apply(&mut execution, &Event::ExecutionStarted { seed: 1 })?;
/// assert_eq!(execution.status, Status::Running);
/// assert!(commands.is_empty());
/// # Ok::<(), durable_core::Error>(())
/// ```
pub fn apply(execution: &mut Execution, event: &Event) -> Result<Vec<Command>> {
    let commands = match event {
        Event::ExecutionStarted { .. } => execution_started::apply(execution),
        Event::CallRequested(call) | Event::TimerStarted(call) => {
            call_requested::apply(execution, call)
        }
        Event::AgentInvoked { call, agent, attempt } => {
            agent_told::apply(execution, *call, agent, |current| *attempt == current)
        }
        Event::AgentResponded { call, agent, attempt, .. } => {
            agent_told::apply(execution, *call, agent, |current| *attempt <= current)
        }
        Event::CallRetrying { call, attempt, due_ms, .. } => {
            call_retrying::apply(execution, *call, *attempt, *due_ms)
        }
        Event::CallCompleted { call, attempt, .. } | Event::CallFailed { call, attempt, .. } => {
            call_closed::apply(execution, *call, Some(*attempt))
        }
        Event::TimerFired { call } => call_closed::apply(execution, *call, None),
        Event::Printed { .. } => {
            require(execution, &[Status::Running, Status::Waiting], "print").map(|()| Vec::new())
        }
        Event::VariablesSet { variables } => variables_set::apply(execution, variables),
        Event::ExecutionPaused { .. } => execution_paused::apply(execution),
        Event::ExecutionResumed => execution_resumed::apply(execution),
        Event::ExecutionCompleted { .. } => execution_ended::apply(execution, Status::Completed),
        Event::ExecutionFailed { .. } => execution_ended::apply(execution, Status::Failed),
        Event::ExecutionCancelled { .. } => execution_ended::apply(execution, Status::Cancelled),
        Event::ExecutionRetried(retried) => execution_retried::apply(execution, retried),
    }?;
    execution.next_sequence += 1;
    Ok(commands)
}

/// Refuses an event that can't happen in the execution's status.
fn require(execution: &Execution, allowed: &[Status], what: &str) -> Result<()> {
    if allowed.contains(&execution.status) {
        return Ok(());
    }
    Err(Error::conflict(format!(
        "execution {} is {}: it can't {what}",
        execution.id, execution.status
    )))
}

/// The status of an execution whose program is under way.
fn under_way(execution: &Execution) -> Status {
    if execution.open_calls.is_empty() { Status::Running } else { Status::Waiting }
}
