//! `durable workers`

use anyhow::Result;
use durable::{Clock as _, Config, SystemClock, WorkerRecord};
use durable_server::views::instant;
use serde::Serialize;

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
    let silent_ms = |worker: &WorkerRecord| now_ms - worker.seen_at_ms;
    let is_stale = |worker: &WorkerRecord| silent_ms(worker) > Config::default().lease_ms as i64;
    if command.json {
        for worker in &workers {
            let view = WorkerView::new(worker, is_stale(worker));
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
                if is_stale(worker) {
                    format!("silent for {}", duration(silent_ms(worker)))
                } else {
                    "alive".into()
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

/// What `--json` prints of a worker. It is stable: fields are only added.
#[derive(Serialize)]
struct WorkerView<'a> {
    /// The name it holds leases under, as in `locked_by` of an execution.
    id: &'a str,
    /// Its machine, or the name it was given.
    name: &'a str,
    pid: u32,
    /// Empty for all.
    queues: &'a [String],
    functions: &'a [String],
    concurrency: u32,
    /// How many executions it holds.
    held: u32,
    version: &'a str,
    started_at: String,
    /// When it was last heard of.
    seen_at: String,
    /// Whether it was not heard of for longer than a lease lasts.
    is_stale: bool,
}

impl<'a> WorkerView<'a> {
    fn new(worker: &'a WorkerRecord, is_stale: bool) -> Self {
        Self {
            id: worker.owner.as_str(),
            name: &worker.host,
            pid: worker.pid,
            queues: &worker.queues,
            functions: &worker.functions,
            concurrency: worker.concurrency,
            held: worker.held,
            version: &worker.version,
            started_at: instant(worker.started_at_ms),
            seen_at: instant(worker.seen_at_ms),
            is_stale,
        }
    }
}
