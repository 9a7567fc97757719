//! The stored form of events: held by a golden file, and complete in both directions.

use std::collections::BTreeMap;

use durable_core::{
    Assignment, Call, CallId, Event, Failure, FunctionOptions, NewCall, Outcome, Payload, Position,
    Request, Retried,
    wire::{self, Rows},
};
use proptest::prelude::*;

/// The rows that stored events refer to, filled from the events themselves.
#[derive(Default)]
struct TestRows {
    calls: BTreeMap<CallId, Call>,
    outcomes: BTreeMap<CallId, Outcome>,
    output: Option<Payload>,
    failure: Option<Failure>,
}

impl TestRows {
    fn of(event: &Event) -> Self {
        let mut rows = Self::default();
        match event {
            Event::CallRequested(call) | Event::TimerStarted(call) => {
                rows.calls.insert(call.id(), call.clone());
            }
            Event::ExecutionCompleted { output } => rows.output = Some(output.clone()),
            Event::ExecutionFailed { failure } => rows.failure = Some(failure.clone()),
            Event::ExecutionRetried(retried) => {
                let asked_for = |call: &Call| Call { attempt: 1, ..call.clone() };
                rows.calls.extend(retried.open.iter().map(|call| (call.id(), asked_for(call))));
            }
            other => rows.outcomes.extend(other.outcome()),
        }
        rows
    }
}

impl Rows for TestRows {
    fn call(&self, id: CallId) -> Option<Call> {
        self.calls.get(&id).cloned()
    }
    fn outcome(&self, id: CallId) -> Option<Outcome> {
        self.outcomes.get(&id).cloned()
    }
    fn output(&self) -> Option<Payload> {
        self.output.clone()
    }
    fn failure(&self) -> Option<Failure> {
        self.failure.clone()
    }
}

fn call(id: u32, request: Request, due_ms: Option<i64>) -> Call {
    let position = Position { line: 3, column: 7 };
    Call { new: NewCall { id, request, position }, order: 1, group: 1, attempt: 1, due_ms }
}

fn function() -> Request {
    Request::Function {
        name: "f".into(),
        args: Payload::trusted("[1]"),
        kwargs: Payload::trusted("{}"),
        options: FunctionOptions::default(),
    }
}

fn one_of_each() -> Vec<Event> {
    let failure = Failure::new("ValueError", "no price").with_traceback("Traceback …");
    vec![
        Event::ExecutionStarted { seed: u64::MAX },
        Event::CallRequested(call(1, function(), None)),
        Event::TimerStarted(call(2, Request::Timer { delay_ms: 250 }, Some(1_250))),
        Event::CallRetrying { call: 1, attempt: 1, failure: failure.clone(), due_ms: 2_000 },
        Event::CallCompleted { call: 1, attempt: 2, result: Payload::trusted("{\"a\":1}") },
        Event::CallFailed { call: 3, attempt: 1, failure: failure.clone() },
        Event::TimerFired { call: 2 },
        Event::Printed { text: "hello\n".into() },
        Event::ExecutionPaused { reason: "lunch".into() },
        Event::ExecutionResumed,
        Event::ExecutionCompleted { output: Payload::trusted("42") },
        Event::ExecutionFailed { failure: failure.clone() },
        Event::ExecutionCancelled { reason: "too late".into() },
        Event::ExecutionRetried(Box::new(Retried {
            open: vec![
                call(1, function(), None),
                Call { attempt: 3, ..call(4, function(), None) },
                call(2, Request::Timer { delay_ms: 250 }, Some(1_250)),
            ],
            again: vec![(1, failure.clone())],
            dropped: vec![
                call(7, function(), None),
                call(8, Request::Timer { delay_ms: u64::MAX }, Some(i64::MAX)),
            ],
            failure: Failure { cause_call: Some(1), ..failure },
        })),
        Event::AgentInvoked { call: 1, attempt: 2, agent: "summarize".into() },
        Event::AgentResponded {
            call: 1,
            attempt: 2,
            agent: "summarize".into(),
            metadata: Some(Payload::trusted(r#"{"model":"m","usage":{"input_tokens":3}}"#)),
        },
        Event::AgentResponded { call: 5, attempt: 1, agent: "x".into(), metadata: None },
        Event::VariablesSet {
            variables: vec![Assignment {
                task: 1,
                depth: 0,
                function: "scale".into(),
                name: "total".into(),
                value: Payload::trusted(r#"{"z":1.0,"a":[2]}"#),
            }],
        },
    ]
}

#[test]
fn the_stored_form_is_the_golden_one() {
    let lines: Vec<String> = one_of_each()
        .iter()
        .map(|event| {
            let wire = wire::encode(event);
            format!("{} {}\n", wire.event_type, wire.payload)
        })
        .collect();
    assert_eq!(lines.concat(), include_str!("golden/events.txt"));
}

#[test]
fn what_was_ever_stored_can_be_read() {
    let golden = include_str!("golden/events.txt").lines();
    for (line, event) in golden.zip(one_of_each()) {
        let (event_type, payload) = line.split_once(' ').unwrap();
        let payload = serde_json::from_str(payload).unwrap();
        assert_eq!(wire::decode(event_type, &payload, &TestRows::of(&event)), Ok(event));
    }
}

#[test]
fn an_event_can_be_written_with_everything_it_refers_to() {
    for event in one_of_each() {
        let whole = wire::encode_whole(&event);
        let payload = serde_json::from_str(&whole.payload.to_string()).unwrap();
        assert_eq!(wire::decode_whole(whole.event_type, &payload), Ok(event));
    }
}

#[test]
fn what_a_retry_took_back_can_be_read() {
    let all = one_of_each();
    let is_retried = |event: &&Event| matches!(event, Event::ExecutionRetried(_));
    let retried = all.iter().find(is_retried).unwrap();
    let taken_back = wire::TakenBack::decode(&wire::encode(retried).payload).unwrap();
    let Event::ExecutionRetried(retried) = retried else { unreachable!() };
    // The rows are those of what came later, or are gone.
    let rows = TestRows::default();
    let over = taken_back.over(&rows);
    for event in [
        Event::CallFailed { call: 1, attempt: 2, failure: retried.again[0].1.clone() },
        Event::CallRequested(retried.dropped[0].clone()),
        Event::TimerStarted(retried.dropped[1].clone()),
        Event::ExecutionFailed { failure: retried.failure.clone() },
    ] {
        let wire = wire::encode(&event);
        assert_eq!(wire::decode(wire.event_type, &wire.payload, &over), Ok(event));
    }
}

#[test]
fn what_can_not_be_read_is_refused_by_name() {
    let rows = TestRows::default();
    for (event_type, payload) in [
        ("STEP_EXPLODED", "{}"),
        ("STEP_STARTED", "{}"),
        ("STEP_STARTED", "{\"call\":1}"),
        ("STEP_STARTED", "{\"call\":-1}"),
        ("EXECUTION_STARTED", "{\"seed\":5}"),
        ("EXECUTION_COMPLETED", "{}"),
        ("STEP_RETRYING", "{\"call\":1,\"attempt\":1,\"due_ms\":1}"),
        ("VARIABLES_SET", "{}"),
        ("VARIABLES_SET", "{\"variables\":[{\"task\":0}]}"),
        ("EXECUTION_RETRIED", "{}"),
        ("EXECUTION_RETRIED", "{\"calls\":[{\"call\":1}],\"again\":[],\"dropped\":[]}"),
    ] {
        let payload = serde_json::from_str(payload).unwrap();
        let error = wire::decode(event_type, &payload, &rows).unwrap_err();
        assert!(error.to_string().contains(event_type), "{error}");
    }
}

proptest! {
    #[test]
    fn failures_survive_being_stored(
        error_type in "\\PC*", message in "\\PC*", traceback in proptest::option::of("\\PC*"),
        call: u32, attempt: u32, due_ms: i64,
    ) {
        let failure = Failure { error_type, message, traceback, cause_call: None };
        let event = Event::CallRetrying { call, attempt, failure, due_ms };
        let wire = wire::encode(&event);
        let text = wire.payload.to_string();
        let payload = serde_json::from_str(&text).unwrap();
        let read = wire::decode(wire.event_type, &payload, &TestRows::default());
        prop_assert_eq!(read, Ok(event));
    }

    #[test]
    fn arbitrary_payloads_never_panic(event_type in "[A-Z_]{1,24}", text in "\\PC{0,60}") {
        let payload = serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text));
        let _ = wire::decode(&event_type, &payload, &TestRows::default());
    }
}
