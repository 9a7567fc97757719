//! Rows of `execution_events`, and the rows that they refer to.

use std::collections::BTreeMap;

use durable_core::{
    Call, CallId, Error, ExecutionId, Failure, Outcome, Payload, Recorded, Result, UnixMs,
    wire::{self, Rows},
};

use super::StoredCall;

/// An event as it is stored.
pub(crate) struct StoredEvent {
    pub(crate) sequence: u64,
    pub(crate) transition: u64,
    pub(crate) event_type: String,
    pub(crate) payload: serde_json::Value,
    pub(crate) at_ms: UnixMs,
}

impl StoredEvent {
    /// Parses the payload of a row.
    pub(crate) fn parse(
        id: ExecutionId,
        sequence: u64,
        payload: &str,
    ) -> Result<serde_json::Value> {
        serde_json::from_str(payload).map_err(|error| {
            Error::corrupt(format!("event {sequence} of execution {id} is not JSON: {error}"))
        })
    }

    /// The call whose row the event refers to.
    pub(crate) fn call(&self) -> Option<CallId> {
        match self.event_type.as_str() {
            "STEP_STARTED" | "TIMER_STARTED" | "STEP_COMPLETED" | "STEP_FAILED" => {
                let call = self.payload.get("call").and_then(serde_json::Value::as_u64);
                call.and_then(|call| CallId::try_from(call).ok())
            }
            _ => None,
        }
    }

    /// Whether the event refers to the end in the execution's row.
    pub(crate) fn is_end(&self) -> bool {
        matches!(self.event_type.as_str(), "EXECUTION_COMPLETED" | "EXECUTION_FAILED")
    }
}

/// The rows that a stretch of journal refers to.
#[derive(Default)]
pub(crate) struct ReferredRows {
    pub(crate) calls: BTreeMap<CallId, StoredCall>,
    pub(crate) output: Option<Payload>,
    pub(crate) failure: Option<Failure>,
}

impl ReferredRows {
    /// Puts what the events refer to back into them.
    pub(crate) fn decode(
        &self,
        id: ExecutionId,
        events: Vec<StoredEvent>,
    ) -> Result<Vec<Recorded>> {
        let decode = |event: StoredEvent| {
            let StoredEvent { sequence, transition, at_ms, .. } = event;
            let decoded =
                wire::decode(&event.event_type, &event.payload, self).map_err(|error| {
                    Error::corrupt(format!("event {sequence} of execution {id}: {error}"))
                })?;
            Ok(Recorded { sequence, transition, at_ms, event: decoded })
        };
        events.into_iter().map(decode).collect()
    }
}

impl Rows for ReferredRows {
    fn call(&self, id: CallId) -> Option<Call> {
        self.calls.get(&id).map(|call| call.requested.clone())
    }

    fn outcome(&self, id: CallId) -> Option<Outcome> {
        self.calls.get(&id)?.outcome()
    }

    fn output(&self) -> Option<Payload> {
        self.output.clone()
    }

    fn failure(&self) -> Option<Failure> {
        self.failure.clone()
    }
}
