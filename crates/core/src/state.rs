//! The state of an execution: what the journal so far amounts to.

use std::collections::BTreeMap;

use crate::{Call, CallId, Command, ExecutionId, Status, UnixMs};

/// What is known of an execution after some transition.
///
/// It holds open calls only: what is closed lives in the journal, and the memory of a long
/// execution does not grow with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Execution {
    /// Its id.
    pub id: ExecutionId,
    /// Its status.
    pub status: Status,
    /// Number of transitions so far; each compares it and adds one.
    pub version: u64,
    /// The number the next event gets.
    pub next_sequence: u64,
    /// Whether the program has begun.
    pub started: bool,
    /// Calls and timers that have not ended, by number.
    pub open_calls: BTreeMap<CallId, Call>,
    /// How many calls and timers were asked for.
    pub requested_calls: u32,
    /// How many resume groups there were.
    pub groups: u32,
    /// How many calls ended with a result or a failure.
    pub closed_calls: u32,
}

impl Execution {
    /// An execution that nothing has happened to yet.
    pub fn scheduled(id: ExecutionId) -> Self {
        Self {
            id,
            status: Status::Scheduled,
            version: 0,
            next_sequence: 1,
            started: false,
            open_calls: BTreeMap::new(),
            requested_calls: 0,
            groups: 0,
            closed_calls: 0,
        }
    }

    /// When somebody who holds no lease yet has to look at it if nothing else happens: at once
    /// when the program or a call is to be run, else at its first timer or due attempt. `None`
    /// when it is paused or has ended, or is a session that waits for its next feed only.
    pub fn wake_at_ms(&self) -> Option<UnixMs> {
        match self.status {
            Status::Scheduled | Status::Running => Some(0),
            Status::Waiting => self.open_calls.values().filter_map(Call::wake_at_ms).min(),
            Status::Paused | Status::Completed | Status::Failed | Status::Cancelled => None,
        }
    }

    /// The call by which a session asks for its next [feed](crate::Request::feed).
    pub fn open_feed(&self) -> Option<&Call> {
        self.open_calls.values().find(|call| call.new.request.is_feed())
    }

    /// What has to be done for everything that is open, as if it had just been asked for.
    pub fn open_commands(&self) -> Vec<Command> {
        self.open_calls.values().filter_map(Call::command).collect()
    }
}
