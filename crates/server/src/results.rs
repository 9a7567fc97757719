//! Waiting for the end of an execution.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{extract::State, http::StatusCode, response::Response};
use durable_store::ExecutionRecord;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use utoipa::ToSchema;

use crate::{
    Problem, Server,
    access::Looks,
    extract::{PathExecution, PathId, Query},
    json,
    openapi::Refusals,
    views::{FailureView, raw},
    within,
};

/// What came of an execution.
#[derive(Serialize, ToSchema)]
pub(crate) struct ExecutionResult {
    #[schema(format = "uuid")]
    execution_id: String,
    /// `completed`, `failed` or `cancelled`; another word while it has not ended.
    status: &'static str,
    /// The program's value, when it is completed.
    #[schema(value_type = serde_json::Value)]
    output: Option<Box<RawValue>>,
    /// Why it is not, when it has ended otherwise or is paused.
    error: Option<FailureView>,
}

impl ExecutionResult {
    fn new(record: &ExecutionRecord) -> Self {
        Self {
            execution_id: record.id.to_string(),
            status: record.status.as_str(),
            output: record.output.as_ref().and_then(raw),
            error: record.failure.as_ref().map(FailureView::new),
        }
    }
}

/// Wait for what comes of an execution
///
/// Answers as soon as it has ended, at the latest after `wait_ms`.
#[utoipa::path(get, path = "/executions/{id}/result", operation_id = "get_result",
    tag = "executions",
    params(("id" = String, Path, format = "uuid", description = "The execution"),
        ("wait_ms" = Option<u64>, Query, minimum = 0, maximum = 60000,
            description = "How long to wait at most; by default not at all")),
    responses(
        (status = 200, description = "It has ended", body = ExecutionResult),
        (status = 202, description = "It has not ended yet", body = ExecutionResult),
        Refusals))]
pub(crate) async fn result(
    Looks(caller): Looks,
    State(server): State<Arc<Server>>,
    PathId(id): PathExecution,
    mut query: Query,
) -> Result<Response, Problem> {
    let wait_ms = query.number("wait_ms", 0..=server.config.max_wait_ms, 0)?;
    query.done()?;
    let until = Instant::now() + Duration::from_millis(wait_ms);
    let _permit = server.follow()?;
    loop {
        let (woken, wake) = oneshot::channel::<()>();
        // Registering comes before reading. The hook drops its end: that is the signal.
        let _registered = server.engine()?.on_ended(id, move || drop(woken));
        let caller = caller.clone();
        let record = server.run(move |_, engine| Server::visible(engine, &caller, id)).await?;
        let ended = record.status.is_terminal();
        let rest = until.saturating_duration_since(Instant::now());
        let ended_meanwhile = async {
            let _ = wake.await;
        };
        if ended || rest.is_zero() || !within(&server, rest, ended_meanwhile).await {
            let status = if ended { StatusCode::OK } else { StatusCode::ACCEPTED };
            return Ok(json(status, &ExecutionResult::new(&record)));
        }
    }
}
