//! `durable checkpoints`: look at where an execution has waited, and go on from there.

use crate::support::Desk;

const FLOW: &str = "\
import asyncio
async def scale(x):
    factor = 10
    y = await one(x)
    return y * factor
total = await scale(2)
await __checkpoint__('half-way')
names = {'total': total}
last = await one(total)
last + total
";

fn desk() -> (Desk, String) {
    let desk = Desk::new(&[("flow.py", FLOW), ("tasks.py", TASKS)]);
    let ran = desk.durable(&["run", "flow.py", "--functions", "tasks.py"]);
    assert_eq!((ran.code, ran.out.trim()), (0, "40"), "{ran:?}");
    let id = desk.newest();
    (desk, id)
}

const TASKS: &str = "\
from durable_monty import register_function
@register_function('one')
def one(x):
    return x
";

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn an_ended_execution_shows_where_it_waited_and_with_what() {
    let (desk, id) = desk();
    let list = desk.durable(&["checkpoints", "list", &id, "--json"]);
    let list: Vec<_> = list.out.lines().map(json).collect();
    let waits: Vec<_> = list.iter().map(|row| row["waits_for"][0]["name"].clone()).collect();
    assert_eq!(waits, ["one", "__checkpoint__", "one"]);
    assert_eq!(
        (&list[1]["label"], &list[1]["id"]),
        (&"half-way".into(), &format!("{id}_ckpt_2").into())
    );

    let first = json(&desk.durable(&["checkpoints", "show", &id, "--at", "1", "--json"]).out);
    let stack = &first["stacks"][0];
    assert_eq!((&stack[1]["function"], &stack[1]["line"]), (&"scale".into(), &4.into()));
    assert_eq!(stack[1]["variables"], serde_json::json!({ "x": 2, "factor": 10 }));
    let plain = desk.durable(&["checkpoints", "show", &id]).out;
    assert!(plain.contains(">    9  last = await one(total)"), "{plain}");
    assert!(plain.contains("names = {\"total\":20}"), "{plain}");

    let diff = desk.durable(&["checkpoints", "diff", &id, "1", "3"]).out;
    for line in ["- scale: factor = 10", "+ total = 20", "call 0 came to 2"] {
        assert!(diff.contains(line), "{line}: {diff}");
    }
    assert_eq!(desk.durable(&["checkpoints", "show", &id, "--at", "4"]).code, 3);
}

#[test]
fn a_fork_goes_on_from_a_checkpoint_with_another_result() {
    let (desk, id) = desk();
    let waits = desk.durable(&["checkpoints", "list", &id, "--json"]).out;
    let call = json(waits.lines().last().unwrap())["waits_for"][0]["call_id"].to_string();
    let fork = desk.durable(&["checkpoints", "fork", &id, "--result", &format!("{call}=7")]);
    let fork = fork.out.trim();
    let resumed = desk.durable(&["resume", fork, "--functions", "tasks.py"]);
    assert_eq!((resumed.code, resumed.out.trim()), (0, "27"), "{resumed:?}");
    let refused = desk.durable(&["checkpoints", "fork", &id, "--at", "1", "--result", "99=7"]);
    assert!(refused.code == 2 && refused.err.contains("waits for"), "{refused:?}");

    let restored = desk.durable(&["checkpoints", "restore", &id, "--at", "1"]);
    let resumed = desk.durable(&["resume", restored.out.trim(), "--functions", "tasks.py"]);
    assert_eq!((resumed.code, resumed.out.trim()), (0, "40"), "{resumed:?}");
    // What it was taken from had ended, and stays as it is.
    assert_eq!(desk.show(&id)["status"], "completed");
    assert_eq!(desk.durable(&["doctor"]).code, 0);
}

#[test]
fn a_fork_goes_on_with_other_variables() {
    let (desk, id) = desk();
    let forked = |set: &[&str]| {
        let mut words = vec!["checkpoints", "fork", &id, "--at", "1"];
        words.extend(set.iter().flat_map(|set| ["--set", set]));
        desk.durable(&words)
    };
    let fork = forked(&["scale.factor=100", "0.1.x=[2]"]).out.trim().to_owned();
    let list = desk.durable(&["checkpoints", "list", &fork]).out;
    assert!(list.contains("scale.factor=100, scale.x=[2]"), "{list}");
    let show = desk.durable(&["checkpoints", "show", &fork]).out;
    assert!(show.contains("set         scale.factor=100"), "{show}");
    assert!(show.contains("    factor = 100") && show.contains("    x = [2]"), "{show}");
    let diff = desk.durable(&["checkpoints", "diff", &fork, "1", "2"]).out;
    for line in ["- scale: factor = 10", "+ scale: factor = 100", "  scale.x=[2] was set"] {
        assert!(diff.lines().any(|told| told == line), "{line}: {diff}");
    }
    let events = desk.durable(&["events", &fork, "--json"]).out;
    let set = events.lines().map(json).find(|event| event["type"] == "VARIABLES_SET").unwrap();
    assert_eq!(
        set["payload"]["variables"][1],
        serde_json::json!({ "task": 0, "depth": 1, "function": "scale", "name": "x", "value": [2] })
    );
    let resumed = desk.durable(&["resume", &fork, "--functions", "tasks.py"]);
    assert_eq!((resumed.code, resumed.out.trim()), (0, "400"), "{resumed:?}");

    for (set, why) in [
        ("factr=1", "did you mean 'factor'?"),
        ("factor", "give NAME=JSON"),
        ("factor=ten", "not JSON"),
        ("factor={\"$int\":1}", "the value of factor"),
    ] {
        let refused = forked(&[set]);
        assert!(refused.code == 2 && refused.err.contains(why), "{set}: {refused:?}");
    }
    assert_eq!(desk.durable(&["doctor"]).code, 0);
}

#[test]
fn a_restored_execution_that_runs_is_cancelled_and_its_fork_goes_on() {
    let desk = Desk::gated();
    let child = desk.begin_gated();
    let id = desk.newest();
    let restored = desk.durable(&["checkpoints", "restore", &id, "--at", "1"]);
    assert_eq!(restored.code, 0, "{restored:?}");
    assert_eq!(child.ended().code, 1);
    assert_eq!(desk.show(&id)["status"], "cancelled");
    let fork = desk.show(restored.out.trim());
    assert_eq!(fork["status"], "waiting", "{fork}");
}
