//! Python functions, run in a Python process of their own.

mod host;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::PathBuf,
    process::ExitStatus,
    sync::{Arc, OnceLock},
    time::Duration,
};

use durable_core::{CallId, Error, ExecutionId, Failure, FunctionOptions, Outcome, Result};
use durable_engine::{CallRequest, Executor, Outcomes};
use parking_lot::Mutex;

use host::{Host, Lines, Reply};

/// How often a call is sent to a process that then dies before it fails. More than once,
/// because the call that kills a process takes innocent ones with it.
const MAX_DEATHS: u32 = 3;

/// Most async functions that run at once; sync ones are limited by the number of threads.
const MAX_ASYNC: usize = 1_000;

/// How often the executor looks for work while it has no process: rare enough for a poll.
const POLL: Duration = Duration::from_millis(20);

/// Which Python, which module, and how its functions are run.
#[derive(Debug, Clone)]
pub struct SubprocessConfig {
    /// The Python to start, found on `PATH` if it is a bare name.
    pub python: PathBuf,
    /// The module that holds the functions: a dotted name, or a file that ends in `.py`.
    pub module: String,
    /// How many sync functions run at once.
    pub threads: usize,
    /// Largest result, as JSON.
    pub max_result_bytes: u64,
}

impl SubprocessConfig {
    /// The functions of a module, 32 at once, in `python3`.
    pub fn new(module: &str) -> Self {
        Self {
            python: "python3".into(),
            module: module.to_owned(),
            threads: 32,
            max_result_bytes: durable_core::Limits::default().max_payload_bytes,
        }
    }
}

/// Whose calls are run. The others are kept, and given back when the engine recalls them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serve {
    /// Nobody's for now.
    Nothing,
    /// Those of one execution, whatever function they name.
    Execution(ExecutionId),
    /// Those of every execution, as far as the module has the function.
    Everything,
}

/// Runs the functions of a Python module in a process of their own.
///
/// The process is started again when it dies. A call that was running then is run again, and
/// fails when that happens to it three times.
pub struct Subprocess {
    shared: Arc<Shared>,
    functions: BTreeMap<String, FunctionOptions>,
}

struct Shared {
    config: SubprocessConfig,
    state: Mutex<State>,
    outcomes: OnceLock<Outcomes>,
}

struct State {
    serve: Serve,
    /// The process; `None` from its death until the next one is there.
    host: Option<Host>,
    lanes: Lanes,
    /// What the process is running, by the number of the request.
    sent: HashMap<u64, Sent>,
    /// The other way round.
    numbers: HashMap<Key, u64>,
    next_number: u64,
    /// Calls that are not ours to run.
    kept: Vec<CallRequest>,
    closed: bool,
}

type Key = (ExecutionId, CallId, u32);

fn key(call: &CallRequest) -> Key {
    (call.execution, call.call, call.attempt)
}

struct Sent {
    waiting: Waiting,
    lane: LaneName,
}

/// A call and how many processes died while they ran it.
struct Waiting {
    call: CallRequest,
    deaths: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaneName {
    Sync,
    Async,
}

/// Calls that run on threads, and calls that run on the event loop: the one kind never waits
/// for the other.
struct Lanes {
    threads: Lane,
    event_loop: Lane,
    /// What the module has, and in which lane it runs.
    functions: HashMap<String, LaneName>,
}

/// Calls are handed to the process only as far as it can begin with them, so that those that
/// have not begun can be given back.
struct Lane {
    queue: VecDeque<Waiting>,
    running: usize,
    limit: usize,
}

impl Lane {
    fn new(limit: usize) -> Self {
        Self { queue: VecDeque::new(), running: 0, limit }
    }
}

impl Lanes {
    fn new(config: &SubprocessConfig, ready: &host::Ready) -> Self {
        let lane_of = |name: &String| match ready.asyncs.contains(name) {
            true => LaneName::Async,
            false => LaneName::Sync,
        };
        Self {
            threads: Lane::new(config.threads.max(1)),
            event_loop: Lane::new(MAX_ASYNC),
            functions: ready.functions.keys().map(|name| (name.clone(), lane_of(name))).collect(),
        }
    }

    /// A function that is not there fails in whatever lane.
    fn name_for(&self, function: &str) -> LaneName {
        self.functions.get(function).copied().unwrap_or(LaneName::Sync)
    }

    fn get(&mut self, name: LaneName) -> &mut Lane {
        match name {
            LaneName::Sync => &mut self.threads,
            LaneName::Async => &mut self.event_loop,
        }
    }

    fn drain(&mut self) -> impl Iterator<Item = Waiting> + '_ {
        self.threads.queue.drain(..).chain(self.event_loop.queue.drain(..))
    }

    fn is_empty(&self) -> bool {
        self.threads.queue.is_empty() && self.event_loop.queue.is_empty()
    }
}

impl State {
    fn is_ours(&self, call: &CallRequest) -> bool {
        match self.serve {
            Serve::Nothing => false,
            Serve::Execution(id) => call.execution == id,
            Serve::Everything => self.lanes.functions.contains_key(&call.function),
        }
    }

    fn take(&mut self, call: CallRequest) {
        if self.is_ours(&call) {
            let lane = self.lanes.name_for(&call.function);
            self.lanes.get(lane).queue.push_back(Waiting { call, deaths: 0 });
        } else {
            self.kept.push(call);
        }
    }

    /// Hands the process what it can begin with.
    fn pump(&mut self) {
        let Some(host) = &self.host else { return };
        for name in [LaneName::Sync, LaneName::Async] {
            let lane = self.lanes.get(name);
            while lane.running < lane.limit {
                let Some(waiting) = lane.queue.pop_front() else { break };
                let number = self.next_number;
                self.next_number += 1;
                host.call(number, &waiting.call);
                lane.running += 1;
                self.numbers.insert(key(&waiting.call), number);
                self.sent.insert(number, Sent { waiting, lane: name });
            }
        }
    }

    /// What was running under this number is not any more.
    fn settle(&mut self, number: u64) -> Option<Waiting> {
        let Sent { waiting, lane } = self.sent.remove(&number)?;
        self.numbers.remove(&key(&waiting.call));
        self.lanes.get(lane).running -= 1;
        Some(waiting)
    }

    /// After a death: what is to be run again goes to the front, in its old order. Gives what
    /// has been through this too often.
    fn requeue(&mut self) -> Vec<CallRequest> {
        let mut numbers: Vec<_> = self.sent.keys().copied().collect();
        numbers.sort_unstable_by(|one, other| other.cmp(one));
        let mut lost = Vec::new();
        for number in numbers {
            let Some(mut waiting) = self.settle(number) else { continue };
            waiting.deaths += 1;
            if waiting.deaths >= MAX_DEATHS {
                lost.push(waiting.call);
            } else {
                let lane = self.lanes.name_for(&waiting.call.function);
                self.lanes.get(lane).queue.push_front(waiting);
            }
        }
        lost
    }
}

impl Subprocess {
    /// Starts the process and imports the module.
    ///
    /// # Errors
    /// `Invalid` when the module can't be imported, with Python's traceback; `Unavailable` when
    /// there is no such Python.
    pub fn start(config: SubprocessConfig) -> Result<Self> {
        let (host, lines, ready) = Host::start(&config)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                serve: Serve::Nothing,
                host: Some(host),
                lanes: Lanes::new(&config, &ready),
                sent: HashMap::new(),
                numbers: HashMap::new(),
                next_number: 1,
                kept: Vec::new(),
                closed: false,
            }),
            config,
            outcomes: OnceLock::new(),
        });
        shared.clone().listen(lines)?;
        Ok(Self { shared, functions: ready.functions })
    }

    /// The functions of the module, with what it says about retries and timeouts.
    pub fn functions(&self) -> &BTreeMap<String, FunctionOptions> {
        &self.functions
    }

    /// Says whose calls are run; at first nobody's. Calls that were kept are looked at again.
    pub fn serve(&self, serve: Serve) {
        let mut state = self.shared.state.lock();
        state.serve = serve;
        for call in std::mem::take(&mut state.kept) {
            state.take(call);
        }
        state.pump();
    }
}

impl Drop for Subprocess {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        let host = state.host.take();
        drop(state);
        if let Some(host) = host {
            host.stop();
        }
    }
}

impl Executor for Subprocess {
    fn attach(&self, outcomes: Outcomes) {
        // An executor serves one engine in its life; a second attachment keeps the first.
        let _ = self.shared.outcomes.set(outcomes);
    }

    fn submit(&self, calls: Vec<CallRequest>) {
        let mut state = self.shared.state.lock();
        for call in calls {
            state.take(call);
        }
        state.pump();
    }

    fn cancel(&self, execution: ExecutionId, call: CallId, attempt: u32) {
        let cancelled = (execution, call, attempt);
        let mut state = self.shared.state.lock();
        state.kept.retain(|kept| key(kept) != cancelled);
        if let (Some(host), Some(number)) = (&state.host, state.numbers.get(&cancelled)) {
            host.cancel(*number);
            return;
        }
        for lane in [LaneName::Sync, LaneName::Async] {
            state.lanes.get(lane).queue.retain(|waiting| key(&waiting.call) != cancelled);
        }
    }

    fn recall(&self) -> Vec<CallRequest> {
        let mut state = self.shared.state.lock();
        let mut calls = std::mem::take(&mut state.kept);
        calls.extend(state.lanes.drain().map(|waiting| waiting.call));
        calls
    }
}

impl Shared {
    /// Follows one process after the other, on a thread of its own, until the executor is
    /// dropped.
    fn listen(self: Arc<Self>, lines: Lines) -> Result<()> {
        let listener = move || {
            let mut lines = Some(lines);
            while let Some(current) = lines.take() {
                let status = self.follow(current);
                lines = self.died(status);
            }
        };
        std::thread::Builder::new()
            .name("durable-python".into())
            .spawn(listener)
            .map(drop)
            .map_err(|error| Error::unavailable(format!("can't start a thread: {error}")))
    }

    /// Reads a process's answers until it is gone.
    fn follow(&self, mut lines: Lines) -> Option<ExitStatus> {
        while let Some(reply) = lines.next() {
            match reply {
                Ok(Reply { number, outcome }) => {
                    let mut state = self.state.lock();
                    let settled = state.settle(number);
                    state.pump();
                    drop(state);
                    if let Some(waiting) = settled {
                        self.report(&waiting.call, outcome);
                    }
                }
                Err(error) => {
                    // Something writes to the engine's pipe: nothing it says can be trusted.
                    tracing::error!(%error, "the Python process is stopped");
                    lines.kill();
                }
            }
        }
        lines.wait()
    }

    /// Starts the next process if there is anything to run.
    fn died(&self, status: Option<ExitStatus>) -> Option<Lines> {
        let mut state = self.state.lock();
        state.host = None;
        if state.closed {
            return None;
        }
        let ended = status.map_or_else(|| "ended".to_owned(), |status| format!("ended: {status}"));
        tracing::warn!("the Python process {ended}; starting another");
        let lost = state.requeue();
        drop(state);
        self.fail_lost(lost, &ended);
        if !self.wait_for_work() {
            return None;
        }
        match Host::start(&self.config) {
            Ok((host, lines, _)) => {
                let mut state = self.state.lock();
                if state.closed {
                    drop(state);
                    host.stop();
                    return None;
                }
                state.host = Some(host);
                state.pump();
                Some(lines)
            }
            Err(error) => {
                self.give_up(&error);
                None
            }
        }
    }

    fn fail_lost(&self, lost: Vec<CallRequest>, ended: &str) {
        for call in lost {
            let message = format!(
                "the Python process {ended} while {}() was running in it, as {} others did \
                 before it: look for what kills them (memory, a native library, os._exit)",
                call.function,
                MAX_DEATHS - 1
            );
            self.report(&call, Outcome::Failed(Failure::new("RuntimeError", message)));
        }
    }

    /// Whether there is something to run; `false` when the executor is dropped.
    ///
    /// A process that dies although it has nothing to do is not started again in a circle.
    fn wait_for_work(&self) -> bool {
        loop {
            let state = self.state.lock();
            if state.closed || !state.lanes.is_empty() {
                return !state.closed;
            }
            drop(state);
            std::thread::sleep(POLL);
        }
    }

    /// Fails everything, now and from now on: the module can't be loaded any more.
    fn give_up(&self, error: &Error) {
        tracing::error!(%error, "the Python process can't be started again");
        loop {
            let mut state = self.state.lock();
            let calls: Vec<_> = state.lanes.drain().collect();
            let done = state.closed;
            drop(state);
            for waiting in calls {
                let message = format!("the Python process can't be started again: {error}");
                let failure = Failure::new("RuntimeError", message);
                self.report(&waiting.call, Outcome::Failed(failure));
            }
            if done {
                return;
            }
            std::thread::sleep(POLL);
        }
    }

    fn report(&self, call: &CallRequest, outcome: Outcome) {
        if let Some(outcomes) = self.outcomes.get() {
            outcomes.report(call, outcome);
        }
    }
}
