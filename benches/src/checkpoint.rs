//! What a checkpoint costs at an `await`, and the bytes it takes.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, mpsc},
};

use anyhow::{Context as _, Result, bail, ensure};
use durable::{
    Definition, Durable, ExecutionId, FunctionError, FunctionOptions, Language, Limits, Outcome,
    Payload, WorkerCommand, Workflow,
};
use durable_core::{Advance, Advanced, Base, End, Group, Program, Runner as _, StateToken};
use durable_interpreter::{Pool, PoolConfig, SnapshotKey};
use tokio::sync::watch;

use crate::{
    measure::{Settings, emit, median, percentile, rounded},
    place::Place,
    workloads::children,
};

/// A program of 60 lines that holds some state and awaits in a loop.
const SIXTY_LINES: &str = r#"
import asyncio
import json
from datetime import datetime


def slug(title):
    words = [word.strip(".,:;") for word in title.lower().split()]
    return "-".join(word for word in words if word)


def total(items):
    result = 0
    for item in items:
        result += item["price"] * item["quantity"]
    return result


def describe(order):
    parts = [order["customer"], slug(order["title"])]
    if order["express"]:
        parts.append("express")
    return "/".join(parts)


def keep_last(history, receipt):
    kept = history + [receipt]
    return kept[-10:]


async def charge(order, number):
    amount = total(order["items"])
    receipt = await step(number)
    return {"amount": amount, "receipt": receipt}


async def main():
    begun = datetime.now()
    order = {
        "customer": "Ada",
        "title": "Twelve notes, for the Analytical Engine",
        "express": True,
        "items": [
            {"name": "paper", "price": 3, "quantity": 20},
            {"name": "ink", "price": 12, "quantity": 2},
        ],
    }
    name = describe(order)
    counts = {"charged": 0, "skipped": 0}
    history = []
    for number in range(n):
        try:
            last = await charge(order, number)
        except ValueError as error:
            counts["skipped"] += 1
            history.append(str(error))
        else:
            counts["charged"] += 1
            history = keep_last(history, last["receipt"])
    return json.dumps([name, counts["charged"], len(history)])
await main()
"#;

/// The example that the seed of the Python package prints.
const GATHER: &str = "
from asyncio import gather
results = await gather(
    encode_video('a.mp4'),
    encode_video('b.mp4'),
    encode_video('c.mp4')
)
results
";

pub(crate) fn run(settings: &Settings) -> Result<()> {
    if settings.db.is_none() && settings.wants("checkpoint") {
        processor_time(settings)?;
        stored_bytes(settings)?;
    }
    Ok(())
}

/// Processor time of the interpreter worker from one `await` to the next: taking the result in,
/// running on, and writing the checkpoint. And of the checkpoint alone: an advance over two
/// `await`s runs the program twice as far and writes one, too, so what it takes longer is the
/// running.
fn processor_time(settings: &Settings) -> Result<()> {
    ensure!(SIXTY_LINES.trim().lines().count() == 60);
    let n = settings.scaled(2_000);
    let mut program = Advances::begin(3 * n + 3)?;
    let (mut one_ms, mut checkpoint_ms) = (Vec::with_capacity(n), Vec::with_capacity(n));
    for _ in 0..n {
        let (one, two) = (program.advance(1)?, program.advance(2)?);
        one_ms.push(one as f64 / 1e6);
        checkpoint_ms.push((2 * one).saturating_sub(two) as f64 / 1e6);
    }
    emit(
        "durable-monty rust process",
        "checkpoint of 60 lines",
        &[
            ("n", n.into()),
            ("cpu_p50_ms", rounded(median(&checkpoint_ms))),
            ("advance_cpu_p50_ms", rounded(median(&one_ms))),
            ("advance_cpu_p99_ms", rounded(percentile(&one_ms, 99.0))),
        ],
    );
    Ok(())
}

/// The 60 lines in an interpreter worker, without an engine around it.
struct Advances {
    pool: Pool,
    request: Advance,
    open_call: u32,
}

impl Advances {
    /// Runs to the first `await`, and on to the second: from there on there is a dictionary.
    fn begin(awaits: usize) -> Result<Self> {
        let worker = WorkerCommand {
            args: vec!["__durable_worker".into()],
            ..WorkerCommand::new(std::env::current_exe()?)
        };
        let isolation = durable_interpreter::Isolation::Process(worker);
        let config =
            PoolConfig { workers: 1, ..PoolConfig::new(isolation, SnapshotKey::new([1; 32])) };
        let definition = Definition {
            language: Language::Python,
            source: SIXTY_LINES.to_owned(),
            functions: BTreeMap::from([("step".to_owned(), FunctionOptions::default())]),
            inputs: vec!["n".to_owned()],
            limits: Limits::default(),
        };
        let inputs = Payload::trusted(format!(r#"{{"n":{awaits}}}"#));
        let mut advances = Self {
            pool: Pool::new(config)?,
            request: Advance {
                execution: ExecutionId::new(0, [1; 10]),
                program: Arc::new(Program::new(definition)),
                dictionary: None,
                base: Base::Start { inputs, seed: 1, now_ms: 0 },
                groups: Vec::new(),
                next: StateToken { epoch: 1, version: 0 },
            },
            open_call: 0,
        };
        advances.advance(0)?;
        advances.advance(1)?;
        Ok(advances)
    }

    /// Gives the program as many results, one after the other, and says how many nanoseconds the
    /// worker has used until it has answered.
    fn advance(&mut self, results: usize) -> Result<u64> {
        let group = |call| Group {
            results: vec![(call, Outcome::Completed(Payload::trusted("1")))],
            ..Group::default()
        };
        self.request.groups = (self.open_call..).take(results).map(group).collect();
        self.request.next.version += 1;
        let (sender, receiver) = mpsc::channel();
        let used_ns = worker_ns();
        self.pool.advance(
            self.request.clone(),
            Box::new(move |answer| {
                // Whoever asked waits for it.
                let _ = sender.send(answer);
            }),
        );
        let answer = receiver.recv()?;
        let used_ns = worker_ns().saturating_sub(used_ns);
        self.request.base = Base::Live(self.request.next);
        let Advanced::Reached(reached) = answer else { bail!("the worker answered {answer:?}") };
        let End::Suspended { snapshot: Some(_), new_dictionary } = reached.end else {
            bail!("it wrote no checkpoint");
        };
        let asked = reached.calls.last().and_then(|calls| calls.last());
        self.open_call = asked.context("it asked for nothing")?.id;
        self.request.dictionary = self.request.dictionary.take().or(new_dictionary);
        Ok(used_ns)
    }
}

/// What the interpreter workers have used of the processors so far.
fn worker_ns() -> u64 {
    let used = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    let threads = |pid| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    children().unwrap_or_default().into_iter().flat_map(threads).filter_map(used).sum()
}

/// What is stored of an execution that waits: of the first of its program, and of every further
/// one, which leaves out what it has in common with the first.
fn stored_bytes(settings: &Settings) -> Result<()> {
    let place = Place::new(settings)?;
    let (open, gate) = watch::channel(false);
    let durable = Durable::builder(&place.url())
        .function("encode_video", move |(file,): (String,)| {
            let mut gate = gate.clone();
            async move {
                let opened = gate.wait_for(|open| *open).await;
                opened.map_err(|error| FunctionError::new("Closed", error.to_string()))?;
                Ok::<_, FunctionError>(format!("encoded_{file}"))
            }
        })
        .open()?;
    let mut bytes = Vec::new();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let id = durable.start(&Workflow::new(GATHER))?;
        while durable.engine().execution(id)?.status != durable::Status::Waiting {
            std::thread::yield_now();
        }
        let sql = "SELECT length(state_snapshot) FROM execution_state WHERE execution_id = ?1";
        bytes.push(place.sqlite()?.query_row(sql, [id.to_string()], |row| row.get::<_, i64>(0))?);
        ids.push(id);
    }
    let dictionary: Option<i64> =
        place
            .sqlite()?
            .query_row("SELECT max(length(dictionary)) FROM programs", [], |row| row.get(0))?;
    open.send(true).context("the functions are gone")?;
    for id in ids {
        let files: Vec<String> = durable.result(id)?;
        ensure!(files.len() == 3);
    }
    emit(
        "durable-monty rust process",
        "checkpoint of a gather",
        &[
            ("first_bytes", bytes[0].into()),
            ("bytes", bytes[1].into()),
            ("dictionary_bytes_per_program", dictionary.into()),
        ],
    );
    Ok(())
}
