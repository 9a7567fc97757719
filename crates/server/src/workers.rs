//! The fleet, and whether the server itself is well.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::State,
    http::{StatusCode, request::Parts},
    response::Response,
};
use durable_core::ExecutionId;
use durable_store::WorkerRecord;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    Problem, Server, access, access::Looks, extract::Query, json, openapi::Refusals, rates::Client,
    views::instant,
};

/// A worker that was silent for longer than this is shown as gone.
const SILENT_MS: i64 = 30_000;

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

/// A worker process.
#[derive(Serialize, ToSchema)]
#[schema(as = Worker)]
pub(crate) struct WorkerView {
    /// The name it holds executions under.
    id: String,
    /// The machine it runs on, and its process there.
    host: String,
    pid: u32,
    /// The queues it takes from; empty for all.
    queues: Vec<String>,
    /// The functions it runs.
    functions: Vec<String>,
    /// How many calls it runs at once.
    concurrency: u32,
    version: String,
    #[schema(format = DateTime)]
    started_at: String,
    /// When it was last heard of.
    #[schema(format = DateTime)]
    seen_at: String,
    /// Whether that was lately.
    is_live: bool,
    /// How many executions it holds.
    held: u32,
}

impl WorkerView {
    fn new(worker: WorkerRecord, now_ms: i64) -> Self {
        Self {
            id: worker.owner.as_str().to_owned(),
            is_live: worker.seen_at_ms > now_ms.saturating_sub(SILENT_MS),
            host: worker.host,
            pid: worker.pid,
            queues: worker.queues,
            functions: worker.functions,
            concurrency: worker.concurrency,
            version: worker.version,
            started_at: instant(worker.started_at_ms),
            seen_at: instant(worker.seen_at_ms),
            held: worker.held,
        }
    }
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
            Ok(workers.into_iter().map(|worker| WorkerView::new(worker, now_ms)).collect())
        })
        .await?;
    Ok(json(StatusCode::OK, &WorkerList { items }))
}
