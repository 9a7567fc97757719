//! Prints how long a round trip to a worker takes.
//!
//! `cargo run --release -p durable-interpreter --example roundtrip`

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use durable_core::{
    Advance, Advanced, Base, Definition, Dictionary, End, ExecutionId, FunctionOptions, Group,
    Language, Limits, Outcome, Payload, Program, Runner as _, Snapshot, StateToken,
};
use durable_interpreter::{Isolation, Pool, PoolConfig, SnapshotKey, WorkerCommand};

type Outcomes = Vec<(u32, Outcome)>;

struct Execution {
    pool: Pool,
    program: Arc<Program>,
    dictionary: Option<Dictionary>,
    snapshot: Option<Snapshot>,
    version: u64,
}

impl Execution {
    fn new(isolation: Isolation, source: &str) -> durable_core::Result<Self> {
        let config =
            PoolConfig { workers: 1, ..PoolConfig::new(isolation, SnapshotKey::new([1; 32])) };
        let definition = Definition {
            language: Language::Python,
            source: source.to_owned(),
            functions: BTreeMap::from([("f".to_owned(), FunctionOptions::default())]),
            inputs: Vec::new(),
            limits: Limits::default(),
        };
        Ok(Self {
            pool: Pool::new(config)?,
            program: Arc::new(Program::new(definition)),
            dictionary: None,
            snapshot: None,
            version: 0,
        })
    }

    fn advance(&mut self, base: Base, results: Option<Outcomes>) -> End {
        let (sender, receiver) = mpsc::channel();
        let groups =
            results.map(|results| Group { results, ..Group::default() }).into_iter().collect();
        self.version += 1;
        let request = Advance {
            execution: ExecutionId::new(0, [1; 10]),
            program: Arc::clone(&self.program),
            dictionary: self.dictionary.clone(),
            base,
            groups,
            next: StateToken { epoch: 1, version: self.version },
        };
        let done = move |answer| {
            let _ = sender.send(answer);
        };
        self.pool.advance(request, Box::new(done));
        match receiver.recv() {
            Ok(Advanced::Reached(reached)) => {
                if let End::Suspended { snapshot, new_dictionary } = &reached.end {
                    self.snapshot = snapshot.clone().or(self.snapshot.take());
                    self.dictionary = self.dictionary.take().or(new_dictionary.clone());
                }
                reached.end
            }
            other => panic!("{other:?}"),
        }
    }

    fn start(&mut self) -> End {
        let base = Base::Start { inputs: Payload::trusted("{}"), seed: 1, now_ms: 0 };
        self.advance(base, None)
    }

    fn live(&mut self, results: Outcomes) -> End {
        self.advance(Base::Live(StateToken { epoch: 1, version: self.version }), Some(results))
    }
}

fn one(id: u32) -> Outcomes {
    vec![(id, Outcome::Completed(Payload::trusted("1")))]
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e6;
    println!("{what:<58} median {:>8.1} µs, p99 {:>8.1} µs", at(50), at(99));
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

/// One call after the other: each round trip applies a result, gets a call and a snapshot.
fn measure(
    name: &str,
    isolation: &Isolation,
    source: &str,
    rounds: u32,
) -> durable_core::Result<()> {
    let mut execution = Execution::new(isolation.clone(), source)?;
    execution.start();
    execution.live(one(0));
    let live = (1..rounds).map(|id| timed(|| execution.live(one(id)))).collect();
    report(&format!("{name}: resume live, new call, snapshot"), live);

    let mut execution = Execution::new(isolation.clone(), source)?;
    let starts = (0..rounds).map(|_| timed(|| execution.start())).collect();
    report(&format!("{name}: start to first call"), starts);
    let snapshot = execution.snapshot.clone();
    let Some(snapshot) = snapshot else { return Ok(()) };
    println!("{:<58} {} bytes", format!("{name}: snapshot"), snapshot.0.len());
    let version = execution.version;
    let base = || Base::Snapshot { snapshot: snapshot.clone(), version };
    let restores = (0..rounds).map(|_| timed(|| execution.advance(base(), Some(one(0))))).collect();
    report(&format!("{name}: resume from snapshot, new call, snapshot"), restores);
    Ok(())
}

fn fan_out(name: &str, isolation: &Isolation, width: u32) -> durable_core::Result<()> {
    let source =
        format!("import asyncio\nlen(await asyncio.gather(*[f(i) for i in range({width})]))");
    let mut execution = Execution::new(isolation.clone(), &source)?;
    let start = timed(|| execution.start());
    let resumes: Vec<Duration> = (0..width).map(|id| timed(|| execution.live(one(id)))).collect();
    let sum: Duration = resumes.iter().sum();
    println!("{name}: fan-out of {width}: start {start:?}, all results one by one {sum:?}");
    report(&format!("{name}: one result of {width}"), resumes);
    Ok(())
}

fn main() -> durable_core::Result<()> {
    let executable = std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.parent()?.parent()?.join("durable-interpreter-worker")));
    let worker = executable.unwrap_or_else(|| "durable-interpreter-worker".into());
    let small = "x = 0\nwhile True:\n    x = await f(x)\n";
    let helper = |i: usize| {
        format!(
            "def helper_{i}(a, b=1):\n    total = []\n    for k in range(a):\n        if k % 2 == 0: \
             total.append({{'k': k, 'name': f'item {{k}}'}})\n    return total\n"
        )
    };
    let large = format!("{}{small}", (0..40).map(helper).collect::<String>());
    for (name, isolation) in
        [("process", Isolation::Process(WorkerCommand::new(worker))), ("thread", Isolation::Thread)]
    {
        measure(&format!("{name}, 3 lines"), &isolation, small, 20_000)?;
        measure(&format!("{name}, 200 lines"), &isolation, &large, 2_000)?;
        fan_out(name, &isolation, 1_000)?;
        fan_out(name, &isolation, 10_000)?;
    }
    Ok(())
}
