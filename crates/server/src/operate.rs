//! Steering executions, one or many.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use durable_core::{Error, ExecutionId, Status};
use durable_engine::Engine;
use durable_store::ListFilter;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Problem, Server,
    access::{Caller, Operates},
    arrival::{Json, JsonOrNothing},
    check,
    executions::{self, StatusWord},
    extract::{PathExecution, PathId, Query, instant},
    json,
    openapi::Refusals,
    views::ExecutionView,
};

/// Most executions of one bulk request.
const MAX_BULK: usize = 1_000;
/// Most failures of a bulk request that are told one by one.
const MAX_TOLD: usize = 20;
/// How many executions are read at a time.
const PAGE: usize = 100;

/// Why.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reason {
    /// For those who look at it later.
    reason: Option<String>,
}

impl Reason {
    fn text(self, default: &str) -> Result<String, Problem> {
        let reason = self.reason.unwrap_or_else(|| default.to_owned());
        check::text("reason", &reason, check::MAX_TEXT_CHARS)?;
        Ok(reason)
    }
}

async fn steer(
    server: Arc<Server>,
    caller: Caller,
    id: ExecutionId,
    wish: impl FnOnce(&Engine) -> durable_core::Result<()> + Send + 'static,
) -> Result<Response, Problem> {
    let record = server
        .run(move |_, engine| {
            Server::visible(engine, &caller, id)?;
            wish(engine)?;
            engine.execution(id)
        })
        .await?;
    Ok(json(StatusCode::ACCEPTED, &ExecutionView::new(&record)))
}

/// End an execution
///
/// No further call of it is run. The engine that runs it does so within its poll interval.
#[utoipa::path(post, path = "/executions/{id}/cancel", operation_id = "cancel_execution",
    tag = "executions",
    params(("id" = String, Path, format = "uuid", description = "The execution")),
    request_body(content = Option<Reason>),
    responses((status = 202, description = "It is asked for; the execution as it is now",
        body = ExecutionView), Refusals))]
pub(crate) async fn cancel(
    Operates(caller): Operates,
    State(server): State<Arc<Server>>,
    PathId(id): PathExecution,
    query: Query,
    JsonOrNothing(reason): JsonOrNothing<Reason>,
) -> Result<Response, Problem> {
    query.done()?;
    let reason = reason.text("cancelled over HTTP")?;
    steer(server, caller, id, move |engine| engine.cancel(id, &reason)).await
}

/// Stop advancing an execution
///
/// Results that come in meanwhile are kept.
#[utoipa::path(post, path = "/executions/{id}/pause", operation_id = "pause_execution",
    tag = "executions",
    params(("id" = String, Path, format = "uuid", description = "The execution")),
    request_body(content = Option<Reason>),
    responses((status = 202, description = "It is asked for; the execution as it is now",
        body = ExecutionView), Refusals))]
pub(crate) async fn pause(
    Operates(caller): Operates,
    State(server): State<Arc<Server>>,
    PathId(id): PathExecution,
    query: Query,
    JsonOrNothing(reason): JsonOrNothing<Reason>,
) -> Result<Response, Problem> {
    query.done()?;
    let reason = reason.text("paused over HTTP")?;
    steer(server, caller, id, move |engine| engine.pause(id, &reason)).await
}

/// Let a paused execution go on
#[utoipa::path(post, path = "/executions/{id}/resume", operation_id = "resume_execution",
    tag = "executions",
    params(("id" = String, Path, format = "uuid", description = "The execution")),
    responses((status = 202, description = "It is asked for; the execution as it is now",
        body = ExecutionView), Refusals))]
pub(crate) async fn resume(
    Operates(caller): Operates,
    State(server): State<Arc<Server>>,
    PathId(id): PathExecution,
    query: Query,
) -> Result<Response, Problem> {
    query.done()?;
    steer(server, caller, id, move |engine| engine.resume(id)).await
}

/// Let a failed execution go on from where it failed
///
/// Calls whose failure was the cause are made again; what has completed stays.
#[utoipa::path(post, path = "/executions/{id}/retry", operation_id = "retry_execution",
    tag = "executions",
    params(("id" = String, Path, format = "uuid", description = "The execution")),
    responses((status = 202, description = "It goes on; the execution as it is now",
        body = ExecutionView), Refusals))]
pub(crate) async fn retry(
    Operates(caller): Operates,
    State(server): State<Arc<Server>>,
    PathId(id): PathExecution,
    query: Query,
) -> Result<Response, Problem> {
    query.done()?;
    steer(server, caller, id, move |engine| engine.retry(id)).await
}

/// Remove an execution with everything that is stored about it
///
/// Refused while a worker holds it.
#[utoipa::path(delete, path = "/executions/{id}", operation_id = "delete_execution",
    tag = "executions",
    params(("id" = String, Path, format = "uuid", description = "The execution")),
    responses((status = 204, description = "It is gone"), Refusals))]
pub(crate) async fn delete(
    Operates(caller): Operates,
    State(server): State<Arc<Server>>,
    PathId(id): PathExecution,
    query: Query,
) -> Result<Response, Problem> {
    query.done()?;
    server
        .run(move |_, engine| {
            Server::visible(engine, &caller, id)?;
            engine.delete(id)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What to do with many executions.
#[derive(Deserialize, Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BulkAction {
    /// End them.
    Cancel,
    /// Stop advancing them.
    Pause,
    /// Let paused ones go on.
    Resume,
    /// Let failed ones go on from where they failed.
    Retry,
    /// Remove them; those that have ended, unless the filter names statuses.
    Delete,
}

impl BulkAction {
    /// The statuses it makes sense for.
    fn statuses(self) -> &'static [Status] {
        match self {
            Self::Cancel => &[Status::Scheduled, Status::Running, Status::Waiting, Status::Paused],
            Self::Pause => &[Status::Scheduled, Status::Running, Status::Waiting],
            Self::Resume => &[Status::Paused],
            Self::Retry => &[Status::Failed],
            Self::Delete => &[Status::Completed, Status::Failed, Status::Cancelled],
        }
    }

    fn act(self, engine: &Engine, id: ExecutionId, reason: &str) -> durable_core::Result<()> {
        match self {
            Self::Cancel => engine.cancel(id, reason),
            Self::Pause => engine.pause(id, reason),
            Self::Resume => engine.resume(id),
            Self::Retry => engine.retry(id),
            Self::Delete => engine.delete(id),
        }
    }
}

/// Something to do with every execution that fits a filter, up to a number.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BulkRequest {
    action: BulkAction,
    /// An empty filter fits every execution that the action makes sense for.
    filter: BulkFilter,
    /// Only count.
    #[serde(default)]
    dry_run: bool,
    /// For those who look at it later.
    reason: Option<String>,
    /// Most executions of this request; `more` says whether others fit.
    #[schema(minimum = 1, maximum = 1000, default = 1000)]
    limit: Option<usize>,
}

/// Which executions; what is left out fits everything.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BulkFilter {
    /// Any of these; by default those that the action makes sense for.
    #[serde(default)]
    #[schema(value_type = Vec<StatusWord>)]
    status: Vec<String>,
    workflow: Option<String>,
    tag: Option<String>,
    namespace: Option<String>,
    /// Started then or later: Unix milliseconds as text, or `2026-01-31T12:00:00Z`.
    since: Option<String>,
    /// Started before.
    until: Option<String>,
}

/// What came of a bulk request.
#[derive(Serialize, ToSchema, Default)]
pub(crate) struct BulkResult {
    /// How many executions fitted, up to the limit.
    matched: usize,
    /// How many of them it was done to; with `dry_run` none.
    done: usize,
    /// How many it could not be done to.
    failed: usize,
    /// Whether more fit than the limit allows: ask again.
    more: bool,
    dry_run: bool,
    /// The first of those that failed, and why.
    failures: Vec<BulkFailure>,
}

/// An execution that something could not be done to.
#[derive(Serialize, ToSchema)]
pub(crate) struct BulkFailure {
    #[schema(format = "uuid")]
    id: String,
    detail: String,
}

/// Cancel, pause, resume, retry or delete every execution that fits a filter
#[utoipa::path(post, path = "/executions/bulk", operation_id = "steer_executions",
    tag = "executions", request_body = BulkRequest,
    responses((status = 200, description = "How many it was done to", body = BulkResult),
        Refusals))]
pub(crate) async fn bulk(
    Operates(caller): Operates,
    State(server): State<Arc<Server>>,
    query: Query,
    Json(request): Json<BulkRequest>,
) -> Result<Response, Problem> {
    query.done()?;
    let BulkRequest { action, filter, dry_run, reason, limit } = request;
    let reason = Reason { reason }.text("asked for over HTTP, with others")?;
    let limit = limit.unwrap_or(MAX_BULK);
    if !(1..=MAX_BULK).contains(&limit) {
        return Err(Problem::invalid(format!("limit must be from 1 to {MAX_BULK}")));
    }
    let at = |name, text: Option<String>| text.map(|text| instant(name, &text)).transpose();
    let mut statuses = executions::statuses(&filter.status)?;
    if statuses.is_empty() {
        statuses = action.statuses().to_vec();
    }
    let filter = ListFilter {
        namespace: caller.namespace(filter.namespace)?,
        statuses,
        workflow_id: filter.workflow,
        tag: filter.tag,
        since_ms: at("since", filter.since)?,
        until_ms: at("until", filter.until)?,
        ..ListFilter::default()
    };
    executions::check_filter(&filter)?;
    let result = server
        .run(move |_, engine| {
            let (ids, more) = matching(engine, filter, limit)?;
            let mut result =
                BulkResult { matched: ids.len(), more, dry_run, ..BulkResult::default() };
            if !dry_run {
                for id in ids {
                    act(engine, action, id, &reason, &mut result)?;
                }
            }
            Ok(result)
        })
        .await?;
    Ok(json(StatusCode::OK, &result))
}

fn matching(
    engine: &Engine,
    mut filter: ListFilter,
    limit: usize,
) -> durable_core::Result<(Vec<ExecutionId>, bool)> {
    let mut ids = Vec::new();
    while ids.len() <= limit {
        // One more than is wanted, to know whether there are more.
        filter.limit = PAGE.min(limit + 1 - ids.len());
        let records = engine.store().list(&filter)?;
        let is_last = records.len() < filter.limit;
        ids.extend(records.iter().map(|record| record.id));
        filter.before = ids.last().copied();
        if is_last {
            break;
        }
    }
    let more = ids.len() > limit;
    ids.truncate(limit);
    Ok((ids, more))
}

fn act(
    engine: &Engine,
    action: BulkAction,
    id: ExecutionId,
    reason: &str,
    result: &mut BulkResult,
) -> durable_core::Result<()> {
    match action.act(engine, id, reason) {
        Ok(()) => result.done += 1,
        // It has gone on since it was listed, or it is held: that is told, and the others follow.
        Err(
            error @ (Error::Conflict(_)
            | Error::NotFound(_)
            | Error::Invalid(_)
            | Error::Corrupt(_)),
        ) => {
            result.failed += 1;
            if result.failures.len() < MAX_TOLD {
                let detail = error.to_string();
                result.failures.push(BulkFailure { id: id.to_string(), detail });
            }
        }
        Err(error) => return Err(error),
    }
    Ok(())
}
