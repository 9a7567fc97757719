//! Tasks for workers in any language: claim, heartbeat, complete, fail.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{extract::State, http::StatusCode, response::Response};
use durable_core::{CallStatus, Error, Limits, Outcome};
use durable_engine::Engine;
use durable_executors::{Claim, Task, TaskId, TaskQueue};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::{
    Kind, Problem, Server,
    access::{Caller, Works},
    arrival::{Json, JsonOrNothing, Nothing},
    check,
    extract::{PathId, PathTask, Query},
    json,
    openapi::Refusals,
    views::raw,
    within,
};

const MAX_FUNCTIONS: usize = 1_000;
const MAX_TASKS: usize = 100;
const MIN_LEASE_MS: u64 = 1_000;
const MAX_LEASE_MS: u64 = 3_600_000;
const DEFAULT_LEASE_MS: u64 = 30_000;

/// A worker that asks for something to do.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClaimRequest {
    /// The functions it runs.
    #[schema(min_items = 1, max_items = 1000)]
    functions: BTreeSet<String>,
    /// Only tasks of executions of this queue.
    queue: Option<String>,
    /// A name for operators.
    worker: String,
    /// Most tasks.
    #[schema(minimum = 1, maximum = 100, default = 1)]
    max: Option<usize>,
    /// How long to wait for a task when there is none; by default not at all.
    #[schema(minimum = 0, maximum = 60000, default = 0)]
    wait_ms: Option<u64>,
    /// How long a task is the worker's own without a heartbeat.
    #[schema(minimum = 1000, maximum = 3600000, default = 30000)]
    lease_ms: Option<u64>,
}

/// Something to do.
#[derive(Serialize, ToSchema)]
#[schema(as = Task)]
pub(crate) struct TaskView {
    /// Its name, by which it is kept alive and completed. A secret of the worker.
    id: String,
    /// What to run, and with what: an array and an object.
    function: String,
    /// What the workflow calls it: the function's name there, or that of the step.
    step: String,
    #[schema(value_type = serde_json::Value)]
    args: Option<Box<RawValue>>,
    #[schema(value_type = serde_json::Value)]
    kwargs: Option<Box<RawValue>>,
    #[schema(format = "uuid")]
    execution_id: String,
    call_id: u32,
    /// From 1.
    attempt: u32,
    /// The same for every attempt: give it to whatever must not happen twice.
    idempotency_key: String,
    /// How long the attempt may take; after that its result is refused.
    timeout_ms: Option<u64>,
    /// How long the task is the worker's own without a heartbeat.
    lease_ms: u64,
}

impl TaskView {
    fn new(task: &Task) -> Self {
        Self {
            id: task.id.to_string(),
            function: task.call.function.clone(),
            step: task.call.step.clone(),
            args: raw(&task.call.args),
            kwargs: raw(&task.call.kwargs),
            execution_id: task.call.execution.to_string(),
            call_id: task.call.call,
            attempt: task.call.attempt,
            idempotency_key: task.call.idempotency_key(),
            timeout_ms: task.call.timeout_ms,
            lease_ms: millis(task.lease),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What there is to do; empty when nothing came up in time.
#[derive(Serialize, ToSchema)]
pub(crate) struct TaskList {
    items: Vec<TaskView>,
}

impl ClaimRequest {
    fn claim(&self, caller: &Caller, max_wait_ms: u64) -> Result<(Claim, Duration), Problem> {
        if self.functions.is_empty() || self.functions.len() > MAX_FUNCTIONS {
            return Err(Problem::invalid(format!(
                "functions has to name 1 to {MAX_FUNCTIONS} functions"
            )));
        }
        for function in &self.functions {
            check::text("the name of a function", function, check::MAX_TEXT_CHARS)?;
        }
        check::text("worker", &self.worker, check::MAX_TEXT_CHARS)?;
        if let Some(queue) = &self.queue {
            check::label("queue", queue)?;
        }
        let within = |name, value: u64, least: u64, most: u64| match (least..=most).contains(&value)
        {
            true => Ok(value),
            false => Err(Problem::invalid(format!("{name} must be from {least} to {most}"))),
        };
        let max = self.max.unwrap_or(1) as u64;
        let max = within("max", max, 1, MAX_TASKS as u64)? as usize;
        let wait_ms = within("wait_ms", self.wait_ms.unwrap_or(0), 0, max_wait_ms)?;
        let lease_ms = self.lease_ms.unwrap_or(DEFAULT_LEASE_MS);
        let lease_ms = within("lease_ms", lease_ms, MIN_LEASE_MS, MAX_LEASE_MS)?;
        let claim = Claim {
            functions: self.functions.clone(),
            namespace: caller.confined_to().map(str::to_owned),
            queue: self.queue.clone(),
            max,
            lease: Duration::from_millis(lease_ms),
            worker: self.worker.clone(),
        };
        Ok((claim, Duration::from_millis(wait_ms)))
    }
}

impl Server {
    fn tasks(&self) -> Result<Arc<TaskQueue>, Problem> {
        self.tasks.clone().ok_or_else(|| {
            Problem::new(
                Kind::Unavailable,
                "this server hands out no tasks: start it with `durable serve --tasks`, or \
                 create_app(service, tasks=True)",
            )
        })
    }
}

/// Claim tasks
///
/// A task is the worker's own for `lease_ms`, and again after each heartbeat; then it is handed
/// to another, with the same idempotency key.
#[utoipa::path(post, path = "/tasks/claim", operation_id = "claim_tasks",
    tag = "tasks", request_body = ClaimRequest,
    responses((status = 200, description = "What there is to do", body = TaskList), Refusals))]
pub(crate) async fn claim(
    Works(caller): Works,
    State(server): State<Arc<Server>>,
    query: Query,
    Json(request): Json<ClaimRequest>,
) -> Result<Response, Problem> {
    query.done()?;
    let (claim, wait) = request.claim(&caller, server.config.max_wait_ms)?;
    let tasks = server.tasks()?;
    let until = Instant::now() + wait;
    let _permit = server.follow()?;
    loop {
        let changed = tasks.changed();
        tokio::pin!(changed);
        // From here on nothing new is missed.
        changed.as_mut().enable();
        let (queue, asked) = (tasks.clone(), claim.clone());
        let found = server
            .run(move |_, engine| queue.claim(&asked, &|id| Ok(engine.execution(id)?.labels)))
            .await?;
        let rest = until.saturating_duration_since(Instant::now());
        if !found.is_empty() || rest.is_zero() {
            return Ok(tasks_found(&found));
        }
        let now = Instant::now();
        let expiry = tasks.next_expiry().map(|at| at.saturating_duration_since(now));
        let look_again = rest.min(expiry.unwrap_or(rest));
        if !within(&server, look_again, changed).await && *server.stopping.borrow() {
            return Ok(tasks_found(&[]));
        }
    }
}

fn tasks_found(tasks: &[Task]) -> Response {
    json(StatusCode::OK, &TaskList { items: tasks.iter().map(TaskView::new).collect() })
}

/// How long a task is the worker's own from now.
#[derive(Serialize, ToSchema)]
pub(crate) struct Alive {
    lease_ms: u64,
}

/// Keep a task
///
/// Refused with 409 when nobody waits for the task any more, or another worker has it: stop
/// working on it.
#[utoipa::path(post, path = "/tasks/{id}/heartbeat", operation_id = "keep_task", tag = "tasks",
    params(("id" = String, Path, description = "The task")),
    responses((status = 200, description = "It is yours for another while", body = Alive),
        Refusals))]
pub(crate) async fn heartbeat(
    Works(caller): Works,
    State(server): State<Arc<Server>>,
    PathId(id): PathTask,
    query: Query,
    JsonOrNothing(Nothing {}): JsonOrNothing<Nothing>,
) -> Result<Response, Problem> {
    query.done()?;
    let tasks = server.tasks()?;
    let lease = server
        .run(move |_, engine| {
            let record = Server::visible(engine, &caller, id.execution)?;
            if record.status.is_terminal() {
                return Err(Error::conflict(format!("the execution is {}", record.status)));
            }
            if let Some(lease) = tasks.heartbeat(&id) {
                return Ok(lease);
            }
            require_open(engine, &id)?;
            let lease = Duration::from_millis(DEFAULT_LEASE_MS);
            if tasks.adopt(&id, lease, "a worker of an earlier process") {
                return Ok(lease);
            }
            Err(Error::conflict(
                "this process did not hand the task out: send heartbeats to the one that did, or \
                 claim with a longer lease_ms",
            ))
        })
        .await?;
    Ok(json(StatusCode::OK, &Alive { lease_ms: millis(lease) }))
}

/// Whether the store still has this name for the attempt, and waits for it.
///
/// # Errors
/// `NotFound` for a name that was never given or has been given anew; `Conflict` when the call
/// has ended or another attempt is due.
fn require_open(engine: &Engine, id: &TaskId) -> durable_core::Result<()> {
    if engine.store().call_of_job(&id.job_id())? != Some((id.execution, id.call)) {
        return Err(Error::conflict("the task is not yours any more: another worker has it"));
    }
    let calls = engine.store().calls(id.execution)?;
    let call = calls.iter().find(|call| call.id == id.call);
    let is_open = |status| matches!(status, CallStatus::Pending | CallStatus::Submitted);
    match call {
        Some(call) if is_open(call.status) && call.attempt == id.attempt => Ok(()),
        _ => Err(Error::conflict("nobody waits for this attempt any more: it has ended")),
    }
}

/// What a task came to.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CompleteRequest {
    /// What the function returned, as JSON.
    #[schema(value_type = serde_json::Value)]
    result: Option<Box<RawValue>>,
}

/// Why a task failed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FailRequest {
    /// The name of a Python exception: what `except` in the workflow sees.
    #[serde(rename = "type")]
    #[schema(examples("ValueError"))]
    error_type: String,
    #[serde(default)]
    message: String,
    traceback: Option<String>,
    /// Whether another attempt may be made, if the function's policy says so; yes by default.
    retryable: Option<bool>,
}

/// A report that was taken.
#[derive(Serialize, ToSchema)]
pub(crate) struct Applied {
    /// `true`: a report that changes nothing is refused with 409.
    applied: bool,
}

const APPLIED: Applied = Applied { applied: true };

/// Report the result of a task
///
/// When the answer comes, the result survives a crash. Any server on the store takes it. Refused
/// with 409 when it is late or repeated, or the task has been handed to another worker; nothing
/// is changed then.
#[utoipa::path(post, path = "/tasks/{id}/complete", operation_id = "complete_task", tag = "tasks",
    params(("id" = String, Path, description = "The task")), request_body = CompleteRequest,
    responses((status = 200, description = "It counts", body = Applied), Refusals))]
pub(crate) async fn complete(
    Works(caller): Works,
    State(server): State<Arc<Server>>,
    PathId(id): PathTask,
    query: Query,
    Json(request): Json<CompleteRequest>,
) -> Result<Response, Problem> {
    query.done()?;
    server
        .run(move |server, engine| {
            Server::visible(engine, &caller, id.execution)?;
            let max_bytes = Limits::default().max_payload_bytes;
            let result = check::payload("result", request.result.as_deref(), max_bytes)?;
            close(server, engine, &id, Outcome::Completed(result))
        })
        .await?;
    Ok(json(StatusCode::OK, &APPLIED))
}

/// Closes the call of a task for good.
fn close(
    server: &Server,
    engine: &Engine,
    id: &TaskId,
    outcome: Outcome,
) -> durable_core::Result<()> {
    let held = server.tasks.as_ref().and_then(|tasks| tasks.held(id));
    if held.is_none() {
        require_open(engine, id)?;
    }
    engine.complete_call(id.execution, id.call, outcome)?;
    if let Some(tasks) = &server.tasks {
        tasks.release(id);
    }
    Ok(())
}

/// Report that a task failed
///
/// Another attempt follows if the function's retry policy says so, unless `retryable` is false.
/// Retries are up to the process that handed the task out: a retryable failure is refused by
/// others with 409, and the task is handed out again when its lease is over.
#[utoipa::path(post, path = "/tasks/{id}/fail", operation_id = "fail_task", tag = "tasks",
    params(("id" = String, Path, description = "The task")), request_body = FailRequest,
    responses((status = 200, description = "It counts", body = Applied), Refusals))]
pub(crate) async fn fail(
    Works(caller): Works,
    State(server): State<Arc<Server>>,
    PathId(id): PathTask,
    query: Query,
    Json(request): Json<FailRequest>,
) -> Result<Response, Problem> {
    query.done()?;
    let FailRequest { error_type, message, traceback, retryable } = request;
    let failure = check::failure(&error_type, &message, traceback.as_deref())?;
    server
        .run(move |server, engine| {
            Server::visible(engine, &caller, id.execution)?;
            if retryable == Some(false) {
                return close(server, engine, &id, Outcome::Failed(failure));
            }
            let tasks = server.tasks.as_ref();
            let held = tasks.and_then(|tasks| Some((tasks, tasks.held(&id)?)));
            let Some((tasks, task)) = held else {
                require_open(engine, &id)?;
                return Err(Error::conflict(
                    "this process did not hand the task out and can't say whether it is tried \
                     again: tell the one that did, or say \"retryable\": false",
                ));
            };
            tasks.fail(&task, failure)
        })
        .await?;
    Ok(json(StatusCode::OK, &APPLIED))
}
