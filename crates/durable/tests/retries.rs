//! Attempts: how many, when, what the journal says of them, and that their count survives.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use durable::{
    CallRequest, CallStatus, Durable, Engine, ExecutionId, Failure, FunctionError, Outcome,
    Payload, PullQueue, RetryPolicy, Status, Workflow, wire,
};
use durable_core::Event;
use support::*;

/// The attempts that were made, over all engines of a test.
type Attempts = Arc<Mutex<Vec<CallRequest>>>;

/// With `flaky(n, type)`, which fails in each attempt before the n-th.
fn open(scene: &Scene, attempts: &Attempts) -> Durable {
    let attempts = attempts.clone();
    scene
        .builder()
        .function_raw("flaky", move |call| {
            attempts.lock().unwrap().push(call.clone());
            async move {
                let (needed, kind): (u32, String) = serde_json::from_str(call.args.as_str())?;
                if call.attempt < needed {
                    let message = format!("attempt {} failed", call.attempt);
                    return Err(FunctionError::new(&kind, message));
                }
                Ok(call.attempt)
            }
        })
        .open()
        .unwrap()
}

fn policy(max_attempts: u32) -> RetryPolicy {
    RetryPolicy { max_attempts, initial_interval_ms: 10, jitter: 0.0, ..RetryPolicy::default() }
}

/// Each failed attempt that is followed by another: number, failure, wait.
fn retries(engine: &Engine, id: ExecutionId) -> Vec<(u32, Failure, i64)> {
    let mut found = Vec::new();
    for recorded in journal(engine, id) {
        if let Event::CallRetrying { attempt, failure, due_ms, .. } = recorded.event {
            found.push((attempt, failure, due_ms - recorded.at_ms));
        }
    }
    found
}

#[test]
fn attempts_are_counted_waits_grow_and_every_failure_is_in_the_journal() {
    let (scene, attempts) = (Scene::new(), Attempts::default());
    let durable = open(&scene, &attempts);
    let workflow = Workflow::new("await flaky(4, 'OSError')").retry("flaky", policy(5));
    let id = durable.start(&workflow).unwrap();
    assert_eq!(output(durable.engine(), id), "4");
    let made = attempts.lock().unwrap().clone();
    assert_eq!(made.iter().map(|call| call.attempt).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let keys: Vec<_> = made.iter().map(CallRequest::idempotency_key).collect();
    assert!(keys.iter().all(|key| *key == keys[0]), "one key for all attempts: {keys:?}");
    let retries = retries(durable.engine(), id);
    let waits: Vec<_> = retries.iter().map(|(attempt, _, wait_ms)| (*attempt, *wait_ms)).collect();
    assert_eq!(waits, [(1, 10), (2, 20), (3, 40)]);
    for (attempt, failure, _) in &retries {
        assert_eq!(failure.to_string(), format!("OSError: attempt {attempt} failed"));
    }
    let call = &calls(durable.engine(), id)[0];
    assert_eq!((call.attempt, call.status), (4, CallStatus::Completed));
    let expected = ["STEP_RETRYING"; 3];
    assert_eq!(events(durable.engine(), id)[2..5], expected);
}

#[test]
fn no_attempt_begins_before_it_is_due() {
    let (scene, attempts) = (Scene::new(), Attempts::default());
    let durable = open(&scene, &attempts);
    let workflow = Workflow::new("await flaky(4, 'OSError')").retry("flaky", policy(5));
    let id = durable.start(&workflow).unwrap();
    output(durable.engine(), id);
    let due: Vec<_> = journal(durable.engine(), id)
        .into_iter()
        .filter_map(|recorded| match recorded.event {
            Event::CallRetrying { due_ms, .. } => Some(due_ms),
            _ => None,
        })
        .collect();
    for (call, due_ms) in attempts.lock().unwrap().iter().skip(1).zip(due) {
        assert!(call.handed_out_at_ms >= due_ms, "{} before {due_ms}", call.handed_out_at_ms);
    }
}

#[test]
fn waits_with_jitter_stay_within_their_share() {
    let (scene, attempts) = (Scene::new(), Attempts::default());
    let durable = open(&scene, &attempts);
    let policy = RetryPolicy { jitter: 0.5, backoff_coefficient: 1.0, ..policy(20) };
    let id =
        durable.start(&Workflow::new("await flaky(20, 'OSError')").retry("flaky", policy)).unwrap();
    assert_eq!(output(durable.engine(), id), "20");
    for (attempt, _, wait_ms) in retries(durable.engine(), id) {
        assert!((5..=10).contains(&wait_ms), "{wait_ms} ms after attempt {attempt}");
    }
}

#[test]
fn after_the_last_attempt_the_program_is_given_its_error() {
    let (scene, attempts) = (Scene::new(), Attempts::default());
    let durable = open(&scene, &attempts);
    let source =
        "try:\n    await flaky(9, 'OSError')\n    r = 0\nexcept OSError as e:\n    r = str(e)\nr";
    let id = durable.start(&Workflow::new(source).retry("flaky", policy(3))).unwrap();
    assert_eq!(output(durable.engine(), id), r#""attempt 3 failed""#);
    assert_eq!(attempts.lock().unwrap().len(), 3);
    assert_eq!(retries(durable.engine(), id).len(), 2);
    let call = &calls(durable.engine(), id)[0];
    assert_eq!((call.attempt, call.status), (3, CallStatus::Failed));
    assert_eq!(call.failure.as_ref().unwrap().message, "attempt 3 failed");
}

#[test]
fn without_a_policy_there_is_one_attempt() {
    let (scene, attempts) = (Scene::new(), Attempts::default());
    let durable = open(&scene, &attempts);
    let id = durable.start(&Workflow::new("await flaky(2, 'OSError')")).unwrap();
    assert_eq!(ended(durable.engine(), id).status, Status::Failed);
    assert_eq!(attempts.lock().unwrap().len(), 1);
    assert!(!events(durable.engine(), id).contains(&"STEP_RETRYING".to_owned()));
}

#[test]
fn types_that_are_not_retryable_are_tried_once() {
    let (scene, attempts) = (Scene::new(), Attempts::default());
    let durable = open(&scene, &attempts);
    let policy = RetryPolicy { non_retryable: vec!["ValueError".into()], ..policy(5) };
    let source = "
try:
    await flaky(5, 'ValueError')
    first = 'nothing'
except ValueError as e:
    first = str(e)
[first, await flaky(3, 'OSError')]
";
    let id = durable.start(&Workflow::new(source).retry("flaky", policy)).unwrap();
    let result = output(durable.engine(), id).replace(", ", ",");
    assert_eq!(result, r#"["attempt 1 failed",3]"#);
}

#[test]
fn a_call_can_have_its_own_policy_which_the_function_is_not_shown() {
    let (scene, attempts) = (Scene::new(), Attempts::default());
    let durable = open(&scene, &attempts);
    let source = "
[
    await flaky(2, 'OSError'),
    await flaky(4, 'OSError', _retry={'max_attempts': 4, 'initial_interval_ms': 1}),
    await flaky(1, 'OSError', _retry=1, other=5),
]
";
    let id = durable.start(&Workflow::new(source).retry("flaky", policy(2))).unwrap();
    assert_eq!(output(durable.engine(), id).replace(' ', ""), "[2,4,1]");
    let attempts = attempts.lock().unwrap();
    assert_eq!(attempts[0].kwargs.as_str(), "{}");
    assert_eq!(attempts[2].kwargs.as_str(), "{}");
    let last = attempts.last().unwrap().kwargs.to_value().unwrap();
    assert_eq!(last, serde_json::json!({"other": 5}));
}

#[test]
fn the_count_survives_a_crash_between_two_attempts() {
    let (scene, attempts) = (Scene::new(), Attempts::default());
    let mut durable = open(&scene, &attempts);
    let policy = RetryPolicy { initial_interval_ms: 86_400_000, ..policy(3) };
    let id =
        durable.start(&Workflow::new("await flaky(9, 'OSError')").retry("flaky", policy)).unwrap();
    for made in 1..3 {
        let engine = durable.engine();
        until("the attempt is in the journal", || retries(engine, id).len() == made);
        until("it is given back", || engine.execution(id).unwrap().locked_by.is_none());
        // Dropped without being closed: like a crash.
        drop(durable);
        let sql = scene.sql();
        for table in ["execution_steps SET due_at = 1", "executions SET wake_at = 1"] {
            assert_eq!(sql.execute(&format!("UPDATE {table}"), []).unwrap(), 1);
        }
        durable = open(&scene, &attempts);
    }
    assert_eq!(ended(durable.engine(), id).failure.unwrap().message, "attempt 3 failed");
    let made: Vec<_> = attempts.lock().unwrap().iter().map(|call| call.attempt).collect();
    assert_eq!(made, [1, 2, 3]);
}

/// An engine whose calls the test itself runs.
fn with_queue(scene: &Scene) -> (Engine, Arc<PullQueue>) {
    let engine = scene.builder().open_engine().unwrap();
    let queue = Arc::new(PullQueue::default());
    engine.attach(queue.clone()).unwrap();
    (engine, queue)
}

fn returned(json: &str) -> Outcome {
    Outcome::Completed(Payload::parse(json, 1_000).unwrap())
}

#[test]
fn an_attempt_that_hangs_fails_with_timeout_error_and_its_late_result_changes_nothing() {
    let scene = Scene::new();
    let (engine, queue) = with_queue(&scene);
    let source = "
try:
    await hang(_timeout=0.02)
    r = 'nothing'
except TimeoutError as e:
    r = str(e)
[r, await next_step()]
";
    let workflow = Workflow::new(source).declare("hang").declare("next_step");
    let id = engine.start(workflow.to_start(&[])).unwrap();
    let hanging = queue.next(PATIENCE).unwrap();
    assert_eq!((hanging.function.as_str(), hanging.timeout_ms), ("hang", Some(20)));
    let next = queue.next(PATIENCE).unwrap();
    assert_eq!(next.function, "next_step");
    assert!(!queue.is_wanted(&hanging) && queue.is_wanted(&next));
    let before = journal(&engine, id);
    queue.report(&hanging, returned("\"late\""));
    assert!(engine.complete_call(id, hanging.call, returned("\"late\"")).is_err());
    assert_eq!(journal(&engine, id), before);
    queue.report(&next, returned("1"));
    let result = output(&engine, id);
    assert!(result.contains("took longer than its 20 ms") && result.ends_with("1]"), "{result}");
    queue.report(&hanging, returned("\"very late\""));
    assert_eq!(output(&engine, id), result);
    assert_eq!(calls(&engine, id)[0].failure.as_ref().unwrap().error_type, "TimeoutError");
}

#[test]
fn the_result_of_a_timed_out_attempt_does_not_count_for_the_next_attempt() {
    let scene = Scene::new();
    let (engine, queue) = with_queue(&scene);
    let workflow = Workflow::new("await hang()")
        .timeout_ms("hang", 20)
        .retry("hang", RetryPolicy { initial_interval_ms: 0, ..policy(1_000) });
    let id = engine.start(workflow.to_start(&[])).unwrap();
    let first = queue.next(PATIENCE).unwrap();
    // Attempts follow each other as long as none is answered.
    let mut current = queue.next(PATIENCE).unwrap();
    assert_eq!((first.attempt, current.attempt), (1, 2));
    queue.report(&first, returned("\"of the first attempt\""));
    while !ended_with_answer(&engine, &queue, &current, id) {
        current = queue.next(PATIENCE).unwrap();
    }
    assert_eq!(output(&engine, id), r#""in time""#);
    let kinds: Vec<_> = retries(&engine, id).into_iter().map(|(_, failure, _)| failure).collect();
    assert!(kinds.iter().all(|failure| failure.error_type == "TimeoutError"), "{kinds:?}");
}

/// Answers an attempt; whether that was in time.
fn ended_with_answer(
    engine: &Engine,
    queue: &PullQueue,
    call: &CallRequest,
    id: ExecutionId,
) -> bool {
    queue.report(call, returned("\"in time\""));
    // Either the execution ends, or the attempt was over already and another one follows.
    loop {
        if engine.wait(id, Some(Duration::from_millis(1))).unwrap().is_some() {
            return true;
        }
        if !queue.is_empty() {
            return false;
        }
    }
}

#[test]
fn a_timeout_of_the_function_holds_for_calls_without_their_own() {
    let scene = Scene::new();
    let (engine, queue) = with_queue(&scene);
    let source = "from asyncio import gather\nawait gather(f(1), f(2, _timeout=30.5))";
    let workflow = Workflow::new(source).timeout_ms("f", 60_000);
    let id = engine.start(workflow.to_start(&[])).unwrap();
    let both = [queue.next(PATIENCE).unwrap(), queue.next(PATIENCE).unwrap()];
    assert_eq!(both.each_ref().map(|call| call.timeout_ms), [Some(60_000), Some(30_500)]);
    for call in &both {
        queue.report(call, returned("0"));
    }
    output(&engine, id);
    let kinds: Vec<_> = journal(&engine, id)
        .iter()
        .map(|recorded| wire::encode(&recorded.event).event_type)
        .filter(|kind| *kind == "STEP_FAILED")
        .collect();
    assert!(kinds.is_empty());
}
