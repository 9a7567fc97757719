//! What the SQLite store alone can carry: `cargo run --release --example floor -p durable-store`.
//!
//! W2: an execution that asks for three calls together, then for one more, and ends: a create and
//! three transitions. W1: one transition a commit. Then the size of suspended executions.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Instant};

use durable_core::{
    Definition, Draft, End, Error, Event, Execution, ExecutionId, FunctionOptions, Language, Lease,
    Limits, NewCall, Outcome, Owner, Payload, Position, Program, Reached, Request, Result,
    Snapshot, Transition,
};
use durable_store::{Labels, NewExecution, SqliteOptions, SqliteStore, Store, Synchronous, Write};

const NOW_MS: i64 = 1_790_000_000_000;
const SNAPSHOT_BYTES: usize = 300;

fn main() -> Result<()> {
    let directory = tempfile::Builder::new()
        .prefix("floor")
        .tempdir_in(std::env::args().nth(1).unwrap_or_else(|| ".".into()))
        .map_err(|error| Error::unavailable(error.to_string()))?;
    for (synchronous, batch, count) in [
        (Synchronous::Full, 1, 2_000),
        (Synchronous::Full, 32, 20_000),
        (Synchronous::Full, 200, 60_000),
        (Synchronous::Off, 200, 60_000),
    ] {
        let bench = Bench::open(
            &directory.path().join(format!("w2-{synchronous:?}-{batch}.db")),
            synchronous,
        )?;
        let started = Instant::now();
        bench.run_w2(batch, count)?;
        let seconds = started.elapsed().as_secs_f64();
        let (count, bytes) = (count as f64, bench.bytes() as f64 / count as f64);
        println!(
            "W2, {synchronous:?}, {batch:3} a commit: {:6.0} executions/s, {bytes:.0} bytes each",
            count / seconds
        );
    }
    let bench = Bench::open(&directory.path().join("w1.db"), Synchronous::Full)?;
    bench.run_w1(10_000)?;
    let bench = Bench::open(&directory.path().join("suspended.db"), Synchronous::Full)?;
    bench.suspend(10_000)?;
    let bench = Bench::open(&directory.path().join("claim.db"), Synchronous::Full)?;
    bench.claim(200, 10_000)
}

struct Bench {
    store: SqliteStore,
    path: std::path::PathBuf,
    program: Arc<Program>,
    owner: Owner,
}

impl Bench {
    fn open(path: &Path, synchronous: Synchronous) -> Result<Self> {
        let program = Arc::new(Program::new(Definition {
            language: Language::Python,
            source: "await gather(a(1), a(2), a(3))".into(),
            functions: BTreeMap::new(),
            inputs: Vec::new(),
            limits: Limits::default(),
        }));
        let options = SqliteOptions { synchronous, ..SqliteOptions::default() };
        let store = SqliteStore::open(path, options)?;
        store.commit(&[Write::PutProgram(program.clone())])?;
        Ok(Self { store, path: path.to_owned(), program, owner: Owner::new("host:4711:a1b2c3d4") })
    }

    fn create(&self, number: u64) -> Work {
        let mut random = [0; 10];
        random[2..].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        let id = ExecutionId::new(NOW_MS + number as i64 / 8, random);
        let lease = Lease { owner: self.owner.clone(), epoch: 1 };
        Work { state: Execution::scheduled(id), lease, next_call: 1 }
    }

    fn new_execution(&self, work: &Work) -> Write {
        Write::Create(NewExecution {
            id: work.state.id,
            program: self.program.id().clone(),
            workflow_id: "floor".into(),
            inputs: Payload::trusted(r#"{"text": "some input of ordinary length"}"#),
            labels: Labels::default(),
            idempotency_key: None,
            created_at_ms: NOW_MS,
            lease: Some((self.owner.clone(), NOW_MS + 30_000)),
        })
    }

    fn commit(&self, batch: &[Write]) -> Result<()> {
        for answer in self.store.commit(batch)? {
            answer?;
        }
        Ok(())
    }

    fn run_w2(&self, batch: usize, count: usize) -> Result<()> {
        for first in (0..count).step_by(batch) {
            let last = (first + batch).min(count);
            let mut works: Vec<_> = (first..last).map(|n| self.create(n as u64)).collect();
            self.commit(&works.iter().map(|work| self.new_execution(work)).collect::<Vec<_>>())?;
            for step in [Work::start, Work::go_on, Work::end] {
                let batch: Result<Vec<_>> = works.iter_mut().map(step).collect();
                self.commit(&batch?)?;
            }
        }
        Ok(())
    }

    /// Loops of one call each: every commit takes a result in and asks for the next call.
    fn run_w1(&self, count: usize) -> Result<()> {
        let mut work = self.create(1);
        self.commit(&[self.new_execution(&work)])?;
        self.commit(&[work.start_with(1)?])?;
        let started = Instant::now();
        for _ in 0..count {
            let transition = work.next()?;
            self.commit(&[transition])?;
        }
        let seconds = started.elapsed().as_secs_f64();
        println!("W1, Full: {:6.0} transitions/s, one a commit", count as f64 / seconds);
        Ok(())
    }

    fn suspend(&self, count: usize) -> Result<()> {
        let before = self.bytes();
        for first in (0..count).step_by(100) {
            let mut works: Vec<_> = (first..first + 100).map(|n| self.create(n as u64)).collect();
            self.commit(&works.iter().map(|work| self.new_execution(work)).collect::<Vec<_>>())?;
            let batch: Result<Vec<_>> = works.iter_mut().map(|work| work.start_with(1)).collect();
            self.commit(&batch?)?;
        }
        let bytes = (self.bytes() - before) as f64 / count as f64;
        println!("suspended with one open call: {bytes:.0} bytes each");
        Ok(())
    }

    /// New executions that other processes have scheduled.
    fn claim(&self, batch: usize, count: usize) -> Result<()> {
        for first in (0..count).step_by(batch) {
            let works = (first..first + batch).map(|n| self.create(n as u64));
            let mut new: Vec<_> = works.map(|work| self.new_execution(&work)).collect();
            for write in &mut new {
                if let Write::Create(new) = write {
                    new.lease = None;
                }
            }
            self.commit(&new)?;
        }
        let started = Instant::now();
        for _ in (0..count).step_by(batch) {
            self.commit(&[Write::Claim {
                owner: self.owner.clone(),
                now_ms: NOW_MS,
                expires_at_ms: NOW_MS + 30_000,
                dead: Vec::new(),
                queues: Vec::new(),
                limit: batch,
            }])?;
        }
        let seconds = started.elapsed().as_secs_f64();
        println!("claims: {:6.0} executions/s, {batch} a claim", count as f64 / seconds);
        Ok(())
    }

    /// The size of the file itself, once the log is carried over to it.
    fn bytes(&self) -> u64 {
        let checkpoint = rusqlite::Connection::open(&self.path).and_then(|connection| {
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        });
        assert!(checkpoint.is_ok(), "{checkpoint:?}");
        fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }
}

/// One execution under way.
struct Work {
    state: Execution,
    lease: Lease,
    next_call: u32,
}

impl Work {
    fn start(&mut self) -> Result<Write> {
        self.start_with(3)
    }

    fn start_with(&mut self, calls: u32) -> Result<Write> {
        let calls = self.calls(calls);
        self.transition(false, |draft| {
            draft.push(Event::ExecutionStarted { seed: 0x1234_5678_9abc_def0 })?;
            draft.take_reached(suspended(calls))
        })
    }

    /// Closes all open calls and asks for one more.
    fn go_on(&mut self) -> Result<Write> {
        let calls = self.calls(1);
        self.transition(false, |draft| {
            close_all(draft)?;
            draft.take_reached(suspended(calls))
        })
    }

    fn next(&mut self) -> Result<Write> {
        self.go_on()
    }

    fn end(&mut self) -> Result<Write> {
        self.transition(true, |draft| {
            close_all(draft)?;
            let end = End::Completed(Payload::trusted(r#"{"sum": 42}"#));
            draft.take_reached(Reached { calls: vec![Vec::new()], printed: String::new(), end })
        })
    }

    fn calls(&mut self, count: u32) -> Vec<NewCall> {
        let first = self.next_call;
        self.next_call += count;
        let call = |id| NewCall {
            id,
            request: Request::Function {
                name: "fetch_document".into(),
                args: Payload::trusted(format!("[{id}, \"an argument\"]")),
                kwargs: Payload::trusted("{}"),
                options: FunctionOptions::default(),
            },
            position: Position { line: 12, column: 9 },
        };
        (first..self.next_call).map(call).collect()
    }

    fn transition(
        &mut self,
        release: bool,
        fill: impl FnOnce(&mut Draft) -> Result<()>,
    ) -> Result<Write> {
        let mut draft = Draft::new(self.state.clone(), NOW_MS + 5);
        fill(&mut draft)?;
        let (transition, _) = draft.finish(self.lease.clone(), release);
        self.state = Execution::clone(&transition.after);
        Ok(Write::Transition(Box::<Transition>::new(transition)))
    }
}

fn close_all(draft: &mut Draft) -> Result<()> {
    let open: Vec<_> = draft.after.open_calls.keys().copied().collect();
    for call in open {
        draft.close_call(call, 1, Outcome::Completed(Payload::trusted(r#"{"result": "ok"}"#)))?;
    }
    Ok(())
}

fn suspended(calls: Vec<NewCall>) -> Reached {
    let snapshot = Some(Snapshot(vec![0xa5; SNAPSHOT_BYTES].into()));
    let end = End::Suspended { snapshot, new_dictionary: None };
    Reached { calls: vec![calls], printed: String::new(), end }
}
