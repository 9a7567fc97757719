//! Durable workflows in plain Python, embedded in a Rust program.
//!
//! A workflow is ordinary `async` Python source. It runs sandboxed; at every `await` on one of
//! your functions the engine stores where it is, and after a crash it goes on from there.
//!
//! ```no_run
//! use durable::{Durable, FunctionError, Workflow};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! durable::run_worker_if_asked();
//! let durable = Durable::builder("sqlite:///app.db")
//!     .function("add", |(a, b): (i64, i64)| async move { Ok::<_, FunctionError>(a + b) })
//!     .open()?;
//! let workflow = Workflow::new("await add(await add(1, 2), base)").input("base", 39)?;
//! let id = durable.start(&workflow)?;
//! assert_eq!(durable.result::<i64>(id)?, 42);
//! # Ok(())
//! # }
//! ```

mod key;
mod location;
mod runner;
mod worker;
mod workflow;

use std::{future::Future, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

pub use durable_core::{
    Call, CallStatus, Definition, Error, ExecutionId, Failure, FunctionOptions, Language, Limits,
    Outcome, Payload, Program, Recorded, Request, Result, RetryPolicy, Status, wire,
};
/// An execution is looked into, and another one goes on from there:
///
/// ```
/// use durable::{Durable, FunctionError, Payload, Workflow, checkpoints::{self, Edits}};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # durable::run_worker_if_asked();
/// let durable = Durable::builder("memory:")
///     .isolation(durable::Isolation::Thread)
///     .function("double", |(x,): (i64,)| async move { Ok::<_, FunctionError>(2 * x) })
///     .open()?;
/// let id = durable.start(&Workflow::new("a = await double(2)\nb = await double(a)\na + b"))?;
/// assert_eq!(durable.result::<i64>(id)?, 12);
/// let engine = durable.engine();
/// let second = &checkpoints::list(engine, id)?[1];
/// let seen = checkpoints::inspect(engine, second)?;
/// assert_eq!(seen.stacks[0][0].variables["a"].as_str(), "4");
/// let call = second.waits_for[0].id();
/// let edits = Edits {
///     results: vec![(call, durable::Outcome::Completed(Payload::parse("5", 100)?))],
///     variables: vec![("a".to_owned(), Payload::parse("10", 100)?)],
/// };
/// let fork = checkpoints::fork(engine, second, &edits)?;
/// assert_eq!(durable.result::<i64>(fork)?, 15);
/// # Ok(())
/// # }
/// ```
pub use durable_engine::checkpoints;
pub use durable_engine::{
    Announcement, CallRequest, Came, Clock, Config, Duty, Engine, Executor, Feed, FeedError,
    FeedRecord, Session, Start, SystemClock, portable,
};
pub use durable_executors::{FunctionError, Functions, PullQueue};
pub use durable_interpreter::{LimitedAllocator, WorkerCommand};
pub use durable_steps::Outline;
pub use durable_store::{
    CallRecord, ExecutionRecord, Labels, ListFilter, Rekeyed, Rekeying, Role, TokenRecord,
    WorkerRecord,
};
pub use key::rekey;
pub use location::{Location, migrate, plan_migration};
pub use worker::{run_worker_if_asked, worker_main};
pub use workflow::Workflow;

/// Where program code runs.
#[derive(Debug, Clone, Default)]
pub enum Isolation {
    /// In worker processes started by this executable: [`run_worker_if_asked`] is the first
    /// thing `main` does.
    #[default]
    Process,
    /// In worker processes started by another command, whose body is [`worker_main`].
    Command(WorkerCommand),
    /// On threads of this process: for code you trust.
    Thread,
}

/// How much a commit promises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// What was acknowledged survives a power loss.
    #[default]
    Full,
    /// What was acknowledged survives a crash of the process; a power loss may take the last
    /// commits, never part of one.
    Process,
    /// For data that does not outlive the process.
    None,
}

/// Settings of [`Durable::builder`].
pub struct Builder {
    url: String,
    isolation: Isolation,
    durability: Durability,
    config: Config,
    workers: usize,
    functions: Result<Functions>,
}

impl Builder {
    /// Where program code runs.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// How much a commit promises.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// The engine's bounds and intervals.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// How many interpreters run side by side; 0 means one a core.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Registers an async function that takes a call's positional arguments as a tuple.
    #[must_use]
    pub fn function<A, R, F, Fut>(mut self, name: &str, function: F) -> Self
    where
        A: DeserializeOwned + Send + 'static,
        R: Serialize + 'static,
        F: Fn(A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, FunctionError>> + Send + 'static,
    {
        if let Ok(functions) = &mut self.functions {
            functions.register(name, function);
        }
        self
    }

    /// Registers an async function that is given the whole request: keyword arguments, attempt,
    /// idempotency key.
    #[must_use]
    pub fn function_raw<R, F, Fut>(mut self, name: &str, function: F) -> Self
    where
        R: Serialize + 'static,
        F: Fn(CallRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, FunctionError>> + Send + 'static,
    {
        if let Ok(functions) = &mut self.functions {
            functions.register_raw(name, function);
        }
        self
    }

    /// Opens the store and begins to work: executions that an earlier process left are taken up.
    ///
    /// # Errors
    /// `Invalid` for a URL that names no store; `Unavailable` when the store or the worker
    /// processes can't be had.
    pub fn open(mut self) -> Result<Durable> {
        let functions = std::mem::replace(&mut self.functions, Functions::new(1))?;
        let engine = self.open_engine()?;
        let names = functions.names().map(str::to_owned).collect();
        engine.attach(Arc::new(functions))?;
        Ok(Durable { engine, names })
    }

    /// Opens the store without an executor: for tools, and for hosts that bring their own.
    ///
    /// # Errors
    /// As [`Builder::open`].
    pub fn open_engine(self) -> Result<Engine> {
        let location = Location::parse(&self.url)?;
        let store = Arc::new(key::sealed(location.open(self.durability)?)?);
        let runner = runner::start(self.isolation, self.workers, key::of(&location)?)?;
        let mut parts = durable_engine::Parts::system(store, runner);
        parts.config = self.config;
        Engine::new(parts)
    }
}

/// An open store whose executions are being run.
pub struct Durable {
    engine: Engine,
    /// The registered functions: what workflows may call unless they say otherwise.
    names: Vec<String>,
}

impl Durable {
    /// Begins to open the store behind a URL: `sqlite:///file.db`, `sqlite:////absolute/file.db`,
    /// `postgresql://user@host/database`, `mysql://user@host/database` or `memory:`.
    pub fn builder(url: &str) -> Builder {
        Builder {
            url: url.to_owned(),
            isolation: Isolation::default(),
            durability: Durability::default(),
            config: Config::default(),
            workers: 0,
            functions: Functions::new(2),
        }
    }

    /// The engine, for everything that is not here.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Starts an execution; it is durable when this returns.
    ///
    /// # Errors
    /// `Invalid` with every problem found in the program or its inputs.
    pub fn start(&self, workflow: &Workflow) -> Result<ExecutionId> {
        self.engine.start(workflow.to_start(&self.names))
    }

    /// Opens a session ([`Workflow::session`]); it is durable when this returns.
    ///
    /// # Errors
    /// `Invalid` for a workflow that is none, or with every problem found in its inputs.
    pub fn open_session(&self, workflow: &Workflow) -> Result<Session<'_>> {
        Session::open(&self.engine, workflow.to_start(&self.names))
    }

    /// A session that was opened before, perhaps by a process that is gone.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` when the execution is no session.
    pub fn session(&self, id: ExecutionId) -> Result<Session<'_>> {
        Session::get(&self.engine, id)
    }

    /// Waits for an execution's output.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` with the reason when it failed or was cancelled; `Invalid` when the
    /// output is of another type.
    pub fn result<T: DeserializeOwned>(&self, id: ExecutionId) -> Result<T> {
        loop {
            if let Some(record) = self.engine.wait(id, None)? {
                return output(&record);
            }
        }
    }

    /// As [`Durable::result`], without blocking a thread.
    ///
    /// # Errors
    /// As [`Durable::result`].
    pub async fn result_async<T: DeserializeOwned>(&self, id: ExecutionId) -> Result<T> {
        loop {
            let (woken, wake) = tokio::sync::oneshot::channel::<()>();
            let _registered = self.engine.on_ended(id, move || drop(woken));
            let record = self.engine.execution(id)?;
            if record.status.is_terminal() {
                return output(&record);
            }
            // The hook drops its end of the channel: that is the signal.
            let _ = wake.await;
        }
    }

    /// Stops taking work, waits for running calls up to `patience`, and gives back what is held.
    pub fn close(self, patience: Duration) {
        self.engine.detach(patience);
    }
}

fn output<T: DeserializeOwned>(record: &ExecutionRecord) -> Result<T> {
    match (&record.output, &record.failure) {
        (Some(output), _) => serde_json::from_str(output.as_str()).map_err(|error| {
            Error::invalid(format!("the output of execution {} is: {error}", record.id))
        }),
        (None, Some(failure)) => {
            let traceback = failure.traceback.as_deref().unwrap_or_default();
            Err(Error::conflict(format!(
                "execution {} is {}: {failure}\n{traceback}",
                record.id, record.status
            )))
        }
        (None, None) => {
            Err(Error::conflict(format!("execution {} is {}", record.id, record.status)))
        }
    }
}
