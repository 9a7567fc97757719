//! `durable start`, `durable worker`, `durable workers`, and the filters of `durable list`.

use std::collections::BTreeMap;

use durable::{Durable, Isolation, ListFilter, Status, Workflow};
use rustix::process::{Signal, kill_process};

use crate::support::{Desk, Running, until};

/// Every attempt writes its key down before it does anything else.
const COUNTED: &str = r#"
import time
from durable_monty import current_call, register_function

@register_function("step")
def step(n):
    with open("keys", "a") as file:
        file.write(current_call().idempotency_key + "\n")
    time.sleep(0.005)
    return n
"#;

const WORKFLOW: &str = "
from asyncio import gather
a, b = await gather(step(n), step(n))
a + b + await step(n)
";

fn keys(desk: &Desk) -> Vec<String> {
    let text = std::fs::read_to_string(desk.path("keys")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn worker(desk: &Desk, more: &[&str]) -> Running {
    let mut arguments = vec!["worker", "--functions", "functions.py"];
    arguments.extend(more);
    desk.begin(&arguments)
}

#[test]
fn rolling_restarts_lose_nothing_and_run_nothing_twice() {
    const EXECUTIONS: usize = 300;
    let desk = Desk::new(&[("functions.py", COUNTED)]);
    let url = format!("sqlite:///{}", desk.path("durable.db").display());
    let engine = Durable::builder(&url).isolation(Isolation::Thread).workers(1);
    let engine = engine.open_engine().unwrap();
    let starts = (0..EXECUTIONS)
        .map(|n| Workflow::new(WORKFLOW).declare("step").input("n", n).unwrap().to_start(&[]));
    let ids = engine.start_many(starts.collect()).unwrap();

    let mut workers = vec![worker(&desk, &[]), worker(&desk, &[])];
    for restart in 1..=5 {
        let progress = restart * EXECUTIONS * 3 / 8;
        until("the workers get on", || keys(&desk).len() >= progress);
        let old = workers.remove(0);
        kill_process(old.pid(), Signal::TERM).unwrap();
        let ended = old.ended();
        assert_eq!(ended.code, 0, "{ended:?}");
        let is_last = if restart >= 4 { &["--until-idle"][..] } else { &[] };
        workers.push(worker(&desk, is_last));
    }
    for worker in workers {
        let ended = worker.ended();
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(ended.err.contains("nothing is left to do"), "{ended:?}");
    }

    for (n, id) in ids.iter().enumerate() {
        let record = engine.execution(*id).unwrap();
        assert_eq!(record.status, Status::Completed, "{record:?}");
        assert_eq!(record.output.unwrap().as_str(), (3 * n).to_string());
    }
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for key in keys(&desk) {
        *counts.entry(key).or_default() += 1;
    }
    assert_eq!(counts.len(), 3 * EXECUTIONS);
    let again: Vec<_> = counts.iter().filter(|(_, count)| **count != 1).collect();
    assert!(again.is_empty(), "ran more than once: {again:?}");
    assert!(engine.store().check().unwrap().is_empty());
    assert!(engine.store().workers().unwrap().is_empty());
}

#[test]
fn workers_take_their_queues_and_are_listed_with_what_they_hold() {
    let desk = Desk::gated();
    let start = |more: &[&str]| {
        let mut arguments = vec!["start", "gated.py", "--functions", "functions.py"];
        arguments.extend(more);
        let ended = desk.durable(&arguments);
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.out.trim().to_owned()
    };
    let gpu = start(&["--queue", "gpu", "--tag", "blue", "--namespace", "acme"]);
    let other = start(&["--name", "left"]);
    assert_eq!(desk.durable(&["workers"]).err, "no workers\n");

    let running = worker(&desk, &["--queue", "gpu", "--queue", "big", "--name", "rack 1"]);
    desk.wait_at_gate();
    let listed = desk.durable(&["workers", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed.out).unwrap();
    assert_eq!(listed["host"], "rack 1");
    assert_eq!(listed["queues"], serde_json::json!(["gpu", "big"]));
    assert_eq!(listed["functions"], serde_json::json!(["gate", "step"]));
    assert_eq!((&listed["held"], &listed["is_live"]), (&1.into(), &true.into()));
    assert_eq!(listed["id"], desk.show(&gpu)["locked_by"]);
    let shown = desk.durable(&["workers"]).out;
    assert!(shown.contains("rack 1") && shown.contains("gpu, big"), "{shown}");
    assert!(shown.contains("alive"), "{shown}");
    assert_eq!(desk.show(&other)["status"], "scheduled");

    // The gate is in the middle of its work: the first signal waits for it.
    kill_process(running.pid(), Signal::TERM).unwrap();
    let open = desk.open_gate();
    let ended = running.ended();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(desk.durable(&["workers"]).err, "no workers\n");
    assert_eq!(desk.show(&gpu)["calls"][2]["result"], "through");
    assert_eq!(desk.show(&gpu)["locked_by"], serde_json::Value::Null);
    drop(open);

    // Another goes on after the gate.
    let ended = worker(&desk, &["--queue", "gpu", "--until-idle"]).ended();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(desk.show(&gpu)["status"], "completed");
    assert_eq!(desk.show(&other)["status"], "scheduled");

    for (filter, found) in [
        (&["--tag", "blue"][..], vec![&gpu]),
        (&["--namespace", "acme"], vec![&gpu]),
        (&["--workflow", "left"], vec![&other]),
        (&["--since", "1h"], vec![&other, &gpu]),
        (&["--until", "2020-01-01"], vec![]),
        (&["--tag", "red"], vec![]),
    ] {
        let mut arguments = vec!["list", "--json"];
        arguments.extend(filter);
        let listed = desk.durable(&arguments).out;
        let ids: Vec<String> = listed
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|row| row["id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(ids.iter().collect::<Vec<_>>(), found, "{filter:?}");
    }
}

#[test]
fn a_worker_that_was_killed_is_stale_and_what_it_held_is_taken_over() {
    let desk = Desk::gated();
    let ended = desk.durable(&["start", "gated.py", "--functions", "functions.py"]);
    let id = ended.out.trim().to_owned();
    let killed = worker(&desk, &[]);
    desk.wait_at_gate();
    killed.kill();
    let next = worker(&desk, &["--until-idle"]);
    desk.wait_at_gate();
    assert_eq!(desk.durable(&["workers", "--json"]).out.lines().count(), 2);
    drop_silent(&desk);
    let listed = desk.durable(&["workers"]).out;
    assert!(listed.contains("silent for") && listed.contains("alive"), "{listed}");
    let open = desk.open_gate();
    let ended = next.ended();
    drop(open);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(desk.show(&id)["status"], "completed");
}

/// Makes the worker that was started first look as if a minute had passed since.
fn drop_silent(desk: &Desk) {
    let url = format!("sqlite:///{}", desk.path("durable.db").display());
    let engine = Durable::builder(&url).isolation(Isolation::Thread).workers(1);
    let engine = engine.open_engine().unwrap();
    let mut workers = engine.store().workers().unwrap();
    workers.sort_by_key(|worker| worker.started_at_ms);
    let mut first = workers.remove(0);
    first.seen_at_ms -= 60_000;
    let write = durable_store::Write::Announce(Box::new(first));
    let store = durable_store::SqliteStore::open(&desk.path("durable.db"), Default::default());
    durable_store::Store::commit(&store.unwrap(), &[write]).unwrap().remove(0).unwrap();
}

#[test]
fn a_second_signal_ends_a_worker_at_once() {
    let desk = Desk::gated();
    desk.durable(&["start", "gated.py", "--functions", "functions.py"]);
    let running = worker(&desk, &[]);
    desk.wait_at_gate();
    for signal in [Signal::INT, Signal::TERM] {
        kill_process(running.pid(), signal).unwrap();
    }
    assert_eq!(running.ended().code, 130);
    let url = format!("sqlite:///{}", desk.path("durable.db").display());
    let engine = Durable::builder(&url).isolation(Isolation::Thread).workers(1);
    let listed = engine.open_engine().unwrap().store().list(&ListFilter::default()).unwrap();
    assert_eq!(listed[0].status, Status::Waiting);
}
