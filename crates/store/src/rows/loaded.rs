//! The state of an execution from its rows.

use std::collections::BTreeMap;

use durable_core::{
    CallId, Execution, ExecutionId, Lease, Outcome, Payload, ProgramId, Recorded, Result, Snapshot,
    Status, UnixMs,
};

use super::StoredCall;
use crate::{Control, Loaded};

/// The columns of `executions` that the state of an execution is built from.
pub(crate) struct StateRow {
    /// Without its open calls.
    pub(crate) execution: Execution,
    pub(crate) lease_epoch: u64,
    /// Calls closed from outside and not taken in, as the row counts them.
    pub(crate) inbox: i64,
    pub(crate) control: Option<(Control, String)>,
    pub(crate) program: ProgramId,
    pub(crate) inputs: Payload,
}

impl StateRow {
    /// The request of an operator from its two columns.
    pub(crate) fn control(
        word: Option<&str>,
        reason: Option<String>,
    ) -> Result<Option<(Control, String)>> {
        word.map(|word| Ok((Control::from_stored(word)?, reason.unwrap_or_default()))).transpose()
    }

    /// Whether the rows of its calls are part of the state.
    pub(crate) fn has_calls(&self) -> bool {
        self.execution.requested_calls > 0 && !self.execution.status.is_terminal()
    }

    /// Whether anything has happened to it yet: not so for most that are claimed for the first time.
    pub(crate) fn has_journal(&self) -> bool {
        self.execution.next_sequence > 1
    }

    /// Adds the calls whose outcome the program was not given yet.
    pub(crate) fn complete(
        self,
        lease: Option<Lease>,
        unapplied: Vec<StoredCall>,
        snapshot: Option<(Snapshot, u64)>,
        tail: Vec<Recorded>,
    ) -> Loaded {
        let Self { mut execution, inbox: reported, control, program, inputs, .. } = self;
        let inbox = if reported > 0 { in_order_of_arrival(&unapplied) } else { Vec::new() };
        let open = unapplied.into_iter().map(|call| (call.record.id, call.current()));
        execution.open_calls = open.collect();
        Loaded { execution, program, inputs, lease, snapshot, tail, inbox, control }
    }

    /// A state that nothing has happened to, to be filled.
    pub(crate) fn state(id: ExecutionId, status: Status) -> Execution {
        Execution { status, ..Execution::scheduled(id) }
    }
}

fn in_order_of_arrival(open: &[StoredCall]) -> Vec<(CallId, Outcome)> {
    let mut arrived: Vec<_> = open
        .iter()
        .filter_map(|call| {
            let outcome = call.outcome()?;
            Some((call.record.completed_at_ms, call.record.id, outcome))
        })
        .collect();
    arrived.sort_by_key(|(at_ms, call, _)| (*at_ms, *call));
    arrived.into_iter().map(|(_, call, outcome)| (call, outcome)).collect()
}

/// Of those that need attention, each with the instant since when, the ones due longest.
pub(crate) fn longest_due(
    found: impl IntoIterator<Item = (ExecutionId, UnixMs)>,
    limit: usize,
) -> Vec<ExecutionId> {
    let mut due_since: BTreeMap<ExecutionId, UnixMs> = BTreeMap::new();
    for (id, since_ms) in found {
        let since = due_since.entry(id).or_insert(since_ms);
        *since = since_ms.min(*since);
    }
    let mut ordered: Vec<_> = due_since.into_iter().map(|(id, since_ms)| (since_ms, id)).collect();
    ordered.sort_unstable();
    ordered.into_iter().take(limit).map(|(_, id)| id).collect()
}
