//! Several worker processes on one Postgres database.

use std::{
    io::Read as _,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use durable::{Durable, FunctionError, Workflow};

use crate::{
    measure::{Settings, all_rounded, emit, median, rounded},
    place::Place,
    workloads::{FAN, SUSPENDED},
};

/// How long nothing happens while the statements of idle workers are counted.
const IDLE: Duration = Duration::from_secs(20);

/// A worker process, until its standard input is closed.
pub(crate) fn work(url: &str) -> Result<()> {
    let durable = Durable::builder(url)
        .workers(1)
        .function("step", |(i,): (i64,)| async move { Ok::<_, FunctionError>(i + 1) })
        .open()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    durable.close(Duration::from_secs(5));
    Ok(())
}

struct Fleet(Vec<Child>);

impl Fleet {
    fn start(url: &str, count: usize) -> Result<Self> {
        let mut fleet = Self(Vec::new());
        for _ in 0..count {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["--work", url]).stdin(Stdio::piped());
            fleet.0.push(command.spawn()?);
        }
        Ok(fleet)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for worker in &mut self.0 {
            drop(worker.stdin.take());
        }
        for worker in &mut self.0 {
            // It ends by itself.
            let _ = worker.wait();
        }
    }
}

pub(crate) fn run(settings: &Settings) -> Result<()> {
    if settings.db.is_none() {
        return Ok(());
    }
    if settings.wants("W2") {
        shared_fan(settings)?;
    }
    if settings.wants("idle") {
        idle(settings)?;
    }
    Ok(())
}

/// W2 by two worker processes, started and awaited by a third.
fn shared_fan(settings: &Settings) -> Result<()> {
    let n = settings.scaled(1_000);
    let mut seconds = Vec::new();
    for _ in 0..settings.repeats {
        let place = Place::new(settings)?;
        let engine = Durable::builder(&place.url()).workers(1).open_engine()?;
        let fleet = Fleet::start(&place.url(), 2)?;
        let workflow = Workflow::new(FAN);
        let starts = |n| (0..n).map(|_| workflow.to_start(&["step".to_owned()])).collect();
        // The workers are there, and have compiled the program.
        for id in engine.start_many(starts(50))? {
            engine.wait(id, None)?;
        }
        let begun = Instant::now();
        let ids = engine.start_many(starts(n))?;
        for id in ids {
            let record = engine.wait(id, None)?;
            ensure!(record.and_then(|record| record.output).is_some(), "it did not complete");
        }
        seconds.push(begun.elapsed().as_secs_f64());
        drop(fleet);
    }
    let s = median(&seconds);
    emit(
        &format!("durable-monty rust 2 workers{}", settings.server()),
        "W2",
        &[
            ("n", n.into()),
            ("seconds", rounded(s)),
            ("workflows_per_s", rounded(n as f64 / s)),
            ("steps_per_s", rounded(4.0 * n as f64 / s)),
            ("runs", all_rounded(&seconds)),
        ],
    );
    Ok(())
}

/// What four workers ask of the database while 10,000 executions wait for a day.
fn idle(settings: &Settings) -> Result<()> {
    let n = settings.scaled(10_000);
    let place = Place::new(settings)?;
    let engine = Durable::builder(&place.url()).workers(1).open_engine()?;
    let _fleet = Fleet::start(&place.url(), 4)?;
    let workflow = Workflow::new(SUSPENDED);
    for _ in 0..n.div_ceil(500) {
        let starts = (0..500).map(|_| workflow.to_start(&["step".to_owned()])).collect();
        engine.start_many(starts)?;
    }
    drop(engine);
    let filter = durable::ListFilter {
        statuses: vec![durable::Status::Scheduled, durable::Status::Running],
        limit: 1,
        ..Default::default()
    };
    let look = Durable::builder(&place.url()).workers(1).open_engine()?;
    while !look.store().list(&filter)?.is_empty() {
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(look);
    // Leases are given back a moment after the last transition.
    std::thread::sleep(Duration::from_secs(6));
    let Some(before) = place.statements() else {
        eprintln!("idle: pg_stat_statements is not there");
        return Ok(());
    };
    std::thread::sleep(IDLE);
    let asked = place.statements().unwrap_or(before) - before;
    emit(
        &format!("durable-monty rust 4 workers{}", settings.server()),
        "idle",
        &[("n", n.into()), ("statements_per_s", rounded(asked as f64 / IDLE.as_secs_f64()))],
    );
    Ok(())
}
