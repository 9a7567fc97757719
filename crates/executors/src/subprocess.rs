//! Python functions, run in a Python process of their own.

mod calls;
mod host;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::ExitStatus,
    sync::{Arc, OnceLock},
    time::Duration,
};

use durable_core::{CallId, Error, ExecutionId, Failure, FunctionOptions, Outcome, Result};
use durable_engine::{CallRequest, Executor, Outcomes};
use parking_lot::Mutex;

pub use calls::Serve;

use calls::{Calls, MAX_DEATHS};
use host::{Host, Lines, Reply};

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
    /// How many async functions run at once.
    pub async_calls: usize,
    /// Largest result, as JSON.
    pub max_result_bytes: u64,
}

impl SubprocessConfig {
    /// The functions of a module, in `python3`: 32 sync ones at once, and 1,000 async ones.
    pub fn new(module: &str) -> Self {
        Self {
            python: "python3".into(),
            module: module.to_owned(),
            threads: 32,
            async_calls: 1_000,
            max_result_bytes: durable_core::Limits::default().max_payload_bytes,
        }
    }
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
    calls: Calls,
    /// The process; `None` from its death until the next one is there.
    host: Option<Host>,
    closed: bool,
}

impl State {
    /// Hands the process what it can begin with.
    fn pump(&mut self) {
        let Some(host) = &self.host else { return };
        while let Some((number, call)) = self.calls.begin_next() {
            host.call(number, call);
        }
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
                calls: Calls::new(config.threads, config.async_calls, &ready),
                host: Some(host),
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
        state.calls.serve(serve);
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
            state.calls.take(call);
        }
        state.pump();
    }

    fn cancel(&self, execution: ExecutionId, call: CallId, attempt: u32) {
        let mut state = self.shared.state.lock();
        if let Some(number) = state.calls.cancel((execution, call, attempt))
            && let Some(host) = &state.host
        {
            host.cancel(number);
        }
    }

    fn recall(&self) -> Vec<CallRequest> {
        self.shared.state.lock().calls.recall()
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
                    let settled = state.calls.settle(number);
                    state.pump();
                    drop(state);
                    if let Some(call) = settled {
                        self.report(&call, outcome);
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
        let lost = state.calls.requeue();
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
            if state.closed || state.calls.is_waiting() {
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
            let calls = state.calls.drain();
            let done = state.closed;
            drop(state);
            for call in calls {
                let message = format!("the Python process can't be started again: {error}");
                let failure = Failure::new("RuntimeError", message);
                self.report(&call, Outcome::Failed(failure));
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
