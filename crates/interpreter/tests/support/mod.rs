//! A pool, and one execution on it, driven through the public seam.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::sync::{Arc, mpsc};

use durable_core::{
    Advance, Advanced, Base, Definition, Dictionary, End, ExecutionId, Failure, FunctionOptions,
    Group, Inspection, Language, Limits, NewCall, Outcome, Payload, Program, Reached, Request,
    Runner, Snapshot, StateToken,
};
use durable_interpreter::{Isolation, Pool, PoolConfig, SnapshotKey, WorkerCommand};

pub const KEY: [u8; 32] = [7; 32];

pub fn processes() -> Isolation {
    Isolation::Process(WorkerCommand::new(env!("CARGO_BIN_EXE_durable-interpreter-worker")))
}

pub fn pool(isolation: Isolation, workers: usize) -> Arc<Pool> {
    let config = PoolConfig { workers, ..PoolConfig::new(isolation, SnapshotKey::new(KEY)) };
    Arc::new(Pool::new(config).unwrap())
}

pub fn program(source: &str, functions: &[&str], inputs: &[&str], limits: Limits) -> Arc<Program> {
    Arc::new(Program::new(Definition {
        language: Language::Python,
        source: source.to_owned(),
        functions: functions
            .iter()
            .map(|name| ((*name).to_owned(), FunctionOptions::default()))
            .collect(),
        inputs: inputs.iter().map(|name| (*name).to_owned()).collect(),
        limits,
    }))
}

pub fn execution(number: u8) -> ExecutionId {
    ExecutionId::new(1_700_000_000_000, [number; 10])
}

pub fn run(pool: &Pool, request: Advance) -> Advanced {
    let (sender, receiver) = mpsc::channel();
    pool.advance(request, Box::new(move |answer| sender.send(answer).unwrap()));
    receiver.recv().unwrap()
}

pub fn ok(json: &str) -> Outcome {
    Outcome::Completed(Payload::trusted(json))
}

pub fn failed(error_type: &str, message: &str) -> Outcome {
    Outcome::Failed(Failure::new(error_type, message))
}

pub fn group(results: Vec<(u32, Outcome)>) -> Group {
    Group { now_ms: 1_700_000_000_000, results, ..Group::default() }
}

/// One execution.
pub struct Driver {
    pub pool: Arc<Pool>,
    pub program: Arc<Program>,
    pub execution: ExecutionId,
    pub dictionary: Option<Dictionary>,
    pub snapshot: Option<Snapshot>,
    /// The version that the snapshot is of.
    pub snapshot_version: u64,
    pub version: u64,
    pub calls: Vec<NewCall>,
    pub printed: String,
}

impl Driver {
    pub fn new(pool: &Arc<Pool>, program: &Arc<Program>, number: u8) -> Self {
        Self {
            pool: Arc::clone(pool),
            program: Arc::clone(program),
            execution: execution(number),
            dictionary: None,
            snapshot: None,
            snapshot_version: 0,
            version: 0,
            calls: Vec::new(),
            printed: String::new(),
        }
    }

    pub fn request(&self, base: Base, groups: Vec<Group>) -> Advance {
        Advance {
            execution: self.execution,
            program: Arc::clone(&self.program),
            dictionary: self.dictionary.clone(),
            base,
            groups,
            next: StateToken { epoch: 1, version: self.version + 1 },
        }
    }

    pub fn advance(&mut self, base: Base, groups: Vec<Group>) -> Advanced {
        let request = self.request(base, groups);
        self.version += 1;
        run(&self.pool, request)
    }

    pub fn inspect(&self, base: Base, groups: Vec<Group>) -> durable_core::Result<Inspection> {
        self.pool.inspect(self.request(base, groups))
    }

    pub fn start_base(inputs: &str) -> Base {
        Base::Start { inputs: Payload::trusted(inputs), seed: 42, now_ms: 1_700_000_000_000 }
    }

    pub fn start(&mut self, inputs: &str) -> End {
        let answer = self.advance(Self::start_base(inputs), Vec::new());
        self.reached(answer)
    }

    /// Applies results to the live state.
    pub fn resume(&mut self, results: Vec<(u32, Outcome)>) -> End {
        let base = Base::Live(StateToken { epoch: 1, version: self.version });
        let answer = self.advance(base, vec![group(results)]);
        self.reached(answer)
    }

    /// Applies results to the last snapshot.
    pub fn restore(&mut self, results: Vec<(u32, Outcome)>) -> End {
        let base = self.base(self.snapshot.clone().unwrap());
        let answer = self.advance(base, vec![group(results)]);
        self.reached(answer)
    }

    /// A snapshot in the place of the last one.
    pub fn base(&self, snapshot: Snapshot) -> Base {
        Base::Snapshot { snapshot, version: self.snapshot_version }
    }

    pub fn reached(&mut self, answer: Advanced) -> End {
        let Advanced::Reached(Reached { calls, printed, end }) = answer else {
            panic!("not reached: {answer:?}")
        };
        self.calls = calls.into_iter().flatten().collect();
        self.printed = printed;
        if let End::Suspended { snapshot, new_dictionary } = &end {
            if snapshot.is_some() {
                (self.snapshot, self.snapshot_version) = (snapshot.clone(), self.version);
            }
            self.dictionary = self.dictionary.take().or(new_dictionary.clone());
        }
        end
    }

    pub fn names(&self) -> Vec<String> {
        self.calls.iter().map(describe).collect()
    }
}

pub fn describe(call: &NewCall) -> String {
    match &call.request {
        Request::Function { name, args, kwargs, .. } => {
            format!("{}:{name}{}{}", call.id, args.as_str(), kwargs.as_str())
        }
        Request::Timer { delay_ms } => format!("{}:sleep {delay_ms}", call.id),
    }
}

pub fn completed(end: End) -> String {
    match end {
        End::Completed(result) => result.as_str().to_owned(),
        end => panic!("not completed: {end:?}"),
    }
}

pub fn failure(end: End) -> Failure {
    match end {
        End::Failed(failure) => failure,
        end => panic!("not failed: {end:?}"),
    }
}

/// Starts a program that needs no call and returns how it ended.
pub fn once(pool: &Arc<Pool>, source: &str, limits: Limits) -> End {
    let program = program(source, &["f", "g"], &[], limits);
    Driver::new(pool, &program, 99).start("{}")
}
