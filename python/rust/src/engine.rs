//! The engine as a Python class. Every method that can wait releases the GIL first.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    sync::Arc,
    time::{Duration, Instant},
};

use durable::{
    Announcement, Definition, Durability, Durable, Duty, Engine as RustEngine, Error, ExecutionId,
    Failure, FunctionOptions, Isolation, Labels, Language, Limits, ListFilter, Outcome, Payload,
    PullQueue, Start, Status, WorkerCommand,
    checkpoints::{self, Checkpoint, Edits},
};
use parking_lot::Mutex;
use pyo3::{
    exceptions::PyValueError,
    prelude::*,
    types::{PyDict, PyList},
};

use crate::{error::to_python, records, task::Task};

/// Longest single wait without looking whether Python has a signal to handle.
pub(crate) const SIGNAL_CHECK: Duration = Duration::from_millis(100);

#[pyclass(frozen, module = "durable_monty._internal")]
pub(crate) struct Engine {
    engine: Mutex<Option<Arc<RustEngine>>>,
    queue: Mutex<Arc<PullQueue>>,
    /// The process that opened it: threads and worker processes don't survive a fork.
    pid: u32,
}

impl Engine {
    pub(crate) fn engine(&self) -> PyResult<Arc<RustEngine>> {
        if std::process::id() != self.pid {
            return Err(to_python(Error::unavailable(
                "this engine was opened before the process forked, and its threads stayed in the \
                 parent: call init_db() again in the child",
            )));
        }
        let closed = || to_python(Error::unavailable("the engine is closed"));
        self.engine.lock().clone().ok_or_else(closed)
    }

    fn queue(&self) -> Arc<PullQueue> {
        self.queue.lock().clone()
    }

    /// Runs `work` on the engine without the GIL.
    pub(crate) fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&RustEngine) -> durable::Result<T> + Send,
    ) -> PyResult<T> {
        let engine = self.engine()?;
        py.detach(move || {
            let result = work(&engine);
            drop(engine);
            result
        })
        .map_err(to_python)
    }

    fn report(&self, py: Python<'_>, task: &Task, outcome: Outcome) -> Option<Task> {
        let queue = self.queue();
        py.detach(|| {
            queue.report(&task.call, outcome);
            queue.try_next()
        })
        .map(Task::new)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::process::id() != self.pid {
            // In a forked child: the threads and the worker processes behind it belong to the
            // parent, and shutting them down from here would harm it.
            std::mem::forget(self.engine.lock().take());
        }
    }
}

#[pymethods]
impl Engine {
    #[staticmethod]
    #[pyo3(signature = (url, isolation = "process", synchronous = "full"))]
    fn open(py: Python<'_>, url: &str, isolation: &str, synchronous: &str) -> PyResult<Self> {
        let isolation = match isolation {
            "thread" => Isolation::Thread,
            "process" => Isolation::Command(worker_command(py)?),
            other => {
                return Err(PyValueError::new_err(format!(
                    "isolation is '{other}', expected 'process' or 'thread'"
                )));
            }
        };
        let durability = match synchronous {
            "full" => Durability::Full,
            "normal" => Durability::Process,
            "off" => Durability::None,
            other => {
                return Err(PyValueError::new_err(format!(
                    "synchronous is '{other}', expected 'full', 'normal' or 'off'"
                )));
            }
        };
        let builder = Durable::builder(url).isolation(isolation).durability(durability);
        let engine = py.detach(|| builder.open_engine()).map_err(to_python)?;
        Ok(Self {
            engine: Mutex::new(Some(Arc::new(engine))),
            queue: Mutex::default(),
            pid: std::process::id(),
        })
    }

    #[pyo3(signature = (
        source, functions, inputs, workflow_id = None, idempotency_key = None, limits = None,
        namespace = None, queue = None, tags = Vec::new(), language = "python"
    ))]
    #[expect(clippy::too_many_arguments, reason = "the Python signature")]
    fn start(
        &self,
        py: Python<'_>,
        source: &str,
        functions: &str,
        inputs: &str,
        workflow_id: Option<&str>,
        idempotency_key: Option<String>,
        limits: Option<&str>,
        namespace: Option<String>,
        queue: Option<String>,
        tags: Vec<String>,
        language: &str,
    ) -> PyResult<String> {
        self.with(py, |engine| {
            let mut start = to_start(language, source, functions, inputs, limits)?;
            let default = || Labels::DEFAULT.to_owned();
            start.labels = Labels {
                namespace: namespace.unwrap_or_else(default),
                queue: queue.unwrap_or_else(default),
                tags,
            };
            if let Some(name) = workflow_id {
                name.clone_into(&mut start.workflow_id);
            }
            start.idempotency_key = idempotency_key;
            Ok(engine.start(start)?.to_string())
        })
    }

    #[pyo3(signature = (starts, language = "python"))]
    fn start_many(
        &self,
        py: Python<'_>,
        starts: Vec<(String, String, String)>,
        language: &str,
    ) -> PyResult<Vec<String>> {
        self.with(py, |engine| {
            let starts = starts
                .iter()
                .map(|(source, functions, inputs)| {
                    to_start(language, source, functions, inputs, None)
                })
                .collect::<durable::Result<Vec<_>>>()?;
            let ids = engine.start_many(starts)?;
            Ok(ids.iter().map(ToString::to_string).collect())
        })
    }

    #[pyo3(signature = (source, functions, input_names, language = "python"))]
    fn validate(
        &self,
        py: Python<'_>,
        source: &str,
        functions: &str,
        input_names: Vec<String>,
        language: &str,
    ) -> PyResult<()> {
        self.with(py, |engine| {
            let start = to_start(language, source, functions, "{}", None)?;
            let definition =
                Definition { inputs: input_names, ..start.program.definition().clone() };
            engine.validate(&durable::Program::new(definition))
        })
    }

    fn execution<'py>(
        &self,
        py: Python<'py>,
        execution_id: &str,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Ok(id) = execution_id.parse::<ExecutionId>() else { return Ok(None) };
        let record = self.with(py, |engine| engine.store().execution(id))?;
        record.map(|record| records::execution(py, &record)).transpose()
    }

    #[pyo3(signature = (statuses, limit = 100, before = None))]
    fn executions<'py>(
        &self,
        py: Python<'py>,
        statuses: Vec<String>,
        limit: usize,
        before: Option<&str>,
    ) -> PyResult<Bound<'py, PyList>> {
        let found = self.with(py, |engine| {
            let statuses =
                statuses.iter().map(|text| Status::parse(text)).collect::<Result<_, _>>()?;
            let before = before.map(str::parse).transpose()?;
            engine.store().list(&ListFilter { statuses, before, limit, ..ListFilter::default() })
        })?;
        let list = PyList::empty(py);
        for record in &found {
            list.append(records::execution(py, record)?)?;
        }
        Ok(list)
    }

    fn calls<'py>(&self, py: Python<'py>, execution_id: &str) -> PyResult<Bound<'py, PyList>> {
        let calls = self.with(py, |engine| engine.store().calls(execution_id.parse()?))?;
        let list = PyList::empty(py);
        for record in &calls {
            list.append(records::call(py, record)?)?;
        }
        Ok(list)
    }

    #[pyo3(signature = (execution_id, after = 0, limit = 1000))]
    fn events<'py>(
        &self,
        py: Python<'py>,
        execution_id: &str,
        after: u64,
        limit: usize,
    ) -> PyResult<Bound<'py, PyList>> {
        let journal =
            self.with(py, |engine| engine.store().journal(execution_id.parse()?, after, limit))?;
        let list = PyList::empty(py);
        for recorded in &journal {
            list.append(records::event(py, recorded)?)?;
        }
        Ok(list)
    }

    fn checkpoints<'py>(
        &self,
        py: Python<'py>,
        execution_id: &str,
    ) -> PyResult<Bound<'py, PyList>> {
        let found = self.with(py, |engine| checkpoints::list(engine, execution_id.parse()?))?;
        let list = PyList::empty(py);
        for checkpoint in &found {
            list.append(records::checkpoint(py, checkpoint)?)?;
        }
        Ok(list)
    }

    #[pyo3(signature = (execution_id, number = None))]
    fn checkpoint<'py>(
        &self,
        py: Python<'py>,
        execution_id: &str,
        number: Option<u32>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let (checkpoint, definition, seen) = self.with(py, |engine| {
            let checkpoint = find(engine, execution_id, number)?;
            let definition = checkpoints::definition(engine, &checkpoint)?;
            let seen = checkpoints::inspect(engine, &checkpoint)?;
            Ok((checkpoint, definition, seen))
        })?;
        records::inspected(py, &checkpoint, &definition, &seen)
    }

    #[pyo3(signature = (execution_id, number = None, results = BTreeMap::new(), variables = BTreeMap::new()))]
    fn fork(
        &self,
        py: Python<'_>,
        execution_id: &str,
        number: Option<u32>,
        results: BTreeMap<u32, String>,
        variables: BTreeMap<String, String>,
    ) -> PyResult<String> {
        self.with(py, |engine| {
            let checkpoint = find(engine, execution_id, number)?;
            let limits = checkpoints::definition(engine, &checkpoint)?.limits;
            let max_bytes = usize::try_from(limits.max_payload_bytes).unwrap_or(usize::MAX);
            let results = results.iter().map(|(call, result)| {
                Ok((*call, Outcome::Completed(Payload::parse(result, max_bytes)?)))
            });
            let variables = variables
                .iter()
                .map(|(name, value)| Ok((name.clone(), Payload::parse(value, max_bytes)?)));
            let edits = Edits {
                results: results.collect::<durable::Result<_>>()?,
                variables: variables.collect::<durable::Result<_>>()?,
            };
            Ok(checkpoints::fork(engine, &checkpoint, &edits)?.to_string())
        })
    }

    fn restore(&self, py: Python<'_>, execution_id: &str, number: u32) -> PyResult<String> {
        self.with(py, |engine| {
            let checkpoint = find(engine, execution_id, Some(number))?;
            Ok(checkpoints::restore(engine, &checkpoint)?.to_string())
        })
    }

    fn source(&self, py: Python<'_>, execution_id: &str) -> PyResult<Option<(String, String)>> {
        self.with(py, |engine| {
            let Some(record) = engine.store().execution(execution_id.parse()?)? else {
                return Ok(None);
            };
            let Some(stored) = engine.store().program(&record.program)? else { return Ok(None) };
            let definition = stored.program.definition();
            let functions = serde_json::to_string(&definition.functions)
                .map_err(|error| Error::internal(error.to_string()))?;
            Ok(Some((definition.source.clone(), functions)))
        })
    }

    fn complete_call(
        &self,
        py: Python<'_>,
        execution_id: &str,
        call_id: u32,
        result: &str,
    ) -> PyResult<()> {
        self.with(py, |engine| {
            let max_bytes = Limits::default().max_payload_bytes;
            let result = Payload::parse(result, usize::try_from(max_bytes).unwrap_or(usize::MAX))?;
            engine.complete_call(execution_id.parse()?, call_id, Outcome::Completed(result))
        })
    }

    #[pyo3(signature = (execution_id, call_id, error_type, message, traceback = None))]
    fn fail_call(
        &self,
        py: Python<'_>,
        execution_id: &str,
        call_id: u32,
        error_type: &str,
        message: &str,
        traceback: Option<String>,
    ) -> PyResult<()> {
        let outcome = failed(error_type, message, traceback);
        self.with(py, |engine| engine.complete_call(execution_id.parse()?, call_id, outcome))
    }

    fn advance(&self, py: Python<'_>, execution_id: &str) -> PyResult<()> {
        self.with(py, |engine| engine.advance(execution_id.parse()?))
    }

    #[pyo3(signature = (execution_id, timeout_s = None))]
    fn wait<'py>(
        &self,
        py: Python<'py>,
        execution_id: &str,
        timeout_s: Option<f64>,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        let until = timeout_s.map(|seconds| Instant::now() + duration(seconds));
        loop {
            let rest = until.map(|until| until.saturating_duration_since(Instant::now()));
            let at_most = rest.map_or(SIGNAL_CHECK, |rest| rest.min(SIGNAL_CHECK));
            let ended =
                self.with(py, |engine| engine.wait(execution_id.parse()?, Some(at_most)))?;
            if let Some(record) = ended {
                return records::execution(py, &record).map(Some);
            }
            py.check_signals()?;
            if rest.is_some_and(|rest| rest <= at_most) {
                return Ok(None);
            }
        }
    }

    fn wait_idle(&self, py: Python<'_>, timeout_s: f64) -> PyResult<bool> {
        let until = Instant::now() + duration(timeout_s);
        loop {
            let busy = self.with(py, |engine| {
                if engine.is_idle()? {
                    return Ok(false);
                }
                let statuses = vec![Status::Scheduled, Status::Running, Status::Waiting];
                let found = engine.store().list(&ListFilter {
                    statuses,
                    limit: 1,
                    ..ListFilter::default()
                })?;
                let rest = until.saturating_duration_since(Instant::now()).min(SIGNAL_CHECK);
                match found.first() {
                    None => Ok(false),
                    Some(record) => engine.wait(record.id, Some(rest)).map(|_| true),
                }
            })?;
            py.check_signals()?;
            if !busy || Instant::now() >= until {
                return Ok(!busy);
            }
        }
    }

    fn cancel(&self, py: Python<'_>, execution_id: &str, reason: &str) -> PyResult<()> {
        self.with(py, |engine| engine.cancel(execution_id.parse()?, reason))
    }

    fn pause(&self, py: Python<'_>, execution_id: &str, reason: &str) -> PyResult<()> {
        self.with(py, |engine| engine.pause(execution_id.parse()?, reason))
    }

    fn resume(&self, py: Python<'_>, execution_id: &str) -> PyResult<()> {
        self.with(py, |engine| engine.resume(execution_id.parse()?))
    }

    fn retry(&self, py: Python<'_>, execution_id: &str) -> PyResult<()> {
        self.with(py, |engine| engine.retry(execution_id.parse()?))
    }

    fn delete(&self, py: Python<'_>, execution_id: &str) -> PyResult<()> {
        self.with(py, |engine| engine.delete(execution_id.parse()?))
    }

    #[pyo3(signature = (queues = Vec::new(), announcement = None))]
    fn attach(
        &self,
        py: Python<'_>,
        queues: Vec<String>,
        announcement: Option<(String, Vec<String>, u32)>,
    ) -> PyResult<()> {
        let announcement = announcement.map(|(host, functions, concurrency)| Announcement {
            host,
            functions,
            concurrency,
        });
        // A queue that was closed by an earlier detachment is of no further use.
        let queue = Arc::new(PullQueue::default());
        let attached = queue.clone();
        self.with(py, |engine| engine.attach_for(attached, Duty { queues, announcement }))?;
        *self.queue.lock() = queue;
        Ok(())
    }

    fn detach(&self, py: Python<'_>, timeout_s: f64) -> PyResult<()> {
        let queue = self.queue();
        self.with(py, |engine| {
            engine.detach(duration(timeout_s));
            queue.close();
            Ok(())
        })
    }

    fn next_task(&self, py: Python<'_>, timeout_s: f64) -> PyResult<Option<Task>> {
        self.engine()?;
        let queue = self.queue();
        let next = py.detach(|| queue.next(duration(timeout_s)));
        Ok(next.map(Task::new))
    }

    fn finish(&self, py: Python<'_>, task: &Task, result: &str) -> Option<Task> {
        self.report(py, task, Outcome::Completed(Payload::trusted(result)))
    }

    #[pyo3(signature = (task, error_type, message, traceback = None))]
    fn fail(
        &self,
        py: Python<'_>,
        task: &Task,
        error_type: &str,
        message: &str,
        traceback: Option<String>,
    ) -> Option<Task> {
        self.report(py, task, failed(error_type, message, traceback))
    }

    fn note_job(&self, py: Python<'_>, task: &Task, job_id: &str) -> PyResult<()> {
        let queue = self.queue();
        py.detach(|| queue.note_job(&task.call, job_id)).map_err(to_python)
    }

    fn note_jobs(&self, py: Python<'_>, jobs: Vec<(PyRef<'_, Task>, String)>) {
        let queue = self.queue();
        let jobs: Vec<_> = jobs.iter().map(|(task, name)| (task.call.clone(), name)).collect();
        py.detach(|| queue.note_jobs(jobs.iter().map(|(call, name)| (call, (*name).clone()))));
    }

    fn is_cancelled(&self, py: Python<'_>, task: &Task) -> bool {
        let queue = self.queue();
        py.detach(|| !queue.is_wanted(&task.call))
    }

    fn pending_tasks(&self) -> usize {
        self.queue().len()
    }

    fn close(&self, py: Python<'_>) {
        let engine = self.engine.lock().take();
        let queue = self.queue();
        py.detach(|| {
            queue.close();
            drop(engine);
        });
    }
}

/// A checkpoint of an execution; without a number the newest.
fn find(
    engine: &RustEngine,
    execution_id: &str,
    number: Option<u32>,
) -> durable::Result<Checkpoint> {
    let id = execution_id.parse()?;
    match number {
        Some(number) => checkpoints::get(engine, id, number),
        None => checkpoints::last(engine, id),
    }
}

/// How `durable_monty._worker` says that interpreter workers are started.
fn worker_command(py: Python<'_>) -> PyResult<WorkerCommand> {
    let command: Vec<OsString> =
        py.import("durable_monty._worker")?.call_method0("_worker_command")?.extract()?;
    let mut parts = command.into_iter();
    let program = parts
        .next()
        .ok_or_else(|| PyValueError::new_err("_worker_command() gave an empty command"))?;
    Ok(WorkerCommand { program: program.into(), args: parts.collect(), env: Vec::new() })
}

fn to_start(
    language: &str,
    source: &str,
    functions: &str,
    inputs: &str,
    limits: Option<&str>,
) -> durable::Result<Start> {
    let functions: BTreeMap<String, FunctionOptions> = serde_json::from_str(functions)
        .map_err(|error| Error::invalid(format!("the options of a function: {error}")))?;
    for options in functions.values() {
        if let Some(retry) = &options.retry {
            retry.validate()?;
        }
    }
    let limits: Limits = match limits {
        Some(text) => serde_json::from_str(text)
            .map_err(|error| Error::invalid(format!("the limits: {error}")))?,
        None => Limits::default(),
    };
    let max_bytes = usize::try_from(limits.max_payload_bytes).unwrap_or(usize::MAX);
    let inputs = Payload::parse(inputs, max_bytes)?;
    let names = match inputs.as_str() {
        "{}" => Vec::new(),
        text => serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text)
            .map_err(|error| Error::invalid(format!("the inputs are no JSON object: {error}")))?
            .into_iter()
            .map(|(name, _)| name)
            .collect(),
    };
    let mut start = Start::new(Definition {
        language: Language::parse(language)?,
        source: source.to_owned(),
        functions,
        inputs: names,
        limits,
    });
    start.inputs = inputs;
    Ok(start)
}

fn failed(error_type: &str, message: &str, traceback: Option<String>) -> Outcome {
    Outcome::Failed(Failure { traceback, ..Failure::new(error_type, message) })
}

/// Seconds as Python gives them; nonsense counts as no time at all.
pub(crate) fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::from_secs(86_400 * 365))
}
