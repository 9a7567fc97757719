//! What is to be done once a transition has committed.

use crate::{CallId, UnixMs};

/// An effect, as data. The engine carries it out after the transition it came from is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Hand this attempt of a call to an executor.
    RunCall {
        /// Which call.
        call: CallId,
        /// Which attempt, from 1.
        attempt: u32,
    },
    /// Look at the call again at this time: fire the timer, or run the next attempt.
    WakeAt {
        /// Which call.
        call: CallId,
        /// When.
        due_ms: UnixMs,
    },
    /// Nobody waits for this call any more: tell its executor.
    CancelCall {
        /// Which call.
        call: CallId,
    },
    /// The execution has ended: tell those who wait for it, forget its live state.
    Finish,
}
