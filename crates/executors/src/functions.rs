//! Async Rust functions, run on a tokio runtime.

use std::{
    collections::HashMap,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use durable_core::{CallId, Error, ExecutionId, Failure, Outcome, Payload, Result};
use durable_engine::{CallRequest, Executor, Outcomes};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{runtime::Runtime, task::AbortHandle};

type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;
/// Execution, call, attempt.
type Attempt = (ExecutionId, CallId, u32);
type Function = Arc<dyn Fn(CallRequest) -> Running + Send + Sync>;

/// Why a function failed. `?` makes one of any error; the program sees it as `RuntimeError`
/// unless it is given the name of another Python exception.
#[derive(Debug, Clone)]
pub struct FunctionError(Failure);

impl FunctionError {
    /// A failure that the program sees as the Python exception `error_type`.
    pub fn new(error_type: &str, message: impl Into<String>) -> Self {
        Self(Failure::new(error_type, message))
    }
}

impl<E: std::error::Error> From<E> for FunctionError {
    fn from(error: E) -> Self {
        Self::new("RuntimeError", error.to_string())
    }
}

/// Runs registered async functions.
pub struct Functions {
    functions: HashMap<String, Function>,
    runtime: Runtime,
    outcomes: OnceLock<Outcomes>,
    running: Arc<Mutex<HashMap<Attempt, AbortHandle>>>,
}

impl Functions {
    /// No functions yet, and a runtime of `threads` threads.
    ///
    /// # Errors
    /// `Unavailable` when the threads can't be started.
    pub fn new(threads: usize) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("durable-function")
            .enable_time()
            .build()
            .map_err(|error| Error::unavailable(format!("can't start a runtime: {error}")))?;
        Ok(Self {
            functions: HashMap::new(),
            runtime,
            outcomes: OnceLock::new(),
            running: Arc::default(),
        })
    }

    /// Registers a function that takes the call's positional arguments as a tuple.
    pub fn register<A, R, F, Fut>(&mut self, name: &str, function: F)
    where
        A: DeserializeOwned + Send + 'static,
        R: Serialize,
        F: Fn(A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, FunctionError>> + Send + 'static,
    {
        let function = Arc::new(function);
        self.insert(name, move |call| {
            let args = match call.args.as_str() {
                // No arguments: serde reads `()` from null, an empty tuple or array from [].
                "[]" => serde_json::from_str("null").or_else(|_| serde_json::from_str::<A>("[]")),
                args => serde_json::from_str(args),
            };
            let function = function.clone();
            Box::pin(async move {
                match args {
                    Ok(args) => outcome(function(args).await),
                    Err(error) => Outcome::Failed(Failure::new(
                        "TypeError",
                        format!("{}() can't take these arguments: {error}", call.function),
                    )),
                }
            })
        });
    }

    /// Registers a function that is given the whole request: keyword arguments, attempt,
    /// idempotency key.
    pub fn register_raw<R, F, Fut>(&mut self, name: &str, function: F)
    where
        R: Serialize,
        F: Fn(CallRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, FunctionError>> + Send + 'static,
    {
        self.insert(name, move |call| {
            let running = function(call);
            Box::pin(async move { outcome(running.await) })
        });
    }

    /// The names that are registered.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.functions.keys().map(String::as_str)
    }

    fn insert(
        &mut self,
        name: &str,
        function: impl Fn(CallRequest) -> Running + Send + Sync + 'static,
    ) {
        self.functions.insert(name.to_owned(), Arc::new(function));
    }

    fn start(&self, call: CallRequest, outcomes: Outcomes) {
        let key = (call.execution, call.call, call.attempt);
        let Some(function) = self.functions.get(&call.function).cloned() else {
            let message = format!(
                "no function '{}' is registered in this process: register it, or run a worker \
                 that has it",
                call.function
            );
            self.runtime.spawn(async move {
                outcomes.report(&call, Outcome::Failed(Failure::new("LookupError", message)));
            });
            return;
        };
        let running = self.running.clone();
        // The entry is made before the task can remove it.
        let mut entries = self.running.lock();
        let task = self.runtime.spawn(async move {
            let attempt = call.clone();
            let outcome = Caught(Box::pin(async move { function(attempt).await })).await;
            running.lock().remove(&key);
            outcomes.report(&call, outcome);
        });
        entries.insert(key, task.abort_handle());
    }
}

/// A running function whose panic is its failure.
struct Caught(Running);

impl Future for Caught {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        // Nothing of a future that panicked is looked at again.
        let polled = catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context)));
        polled.unwrap_or_else(|panic| {
            let said = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("without a message");
            let message = format!("the function panicked: {said}");
            Poll::Ready(Outcome::Failed(Failure::new("RuntimeError", message)))
        })
    }
}

fn outcome<R: Serialize>(returned: Result<R, FunctionError>) -> Outcome {
    match returned.map(|value| serde_json::to_string(&value)) {
        Ok(Ok(json)) => Outcome::Completed(Payload::trusted(json)),
        Ok(Err(error)) => {
            Outcome::Failed(Failure::new("TypeError", format!("the result is not JSON: {error}")))
        }
        Err(FunctionError(failure)) => Outcome::Failed(failure),
    }
}

impl Executor for Functions {
    fn attach(&self, outcomes: Outcomes) {
        // An executor serves one engine in its life; a second attachment keeps the first.
        let _ = self.outcomes.set(outcomes);
    }

    fn submit(&self, calls: Vec<CallRequest>) {
        let Some(outcomes) = self.outcomes.get() else { return };
        for call in calls {
            self.start(call, outcomes.clone());
        }
    }

    fn cancel(&self, execution: ExecutionId, call: CallId, attempt: u32) {
        if let Some(task) = self.running.lock().remove(&(execution, call, attempt)) {
            task.abort();
        }
    }

    fn recall(&self) -> Vec<CallRequest> {
        Vec::new()
    }
}
