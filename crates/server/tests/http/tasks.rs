//! Tasks for workers in any language.

use std::time::Instant;

use durable::Role;
use durable_server::Config;
use serde_json::{Value, json};

use crate::support::{Answer, Desk, PATIENCE};

fn claim(desk: &Desk, extra: Value) -> Vec<Value> {
    let mut request = json!({ "functions": ["f"], "worker": "w" });
    for (name, value) in extra.as_object().unwrap() {
        request[name] = value.clone();
    }
    let answer = desk.post("/tasks/claim", request);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["items"].as_array().unwrap().clone()
}

fn claim_one(desk: &Desk, extra: Value) -> Value {
    let mut request = extra;
    request["wait_ms"] = 60_000.into();
    let mut tasks = claim(desk, request);
    assert_eq!(tasks.len(), 1);
    tasks.remove(0)
}

fn report(desk: &Desk, task: &Value, action: &str, body: Value) -> Answer {
    desk.post(&format!("/tasks/{}/{action}", task["id"].as_str().unwrap()), body)
}

fn output(desk: &Desk, id: &str) -> Value {
    let result = desk.get(&format!("/executions/{id}/result?wait_ms=60000"));
    assert_eq!(result.status, 200, "{result:?}");
    result.json()["output"].clone()
}

#[test]
fn a_task_is_claimed_kept_alive_and_completed_once() {
    let desk = Desk::open();
    let id = desk.start("await f(1, b=2)", &["f"]);
    let task = claim_one(&desk, json!({}));
    assert_eq!((&task["args"], &task["kwargs"]), (&json!([1]), &json!({ "b": 2 })));
    assert_eq!(task["idempotency_key"], format!("{id}:0"));
    assert_eq!((&task["function"], &task["step"]), (&json!("f"), &json!("f")));
    assert!(claim(&desk, json!({})).is_empty(), "a task is handed out once");
    assert!(claim(&desk, json!({ "functions": ["other"] })).is_empty());
    assert_eq!(report(&desk, &task, "heartbeat", json!({})).json()["lease_ms"], 30_000);
    let secret = task["id"].as_str().unwrap();
    let calls = desk.get(&format!("/executions/{id}/calls"));
    assert_eq!(calls.json()["items"][0]["status"], "submitted");
    assert!(!calls.body.contains(secret), "the store has only the hash of the name");
    let forged = format!("{}{}", &secret[..secret.len() - 32], "0".repeat(32));
    for action in ["complete", "fail", "heartbeat"] {
        let body = if action == "fail" { json!({ "type": "E" }) } else { json!({}) };
        desk.post(&format!("/tasks/{forged}/{action}"), body).is_problem(409);
    }
    assert_eq!(report(&desk, &task, "complete", json!({ "result": [3] })).json()["applied"], true);
    assert_eq!(output(&desk, &id), json!([3]));
    report(&desk, &task, "complete", json!({ "result": 4 })).is_problem(409);
    report(&desk, &task, "heartbeat", json!({})).is_problem(409);
    assert_eq!(output(&desk, &id), json!([3]));
}

#[test]
fn a_silent_worker_loses_its_task_to_another_with_the_same_key() {
    let desk = Desk::open();
    let id = desk.start("await f()", &["f"]);
    let first = claim_one(&desk, json!({ "lease_ms": 1_000, "worker": "one" }));
    // The long poll of the second ends when the lease of the first is over.
    let second = claim_one(&desk, json!({ "worker": "two" }));
    assert_eq!(first["idempotency_key"], second["idempotency_key"]);
    assert_ne!(first["id"], second["id"]);
    report(&desk, &first, "complete", json!({ "result": "late" })).is_problem(409);
    report(&desk, &first, "heartbeat", json!({})).is_problem(409);
    report(&desk, &first, "fail", json!({ "type": "E" })).is_problem(409);
    assert_eq!(report(&desk, &second, "complete", json!({ "result": "won" })).status, 200);
    assert_eq!(output(&desk, &id), json!("won"));
}

#[test]
fn failures_are_retried_as_the_policy_says() {
    let desk = Desk::open();
    let source = "try:\n    r = await f()\nexcept ValueError as e:\n    r = str(e)\nr";
    let retry = json!({ "max_attempts": 3, "initial_interval_ms": 1 });
    let start = |functions: Value| {
        let started = desk.post("/executions", json!({ "source": source, "functions": functions }));
        started.json()["execution_id"].as_str().unwrap().to_owned()
    };
    let id = start(json!({ "f": { "retry": retry } }));
    for attempt in 1..=3 {
        let task = claim_one(&desk, json!({}));
        assert_eq!(task["attempt"], attempt);
        let message = format!("no {attempt}");
        let failed =
            report(&desk, &task, "fail", json!({ "type": "ValueError", "message": message }));
        assert_eq!(failed.status, 200, "{failed:?}");
    }
    assert_eq!(output(&desk, &id), json!("no 3"));
    let id = start(json!({ "f": { "retry": retry } }));
    let task = claim_one(&desk, json!({}));
    let body = json!({ "type": "ValueError", "message": "never", "retryable": false });
    assert_eq!(report(&desk, &task, "fail", body).status, 200);
    assert_eq!(output(&desk, &id), json!("never"));
    assert!(claim(&desk, json!({})).is_empty());
}

#[test]
fn a_failure_is_in_the_journal_when_it_is_answered() {
    let desk = Desk::open();
    let retry = json!({ "max_attempts": 2, "initial_interval_ms": 86_400_000 });
    let functions = json!({ "f": { "retry": retry } });
    let body = json!({ "source": "await f()", "functions": functions });
    let id = desk.post("/executions", body).json()["execution_id"].as_str().unwrap().to_owned();
    let task = claim_one(&desk, json!({}));
    assert_eq!(report(&desk, &task, "fail", json!({ "type": "ValueError" })).status, 200);
    let calls = desk.get(&format!("/executions/{id}/calls")).json();
    assert_eq!(calls["items"][0]["attempts"], 2, "{calls}");
}

#[test]
fn tasks_of_a_paused_execution_are_completed_and_fail_when_it_goes_on() {
    let desk = Desk::open();
    let source = "from asyncio import gather\nawait gather(f(1), f(2))";
    let id = desk.start(source, &["f"]);
    let tasks = [claim_one(&desk, json!({})), claim_one(&desk, json!({}))];
    assert_eq!(desk.post(&format!("/executions/{id}/pause"), json!({})).status, 202);
    report(&desk, &tasks[1], "fail", json!({ "type": "ValueError" })).is_problem(409);
    let result = json!({ "result": tasks[0]["args"][0] });
    assert_eq!(report(&desk, &tasks[0], "complete", result).status, 200);
    let calls = desk.get(&format!("/executions/{id}/calls")).json();
    assert!(calls["items"].as_array().unwrap().iter().any(|call| call["status"] == "completed"));
    assert_eq!(desk.post(&format!("/executions/{id}/resume"), json!({})).status, 202);
    let again = claim_one(&desk, json!({}));
    assert_eq!(again["args"], tasks[1]["args"]);
    let result = json!({ "result": again["args"][0] });
    assert_eq!(report(&desk, &again, "complete", result).status, 200);
    assert_eq!(output(&desk, &id), json!([1, 2]));
}

#[test]
fn any_server_on_the_store_takes_a_completion() {
    let desk = Desk::open();
    let id = desk.start("await f()", &["f"]);
    let task = claim_one(&desk, json!({}));
    // Another process that runs nothing.
    let other = Desk::open_on(desk.directory.clone(), Config::default(), false);
    report(&other, &task, "fail", json!({ "type": "ValueError" })).is_problem(409);
    other.post("/tasks/claim", json!({ "functions": ["f"], "worker": "w" })).is_problem(503);
    let done = report(&other, &task, "complete", json!({ "result": 7 }));
    assert_eq!(done.status, 200, "{done:?}");
    assert_eq!(output(&desk, &id), json!(7));
    report(&other, &task, "complete", json!({ "result": 8 })).is_problem(409);
}

#[test]
fn a_task_outlives_the_server_that_handed_it_out() {
    let desk = Desk::open();
    let id = desk.start("[await f(1), await f(2)]", &["f"]);
    let task = claim_one(&desk, json!({}));
    let directory = desk.close();
    let desk = Desk::open_in(directory, Config::default());
    // Its worker goes on, and the new server takes it up: nobody else is handed the task.
    let until = Instant::now() + PATIENCE;
    while report(&desk, &task, "heartbeat", json!({})).status != 200 {
        assert!(Instant::now() < until, "the new server does not take the task up");
    }
    assert!(claim(&desk, json!({})).is_empty());
    assert_eq!(report(&desk, &task, "complete", json!({ "result": 1 })).status, 200);
    let task = claim_one(&desk, json!({}));
    assert_eq!(report(&desk, &task, "complete", json!({ "result": 2 })).status, 200);
    assert_eq!(output(&desk, &id), json!([1, 2]));
}

#[test]
fn claims_are_bounded_ordered_and_of_their_queue() {
    let desk = Desk::open();
    for queue in ["a", "b", "a"] {
        let request = json!({ "source": "await f(q)", "functions": ["f"], "queue": queue,
            "inputs": { "q": queue } });
        let id = desk.post("/executions", request).json()["execution_id"].clone();
        desk.wait_for(id.as_str().unwrap(), "waiting");
    }
    assert!(claim(&desk, json!({ "queue": "c" })).is_empty());
    let of_b = claim(&desk, json!({ "queue": "b", "max": 10 }));
    assert_eq!((of_b.len(), &of_b[0]["args"]), (1, &json!(["b"])));
    assert_eq!(claim(&desk, json!({ "max": 1 })).len(), 1);
    assert_eq!(claim(&desk, json!({ "max": 100 })).len(), 1);
    for (field, value) in [
        ("max", json!(101)),
        ("max", json!(0)),
        ("wait_ms", json!(60_001)),
        ("lease_ms", json!(999)),
        ("functions", json!([])),
        ("functions", json!("f")),
        ("worker", json!("")),
        ("queue", json!("a b")),
        ("more", json!(1)),
    ] {
        let mut request = json!({ "functions": ["f"], "worker": "w" });
        request[field] = value;
        desk.post("/tasks/claim", request).is_problem(422);
    }
}

#[test]
fn however_many_calls_of_one_tenant_wait_another_is_handed_its_own() {
    let desk = Desk::open();
    let [first, second] = ["a", "b"].map(|namespace| {
        let token = desk.token(Role::Admin, Some(namespace));
        move |desk: &Desk, path: &str, body: Value| {
            desk.ask("POST", path).token(&token).json(&body).send().json()
        }
    });
    // As many as one claim looks at.
    let source = "import asyncio\nawait asyncio.gather(*[f(i) for i in range(1000)])";
    let many = first(&desk, "/executions", json!({ "source": source, "functions": ["f"] }));
    desk.wait_for(many["execution_id"].as_str().unwrap(), "waiting");
    let one = second(&desk, "/executions", json!({ "source": "await f(7)", "functions": ["f"] }));
    let claim = json!({ "functions": ["f"], "worker": "w", "wait_ms": 60_000 });
    let claimed = second(&desk, "/tasks/claim", claim);
    assert_eq!(claimed["items"][0]["execution_id"], one["execution_id"], "{claimed}");
    let claim = json!({ "functions": ["f"], "worker": "w", "wait_ms": 60_000, "max": 100 });
    let claimed = first(&desk, "/tasks/claim", claim);
    assert_eq!(claimed["items"].as_array().unwrap().len(), 100, "in the order they came");
}

#[test]
fn a_cancelled_execution_takes_its_task_back() {
    let desk = Desk::open();
    let admin = desk.token(Role::Admin, None);
    let ask = |path: &str, body: Value| desk.ask("POST", path).token(&admin).json(&body).send();
    let start = ask("/executions", json!({ "source": "await f()", "functions": ["f"] }));
    let id = start.json()["execution_id"].as_str().unwrap().to_owned();
    let claim = json!({ "functions": ["f"], "worker": "w", "wait_ms": 60_000 });
    let task = ask("/tasks/claim", claim).json()["items"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(ask(&format!("/executions/{id}/cancel"), json!({})).status, 202);
    desk.wait_for(&id, "cancelled");
    ask(&format!("/tasks/{task}/heartbeat"), json!({})).is_problem(409);
    ask(&format!("/tasks/{task}/complete"), json!({ "result": 1 })).is_problem(409);
}

#[test]
fn many_tasks_are_claimed_at_once_and_each_once() {
    let desk = Desk::open();
    let source = "import asyncio\nawait asyncio.gather(*[f(i) for i in range(60)])";
    let id = desk.start(source, &["f"]);
    desk.wait_for(&id, "waiting");
    let mut given: Vec<Value> = Vec::new();
    while given.len() < 60 {
        given.extend(claim(&desk, json!({ "max": 40, "wait_ms": 60_000 })));
    }
    let mut numbers: Vec<_> = given.iter().map(|task| task["call_id"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..60), "{numbers:?}");
    // All of them are noted, as pages show.
    let (mut calls, mut cursor): (Vec<Value>, _) = (Vec::new(), json!(0));
    while !cursor.is_null() {
        let cursor_text = cursor.to_string().replace('"', "");
        let path = format!("/executions/{id}/calls?limit=25&cursor={cursor_text}");
        let page = desk.get(&path).json();
        calls.extend(page["items"].as_array().unwrap().clone());
        cursor = page["next_cursor"].clone();
    }
    assert_eq!(calls.len(), 60);
    assert!(calls.iter().all(|call| call["status"] == "submitted"), "{calls:?}");
    for task in &given {
        let body = json!({ "result": task["call_id"] });
        assert_eq!(report(&desk, task, "complete", body).json()["applied"], true);
    }
    assert_eq!(output(&desk, &id), json!((0..60).collect::<Vec<_>>()));
}
