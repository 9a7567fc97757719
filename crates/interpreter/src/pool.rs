//! The pool: this crate's [`Runner`].

use std::{
    num::NonZeroUsize,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use durable_core::{
    Advance, AdvanceDone, Advanced, Assignment, Base, End, Error, ExecutionId, Failure,
    FunctionOptions, Inspection, Limits, NewCall, Outcome, Payload, Position, Program, Reached,
    Request, Result, Runner, StateToken,
    seal::{SnapshotKey, StateOf},
};
use parking_lot::Mutex;

use crate::{
    dictionary::Packer,
    process::{Death, WorkerCommand},
    programs::{Known, KnownDictionary, Programs},
    protocol::{
        self, Bytes, ToWorker, WireAdvance, WireAnswer, WireAssignment, WireBase, WireCall,
        WireEnd, WireFailure, WireGroup, WireOutcome, WireReached, WireRequest, WireState,
    },
    scheduler::{Answer, Done, Job, Scheduler},
    session,
    snapshot::{self, Unsealed},
    worker,
};

/// What a worker may take beyond the time its program may compute.
const GRACE: Duration = Duration::from_millis(500);

/// How long checking a program may take.
const CHECK_LIMIT: Duration = Duration::from_secs(10);

/// Where programs run.
#[derive(Debug, Clone)]
pub enum Isolation {
    /// In worker processes: for code that nobody vouches for. A program that crashes or hangs
    /// its interpreter takes one worker with it, and that worker is replaced.
    Process(WorkerCommand),
    /// On threads of this process: for trusted code. A native stack overflow ends the process,
    /// memory is not limited, and an operation that never returns is never stopped.
    Thread,
}

/// How a [`Pool`] is set up.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// Where programs run.
    pub isolation: Isolation,
    /// How many workers; 0 for one per core.
    pub workers: usize,
    /// Most executions that each worker holds live between two requests.
    pub live_per_worker: usize,
    /// What snapshots are authenticated with.
    pub key: SnapshotKey,
}

impl PoolConfig {
    /// One worker per core, 256 live executions each.
    pub fn new(isolation: Isolation, key: SnapshotKey) -> Self {
        Self { isolation, workers: 0, live_per_worker: 256, key }
    }
}

/// Runs programs in workers that are started ahead.
///
/// Dropping it stops the workers and answers everything that is unanswered with
/// [`Advanced::Lost`].
///
/// ```
/// use std::{collections::BTreeMap, sync::{Arc, mpsc}};
/// use durable_core::{
///     Advance, Advanced, Base, Definition, End, ExecutionId, Language, Limits, Payload, Program,
///     Runner, StateToken,
/// };
/// use durable_interpreter::{Isolation, Pool, PoolConfig, SnapshotKey};
///
/// let pool = Pool::new(PoolConfig::new(Isolation::Thread, SnapshotKey::new([7; 32])))?;
/// let program = Arc::new(Program::new(Definition {
///     language: Language::Python,
///     source: "x * 2".to_owned(),
///     functions: BTreeMap::new(),
///     inputs: vec!["x".to_owned()],
///     limits: Limits::default(),
/// }));
/// pool.validate(&program)?;
/// let (sender, receiver) = mpsc::channel();
/// pool.advance(
///     Advance {
///         execution: ExecutionId::new(0, [1; 10]),
///         program,
///         dictionary: None,
///         base: Base::Start { inputs: Payload::parse(r#"{"x": 21}"#, 100)?, seed: 1, now_ms: 0 },
///         groups: Vec::new(),
///         next: StateToken { epoch: 1, version: 1 },
///     },
///     Box::new(move |answer| sender.send(answer).unwrap()),
/// );
/// let Advanced::Reached(reached) = receiver.recv().unwrap() else { panic!("it runs") };
/// assert!(matches!(reached.end, End::Completed(result) if result.as_str() == "42"));
/// # Ok::<(), durable_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    scheduler: Arc<Scheduler>,
    keeper: Option<JoinHandle<()>>,
}

/// What requests and their answers need.
struct Shared {
    key: SnapshotKey,
    programs: Mutex<Programs>,
    /// For first dumps, whose dictionary is chosen here.
    packer: Mutex<Packer>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Pool {
    /// Starts a pool. The workers are started in the background; requests may come at once.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no thread can be started.
    pub fn new(config: PoolConfig) -> Result<Self> {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let workers = if config.workers == 0 { cores } else { config.workers };
        let scheduler = Scheduler::new(config.isolation, workers, config.live_per_worker);
        let scheduler = Arc::new(scheduler);
        let kept = Arc::clone(&scheduler);
        let keeper = thread::Builder::new()
            .name("worker keeper".to_owned())
            .spawn(move || kept.keep())
            .map_err(|error| Error::unavailable(format!("no thread can be started: {error}")))?;
        let shared = Arc::new(Shared {
            key: config.key,
            programs: Mutex::new(Programs::default()),
            packer: Mutex::new(Packer::new()),
        });
        Ok(Self { shared, scheduler, keeper: Some(keeper) })
    }

    /// Has a worker do what moves no execution, and waits for its answer.
    fn ask<T: Send + 'static>(
        &self,
        program: Arc<Known>,
        frame: Vec<u8>,
        limit: Duration,
        understood: fn(Answer<'_>) -> Result<T>,
    ) -> Result<T> {
        let (sender, receiver) = mpsc::channel();
        let done: Done = Box::new(move |answer| {
            // The receiver waits below.
            let _ = sender.send(understood(answer));
        });
        self.scheduler.submit(Job {
            frame,
            program,
            dictionary: None,
            execution: None,
            is_live: false,
            limit,
            is_suspect: false,
            done,
        });
        receiver.recv().unwrap_or_else(|_| Err(Error::internal("a question was dropped")))
    }

    /// The ids of the worker processes that run now; none with [`Isolation::Thread`].
    pub fn worker_process_ids(&self) -> Vec<u32> {
        self.scheduler.process_ids()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.scheduler.close();
        if let Some(keeper) = self.keeper.take()
            && keeper.thread().id() != thread::current().id()
        {
            // It never panics, and if it did there would be nothing left to do.
            let _ = keeper.join();
        }
    }
}

impl Runner for Pool {
    fn advance(&self, request: Advance, done: AdvanceDone) {
        match self.shared.job(&request, done) {
            Ok(job) => self.scheduler.submit(job),
            Err(answered) => {
                let (done, answer) = *answered;
                done(answer);
            }
        }
    }

    fn validate(&self, program: &Program) -> Result<()> {
        let limit = program.definition().limits.max_source_bytes;
        let size = program.definition().source.len();
        if size as u64 > limit {
            return Err(Error::invalid(format!(
                "the source has {size} bytes, the limit max_source_bytes is {limit}"
            )));
        }
        let known = self.shared.programs.lock().get(&Arc::new(program.clone()));
        let frame = encode(&ToWorker::Validate { key: known.key })?;
        self.ask(known, frame, CHECK_LIMIT, checked)
    }

    fn inspect(&self, request: Advance) -> Result<Inspection> {
        let known = self.shared.programs.lock().get(&request.program);
        let base = self.shared.base(&request, None).map_err(Error::invalid)?;
        let frame = encode(&ToWorker::Inspect(WireAdvance {
            execution: request.execution.as_u128(),
            program: known.key,
            dictionary: None,
            base,
            groups: request.groups.iter().map(group).collect(),
            next: token(request.next),
        }))?;
        let limit = time_limit(&request, &known.program.definition().limits);
        self.ask(known, frame, limit, seen)
    }

    fn forget(&self, execution: ExecutionId) {
        self.scheduler.forget(execution.as_u128());
    }
}

fn encode(message: &ToWorker<'_>) -> Result<Vec<u8>> {
    protocol::encode_frame(message)
        .map_err(|error| Error::invalid(format!("the request is too large: {error}")))
}

fn checked(answer: Answer<'_>) -> Result<()> {
    let refuse = |why: &str| Err(Error::invalid(format!("the program can't be checked: {why}")));
    match answer {
        Answer::Validated(found) => found.map_err(Error::invalid),
        Answer::TimedOut => refuse("compiling it takes too long"),
        Answer::Killed(Death::OutOfMemory) => refuse("compiling it takes too much memory"),
        Answer::Killed(Death::StackOverflow) => refuse("an expression is nested too deeply"),
        Answer::Killed(Death::Crash(why) | Death::Unknown(why)) => refuse(&why),
        Answer::Lost(why) => Err(Error::unavailable(why)),
        Answer::Advanced(_) | Answer::Inspected(_) | Answer::NotLive => Err(misunderstood()),
    }
}

fn seen(answer: Answer<'_>) -> Result<Inspection> {
    let refuse = |why: &str| Err(Error::conflict(format!("the program can't be shown: {why}")));
    match answer {
        Answer::Inspected(Ok(json)) => serde_json::from_str(&json)
            .map_err(|error| Error::internal(format!("what a worker saw can't be read: {error}"))),
        Answer::Inspected(Err(why)) | Answer::Lost(why) => refuse(&why),
        Answer::TimedOut => refuse("it takes too long to get there"),
        Answer::Killed(_) => refuse("it crashes the interpreter before"),
        Answer::Advanced(_) | Answer::Validated(_) | Answer::NotLive => Err(misunderstood()),
    }
}

fn misunderstood() -> Error {
    Error::internal("a worker answered another question")
}

/// How long a worker may take for a request.
fn time_limit(request: &Advance, limits: &Limits) -> Duration {
    let turns = request.groups.len() + usize::from(matches!(request.base, Base::Start { .. }));
    let turns_ms = limits.max_advance_ms.saturating_mul(turns.max(1) as u64);
    Duration::from_millis(turns_ms).saturating_add(GRACE)
}

/// A request that is answered without a worker.
type Answered = (AdvanceDone, Advanced);

impl Shared {
    fn job(
        self: &Arc<Self>,
        request: &Advance,
        done: AdvanceDone,
    ) -> std::result::Result<Job, Box<Answered>> {
        let known = self.programs.lock().get(&request.program);
        let dictionary = known.dictionary(request.dictionary.as_ref());
        let base = match self.base(request, dictionary.as_ref()) {
            Ok(base) => base,
            Err(why) => return Err(Box::new((done, Advanced::BadSnapshot(why)))),
        };
        let wire = ToWorker::Advance(WireAdvance {
            execution: request.execution.as_u128(),
            program: known.key,
            dictionary: dictionary.as_ref().map(|dictionary| dictionary.id),
            base,
            groups: request.groups.iter().map(group).collect(),
            next: token(request.next),
        });
        let frame = match encode(&wire) {
            Ok(frame) => frame,
            Err(error) => return Err(Box::new((done, Advanced::Lost(error.to_string())))),
        };
        let limit = time_limit(request, &known.program.definition().limits);
        let context = Context {
            shared: Arc::clone(self),
            state: StateOf { execution: request.execution, version: request.next.version },
            program: Arc::clone(&known),
            dictionary: dictionary.clone(),
            is_dictionary_wanted: request.dictionary.is_none(),
        };
        Ok(Job {
            frame,
            program: known,
            dictionary,
            execution: Some(request.execution.as_u128()),
            is_live: matches!(request.base, Base::Live(_)),
            limit,
            is_suspect: false,
            done: Box::new(move |answer| done(context.advanced(answer))),
        })
    }

    fn base<'a>(
        &self,
        request: &'a Advance,
        dictionary: Option<&KnownDictionary>,
    ) -> std::result::Result<WireBase<'a>, String> {
        match &request.base {
            Base::Start { inputs, seed, now_ms } => {
                Ok(WireBase::Start { inputs: inputs.as_str(), seed: *seed, now_ms: *now_ms })
            }
            Base::Live(live) => Ok(WireBase::Live(token(*live))),
            Base::Snapshot { snapshot: stored, version } => {
                let of = StateOf { execution: request.execution, version: *version };
                let content = snapshot::unseal(&self.key, of, stored)?;
                if content.dictionary != dictionary.map(|dictionary| dictionary.id) {
                    return Err("the snapshot was compressed with another dictionary".to_owned());
                }
                Ok(WireBase::Snapshot {
                    dictionary: content.dictionary,
                    raw_len: content.raw_len,
                    packed: Bytes(content.packed),
                })
            }
        }
    }
}

fn token(token: StateToken) -> protocol::WireToken {
    (token.epoch, token.version)
}

fn group(group: &durable_core::Group) -> WireGroup<'_> {
    let results = group.results.iter().map(|(id, outcome)| {
        let outcome = match outcome {
            Outcome::Completed(result) => WireOutcome::Completed(result.as_str()),
            Outcome::Failed(failure) => {
                WireOutcome::Failed { error_type: &failure.error_type, message: &failure.message }
            }
        };
        (*id, outcome)
    });
    let variables = group.variables.iter().map(|variable| {
        let Assignment { task, depth, function, name, value } = variable;
        WireAssignment { task: *task, depth: *depth, function, name, value: value.as_str() }
    });
    WireGroup { now_ms: group.now_ms, variables: variables.collect(), results: results.collect() }
}

/// What turns a worker's answer into the runner's.
struct Context {
    shared: Arc<Shared>,
    /// The state that is reached.
    state: StateOf,
    program: Arc<Known>,
    dictionary: Option<KnownDictionary>,
    is_dictionary_wanted: bool,
}

impl Context {
    fn advanced(&self, answer: Answer<'_>) -> Advanced {
        let limits = &self.program.program.definition().limits;
        match answer {
            Answer::Advanced(WireAnswer::Reached(reached)) => self.reached(reached),
            Answer::Advanced(WireAnswer::BadSnapshot(why)) => Advanced::BadSnapshot(why),
            Answer::Advanced(WireAnswer::NotLive) | Answer::NotLive => Advanced::NotLive,
            Answer::TimedOut => stopped(session::time_limit(limits)),
            Answer::Killed(death) => stopped(killed(death, limits)),
            Answer::Advanced(WireAnswer::Lost(why)) | Answer::Lost(why) => Advanced::Lost(why),
            Answer::Validated(_) | Answer::Inspected(_) => {
                Advanced::Lost("a worker answered another question".to_owned())
            }
        }
    }

    fn reached(&self, reached: WireReached<'_>) -> Advanced {
        let end = match reached.end {
            WireEnd::Completed(json) => End::Completed(Payload::trusted(json)),
            WireEnd::Failed(failure) => End::Failed(of_wire(failure)),
            WireEnd::Suspended { state } => self.suspended(state),
        };
        let calls = reached.calls.into_iter();
        Advanced::Reached(Reached {
            calls: calls.map(|calls| calls.into_iter().map(new_call).collect()).collect(),
            printed: reached.printed,
            end,
        })
    }

    fn suspended(&self, state: Option<WireState<'_>>) -> End {
        let sealed = state.map(|state| self.seal(state)).transpose();
        match sealed {
            Ok(None) => End::Suspended { snapshot: None, new_dictionary: None },
            Ok(Some((snapshot, dictionary))) => End::Suspended {
                snapshot: Some(snapshot),
                new_dictionary: self.is_dictionary_wanted.then_some(dictionary.stored),
            },
            Err(failure) => End::Failed(of_wire(failure)),
        }
    }

    fn seal(
        &self,
        state: WireState<'_>,
    ) -> std::result::Result<(durable_core::Snapshot, KnownDictionary), WireFailure> {
        let system_error = |what: String| {
            WireFailure::new("SystemError", format!("the state can't be stored: {what}"))
        };
        let (dictionary, raw_len, packed) = match (state, &self.dictionary) {
            (WireState::Packed { raw_len, packed }, Some(dictionary)) => {
                return Ok((self.sealed(dictionary.id, raw_len, packed.0), dictionary.clone()));
            }
            (WireState::Packed { .. }, None) => {
                return Err(system_error("it is packed without a dictionary".to_owned()));
            }
            (WireState::Raw(dump), _) => {
                let packed =
                    self.program.choose_dictionary(dump.0).and_then(|(dictionary, loaded)| {
                        let packed = self.shared.packer.lock().pack(dump.0, &loaded)?;
                        Ok((dictionary, dump.0.len() as u32, packed))
                    });
                packed.map_err(|error| system_error(error.to_string()))?
            }
        };
        let limit = self.program.program.definition().limits.max_snapshot_bytes;
        let size = snapshot::sealed_len(packed.len());
        if size as u64 > limit {
            return Err(worker::too_large_snapshot(size, limit));
        }
        Ok((self.sealed(dictionary.id, raw_len, &packed), dictionary))
    }

    fn sealed(&self, dictionary: u64, raw_len: u32, packed: &[u8]) -> durable_core::Snapshot {
        let content = Unsealed { dictionary: Some(dictionary), raw_len, packed };
        snapshot::seal(&self.shared.key, self.state, &content)
    }
}

fn new_call(call: WireCall) -> NewCall {
    let request = match call.request {
        WireRequest::Timer { delay_ms } => Request::Timer { delay_ms },
        WireRequest::Feed { last, number } => Request::feed(Payload::trusted(last), number),
        WireRequest::Function { name, args, kwargs, retry, timeout_ms } => Request::Function {
            name,
            args: Payload::trusted(args),
            kwargs: Payload::trusted(kwargs),
            options: FunctionOptions { target: None, retry, timeout_ms },
        },
    };
    let position = Position { line: call.line, column: call.column };
    NewCall { id: call.id, request, position }
}

fn of_wire(failure: WireFailure) -> Failure {
    let WireFailure { error_type, message, traceback, cause_call } = failure;
    Failure { error_type, message, traceback, cause_call }
}

/// The answer for a program that was stopped from outside.
fn stopped(failure: WireFailure) -> Advanced {
    let end = End::Failed(of_wire(failure));
    Advanced::Reached(Reached { calls: Vec::new(), printed: String::new(), end })
}

fn killed(death: Death, limits: &Limits) -> WireFailure {
    match death {
        Death::OutOfMemory => session::memory_limit(limits),
        Death::StackOverflow => WireFailure::new(
            "RecursionError",
            "the program overflowed the interpreter's stack: look for an expression, or code \
             given to exec() or eval(), that is nested too deeply",
        ),
        Death::Crash(what) | Death::Unknown(what) => WireFailure::new(
            "SystemError",
            format!("the interpreter crashed on this program, twice: {what}"),
        ),
    }
}
