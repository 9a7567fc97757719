//! Looking into executions where they have waited, and going on from there.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use axum::{extract::State, http::StatusCode, response::Response};
use durable_core::{CallId, ExecutionId, Outcome};
use durable_engine::{
    Engine,
    checkpoints::{self, Checkpoint, Edits},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::{
    Problem, Server,
    access::{Caller, Looks, Operates},
    arrival::{JsonOrNothing, Nothing},
    check,
    executions::{DEFAULT_PAGE, MAX_PAGE, MAX_PAGE_BYTES},
    extract::{PathExecution, PathId, PathNumbered, Query},
    json,
    openapi::Refusals,
    start::Started,
    views::{CheckpointView, DiffView, InspectedCheckpointView},
};

/// Checkpoints, the oldest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct CheckpointPage {
    items: Vec<CheckpointView>,
    /// Give it as `cursor` to get the next page; null when there is none.
    next_cursor: Option<String>,
}

/// List the checkpoints of an execution
///
/// Every place where it asked for something new and waited, the oldest first, also after it has
/// ended. A page ends early when it becomes very large.
#[utoipa::path(get, path = "/executions/{id}/checkpoints", operation_id = "list_checkpoints",
    tag = "checkpoints",
    params(("id" = String, Path, format = "uuid", description = "The execution"),
        ("cursor" = Option<u32>, Query, description = "`next_cursor` of the page before",
            minimum = 0, maximum = 4294967295u64),
        ("limit" = Option<u64>, Query, description = "Most checkpoints of the page",
            minimum = 1, maximum = 1000)),
    responses((status = 200, description = "A page of checkpoints", body = CheckpointPage),
        Refusals))]
pub(crate) async fn list(
    Looks(caller): Looks,
    State(server): State<Arc<Server>>,
    PathId(id): PathExecution,
    mut query: Query,
) -> Result<Response, Problem> {
    let after = query.number("cursor", 0..=u64::from(u32::MAX), 0)? as u32;
    let limit = query.number("limit", 1..=MAX_PAGE, DEFAULT_PAGE)? as usize;
    query.done()?;
    let page = server
        .run(move |_, engine| {
            Server::visible(engine, &caller, id)?;
            read_page(engine, id, after, limit)
        })
        .await?;
    Ok(json(StatusCode::OK, &page))
}

fn read_page(
    engine: &Engine,
    id: ExecutionId,
    after: u32,
    limit: usize,
) -> durable_core::Result<CheckpointPage> {
    let mut page = CheckpointPage { items: Vec::new(), next_cursor: None };
    let mut bytes = 0;
    checkpoints::visit(engine, id, after, |checkpoint| {
        if page.items.len() == limit || bytes >= MAX_PAGE_BYTES {
            page.next_cursor = page.items.last().map(|last| last.checkpoint.to_string());
            return ControlFlow::Break(());
        }
        let view = CheckpointView::new(&checkpoint);
        bytes += view.bytes();
        page.items.push(view);
        ControlFlow::Continue(())
    })?;
    Ok(page)
}

/// A checkpoint of an execution that the caller may know of.
fn find(
    engine: &Engine,
    caller: &Caller,
    id: ExecutionId,
    number: u32,
) -> durable_core::Result<Checkpoint> {
    Server::visible(engine, caller, id)?;
    checkpoints::get(engine, id, number)
}

/// Show a checkpoint: what it waits for, its source, its call stacks and variables
///
/// The program is run again against its journal up to there; the execution is left alone.
#[utoipa::path(get, path = "/executions/{id}/checkpoints/{number}",
    operation_id = "get_checkpoint", tag = "checkpoints",
    params(("id" = String, Path, format = "uuid", description = "The execution"),
        ("number" = u32, Path, minimum = 1, description = "The checkpoint")),
    responses((status = 200, description = "The checkpoint", body = InspectedCheckpointView),
        Refusals))]
pub(crate) async fn get(
    Looks(caller): Looks,
    State(server): State<Arc<Server>>,
    PathNumbered(id, number): PathNumbered,
    query: Query,
) -> Result<Response, Problem> {
    query.done()?;
    let view = server
        .inspect(move |_, engine| {
            let checkpoint = find(engine, &caller, id, number)?;
            let seen = checkpoints::inspect(engine, &checkpoint)?;
            let definition = checkpoints::definition(engine, &checkpoint)?;
            Ok(InspectedCheckpointView::new(&checkpoint, &definition, &seen))
        })
        .await?;
    Ok(json(StatusCode::OK, &view))
}

/// Compare a checkpoint with another one of the same execution
#[utoipa::path(get, path = "/executions/{id}/checkpoints/{number}/diff",
    operation_id = "compare_checkpoints", tag = "checkpoints",
    params(("id" = String, Path, format = "uuid", description = "The execution"),
        ("number" = u32, Path, minimum = 1, description = "The checkpoint"),
        ("to" = Option<u32>, Query, minimum = 1, maximum = 4294967295u64,
            description = "The other one; by default that after it")),
    responses((status = 200, description = "What differs", body = DiffView), Refusals))]
pub(crate) async fn diff(
    Looks(caller): Looks,
    State(server): State<Arc<Server>>,
    PathNumbered(id, number): PathNumbered,
    mut query: Query,
) -> Result<Response, Problem> {
    let to = query.number("to", 1..=u64::from(u32::MAX), u64::from(number) + 1)?;
    query.done()?;
    let to = u32::try_from(to).unwrap_or(u32::MAX);
    let view = server
        .inspect(move |_, engine| {
            let from = find(engine, &caller, id, number)?;
            let diff = checkpoints::diff(engine, &from, &checkpoints::get(engine, id, to)?)?;
            Ok(DiffView::new(number, to, &diff, MAX_PAGE_BYTES))
        })
        .await?;
    Ok(json(StatusCode::OK, &view))
}

/// What a fork is given on its way.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ForkRequest {
    /// What calls come to that the checkpoint waits for: values by the number of the call.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, serde_json::Value>)]
    results: BTreeMap<CallId, Box<RawValue>>,
    /// Variables that get other values: by name, or, where several functions have one of this name,
    /// by `function.name`, or by task and depth, as in `1.0.name`.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, serde_json::Value>)]
    variables: BTreeMap<String, Box<RawValue>>,
}

impl ForkRequest {
    fn fork(&self, engine: &Engine, checkpoint: &Checkpoint) -> durable_core::Result<ExecutionId> {
        let max_bytes = checkpoints::definition(engine, checkpoint)?.limits.max_payload_bytes;
        let results = self.results.iter().map(|(call, raw)| {
            let what = format!("the result of call {call}");
            let value = check::payload(&what, Some(raw.as_ref()), max_bytes)?;
            Ok((*call, Outcome::Completed(value)))
        });
        let variables = self.variables.iter().map(|(name, raw)| {
            let what = format!("the variable '{name}'");
            Ok((name.clone(), check::payload(&what, Some(raw.as_ref()), max_bytes)?))
        });
        let edits = Edits {
            results: results.collect::<durable_core::Result<_>>()?,
            variables: variables.collect::<durable_core::Result<_>>()?,
        };
        checkpoints::fork(engine, checkpoint, &edits)
    }
}

/// Start an execution that goes on from a checkpoint
///
/// The one it is taken from stays as it is. Calls of the new one have idempotency keys of their
/// own; those that the checkpoint waits for are made again, unless `results` says what they come
/// to. `variables` of the program get other values first.
#[utoipa::path(post, path = "/executions/{id}/checkpoints/{number}/fork",
    operation_id = "fork_execution", tag = "checkpoints",
    params(("id" = String, Path, format = "uuid", description = "The execution"),
        ("number" = u32, Path, minimum = 1, description = "The checkpoint")),
    request_body(content = Option<ForkRequest>),
    responses((status = 201, description = "It is stored", body = Started), Refusals))]
pub(crate) async fn fork(
    Operates(caller): Operates,
    State(server): State<Arc<Server>>,
    PathNumbered(id, number): PathNumbered,
    query: Query,
    JsonOrNothing(request): JsonOrNothing<ForkRequest>,
) -> Result<Response, Problem> {
    query.done()?;
    let sets_variables = !request.variables.is_empty();
    let work = move |_: &Server, engine: &Engine| {
        let checkpoint = find(engine, &caller, id, number)?;
        Started::new(engine, request.fork(engine, &checkpoint)?)
    };
    // Whether the program takes the values is found out by running it again.
    let started = match sets_variables {
        true => server.inspect(work).await?,
        false => server.run(work).await?,
    };
    Ok(started.into_response())
}

/// Take an execution back to a checkpoint
///
/// It is cancelled if it has not ended, and a new one goes on from the checkpoint in its place.
#[utoipa::path(post, path = "/executions/{id}/checkpoints/{number}/restore",
    operation_id = "restore_execution", tag = "checkpoints",
    params(("id" = String, Path, format = "uuid", description = "The execution"),
        ("number" = u32, Path, minimum = 1, description = "The checkpoint")),
    request_body(content = Option<Nothing>),
    responses((status = 201, description = "The new one is stored", body = Started), Refusals))]
pub(crate) async fn restore(
    Operates(caller): Operates,
    State(server): State<Arc<Server>>,
    PathNumbered(id, number): PathNumbered,
    query: Query,
    JsonOrNothing(Nothing {}): JsonOrNothing<Nothing>,
) -> Result<Response, Problem> {
    query.done()?;
    let started = server
        .run(move |_, engine| {
            let checkpoint = find(engine, &caller, id, number)?;
            Started::new(engine, checkpoints::restore(engine, &checkpoint)?)
        })
        .await?;
    Ok(started.into_response())
}
