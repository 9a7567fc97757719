//! Every endpoint does what the document says.

use serde_json::json;

use crate::support::Desk;

#[test]
fn a_step_workflow_is_started_in_its_language() {
    let desk = Desk::open();
    let source = "id: x\nsteps:\n  - {name: a, agent: echo, input: {n: '{{ inputs.n }}'}}\n";
    let start = |language: &str, inputs: serde_json::Value| {
        let agents = json!(["echo"]);
        let body = json!({
            "source": source, "language": language, "functions": agents, "inputs": inputs,
        });
        desk.post("/executions", body)
    };
    start("cobol", json!({ "n": 1 })).is_problem(422);
    start("yaml", json!({})).is_problem(422);
    let started = start("yaml", json!({ "n": 1 }));
    assert_eq!(started.status, 201, "{started:?}");
    let id = started.json()["execution_id"].as_str().unwrap().to_owned();
    desk.wait_for(&id, "waiting");
    let call = desk.get(&format!("/executions/{id}/calls")).json()["items"][0].clone();
    assert_eq!((&call["function"], &call["agent"]), (&json!("a"), &json!("echo")));
    assert_eq!(call["args"], json!([{ "n": 1 }]));
    let claim = json!({ "functions": ["agent:echo"], "worker": "w", "wait_ms": 60_000 });
    let task = desk.post("/tasks/claim", claim).json()["items"][0].clone();
    assert_eq!((&task["function"], &task["step"]), (&json!("agent:echo"), &json!("a")));
}

#[test]
fn an_execution_from_its_start_to_its_end() {
    let desk = Desk::open();
    let started = desk.post(
        "/executions",
        json!({
            "code": "await add(a, 2)", "external_functions": ["add"], "inputs": { "a": 1 },
            "workflow": "sum", "tags": ["blue", "x"], "queue": "gpu",
        }),
    );
    assert_eq!(started.status, 201, "{started:?}");
    let id = started.json()["execution_id"].as_str().unwrap().to_owned();
    assert!(started.head.contains(&format!("location: /executions/{id}")));
    desk.wait_for(&id, "waiting");

    let shown = desk.get(&format!("/executions/{id}")).json();
    assert_eq!(shown["workflow"], "sum");
    assert_eq!(shown["inputs"], json!({ "a": 1 }));
    assert_eq!(shown["tags"], json!(["blue", "x"]));
    assert_eq!((&shown["queue"], &shown["namespace"]), (&json!("gpu"), &json!("default")));

    let calls = desk.get(&format!("/executions/{id}/calls")).json();
    assert_eq!(calls["items"][0]["function"], "add");
    assert_eq!(calls["items"][0]["args"], json!([1, 2]));

    let result = desk.get(&format!("/executions/{id}/result"));
    assert_eq!((result.status, &result.json()["status"]), (202, &json!("waiting")));
    let call = calls["items"][0]["id"].as_u64().unwrap();
    desk.engine()
        .complete_call(
            id.parse().unwrap(),
            call as u32,
            durable::Outcome::Completed(durable::Payload::trusted("3")),
        )
        .unwrap();
    let result = desk.get(&format!("/executions/{id}/result?wait_ms=60000"));
    assert_eq!((result.status, &result.json()["output"]), (200, &json!(3)));

    let events = desk.get(&format!("/executions/{id}/events")).json();
    let types: Vec<_> = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    let all = ["EXECUTION_STARTED", "STEP_STARTED", "STEP_COMPLETED", "EXECUTION_COMPLETED"];
    assert_eq!(types, all);
    let page = desk.get(&format!("/executions/{id}/events?after=1&limit=2")).json();
    assert_eq!(page["items"][0]["type"], all[1]);
    assert_eq!((page["items"].as_array().unwrap().len(), &page["next_after"]), (2, &json!(3)));

    let deleted = desk.ask("DELETE", &format!("/executions/{id}")).send();
    assert_eq!((deleted.status, deleted.body.as_str()), (204, ""));
    desk.get(&format!("/executions/{id}")).is_problem(404);
}

#[test]
fn numbers_keep_their_form() {
    let desk = Desk::open();
    let body = r#"{"source": "[a, b]", "inputs": {"a": 1.0, "b": 12345678901234567}}"#;
    let ask =
        desk.ask("POST", "/executions").header("Content-Type", "application/json; charset=utf-8");
    let id = ask.body(body).send().json()["execution_id"].as_str().unwrap().to_owned();
    let result = desk.get(&format!("/executions/{id}/result?wait_ms=60000"));
    assert!(result.body.contains(r#""output":[1.0,12345678901234567]"#), "{result:?}");
}

#[test]
fn lists_are_filtered_and_paged() {
    let desk = Desk::open();
    let mut ids = Vec::new();
    for number in 0..5 {
        let started = desk.post(
            "/executions",
            json!({ "source": "await f()", "functions": ["f"], "workflow": format!("w{}", number % 2),
                    "tags": [format!("t{number}")] }),
        );
        ids.push(started.json()["execution_id"].as_str().unwrap().to_owned());
    }
    for id in &ids {
        desk.wait_for(id, "waiting");
    }
    let listed = |query: &str| -> Vec<String> {
        let page = desk.get(&format!("/executions{query}"));
        assert_eq!(page.status, 200, "{page:?}");
        let page = page.json();
        let items = page["items"].as_array().unwrap().clone();
        items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    // Ids of one millisecond are in any order.
    let tagged = ids[3].clone();
    ids.sort();
    let newest_first: Vec<_> = ids.iter().rev().cloned().collect();
    assert_eq!(listed(""), newest_first);
    assert_eq!(listed("?workflow=w1").len(), 2);
    assert_eq!(listed("?tag=t3"), [tagged]);
    assert_eq!(listed("?status=completed&status=failed").len(), 0);
    assert_eq!(listed("?status=completed&status=waiting").len(), 5);
    assert_eq!(listed("?since=2999-01-01T00:00:00Z").len(), 0);
    assert_eq!(listed("?until=2999-01-01T00:00:00%2B02:00&since=0").len(), 5);
    assert_eq!(listed("?namespace=other").len(), 0);

    let (mut cursor, mut seen) = (String::new(), Vec::new());
    for _ in 0..3 {
        let page = desk.get(&format!("/executions?limit=2{cursor}")).json();
        for item in page["items"].as_array().unwrap() {
            seen.push(item["id"].as_str().unwrap().to_owned());
        }
        cursor = format!("&cursor={}", page["next_cursor"].as_str().unwrap_or("none"));
    }
    assert_eq!(seen, newest_first);
    assert_eq!(cursor, "&cursor=none", "the last page says that it is");
}

#[test]
fn two_starts_with_one_key_are_one() {
    let desk = Desk::open();
    let ask = desk.ask("POST", "/executions").header("Idempotency-Key", "k1");
    let ask = ask.json(&json!({ "source": "1" }));
    let (first, second) = (ask.clone().send(), ask.send());
    assert_eq!((first.status, second.status), (201, 200));
    assert_eq!(first.json()["execution_id"], second.json()["execution_id"]);
    assert_eq!(second.json()["existing"], true);
    let other = desk.ask("POST", "/executions").header("Idempotency-Key", "k1");
    other.json(&json!({ "source": "1", "idempotency_key": "k2" })).send().is_problem(422);
}

#[test]
fn a_stored_program_is_started_by_its_id() {
    let desk = Desk::open();
    let id = desk.start("40 + 2", &[]);
    let program = desk.get(&format!("/executions/{id}")).json()["program"].clone();
    let again = desk.post("/executions", json!({ "program": program }));
    let id = again.json()["execution_id"].as_str().unwrap().to_owned();
    let result = desk.get(&format!("/executions/{id}/result?wait_ms=60000"));
    assert_eq!(result.json()["output"], 42);
    for (program, functions) in [(json!("0".repeat(64)), json!(null)), (program, json!(["f"]))] {
        let request = json!({ "program": program, "functions": functions });
        desk.post("/executions", request).is_problem(422);
    }
}

#[test]
fn what_can_not_work_is_refused_before_it_is_stored() {
    let desk = Desk::open();
    let problem = desk.post("/executions", json!({ "source": "await f(" })).is_problem(422);
    assert!(problem["detail"].as_str().unwrap().contains("workflow.py:1:9"), "{problem}");
    for (field, value) in [
        ("functions", json!(["os.system"])),
        ("functions", json!({ "f": { "target": "os.system" } })),
        ("functions", json!({ "f": { "retry": { "max_attempts": 0 } } })),
        ("functions", json!([1])),
        ("limits", json!({ "max_memory_bytes": 1_u64 << 40 })),
        ("limits", json!({ "max_nonsense": 1 })),
        ("inputs", json!([1])),
        ("tags", json!(["a b"])),
        ("queue", json!("")),
        ("namespace", json!("\u{0}")),
        ("workflow", json!("x".repeat(501))),
        ("idempotency_key", json!("\n")),
        ("source_code", json!("1")),
        ("program", json!("abc")),
    ] {
        let mut request = json!({ "source": "1" });
        request[field] = value;
        desk.post("/executions", request).is_problem(422);
    }
    assert_eq!(desk.get("/executions").json()["items"], json!([]));
}

#[test]
fn executions_are_paused_resumed_and_cancelled() {
    let desk = Desk::open();
    let id = desk.start("await f()", &["f"]);
    desk.wait_for(&id, "waiting");
    let path = |action: &str| format!("/executions/{id}/{action}");
    assert_eq!(desk.post(&path("pause"), json!({ "reason": "lunch" })).status, 202);
    desk.wait_for(&id, "paused");
    assert_eq!(desk.get(&format!("/executions/{id}")).json()["error"]["message"], "lunch");
    assert_eq!(desk.ask("POST", &path("resume")).send().status, 202);
    desk.wait_for(&id, "waiting");
    desk.ask("POST", &path("resume")).send().is_problem(409);
    assert_eq!(desk.ask("POST", &path("cancel")).send().status, 202);
    desk.wait_for(&id, "cancelled");
    desk.ask("POST", &path("cancel")).send().is_problem(409);
    let result = desk.get(&path("result"));
    assert_eq!((result.status, &result.json()["status"]), (200, &json!("cancelled")));
}

#[test]
fn a_failed_execution_is_retried() {
    let desk = Desk::open();
    let id = desk.start("await f()", &["f"]);
    let report = |body: serde_json::Value| {
        desk.wait_for(&id, "waiting");
        let mut report = json!({ "execution_id": id, "call_id": 0 });
        report.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        assert_eq!(desk.post("/webhook/complete", report).json()["applied"], true);
    };
    let retry = || desk.ask("POST", &format!("/executions/{id}/retry")).send();
    report(json!({ "status": "failed", "error": "OSError: busy" }));
    desk.wait_for(&id, "failed");
    assert_eq!(retry().status, 202);
    report(json!({ "result": 5 }));
    desk.wait_for(&id, "completed");
    retry().is_problem(409);
    let names = desk.ask("GET", &format!("/executions/{id}/events")).follow().names();
    assert!(names.contains(&"EXECUTION_RETRIED".to_owned()), "{names:?}");
}

#[test]
fn many_are_steered_at_once_and_counted_first() {
    let desk = Desk::open();
    let ids: Vec<_> = (0..4).map(|_| desk.start("await f()", &["f"])).collect();
    for id in &ids {
        desk.wait_for(id, "waiting");
    }
    let bulk = |body| {
        let answer = desk.post("/executions/bulk", body);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let counted = bulk(json!({ "action": "cancel", "filter": {}, "dry_run": true, "limit": 3 }));
    assert_eq!((&counted["matched"], &counted["done"]), (&json!(3), &json!(0)));
    assert_eq!(counted["more"], true);
    assert_eq!(bulk(json!({ "action": "resume", "filter": {} }))["matched"], 0);
    let none = bulk(json!({ "action": "cancel", "filter": { "workflow": "other" } }));
    assert_eq!(none["matched"], 0);
    let done = bulk(json!({ "action": "cancel", "filter": {}, "limit": 3 }));
    assert_eq!(
        (&done["matched"], &done["done"], &done["failed"]),
        (&json!(3), &json!(3), &json!(0))
    );
    let rest = bulk(json!({ "action": "delete", "filter": {} }));
    assert_eq!(rest["done"], 3, "only what has ended is deleted");
    assert_eq!(desk.get("/executions").json()["items"].as_array().unwrap().len(), 1);
    for wrong in [
        json!({ "action": "cancel" }),
        json!({ "action": "explode", "filter": {} }),
        json!({ "action": "cancel", "filter": {}, "limit": 0 }),
        json!({ "action": "cancel", "filter": { "status": ["nope"] } }),
        json!({ "action": "cancel", "filter": { "since": "yesterday" } }),
    ] {
        desk.post("/executions/bulk", wrong).is_problem(422);
    }
}

#[test]
fn the_server_tells_how_it_is() {
    let desk = Desk::open();
    for path in ["/health", "/ready"] {
        assert_eq!(desk.get(path).json(), json!({ "status": "ok" }));
    }
    assert_eq!(desk.get("/workers").json(), json!({ "items": [] }));
    let document = desk.get("/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in ["get", "post", "put", "patch", "delete"] {
            let answer = {
                let path = path.replace("{id}", "x").replace("{number}", "1");
                desk.ask(&method.to_uppercase(), &path).send()
            };
            let is_documented = methods.get(method).is_some();
            assert_eq!(is_documented, answer.status != 405, "{method} {path}: {answer:?}");
        }
    }
    desk.get("/executions/").is_problem(404);
    desk.get("//executions").is_problem(404);
    let options =
        desk.ask("OPTIONS", "/executions").header("Origin", "https://evil.example").send();
    options.is_problem(405);
    assert!(!options.head.contains("access-control"), "no other site may look");
}

#[test]
fn too_many_requests_are_told_to_slow_down() {
    let config = durable_server::Config { rate_per_s: 1, burst: 3, ..Default::default() };
    let desk = Desk::open_with(config);
    let statuses: Vec<_> = (0..5).map(|_| desk.get("/executions").status).collect();
    assert_eq!(statuses[..3], [200; 3]);
    assert!(statuses[3..].contains(&429), "{statuses:?}");
    assert!(desk.get("/executions").head.contains("retry-after: "));
    assert_eq!(desk.get("/health").status, 200, "that it lives can always be asked");
}
