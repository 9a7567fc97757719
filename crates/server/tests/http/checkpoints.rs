//! Looking into executions, forking them, taking them back.

use durable_server::Config;
use serde_json::{Value, json};

use crate::support::Desk;

const FLOW: &str = "\
async def scale(x):
    factor = 10
    y = await f(x)
    return y * factor
total = await scale(2)
await __checkpoint__('half-way')
names = {'total': total}
last = await f(total)
last + total
";

/// Reports what the one open call of an execution comes to, as soon as it is asked for.
fn answer(desk: &Desk, id: &str, result: Value) {
    let claim = json!({ "functions": ["f"], "worker": "w", "wait_ms": 60_000 });
    let task = desk.post("/tasks/claim", claim).json()["items"][0].clone();
    assert_eq!(task["execution_id"], id);
    let path = format!("/tasks/{}/complete", task["id"].as_str().unwrap());
    assert_eq!(desk.post(&path, json!({ "result": result })).status, 200);
}

fn output(desk: &Desk, id: &str) -> Value {
    let result = desk.get(&format!("/executions/{id}/result?wait_ms=60000"));
    assert_eq!(result.status, 200, "{result:?}");
    result.json()["output"].clone()
}

/// An execution that has come to its end: 40.
fn ended(desk: &Desk) -> String {
    let id = desk.start(FLOW, &["f"]);
    answer(desk, &id, json!(2));
    answer(desk, &id, json!(20));
    assert_eq!(output(desk, &id), 40);
    id
}

#[test]
fn an_ended_execution_shows_where_it_waited_and_with_what() {
    let desk = Desk::open();
    let id = ended(&desk);
    let list = desk.get(&format!("/executions/{id}/checkpoints")).json();
    let waits: Vec<_> =
        list["items"].as_array().unwrap().iter().map(|one| &one["waits_for"][0]["name"]).collect();
    assert_eq!(waits, ["f", "__checkpoint__", "f"]);
    let second = &list["items"][1];
    assert_eq!((&second["label"], &second["checkpoint"]), (&json!("half-way"), &json!(2)));
    assert_eq!(
        (&second["id"], &second["execution_id"]),
        (&json!(format!("{id}_ckpt_2")), &json!(id))
    );

    let first = desk.get(&format!("/executions/{id}/checkpoints/1")).json();
    assert_eq!((&first["source"], &first["checkpoint"]), (&json!(FLOW), &json!(1)));
    let inner = &first["stacks"][0][1];
    assert_eq!((&inner["function"], &inner["line"]), (&json!("scale"), &json!(3)));
    assert_eq!(inner["variables"], json!({ "x": 2, "factor": 10 }));

    let diff = desk.get(&format!("/executions/{id}/checkpoints/1/diff?to=3")).json();
    let changes = diff["variables"].as_array().unwrap();
    let gone =
        json!({ "task": 0, "function": "scale", "depth": 1, "name": "factor", "before": 10 });
    assert!(changes.contains(&gone), "{diff}");
    let come = json!({ "task": 0, "function": "<module>", "depth": 0, "name": "total",
        "after": 20 });
    assert!(changes.contains(&come), "{diff}");
    assert_eq!(diff["ended"][0], json!({ "call_id": 0, "result": 2, "error": null }));
    assert_eq!(diff["more"], false);
    let next = desk.get(&format!("/executions/{id}/checkpoints/1/diff")).json();
    assert_eq!((&next["from"], &next["to"]), (&json!(1), &json!(2)));
}

#[test]
fn checkpoints_are_paged() {
    let desk = Desk::open();
    let id = ended(&desk);
    let page = |query: &str| desk.get(&format!("/executions/{id}/checkpoints{query}")).json();
    let numbers = |page: &Value| -> Vec<u64> {
        let items = page["items"].as_array().unwrap();
        items.iter().map(|item| item["checkpoint"].as_u64().unwrap()).collect()
    };
    let first = page("?limit=2");
    assert_eq!((numbers(&first), &first["next_cursor"]), (vec![1, 2], &json!("2")));
    let rest = page("?limit=2&cursor=2");
    assert_eq!((numbers(&rest), &rest["next_cursor"]), (vec![3], &Value::Null));
    assert_eq!(numbers(&page("?cursor=3")), [0; 0]);
}

#[test]
fn a_fork_goes_on_from_a_checkpoint_with_another_result() {
    let desk = Desk::open();
    let id = ended(&desk);
    let last = desk.get(&format!("/executions/{id}/checkpoints/3")).json();
    let call = last["waits_for"][0]["call_id"].to_string();
    let path = format!("/executions/{id}/checkpoints/3/fork");
    let forked = desk.post(&path, json!({ "results": { &call: 7 } }));
    assert_eq!(forked.status, 201, "{forked:?}");
    let fork = forked.json()["execution_id"].as_str().unwrap().to_owned();
    assert!(forked.head.contains(&format!("location: /executions/{fork}")), "{forked:?}");
    assert_eq!(output(&desk, &fork), 27);
    // Without a result the call is made again.
    let again = desk.ask("POST", &path).send().json()["execution_id"].as_str().unwrap().to_owned();
    answer(&desk, &again, json!(1));
    assert_eq!(output(&desk, &again), 21);
    assert_eq!(output(&desk, &id), 40);

    for wrong in [
        json!({ "results": { "99": 7 } }),
        json!({ "results": { "x": 7 } }),
        json!({ "results": { &call: "x".repeat(11 << 20) } }),
        json!({ "results": [7] }),
        json!({ "result": {} }),
        json!([{}]),
    ] {
        desk.post(&path, wrong).is_problem(422);
    }
    desk.post(&format!("/executions/{id}/checkpoints/4/fork"), json!({})).is_problem(404);
    assert_eq!(desk.get("/executions").json()["items"].as_array().unwrap().len(), 3);
}

#[test]
fn a_fork_goes_on_with_other_variables() {
    let desk = Desk::open();
    let id = ended(&desk);
    let path = format!("/executions/{id}/checkpoints/1/fork");
    let forked =
        desk.post(&path, json!({ "results": { "0": 3 }, "variables": { "scale.factor": 100 } }));
    assert_eq!(forked.status, 201, "{forked:?}");
    let fork = forked.json()["execution_id"].as_str().unwrap().to_owned();
    answer(&desk, &fork, json!(1));
    assert_eq!(output(&desk, &fork), 301);
    let second = desk.get(&format!("/executions/{fork}/checkpoints/2")).json();
    let set =
        json!([{ "task": 0, "function": "scale", "depth": 1, "name": "factor", "value": 100 }]);
    assert_eq!(
        (&second["set"], &second["stacks"][0][1]["variables"]["factor"]),
        (&set, &json!(100))
    );
    let diff = desk.get(&format!("/executions/{fork}/checkpoints/1/diff")).json();
    assert_eq!((&diff["set"], &diff["variables"][0]["after"]), (&set, &json!(100)));

    for wrong in [
        json!({ "variables": { "factr": 1 } }),
        json!({ "variables": { "factor": { "$int": 1 } } }),
        json!({ "variables": { "factor": "x".repeat(11 << 20) } }),
        json!({ "variables": [1] }),
    ] {
        desk.post(&path, wrong).is_problem(422);
    }
    assert_eq!(desk.get("/executions").json()["items"].as_array().unwrap().len(), 2);
}

#[test]
fn a_restored_execution_is_cancelled_and_another_goes_on_in_its_place() {
    let desk = Desk::open();
    let id = desk.start(FLOW, &["f"]);
    answer(&desk, &id, json!(2));
    let path = format!("/executions/{id}/checkpoints/1/restore");
    let restored = desk.ask("POST", &path).send();
    assert_eq!(restored.status, 201, "{restored:?}");
    desk.wait_for(&id, "cancelled");
    let fork = restored.json()["execution_id"].as_str().unwrap().to_owned();
    answer(&desk, &fork, json!(3));
    answer(&desk, &fork, json!(30));
    assert_eq!(output(&desk, &fork), 60);
}

#[test]
fn only_so_many_programs_are_looked_into_at_once() {
    let none = Config { max_inspections: 0, request_timeout_ms: 2_000, ..Config::default() };
    let desk = Desk::open_with(none);
    let id = desk.start(FLOW, &["f"]);
    desk.wait_for(&id, "waiting");
    desk.get(&format!("/executions/{id}/checkpoints/1")).is_problem(503);
    assert_eq!(desk.get(&format!("/executions/{id}/checkpoints")).status, 200);
}

#[test]
fn numbers_keep_their_form_in_variables_and_results() {
    let desk = Desk::open();
    let id = desk.start("big = 12345678901234567890123\nhalf = 1.0\nawait f()", &["f"]);
    desk.wait_for(&id, "waiting");
    let shown = desk.get(&format!("/executions/{id}/checkpoints/1"));
    assert!(shown.body.contains("\"half\":1.0"), "{shown:?}");
    let fork = desk.ask("POST", &format!("/executions/{id}/checkpoints/1/fork"));
    let fork = fork.header("Content-Type", "application/json");
    let fork = fork.body(r#"{"results": {"0": 12345678901234567}}"#).send().json();
    let fork = fork["execution_id"].as_str().unwrap().to_owned();
    let result = desk.get(&format!("/executions/{fork}/result?wait_ms=60000"));
    assert!(result.body.contains("\"output\":12345678901234567"), "{result:?}");
}
