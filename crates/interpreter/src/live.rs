//! The states a worker still holds live, so that results which trickle in need no load and no
//! dump.

use std::collections::VecDeque;

use crate::{
    protocol::{ExecutionKey, WireToken},
    session::Waiting,
};

/// All live states of a worker but the newest together hold about this much at most.
const MAX_LIVE_BYTES: usize = 64 << 20;

struct Entry {
    execution: ExecutionKey,
    token: WireToken,
    bytes: usize,
    waiting: Waiting,
}

/// Live states, least recently used first.
pub(crate) struct Live {
    entries: VecDeque<Entry>,
    capacity: usize,
}

impl Live {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { entries: VecDeque::new(), capacity }
    }

    /// Takes the state out, with its size; a state under another token is dropped.
    pub(crate) fn take(
        &mut self,
        execution: ExecutionKey,
        token: WireToken,
    ) -> Option<(Waiting, usize)> {
        let index = self.entries.iter().position(|entry| entry.execution == execution)?;
        let entry = self.entries.remove(index)?;
        (entry.token == token).then_some((entry.waiting, entry.bytes))
    }

    /// Drops the state of an execution.
    pub(crate) fn forget(&mut self, execution: ExecutionKey) {
        self.entries.retain(|entry| entry.execution != execution);
    }

    /// Keeps a state; appends to `evicted` whose states had to make room.
    pub(crate) fn keep(
        &mut self,
        execution: ExecutionKey,
        token: WireToken,
        waiting: Waiting,
        bytes: usize,
        evicted: &mut Vec<ExecutionKey>,
    ) {
        self.entries.push_back(Entry { execution, token, bytes, waiting });
        let mut held: usize = self.entries.iter().map(|entry| entry.bytes).sum();
        while self.entries.len() > self.capacity
            || (self.entries.len() > 1 && held - bytes > MAX_LIVE_BYTES)
        {
            let Some(oldest) = self.entries.pop_front() else { return };
            held -= oldest.bytes;
            evicted.push(oldest.execution);
        }
    }
}
