//! The fleet, and whether the server itself is well.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::State,
    http::{StatusCode, request::Parts},
    response::Response,
};
use durable_core::ExecutionId;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    Problem, Server, access, access::Looks, extract::Query, json, openapi::Refusals, rates::Client,
    views::WorkerView,
};

/// How the server is.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`
    status: &'static str,
}

const WELL: Health = Health { status: "ok" };

/// Whether the process answers
#[utoipa::path(get, path = "/health", operation_id = "get_health", tag = "server", security(()),
    responses((status = 200, description = "It does", body = Health)))]
pub(crate) async fn health() -> Response {
    json(StatusCode::OK, &WELL)
}

/// Whether the store can be reached
#[utoipa::path(get, path = "/ready", operation_id = "get_readiness", tag = "server", security(()),
    responses((status = 200, description = "It can", body = Health), Refusals))]
pub(crate) async fn ready(
    State(server): State<Arc<Server>>,
    parts: Parts,
) -> Result<Response, Problem> {
    server.rates.count(Client::of(access::peer(&parts)), Instant::now())?;
    let nobody = ExecutionId::new(0, [0; 10]);
    server.run(move |_, engine| engine.store().execution(nobody)).await?;
    Ok(json(StatusCode::OK, &WELL))
}

/// The workers that announced themselves.
#[derive(Serialize, ToSchema)]
pub(crate) struct WorkerList {
    items: Vec<WorkerView>,
}

/// List the workers of the fleet
#[utoipa::path(get, path = "/workers", operation_id = "list_workers", tag = "server",
    responses((status = 200, description = "The workers", body = WorkerList), Refusals))]
pub(crate) async fn list(
    Looks(caller): Looks,
    State(server): State<Arc<Server>>,
    query: Query,
) -> Result<Response, Problem> {
    query.done()?;
    caller.unconfined()?;
    let items = server
        .run(|server, engine| {
            let now_ms = server.now_ms(engine);
            let workers = engine.store().workers()?;
            Ok(workers.iter().map(|worker| WorkerView::new(worker, now_ms)).collect())
        })
        .await?;
    Ok(json(StatusCode::OK, &WorkerList { items }))
}
