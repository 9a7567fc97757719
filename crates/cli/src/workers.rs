//! `durable workers`

use anyhow::Result;
use durable::{Clock as _, SystemClock, WorkerRecord};
use durable_server::views::{WorkerView, is_live};

use crate::{
    args, database,
    exit::Exit,
    text::{self, duration, short},
};

pub(crate) fn workers(url: &str, command: &args::Workers) -> Result<Exit> {
    let engine = database::open(url)?;
    let store = engine.store();
    let workers = store.workers()?;
    let now_ms = store.clock_ms().unwrap_or_else(|| SystemClock::default().now_ms());
    if command.json {
        for worker in &workers {
            let view = WorkerView::new(worker, now_ms);
            text::print(&(serde_json::to_string(&view)? + "\n"))?;
        }
    } else if workers.is_empty() {
        text::say("no workers");
    } else {
        let row = |worker: &WorkerRecord| {
            let queues = worker.queues.join(", ");
            vec![
                short(&worker.host, 24),
                worker.pid.to_string(),
                if queues.is_empty() { "(all)".into() } else { short(&queues, 24) },
                worker.concurrency.to_string(),
                worker.held.to_string(),
                duration(now_ms - worker.started_at_ms),
                if is_live(worker, now_ms) {
                    "alive".into()
                } else {
                    format!("silent for {}", duration(now_ms - worker.seen_at_ms))
                },
                short(&worker.functions.join(", "), 40),
            ]
        };
        let headings =
            ["WORKER", "PID", "QUEUES", "CONCURRENCY", "HOLDS", "UP", "STATE", "FUNCTIONS"];
        let rows: Vec<_> = workers.iter().map(row).collect();
        text::print(&text::table(&headings, &rows))?;
    }
    Ok(Exit::Done)
}
