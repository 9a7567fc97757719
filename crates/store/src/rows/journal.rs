//! Rows of `execution_events`, and the rows that they refer to.

use std::collections::BTreeMap;

use durable_core::{
    Call, CallId, Error, ExecutionId, Failure, Outcome, Payload, Recorded, Result, UnixMs,
    wire::{self, Rows, TakenBack},
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

    /// The calls whose rows the event refers to.
    pub(crate) fn calls(&self) -> Vec<CallId> {
        let call = |value: &serde_json::Value| {
            CallId::try_from(value.get("call").and_then(serde_json::Value::as_u64)?).ok()
        };
        match self.event_type.as_str() {
            "STEP_STARTED" | "TIMER_STARTED" | "STEP_COMPLETED" | "STEP_FAILED" => {
                call(&self.payload).into_iter().collect()
            }
            TakenBack::EVENT_TYPE => {
                let calls = self.payload.get("calls").and_then(serde_json::Value::as_array);
                calls.into_iter().flatten().filter_map(call).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether the event refers to the end in the execution's row.
    pub(crate) fn is_end(&self) -> bool {
        self.event_type == "EXECUTION_COMPLETED" || self.is_failure()
    }

    /// Whether a retry may have taken its transition back.
    pub(crate) fn is_failure(&self) -> bool {
        self.event_type == "EXECUTION_FAILED"
    }
}

/// The transitions that retries took back, by number.
#[derive(Default)]
pub(crate) struct TakenBacks(BTreeMap<u64, TakenBack>);

impl TakenBacks {
    /// Adds what a retry took back: the transition before its own.
    pub(crate) fn add(&mut self, retry_transition: u64, payload: &serde_json::Value) -> Result<()> {
        self.0.insert(retry_transition - 1, TakenBack::decode(payload)?);
        Ok(())
    }

    /// Those of the retries in a stretch of journal.
    pub(crate) fn of(events: &[StoredEvent]) -> Result<Self> {
        let mut all = Self::default();
        for event in events.iter().filter(|event| event.event_type == TakenBack::EVENT_TYPE) {
            all.add(event.transition, &event.payload)?;
        }
        Ok(all)
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
        taken_backs: &TakenBacks,
    ) -> Result<Vec<Recorded>> {
        let decode = |event: StoredEvent| {
            let StoredEvent { sequence, transition, at_ms, event_type, payload } = event;
            let decoded = match taken_backs.0.get(&transition) {
                Some(taken_back) => wire::decode(&event_type, &payload, &taken_back.over(self)),
                None => wire::decode(&event_type, &payload, self),
            };
            let event = decoded.map_err(|error| {
                Error::corrupt(format!("event {sequence} of execution {id}: {error}"))
            })?;
            Ok(Recorded { sequence, transition, at_ms, event })
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
