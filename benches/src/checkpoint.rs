//! What a checkpoint costs at an `await`, and the bytes it takes.

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result, ensure};
use durable::{Durable, FunctionError, Isolation, Workflow};
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
/// running on, and writing the checkpoint.
fn processor_time(settings: &Settings) -> Result<()> {
    ensure!(SIXTY_LINES.trim().lines().count() == 60);
    let n = settings.scaled(2_000);
    let place = Place::new(settings)?;
    let readings = Arc::new(Mutex::new(Vec::with_capacity(n)));
    let read = readings.clone();
    let durable = Durable::builder(&place.url())
        .isolation(Isolation::Process)
        .function("step", move |(i,): (i64,)| {
            let used_ns = worker_ns();
            read.lock().unwrap_or_else(PoisonError::into_inner).push(used_ns);
            async move { Ok::<_, FunctionError>(i) }
        })
        .open()?;
    let id = durable.start(&Workflow::new(SIXTY_LINES).input("n", n)?)?;
    let output: String = durable.result(id)?;
    ensure!(output.contains(&format!(", {n}, ")), "it ended with {output}");
    let readings = readings.lock().unwrap_or_else(PoisonError::into_inner);
    let each_ms: Vec<_> =
        readings.windows(2).map(|pair| pair[1].saturating_sub(pair[0]) as f64 / 1e6).collect();
    emit(
        "durable-monty rust process",
        "checkpoint of 60 lines",
        &[
            ("n", n.into()),
            ("cpu_p50_ms", rounded(median(&each_ms))),
            ("cpu_p99_ms", rounded(percentile(&each_ms, 99.0))),
        ],
    );
    Ok(())
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
