//! When what an operator asks for is done with: the same rules in every store.

use durable_core::{Event, Status, Transition};

use crate::Control;

/// Whether whatever an operator asks for is done with. A transition that pauses or resumes only
/// answers that (see [`moot_control`]): something else may have been asked for since.
pub(crate) fn clears_control(transition: &Transition) -> bool {
    let pauses_or_resumes = transition
        .events
        .iter()
        .any(|event| matches!(event, Event::ExecutionPaused { .. } | Event::ExecutionResumed));
    transition.after.status.is_terminal() || (transition.control_taken && !pauses_or_resumes)
}

/// What makes no sense to ask of an execution in this status, because it is so already.
pub(crate) fn moot_control(status: Status) -> Control {
    if status == Status::Paused { Control::Pause } else { Control::Resume }
}
