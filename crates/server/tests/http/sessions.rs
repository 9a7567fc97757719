//! Sessions over HTTP: opened, fed, looked into, forked, taken back, closed.

use durable::Role;
use serde_json::{Value, json};

use crate::support::{Answer, Desk};

fn open(desk: &Desk) -> String {
    let opened = desk.post("/sessions", json!({ "functions": ["f"], "inputs": { "base": 40 } }));
    assert_eq!(opened.status, 201, "{opened:?}");
    opened.json()["execution_id"].as_str().unwrap().to_owned()
}

fn submit(desk: &Desk, id: &str, feed: Value) -> Answer {
    desk.post(&format!("/sessions/{id}/feeds"), feed)
}

/// Feeds a session and waits for what it comes to.
fn feed(desk: &Desk, id: &str, code: &str) -> Value {
    let fed = submit(desk, id, json!({ "code": code, "wait_ms": 60_000 }));
    assert_eq!(fed.status, 200, "{fed:?}");
    fed.json()["result"].clone()
}

/// Answers the next call that is asked for.
fn answer(desk: &Desk, result: Value) {
    let claim = json!({ "functions": ["f"], "worker": "w", "wait_ms": 60_000 });
    let task = desk.post("/tasks/claim", claim).json()["items"][0].clone();
    let path = format!("/tasks/{}/complete", task["id"].as_str().unwrap());
    assert_eq!(desk.post(&path, json!({ "result": result })).status, 200);
}

#[test]
fn names_outputs_errors_and_history() {
    let desk = Desk::open();
    let id = open(&desk);
    // It is not fed before it has begun, so what it waits for is told only to who waits.
    let first = json!({ "code": "x = await f(base)\nprint(x)", "response": {"text": "hm"},
        "wait_ms": 60_000 });
    let fed = std::thread::scope(|scope| {
        let fed = scope.spawn(|| submit(&desk, &id, first));
        answer(&desk, json!(2));
        fed.join().unwrap()
    });
    assert_eq!(fed.status, 200, "{fed:?}");
    let none = json!({ "output": null, "repr": null, "printed": "2\n", "error": null });
    assert_eq!((&fed.json()["number"], &fed.json()["result"]), (&json!(1), &none));
    assert_eq!(feed(&desk, &id, "[x, base]")["output"], json!([2, 40]));
    let failed = feed(&desk, &id, "x.nothing")["error"].clone();
    assert_eq!(failed["type"], "AttributeError");
    assert!(failed["traceback"].as_str().unwrap().contains("\"feed 3\", line 1"), "{failed}");
    assert!(feed(&desk, &id, "def g(): pass\ng")["repr"].is_string());

    let page = desk.get(&format!("/sessions/{id}/feeds?limit=3")).json();
    assert_eq!(page["items"].as_array().unwrap().len(), 3);
    assert_eq!(page["items"][0]["response"], json!({ "text": "hm" }));
    assert_eq!(page["items"][1]["code"], "[x, base]");
    assert_eq!(page["next_cursor"], "3");
    let rest = desk.get(&format!("/sessions/{id}/feeds?cursor=3")).json();
    assert_eq!((&rest["items"][0]["number"], &rest["next_cursor"]), (&json!(4), &Value::Null));
    let second = desk.get(&format!("/sessions/{id}/feeds/2"));
    assert_eq!((second.status, &second.json()), (200, &page["items"][1]));
    desk.get(&format!("/sessions/{id}/feeds/5")).is_problem(404);

    let seen = desk.get(&format!("/sessions/{id}/variables")).json()["variables"].clone();
    assert_eq!((&seen["x"], &seen["base"]), (&json!(2), &json!(40)));
    assert!(seen["g"]["$py:repr"].is_string() && seen["f"].is_null(), "{seen}");

    let closed = desk.post(&format!("/sessions/{id}/close"), json!({ "wait_ms": 60_000 }));
    assert_eq!((closed.status, &closed.json()["status"]), (200, &json!("completed")));
    submit(&desk, &id, json!({ "code": "1" })).is_problem(409);
    // Nothing is lost.
    assert_eq!(desk.get(&format!("/sessions/{id}/feeds")).json()["items"][3], rest["items"][0]);
}

#[test]
fn one_feed_runs_at_a_time_and_a_numbered_one_runs_once() {
    let desk = Desk::open();
    let id = open(&desk);
    desk.wait_for(&id, "waiting");
    let numbered = json!({ "code": "kept = await f(1)", "number": 1 });
    let fed = submit(&desk, &id, numbered.clone());
    assert_eq!((fed.status, &fed.json()["result"]), (202, &Value::Null));
    submit(&desk, &id, json!({ "code": "2" })).is_problem(409);
    desk.ask("POST", &format!("/sessions/{id}/close")).send().is_problem(409);
    assert_eq!(submit(&desk, &id, numbered.clone()).status, 202);
    let path = format!("/sessions/{id}/feeds/1");
    assert_eq!(desk.get(&path).status, 202);
    answer(&desk, json!("once"));
    assert_eq!(desk.get(&format!("{path}?wait_ms=60000")).status, 200);
    assert_eq!(submit(&desk, &id, numbered).status, 200);
    submit(&desk, &id, json!({ "code": "other", "number": 1 })).is_problem(409);
    submit(&desk, &id, json!({ "code": "other", "number": 9 })).is_problem(409);
    assert_eq!(feed(&desk, &id, "kept")["output"], "once");
}

#[test]
fn a_session_is_forked_and_rewound() {
    let desk = Desk::open();
    let id = open(&desk);
    feed(&desk, &id, "n = 1");
    feed(&desk, &id, "n = 2");
    let started = |path: &str, body: Value| {
        let started = desk.post(&format!("/sessions/{id}/{path}"), body);
        assert_eq!(started.status, 201, "{started:?}");
        started.json()["execution_id"].as_str().unwrap().to_owned()
    };
    assert_eq!(feed(&desk, &started("fork", json!({})), "n")["output"], 2);
    assert_eq!(feed(&desk, &started("fork", json!({ "after": 1 })), "n")["output"], 1);
    desk.post(&format!("/sessions/{id}/rewind"), json!({ "after": 7 })).is_problem(404);
    let back = started("rewind", json!({ "after": 1 }));
    assert_eq!(feed(&desk, &back, "n")["output"], 1);
    desk.wait_for(&id, "cancelled");
}

#[test]
fn a_broken_limit_ends_a_session_and_it_goes_on_from_before() {
    let desk = Desk::open();
    let opened = desk.post("/sessions", json!({ "limits": { "max_advance_ms": 50 } })).json();
    let id = opened["execution_id"].as_str().unwrap();
    feed(&desk, id, "n = 1");
    let endless = json!({ "code": "while True:\n    pass", "wait_ms": 60_000 });
    let problem = submit(&desk, id, endless).is_problem(409);
    assert!(problem["detail"].as_str().unwrap().contains("TimeLimitExceeded"), "{problem}");
    desk.get(&format!("/sessions/{id}/feeds/2")).is_problem(409);
    let back = desk.post(&format!("/sessions/{id}/rewind"), json!({ "after": 1 })).json();
    assert_eq!(feed(&desk, back["execution_id"].as_str().unwrap(), "n")["output"], 1);
}

#[test]
fn what_is_no_session_or_can_not_be_is_refused() {
    let desk = Desk::open();
    let id = desk.start("await f()", &["f"]);
    desk.wait_for(&id, "waiting");
    submit(&desk, &id, json!({ "code": "1" })).is_problem(422);
    desk.get(&format!("/sessions/{id}/feeds")).is_problem(422);
    let keyed = json!({ "idempotency_key": "k" });
    desk.post("/executions", json!({ "source": "1", "idempotency_key": "k" }));
    desk.post("/sessions", keyed).is_problem(422);
    let keyed = json!({ "idempotency_key": "k2" });
    let (first, second) = (desk.post("/sessions", keyed.clone()), desk.post("/sessions", keyed));
    assert_eq!((first.status, second.status), (201, 200));
    assert_eq!(first.json()["execution_id"], second.json()["execution_id"]);
    let id = open(&desk);
    desk.wait_for(&id, "waiting");
    for wrong in [
        json!({}),
        json!({ "code": 1 }),
        json!({ "code": "1", "number": 0 }),
        json!({ "code": "1", "number": -1 }),
        json!({ "code": "1", "wait_ms": 60_001 }),
        json!({ "code": "x".repeat(11 << 20) }),
        json!({ "code": "1", "response": "x".repeat(11 << 20) }),
        json!({ "code": "1", "timeout": 1 }),
    ] {
        let answer = submit(&desk, &id, wrong);
        assert!([409, 422].contains(&answer.status), "{answer:?}");
    }
    assert_eq!(desk.get(&format!("/sessions/{id}/feeds")).json()["items"], json!([]));
}

#[test]
fn a_session_that_nobody_runs_takes_no_feed_yet() {
    let desk = Desk::open();
    let directory = desk.close();
    let idle = Desk::open_on(directory, durable_server::Config::default(), false);
    let id = open(&idle);
    let refused = submit(&idle, &id, json!({ "code": "1" }));
    refused.is_problem(503);
    assert!(refused.head.contains("retry-after: 1"), "{refused:?}");
    assert_eq!(idle.ask("POST", &format!("/sessions/{id}/close")).send().status, 202);
    assert_eq!(idle.get(&format!("/sessions/{id}/feeds")).json()["items"], json!([]));
}

#[test]
fn tenants_do_not_see_each_others_sessions() {
    let desk = Desk::open();
    let [own, foreign] = ["a", "b"].map(|name| desk.token(Role::Operator, Some(name)));
    let opened = desk.ask("POST", "/sessions").token(&foreign).json(&json!({})).send().json();
    let id = opened["execution_id"].as_str().unwrap();
    desk.wait_for(id, "waiting");
    for (method, path, body) in [
        ("GET", "feeds", None),
        ("GET", "feeds/1", None),
        ("GET", "variables", None),
        ("POST", "feeds", Some(json!({ "code": "1" }))),
        ("POST", "fork", None),
        ("POST", "rewind", Some(json!({ "after": 0 }))),
        ("POST", "close", None),
    ] {
        let ask = |token: &str, id: &str| {
            let ask = desk.ask(method, &format!("/sessions/{id}/{path}")).token(token);
            match &body {
                Some(body) => ask.json(body),
                None => ask,
            }
        };
        let hidden = ask(&own, id).send().is_problem(404)["detail"].clone();
        let other = "00000000-0000-7000-8000-000000000000";
        let missing = ask(&own, other).send().is_problem(404)["detail"].clone();
        let words = |detail: &Value, id: &str| detail.as_str().unwrap().replace(id, "");
        assert_eq!(words(&hidden, id), words(&missing, other), "{method} {path}");
    }
    let elsewhere = desk.ask("POST", "/sessions").token(&own).json(&json!({ "namespace": "b" }));
    elsewhere.send().is_problem(403);
    let feeds = desk.ask("GET", &format!("/sessions/{id}/feeds")).token(&foreign).send();
    assert_eq!(feeds.json()["items"], json!([]));
}
