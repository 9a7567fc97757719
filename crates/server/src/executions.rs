//! Looking at executions.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode, response::Response};
use durable_core::{ExecutionId, Status};
use durable_store::{CallRecord, ListFilter};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use crate::{
    Problem, Server,
    access::{Caller, Looks},
    check,
    extract::{PathExecution, PathId, Query},
    json,
    openapi::Refusals,
    views::{CallView, ExecutionView},
};

/// Most executions, calls or events of a page.
pub(crate) const MAX_PAGE: u64 = 1_000;
pub(crate) const DEFAULT_PAGE: u64 = 100;
/// A page that has become this large ends early.
pub(crate) const MAX_PAGE_BYTES: usize = 16 << 20;
/// How many executions are read first: they may be large.
const FIRST_READ: usize = 25;

/// Executions, newest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct ExecutionPage {
    items: Vec<ExecutionView>,
    /// Give it as `cursor` to get the next page; null when there is none.
    next_cursor: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "for the document; the query is read by hand")]
pub(crate) struct ListParams {
    /// Only executions of this status; can be given more than once.
    #[param(inline)]
    status: Option<Vec<StatusWord>>,
    /// Only executions that were started under this name.
    #[param(min_length = 1, max_length = 500)]
    workflow: Option<String>,
    /// Only executions with this tag.
    #[param(min_length = 1, max_length = 100)]
    tag: Option<String>,
    /// Only executions of this namespace.
    #[param(min_length = 1, max_length = 100)]
    namespace: Option<String>,
    /// Only executions started then or later: Unix milliseconds, or `2026-01-31T12:00:00Z`.
    since: Option<String>,
    /// Only executions started before.
    until: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Most executions of the page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
}

/// A status as the API speaks of it.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "for the document")]
pub(crate) enum StatusWord {
    Scheduled,
    Running,
    Waiting,
    Paused,
    Completed,
    Failed,
    Cancelled,
}

/// List executions, newest first
#[utoipa::path(get, path = "/executions", operation_id = "list_executions",
    tag = "executions", params(ListParams),
    responses((status = 200, description = "A page of executions", body = ExecutionPage),
        Refusals))]
pub(crate) async fn list(
    Looks(caller): Looks,
    State(server): State<Arc<Server>>,
    mut query: Query,
) -> Result<Response, Problem> {
    let mut filter = ListFilter {
        statuses: statuses(&query.all("status"))?,
        workflow_id: query.text("workflow")?,
        tag: query.text("tag")?,
        namespace: caller.namespace(query.text("namespace")?)?,
        since_ms: query.instant("since")?,
        until_ms: query.instant("until")?,
        ..ListFilter::default()
    };
    if let Some(cursor) = query.text("cursor")? {
        let before = cursor.parse::<ExecutionId>();
        filter.before = Some(
            before.map_err(|_| Problem::invalid("the cursor is not one that a page ended with"))?,
        );
    }
    let limit = query.number("limit", 1..=MAX_PAGE, DEFAULT_PAGE)? as usize;
    query.done()?;
    check_filter(&filter)?;
    let page = server.run(move |_, engine| read_page(engine.store(), filter, limit)).await?;
    Ok(json(StatusCode::OK, &page))
}

/// Names that can't have been given to anything are refused, before a store sees them.
pub(crate) fn check_filter(filter: &ListFilter) -> Result<(), Problem> {
    if let Some(name) = &filter.workflow_id {
        check::text("workflow", name, check::MAX_TEXT_CHARS)?;
    }
    for (what, label) in [("tag", &filter.tag), ("namespace", &filter.namespace)] {
        if let Some(label) = label {
            check::label(what, label)?;
        }
    }
    Ok(())
}

pub(crate) fn statuses(words: &[String]) -> Result<Vec<Status>, Problem> {
    words.iter().map(|word| Status::parse(word).map_err(Problem::from)).collect()
}

fn read_page(
    store: &dyn durable_store::Store,
    mut filter: ListFilter,
    limit: usize,
) -> durable_core::Result<ExecutionPage> {
    let mut items = Vec::new();
    let (mut bytes, mut read) = (0, FIRST_READ);
    let mut last = None;
    while items.len() < limit && bytes < MAX_PAGE_BYTES {
        filter.limit = read.min(limit - items.len());
        let records = store.list(&filter)?;
        let is_last = records.len() < filter.limit;
        for record in records {
            let view = ExecutionView::new(&record);
            bytes += view.bytes();
            last = Some(record.id);
            items.push(view);
        }
        if is_last {
            return Ok(ExecutionPage { items, next_cursor: None });
        }
        filter.before = last;
        read *= 2;
    }
    Ok(ExecutionPage { items, next_cursor: last.map(|id| id.to_string()) })
}

/// Show an execution
#[utoipa::path(get, path = "/executions/{id}", operation_id = "get_execution", tag = "executions",
    params(("id" = String, Path, format = "uuid", description = "The execution")),
    responses((status = 200, description = "The execution", body = ExecutionView), Refusals))]
pub(crate) async fn get(
    Looks(caller): Looks,
    State(server): State<Arc<Server>>,
    PathId(id): PathExecution,
    query: Query,
) -> Result<Response, Problem> {
    query.done()?;
    Ok(json(StatusCode::OK, &show(&server, caller, id).await?))
}

/// An execution that the caller may know of, as it is shown.
pub(crate) async fn show(
    server: &Arc<Server>,
    caller: Caller,
    id: ExecutionId,
) -> Result<ExecutionView, Problem> {
    let record = server.run(move |_, engine| Server::visible(engine, &caller, id)).await?;
    Ok(ExecutionView::new(&record))
}

/// Calls and timers in the order they were asked for.
#[derive(Serialize, ToSchema)]
pub(crate) struct CallPage {
    items: Vec<CallView>,
    /// Give it as `cursor` to get the next page; null when there is none.
    next_cursor: Option<String>,
}

/// List the calls and timers of an execution
///
/// In the order they were asked for. A page ends early when it becomes very large.
#[utoipa::path(get, path = "/executions/{id}/calls", operation_id = "list_calls",
    tag = "executions",
    params(("id" = String, Path, format = "uuid", description = "The execution"),
        ("cursor" = Option<u32>, Query, description = "`next_cursor` of the page before",
            minimum = 0, maximum = 4294967295u64),
        ("limit" = Option<u64>, Query, description = "Most calls of the page; 1000 by default",
            minimum = 1, maximum = 1000)),
    responses((status = 200, description = "A page of calls", body = CallPage), Refusals))]
pub(crate) async fn calls(
    Looks(caller): Looks,
    State(server): State<Arc<Server>>,
    PathId(id): PathExecution,
    mut query: Query,
) -> Result<Response, Problem> {
    let after = query.number("cursor", 0..=u64::from(u32::MAX), 0)?;
    let limit = query.number("limit", 1..=MAX_PAGE, MAX_PAGE)? as usize;
    query.done()?;
    let page = server
        .run(move |_, engine| {
            Server::visible(engine, &caller, id)?;
            Ok(call_page(&engine.store().calls(id)?, after, limit))
        })
        .await?;
    Ok(json(StatusCode::OK, &page))
}

/// Calls are in their order.
fn call_page(calls: &[CallRecord], after: u64, limit: usize) -> CallPage {
    let from = calls.partition_point(|call| u64::from(call.order) <= after);
    let (items, is_last) = page_of(&calls[from..], limit, |call| {
        let view = CallView::new(call);
        let bytes = view.bytes();
        (view, bytes)
    });
    let next_cursor = items.last().filter(|_| !is_last).map(|last| last.order.to_string());
    CallPage { items, next_cursor }
}

/// What of the rest of a list makes a page, at least one of it, and whether that is all of it.
/// `view` says of each how it is shown, and about how many bytes that is.
pub(crate) fn page_of<Record, View>(
    rest: &[Record],
    limit: usize,
    view: impl Fn(&Record) -> (View, usize),
) -> (Vec<View>, bool) {
    let mut items = Vec::new();
    let mut bytes = 0;
    for record in rest {
        if items.len() == limit || bytes >= MAX_PAGE_BYTES {
            break;
        }
        let (item, size) = view(record);
        bytes += size;
        items.push(item);
    }
    let is_last = items.len() == rest.len();
    (items, is_last)
}
