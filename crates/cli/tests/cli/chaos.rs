//! Workers that are killed in the middle.

use durable::{Durable, Engine, ExecutionId, Isolation, Status, Workflow};

use crate::support::{Desk, Running, until};

/// Every attempt writes its key down before it does anything else.
const COUNTED: &str = r#"
from durable_monty import current_call, register_function

@register_function("step")
def step(n):
    with open("keys", "a") as file:
        file.write(current_call().idempotency_key + "\n")
    return n + 1
"#;

const WORKFLOW: &str = "
from asyncio import gather
await step(sum(await gather(step(n), step(n), step(n))))
";

/// The calls of one execution.
const CALLS: usize = 4;
const EXECUTIONS: usize = 2_000;
/// How many workers are killed, one after the other while the executions run.
const KILLS: usize = 12;

fn worker(desk: &Desk, url: &str) -> Running {
    desk.begin(&["worker", "--db", url, "--functions", "functions.py", "--concurrency", "16"])
}

fn attempts(desk: &Desk) -> usize {
    let keys = std::fs::read(desk.path("keys")).unwrap_or_default();
    keys.iter().filter(|byte| **byte == b'\n').count()
}

fn start_all(engine: &Engine) -> Vec<ExecutionId> {
    let start = |n| Workflow::new(WORKFLOW).declare("step").input("n", n).unwrap().to_start(&[]);
    engine.start_many((0..EXECUTIONS).map(start).collect()).unwrap()
}

/// Runs the executions on workers of which one after the other is killed.
fn survive(desk: &Desk, url: &str, workers: usize) {
    let open = || {
        let engine = Durable::builder(url).isolation(Isolation::Thread).workers(1);
        engine.open_engine().unwrap()
    };
    let engine = open();
    let ids = start_all(&engine);
    let mut running: Vec<_> = (0..workers).map(|_| worker(desk, url)).collect();
    for kill in 1..=KILLS {
        let progress = kill * EXECUTIONS * CALLS / (KILLS + 2);
        until("the workers get on", || attempts(desk) >= progress);
        running.remove(0).kill();
        running.push(worker(desk, url));
    }
    until("everything is over", || engine.is_idle().unwrap_or(false));
    for (n, id) in ids.iter().enumerate() {
        let record = engine.execution(*id).unwrap();
        assert_eq!(record.status, Status::Completed, "{record:?}");
        assert_eq!(record.output.unwrap().as_str(), (3 * (n + 1) + 1).to_string());
        let calls = engine.store().calls(*id).unwrap();
        assert_eq!(calls.len(), CALLS);
    }
    // Every journal is folded: no result is in it twice.
    assert_eq!(engine.store().check().unwrap(), Vec::<String>::new());
    let text = desk.read("keys");
    let keys: std::collections::BTreeSet<_> = text.lines().collect();
    assert_eq!(keys.len(), EXECUTIONS * CALLS);
}

fn desk() -> Desk {
    Desk::new(&[("functions.py", COUNTED)])
}

#[test]
fn two_workers_on_sqlite_that_are_killed_lose_nothing() {
    let desk = desk();
    let url = format!("sqlite:///{}", desk.path("durable.db").display());
    survive(&desk, &url, 2);
}
