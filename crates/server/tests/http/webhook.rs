//! Results that come by webhook.

use durable::{Clock as _, Role, SystemClock};
use durable_server::Config;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::Desk;

const SECRET: &str = "between us";

fn sign(message: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(message.as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn signed() -> Desk {
    Desk::open_with(Config { webhook_secret: Some(SECRET.to_owned()), ..Config::default() })
}

/// Starts a workflow whose one call has a job, and gives the ids of both.
fn submitted(desk: &Desk, source: &str) -> (String, String) {
    let id = desk.start(source, &["f"]);
    let claim = json!({ "functions": ["f"], "worker": "w", "wait_ms": 60_000 });
    assert_eq!(desk.post("/tasks/claim", claim).json()["items"].as_array().unwrap().len(), 1);
    let calls = desk.get(&format!("/executions/{id}/calls")).json();
    (id, calls["items"][0]["job_id"].as_str().unwrap().to_owned())
}

fn output(desk: &Desk, id: &str) -> Value {
    desk.get(&format!("/executions/{id}/result?wait_ms=60000")).json()["output"].clone()
}

#[test]
fn on_this_machine_it_works_as_printed_and_a_second_report_changes_nothing() {
    let desk = Desk::open();
    let (id, job) = submitted(&desk, "await f()");
    let report = json!({ "job_id": job, "result": { "a": 1 }, "status": "finished", "extra": 1 });
    let taken = desk.post("/webhook/complete", report.clone());
    assert_eq!((taken.status, &taken.json()["applied"]), (200, &json!(true)), "{taken:?}");
    assert_eq!(output(&desk, &id), json!({ "a": 1 }));
    for late in [report, json!({ "job_id": job, "status": "failed", "error": "no" })] {
        let told = desk.post("/webhook/complete", late).json();
        assert_eq!(told["applied"], false);
        assert!(told["detail"].as_str().unwrap().contains("ended"), "{told}");
    }
    assert_eq!(output(&desk, &id), json!({ "a": 1 }));
}

#[test]
fn a_failure_reaches_the_workflow() {
    let source =
        "try:\n    r = await f()\nexcept Exception as e:\n    r = [type(e).__name__, str(e)]\nr";
    let desk = Desk::open();
    for (error, expected) in [
        (json!("ValueError: no price"), json!(["ValueError", "no price"])),
        (json!("out of luck"), json!(["RuntimeError", "out of luck"])),
        (json!({ "type": "KeyError", "message": "k" }), json!("KeyError")),
        (Value::Null, json!(["RuntimeError", "the job failed"])),
    ] {
        let (id, _) = submitted(&desk, source);
        let report =
            json!({ "execution_id": id, "call_id": 0, "status": "failed", "error": error });
        assert_eq!(desk.post("/webhook/complete", report).status, 200);
        let output = output(&desk, &id);
        assert!(output == expected || output[0] == expected, "{output}");
    }
}

#[test]
fn unknown_is_404_and_malformed_is_422() {
    let desk = Desk::open();
    let nobody = "00000000-0000-7000-8000-000000000000";
    for unknown in [
        json!({ "job_id": "nobody" }),
        json!({ "execution_id": nobody, "call_id": 0 }),
        json!({ "execution_id": "x", "call_id": 0 }),
    ] {
        desk.post("/webhook/complete", unknown).is_problem(404);
    }
    let (id, job) = submitted(&desk, "await f()");
    desk.post("/webhook/complete", json!({ "execution_id": id, "call_id": 9 })).is_problem(404);
    for malformed in [
        json!({}),
        json!({ "job_id": 1 }),
        json!({ "job_id": "" }),
        json!({ "job_id": job, "call_id": 0 }),
        json!({ "execution_id": id }),
        json!({ "job_id": job, "status": "exploded" }),
        json!({ "job_id": job, "status": "finished", "error": "but" }),
        json!({ "job_id": job, "status": "failed", "error": 3 }),
        json!({ "job_id": job, "status": "failed", "error": { "type": "a b" } }),
        json!([job]),
    ] {
        desk.post("/webhook/complete", malformed).is_problem(422);
    }
    desk.wait_for(&id, "waiting");
}

#[test]
fn with_a_secret_the_sender_has_to_know_it() {
    let desk = signed();
    let (id, job) = submitted(&desk, "await f()");
    let token = sign(&format!("webhook:{job}"));
    let body = json!({ "job_id": job, "result": 1 });
    let send = || desk.ask("POST", "/webhook/complete").json(&body);
    send().send().is_problem(401);
    for forged in ["", "0", &"0".repeat(64), &sign("webhook:other"), &token[1..], &sign(&job)] {
        send().token(forged).send().is_problem(401);
        let in_body = json!({ "job_id": job, "result": 1, "token": forged });
        desk.post("/webhook/complete", in_body).is_problem(401);
    }
    // A wrong header is not made good by a right field.
    let in_body = json!({ "job_id": job, "result": 1, "token": token });
    desk.ask("POST", "/webhook/complete").token("no").json(&in_body).send().is_problem(401);
    desk.wait_for(&id, "waiting");
    assert_eq!(send().token(&token).send().json()["applied"], true);
    assert_eq!(desk.post("/webhook/complete", in_body).json()["applied"], false);

    let (id, _) = submitted(&desk, "await f()");
    let token = sign(&format!("webhook:{id}:0"));
    let report = json!({ "execution_id": id, "call_id": 0, "result": 2, "token": token });
    assert_eq!(desk.post("/webhook/complete", report).json()["applied"], true);
    assert_eq!(output(&desk, &id), json!(2));
}

#[test]
fn a_report_that_comes_before_its_job_is_noted_is_not_lost() {
    let desk = signed();
    let id = desk.start("await f()", &["f"]);
    desk.wait_for(&id, "waiting");
    let report = |job: &str, token: &str| {
        let body = json!({ "job_id": job, "result": 1 });
        desk.ask("POST", "/webhook/complete").token(token).json(&body).send()
    };
    let job = format!("{id}-0-1");
    report(&job, &sign("webhook:other")).is_problem(401);
    let other_attempt = format!("{id}-0-2");
    let told = report(&other_attempt, &sign(&format!("webhook:{other_attempt}"))).json();
    assert_eq!(told["applied"], false, "{told}");
    let no_call = format!("{id}-7-1");
    report(&no_call, &sign(&format!("webhook:{no_call}"))).is_problem(404);
    // Of a job with a name of its own nothing is known yet.
    let early = report("a job", &sign("webhook:a job"));
    early.is_problem(503);
    assert!(early.head.contains("retry-after: 1"), "{early:?}");
    desk.wait_for(&id, "waiting");
    let token = sign(&format!("webhook:{job}"));
    assert_eq!(report(&job, &token).json()["applied"], true);
    assert_eq!(output(&desk, &id), json!(1));
    assert_eq!(report(&job, &token).json()["applied"], false, "once");
}

#[test]
fn a_signature_holds_for_its_body_and_its_time() {
    let desk = signed();
    let (id, job) = submitted(&desk, "await f()");
    let now_s = SystemClock::default().now_ms() / 1_000;
    let body = json!({ "job_id": job, "result": 1 }).to_string();
    let send = |header: String, body: &str| {
        let ask = desk.ask("POST", "/webhook/complete").header("Content-Type", "application/json");
        ask.header("X-Durable-Signature", header).body(body).send()
    };
    let header = |at_s: i64| format!("t={at_s},v1={}", sign(&format!("{at_s}.{body}")));
    send(header(now_s), &body.replace('1', "2")).is_problem(401);
    send(header(now_s - 400), &body).is_problem(401);
    send(header(now_s + 400), &body).is_problem(401);
    send(header(now_s).replace("v1=", "v1=0"), &body).is_problem(401);
    desk.wait_for(&id, "waiting");
    assert_eq!(send(header(now_s), &body).json()["applied"], true);
    assert_eq!(send(header(now_s), &body).json()["applied"], false, "a replay changes nothing");
}

#[test]
fn without_a_secret_reports_from_elsewhere_are_refused() {
    let desk = Desk::open();
    let (id, job) = submitted(&desk, "await f()");
    let report = json!({ "job_id": job, "result": 1 });
    let send = |name: &str, value: &str| {
        desk.ask("POST", "/webhook/complete").header(name, value).json(&report).send()
    };
    send("X-Forwarded-For", "10.0.0.1").is_problem(401);
    send("Host", "evil.example").is_problem(401);
    send("Origin", "https://evil.example").is_problem(401);
    let worker = desk.token(Role::Worker, None);
    desk.wait_for(&id, "waiting");
    let taken = desk.ask("POST", "/webhook/complete").token(&worker).json(&report).send();
    assert_eq!(taken.json()["applied"], true, "{taken:?}");
}

#[test]
fn a_token_of_one_tenant_does_not_learn_which_jobs_another_has() {
    let desk = Desk::open();
    let (id, job) = submitted(&desk, "await f()");
    let elsewhere = desk.token(Role::Worker, Some("elsewhere"));
    let told = |job: &str| {
        let report = json!({ "job_id": job, "result": 1 });
        let answer = desk.ask("POST", "/webhook/complete").token(&elsewhere).json(&report).send();
        answer.is_problem(404)
    };
    let unknown = told("nobody");
    assert_eq!(told(&job), unknown);
    assert_eq!(told(&format!("{id}-0-1")), unknown, "named after its attempt");
    desk.wait_for(&id, "waiting");
}
