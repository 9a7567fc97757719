//! Every status meets every event, and what comes of it is written down here.

use durable_core::{
    Assignment, Call, Command, Event, Execution, ExecutionId, Failure, FunctionOptions, NewCall,
    Payload, Position, Request, Retried, Status, apply,
};

/// An execution in a status. Those that are under way have call 1 (attempt 1), timer 2 and step 3
/// of agent `a` open, except a running one, which has nothing open.
fn execution(status: Status) -> Execution {
    let mut execution = Execution::scheduled(ExecutionId::new(0, [1; 10]));
    let mut push = |event: Event| drop(apply(&mut execution, &event).unwrap());
    if status == Status::Scheduled {
        return execution;
    }
    push(Event::ExecutionStarted { seed: 1 });
    match status {
        Status::Scheduled | Status::Running => {}
        Status::Waiting => open_two(&mut push),
        Status::Paused => {
            open_two(&mut push);
            push(Event::ExecutionPaused { reason: "lunch".into() });
        }
        Status::Completed => push(Event::ExecutionCompleted { output: Payload::null() }),
        Status::Failed => push(Event::ExecutionFailed { failure: failure() }),
        Status::Cancelled => push(Event::ExecutionCancelled { reason: String::new() }),
    }
    assert_eq!(execution.status, status);
    execution
}

fn open_two(push: &mut impl FnMut(Event)) {
    push(Event::CallRequested(function_call(1, 1)));
    push(Event::TimerStarted(timer(2, 2)));
    push(Event::CallRequested(step(3, 3)));
}

fn failure() -> Failure {
    Failure::new("ValueError", "no")
}

fn function_call(id: u32, order: u32) -> Call {
    let request = Request::Function {
        name: "f".into(),
        args: Payload::trusted("[]"),
        kwargs: Payload::trusted("{}"),
        options: FunctionOptions::default(),
    };
    let position = Position { line: 1, column: 1 };
    Call { new: NewCall { id, request, position }, order, group: 1, attempt: 1, due_ms: None }
}

fn step(id: u32, order: u32) -> Call {
    let mut call = function_call(id, order);
    if let Request::Function { options, .. } = &mut call.new.request {
        options.target = Some("agent:a".into());
    }
    call
}

fn timer(id: u32, order: u32) -> Call {
    let request = Request::Timer { delay_ms: 10 };
    let position = Position { line: 1, column: 1 };
    Call { new: NewCall { id, request, position }, order, group: 1, attempt: 1, due_ms: Some(10) }
}

fn assignment() -> Assignment {
    let (function, name) = ("<module>".into(), "x".into());
    Assignment { task: 0, depth: 0, function, name, value: Payload::null() }
}

/// One event of each kind, made to fit an execution with call 1, timer 2 and step 3 open; `order` is the
/// number the next call gets.
fn events(order: u32) -> Vec<(&'static str, Event)> {
    let result = Payload::null();
    vec![
        ("started", Event::ExecutionStarted { seed: 1 }),
        ("requested", Event::CallRequested(function_call(9, order))),
        ("timer", Event::TimerStarted(timer(9, order))),
        ("invoked", Event::AgentInvoked { call: 3, attempt: 1, agent: "a".into() }),
        ("invoked late", Event::AgentInvoked { call: 3, attempt: 2, agent: "a".into() }),
        ("invoked another", Event::AgentInvoked { call: 1, attempt: 1, agent: "a".into() }),
        (
            "responded",
            Event::AgentResponded { call: 3, attempt: 1, agent: "a".into(), metadata: None },
        ),
        ("retrying", Event::CallRetrying { call: 1, attempt: 1, failure: failure(), due_ms: 5 }),
        ("call completed", Event::CallCompleted { call: 1, attempt: 1, result: result.clone() }),
        ("call failed", Event::CallFailed { call: 1, attempt: 1, failure: failure() }),
        ("fired", Event::TimerFired { call: 2 }),
        ("printed", Event::Printed { text: "x".into() }),
        ("set", Event::VariablesSet { variables: vec![assignment()] }),
        ("set nothing", Event::VariablesSet { variables: Vec::new() }),
        ("paused", Event::ExecutionPaused { reason: String::new() }),
        ("resumed", Event::ExecutionResumed),
        ("completed", Event::ExecutionCompleted { output: result }),
        ("failed", Event::ExecutionFailed { failure: failure() }),
        ("cancelled", Event::ExecutionCancelled { reason: String::new() }),
        (
            "retried",
            Event::ExecutionRetried(Box::new(Retried {
                open: Vec::new(),
                again: Vec::new(),
                dropped: Vec::new(),
                failure: failure(),
            })),
        ),
    ]
}

/// The status after; `None` when the event is refused.
fn expected(status: Status, event: &str) -> Option<Status> {
    use Status::{Cancelled, Completed, Failed, Paused, Running, Scheduled, Waiting};
    match (status, event) {
        (Scheduled, "started") => Some(Running),
        (Scheduled, "paused") => Some(Paused),
        (Running, "requested" | "timer") => Some(Waiting),
        (Running, "printed") => Some(Running),
        (
            Waiting,
            "invoked" | "responded" | "requested" | "timer" | "retrying" | "call completed"
            | "call failed" | "fired" | "printed" | "set",
        ) => Some(Waiting),
        (Running | Waiting, "paused") => Some(Paused),
        (Paused, "retrying" | "invoked" | "responded") => Some(Paused),
        (Paused, "resumed") => Some(Waiting),
        (Running | Waiting, "completed") => Some(Completed),
        (Running | Waiting, "failed") => Some(Failed),
        (Scheduled | Running | Waiting | Paused, "cancelled") => Some(Cancelled),
        (Failed, "retried") => Some(Scheduled),
        _ => None,
    }
}

#[test]
fn every_status_meets_every_event() {
    for &status in Status::ALL {
        let order = execution(status).requested_calls + 1;
        for (name, event) in events(order) {
            let mut after = execution(status);
            let before = after.clone();
            let applied = apply(&mut after, &event);
            match expected(status, name) {
                Some(next) => {
                    applied.unwrap_or_else(|error| panic!("{status} + {name}: {error}"));
                    assert_eq!(after.status, next, "{status} + {name}");
                    assert_eq!(after.next_sequence, before.next_sequence + 1);
                }
                None => {
                    assert!(applied.is_err(), "{status} + {name} is accepted");
                    assert_eq!(after, before, "{status} + {name} is refused but changed something");
                }
            }
        }
    }
}

#[test]
fn a_call_is_closed_once() {
    let mut execution = execution(Status::Waiting);
    let completed = Event::CallCompleted { call: 1, attempt: 1, result: Payload::null() };
    apply(&mut execution, &completed).unwrap();
    let after_first = execution.clone();
    for late in [completed, Event::CallFailed { call: 1, attempt: 1, failure: failure() }] {
        assert!(apply(&mut execution, &late).is_err());
        assert_eq!(execution, after_first);
    }
}

#[test]
fn an_outdated_retry_is_refused() {
    let mut execution = execution(Status::Waiting);
    let retrying = Event::CallRetrying { call: 1, attempt: 1, failure: failure(), due_ms: 5 };
    assert_eq!(apply(&mut execution, &retrying).unwrap(), [Command::WakeAt { call: 1, due_ms: 5 }]);
    assert!(apply(&mut execution, &retrying).is_err());
    assert_eq!(execution.open_calls[&1].attempt, 2);
}

#[test]
fn closing_the_last_call_leaves_it_running() {
    let mut execution = execution(Status::Waiting);
    apply(&mut execution, &Event::TimerFired { call: 2 }).unwrap();
    for call in [1, 3] {
        assert_eq!(execution.status, Status::Waiting);
        let completed = Event::CallCompleted { call, attempt: 1, result: Payload::null() };
        apply(&mut execution, &completed).unwrap();
    }
    assert_eq!(execution.status, Status::Running);
}

#[test]
fn ending_cancels_what_is_open_and_only_that() {
    let mut execution = execution(Status::Waiting);
    let commands =
        apply(&mut execution, &Event::ExecutionCancelled { reason: String::new() }).unwrap();
    assert_eq!(
        commands,
        [Command::CancelCall { call: 1 }, Command::CancelCall { call: 3 }, Command::Finish]
    );
    assert!(execution.open_calls.is_empty());
}

#[test]
fn resuming_asks_for_everything_that_is_open() {
    let mut execution = execution(Status::Paused);
    let commands = apply(&mut execution, &Event::ExecutionResumed).unwrap();
    assert_eq!(
        commands,
        [
            Command::RunCall { call: 1, attempt: 1 },
            Command::WakeAt { call: 2, due_ms: 10 },
            Command::RunCall { call: 3, attempt: 1 },
        ]
    );
}

#[test]
fn wake_times_say_when_somebody_has_to_look() {
    assert_eq!(execution(Status::Scheduled).wake_at_ms(), Some(0));
    let mut waiting = execution(Status::Waiting);
    for call in [1, 3] {
        assert_eq!(waiting.wake_at_ms(), Some(0), "call {call} has to be run");
        let completed = Event::CallCompleted { call, attempt: 1, result: Payload::null() };
        apply(&mut waiting, &completed).unwrap();
    }
    assert_eq!(waiting.wake_at_ms(), Some(10), "only the timer is left");
    assert_eq!(execution(Status::Paused).wake_at_ms(), None);
    assert_eq!(execution(Status::Completed).wake_at_ms(), None);
}
