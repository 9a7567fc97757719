//! The rows of calls and timers.

use durable_core::{
    CallStatus, End, Event, Failure, FunctionOptions, NewCall, Payload, Position, Reached, Request,
    RetryPolicy,
};

use super::{
    Check,
    kit::{Kit, NOW_MS, completed, failed, function, json, ok, owner, refused, suspended, timer},
};
use crate::Write;

pub(super) const CHECKS: &[Check] = &[
    ("a call is shown as it was asked for", as_asked),
    ("what a call came to is shown", as_closed),
    ("a step is shown with its agent, and so is what it says of itself", steps),
    ("a timer is shown as one", timers),
    ("a retry counts and has its time", retries),
    ("an end cancels what is open", cancelled),
    ("a job is noted under the lease only", jobs),
];

fn as_asked(kit: &Kit) {
    let options = FunctionOptions {
        target: Some("shop.orders.price".into()),
        retry: Some(RetryPolicy { max_attempts: 5, jitter: 0.123_456_789, ..Default::default() }),
        timeout_ms: Some(2_500),
    };
    let special = NewCall {
        id: 9,
        request: Request::Function {
            name: "price".into(),
            args: json(r#"["é", [1, 2.5e300, {"a": null}]]"#),
            kwargs: json(r#"{"deep": {"x": [true]}}"#),
            options,
        },
        position: Position { line: 70_000, column: 1 },
    };
    let held = kit.waiting(1, &owner("one"), vec![function(2, "a"), special]);
    let id = held.id();
    let calls = ok(kit.store.calls(id));
    assert_eq!(
        calls.iter().map(|call| (call.id, call.order)).collect::<Vec<_>>(),
        [(2, 1), (9, 2)]
    );
    let plain = &calls[0];
    assert_eq!((plain.name.as_str(), plain.function.as_str()), ("a", "a"));
    assert_eq!(
        (plain.args.clone(), plain.kwargs.clone()),
        (json("[2]"), json(r#"{"key": "wert ü"}"#))
    );
    assert_eq!(plain.resume_group_id, format!("{id}:1"));
    assert_eq!(plain.position, Position { line: 3, column: 14 });
    assert_eq!((plain.status, plain.attempt), (CallStatus::Pending, 1));
    assert_eq!((plain.due_at_ms, plain.completed_at_ms), (None, None));
    assert_eq!(
        (plain.result.clone(), plain.failure.clone(), plain.job_id.clone()),
        (None, None, None)
    );
    assert_eq!(plain.created_at_ms, NOW_MS + 10);
    assert!(!plain.is_timer);
    let special = &calls[1];
    assert_eq!((special.name.as_str(), special.function.as_str()), ("price", "shop.orders.price"));
    assert_eq!(special.position, Position { line: 70_000, column: 1 });
    // The options come back with the state: `waiting` has compared it whole.
    assert!(ok(kit.store.calls(super::kit::id(99))).is_empty());
}

fn steps(kit: &Kit) {
    let agent = |id| {
        let mut new = function(id, "summarize");
        if let Request::Function { options, .. } = &mut new.request {
            options.target = Some(Request::agent_target("short"));
        }
        new
    };
    let mut held = kit.waiting(1, &owner("one"), vec![agent(1), agent(2)]);
    kit.advance(&mut held, |draft| {
        let reported = r#"{"agent_metadata":{"model":"m","usage":{"output_tokens":7}},"s":"x"}"#;
        draft.close_call(1, 1, completed(reported))?;
        draft.retry_call(2, 1, Failure::new("OSError", "busy"), NOW_MS + 500)
    });
    let call = kit.call(held.id(), 1);
    assert_eq!((call.name.as_str(), call.agent()), ("summarize", Some("short")));
    assert_eq!(kit.call(held.id(), 2).attempt, 2);
    let told: Vec<_> = kit
        .journal(held.id())
        .into_iter()
        .filter_map(|recorded| match recorded.event {
            Event::AgentInvoked { call, attempt, agent } => Some((call, attempt, agent, None)),
            Event::AgentResponded { call, attempt, agent, metadata } => {
                Some((call, attempt, agent, Some(metadata)))
            }
            _ => None,
        })
        .collect();
    let short = || "short".to_owned();
    let reported = json(r#"{"model":"m","usage":{"output_tokens":7}}"#);
    assert_eq!(
        told,
        [
            (1, 1, short(), None),
            (2, 1, short(), None),
            (1, 1, short(), Some(Some(reported))),
            (2, 2, short(), None),
        ]
    );
}

fn as_closed(kit: &Kit) {
    let mut held = kit.waiting(1, &owner("one"), vec![function(1, "a"), function(2, "a")]);
    kit.advance(&mut held, |draft| {
        draft.close_call(2, 1, failed("no"))?;
        draft.close_call(1, 1, completed("[1]"))?;
        draft.take_reached(suspended(vec![function(3, "b")], None))
    });
    let call = kit.call(held.id(), 1);
    assert_eq!((call.status, call.result), (CallStatus::Completed, Some(json("[1]"))));
    assert_eq!((call.failure, call.completed_at_ms), (None, Some(NOW_MS + 20)));
    let call = kit.call(held.id(), 2);
    assert_eq!((call.status, call.result), (CallStatus::Failed, None));
    let failure = Failure::new("ValueError", "no").with_traceback("Traceback…");
    assert_eq!((call.failure, call.completed_at_ms), (Some(failure), Some(NOW_MS + 20)));
    let call = kit.call(held.id(), 3);
    assert_eq!((call.status, call.order), (CallStatus::Pending, 3));
    assert_eq!(call.resume_group_id, format!("{}:2", held.id()));
    // Once is enough.
    let mut late = held.clone();
    late.state.open_calls.insert(1, late.state.open_calls[&3].clone());
    let again = late.write(|draft| draft.close_call(1, 1, completed("other")));
    refused!(kit.write(again), Conflict);
    kit.assert_state(&held.state);
    assert_eq!(kit.call(held.id(), 1).result, Some(json("[1]")));
}

fn timers(kit: &Kit) {
    let calls = vec![timer(1, 60_000), timer(2, u64::MAX), timer(3, 0)];
    let mut held = kit.waiting(1, &owner("one"), calls);
    let call = kit.call(held.id(), 1);
    assert!(call.is_timer);
    assert_eq!((call.name.as_str(), call.function.as_str()), ("asyncio.sleep", "asyncio.sleep"));
    assert_eq!((call.args, call.kwargs), (json("[]"), json("{}")));
    assert_eq!((call.status, call.due_at_ms), (CallStatus::Pending, Some(NOW_MS + 10 + 60_000)));
    assert_eq!(call.position, Position { line: 5, column: 1 });
    assert_eq!(kit.call(held.id(), 2).due_at_ms, Some(i64::MAX));
    kit.advance(&mut held, |draft| draft.push(Event::TimerFired { call: 1 }));
    let call = kit.call(held.id(), 1);
    assert_eq!((call.status, call.result), (CallStatus::Completed, Some(Payload::null())));
    assert_eq!(call.due_at_ms, Some(NOW_MS + 10 + 60_000));
    assert_eq!(call.completed_at_ms, Some(NOW_MS + 20));
}

fn retries(kit: &Kit) {
    let mut held = kit.waiting(1, &owner("one"), vec![function(1, "a")]);
    let lease = held.lease.clone();
    let job_id = "job".to_owned();
    kit.done(Write::NoteJob { execution: held.id(), lease, call: 1, job_id });
    let failure = Failure::new("OSError", "busy");
    for attempt in 1..=2 {
        let due_ms = NOW_MS + i64::from(attempt) * 1_000;
        let failure = failure.clone();
        kit.advance(&mut held, |draft| {
            draft.push(Event::CallRetrying { call: 1, attempt, failure, due_ms })
        });
        let call = kit.call(held.id(), 1);
        assert_eq!((call.status, call.attempt), (CallStatus::Pending, attempt + 1));
        assert_eq!((call.due_at_ms, call.job_id), (Some(due_ms), None));
        assert_eq!(call.failure, Some(Failure::new("OSError", "busy")));
    }
    kit.advance(&mut held, |draft| draft.close_call(1, 3, completed("1")));
    let call = kit.call(held.id(), 1);
    assert_eq!((call.status, call.attempt), (CallStatus::Completed, 3));
    assert_eq!((call.due_at_ms, call.failure), (None, None));
    // Retrying what is closed loses.
    let mut late = held.clone();
    let mut reopened =
        durable_core::Call { new: function(1, "a"), order: 1, group: 1, attempt: 3, due_ms: None };
    reopened.attempt = 3;
    late.state.open_calls.insert(1, reopened);
    late.state.status = durable_core::Status::Waiting;
    let again = late.write(|draft| {
        draft.push(Event::CallRetrying { call: 1, attempt: 3, failure, due_ms: NOW_MS })
    });
    refused!(kit.write(again), Conflict);
    kit.assert_state(&held.state);
}

fn cancelled(kit: &Kit) {
    let calls = vec![function(1, "a"), function(2, "a"), timer(3, 1_000), function(4, "a")];
    let mut held = kit.waiting(1, &owner("one"), calls);
    kit.advance(&mut held, |draft| {
        let failure = Failure::new("OSError", "busy");
        draft.push(Event::CallRetrying { call: 4, attempt: 1, failure, due_ms: NOW_MS + 99 })
    });
    // Reported, but the program ends before anybody takes it in.
    ok(kit.report(held.id(), 2, completed("2")));
    kit.advance(&mut held, |draft| {
        draft.close_call(1, 1, completed("1"))?;
        let end = End::Completed(json("1"));
        draft.take_reached(Reached { calls: vec![Vec::new()], printed: String::new(), end })
    });
    let status = |call| kit.call(held.id(), call).status;
    assert_eq!(status(1), CallStatus::Completed);
    assert_eq!(status(2), CallStatus::Completed);
    assert_eq!(status(3), CallStatus::Cancelled);
    assert_eq!(status(4), CallStatus::Cancelled);
    assert_eq!(kit.call(held.id(), 3).completed_at_ms, Some(NOW_MS + 30));
    assert_eq!(kit.call(held.id(), 3).due_at_ms, Some(NOW_MS + 10 + 1_000));
    assert_eq!(kit.call(held.id(), 4).due_at_ms, None);
    assert!(kit.load(held.id()).inbox.is_empty());
    assert_eq!(ok(kit.store.next_due_ms(&owner("two"), &[])), None);
    refused!(kit.report(held.id(), 4, completed("late")), Conflict);
}

fn jobs(kit: &Kit) {
    let held = kit.waiting(1, &owner("one"), vec![function(1, "a"), timer(2, 50)]);
    let note = |lease: &durable_core::Lease, call| {
        let (execution, lease) = (held.id(), lease.clone());
        kit.write(Write::NoteJob { execution, lease, call, job_id: "rq:4711".into() })
    };
    let stranger = durable_core::Lease { owner: owner("two"), epoch: 1 };
    refused!(note(&stranger, 1), Conflict);
    refused!(note(&held.lease, 2), Conflict);
    refused!(note(&held.lease, 7), Conflict);
    assert_eq!(kit.call(held.id(), 1).job_id, None);
    ok(note(&held.lease, 1));
    let call = kit.call(held.id(), 1);
    assert_eq!((call.status, call.job_id.as_deref()), (CallStatus::Submitted, Some("rq:4711")));
    ok(kit.report(held.id(), 1, completed("1")));
    refused!(note(&held.lease, 1), Conflict);
    let call = kit.call(held.id(), 1);
    assert_eq!((call.status, call.job_id.as_deref()), (CallStatus::Completed, Some("rq:4711")));
}
