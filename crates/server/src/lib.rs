//! The HTTP face of durable-monty: the API of executions, webhooks, and tasks for workers in any
//! language.
//!
//! [`router`] is the whole contract. `durable serve` puts it behind a socket with [`serve`], and
//! the Python package behind whatever ASGI server the user has; both behave the same.
//!
//! Errors are `application/problem+json` throughout. Engine and store block, so they are only
//! called on threads that may, a bounded number at once.

mod access;
mod arrival;
mod check;
mod checkpoints;
mod config;
mod executions;
mod extract;
mod journal;
mod listen;
mod openapi;
mod operate;
mod problem;
mod rates;
mod results;
mod sessions;
mod start;
mod tasks;
mod token;
mod tokens;
pub mod views;
mod webhook;
mod workers;

use std::{
    future::Future,
    sync::{Arc, Weak},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, get, post},
};
use durable_core::{Error, ExecutionId, UnixMs};
use durable_engine::{Clock as _, Engine, SystemClock};
use durable_executors::TaskQueue;
use durable_store::ExecutionRecord;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::ServiceExt as _;

pub use access::{Peer, is_fit_for_network};
pub use config::Config;
pub use listen::serve;
pub use openapi::document;
pub use problem::{Kind, Problem};
pub use token::{NewToken, mint};
pub use tokens::TokenView;

use access::{Access, Caller};
use rates::Rates;

/// What every request shares.
pub struct Server {
    /// Weak, so that whoever opened the engine can close it.
    engine: Weak<Engine>,
    tasks: Option<Arc<TaskQueue>>,
    config: Config,
    access: Access,
    rates: Rates,
    clock: SystemClock,
    requests: Arc<Semaphore>,
    followers: Arc<Semaphore>,
    blocking: Arc<Semaphore>,
    inspections: Arc<Semaphore>,
    stopping: watch::Sender<bool>,
}

impl Server {
    /// A server on an engine, for as long as that is open. It hands out the tasks of `tasks`, if
    /// that is what the engine's calls go to.
    pub fn new(engine: &Arc<Engine>, tasks: Option<Arc<TaskQueue>>, config: Config) -> Arc<Self> {
        Arc::new(Self {
            engine: Arc::downgrade(engine),
            tasks,
            access: Access::default(),
            rates: Rates::new(config.rate_per_s, config.burst),
            clock: SystemClock::default(),
            requests: Arc::new(Semaphore::new(config.max_requests)),
            followers: Arc::new(Semaphore::new(config.max_followers)),
            blocking: Arc::new(Semaphore::new(config.max_blocking)),
            inspections: Arc::new(Semaphore::new(config.max_inspections)),
            stopping: watch::Sender::new(false),
            config,
        })
    }

    /// Ends everything that waits for news, so that what is open can come to its end.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Returns when the server is to stop.
    pub(crate) async fn stopped(&self) {
        // The sender lives as long as this.
        let _ = self.stopping.subscribe().wait_for(|stopping| *stopping).await;
    }

    fn now_ms(&self, engine: &Engine) -> UnixMs {
        engine.store().clock_ms().unwrap_or_else(|| self.clock.now_ms())
    }

    fn engine(&self) -> Result<Arc<Engine>, Problem> {
        let closed = || Problem::from(Error::unavailable("the engine is closed"));
        self.engine.upgrade().ok_or_else(closed)
    }

    /// Runs something that blocks, within the bounds on how much does and how long it takes.
    async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Server, &Engine) -> durable_core::Result<T> + Send + 'static,
    ) -> Result<T, Problem> {
        let (server, engine) = (self.clone(), self.engine()?);
        let working = async {
            let permit = self.blocking.clone().acquire_owned().await;
            let job = tokio::task::spawn_blocking(move || {
                // Given back when the work is over, also if nobody waits for it any more.
                let _permit = permit;
                work(&server, &engine)
            });
            job.await.unwrap_or_else(|error| Err(Error::internal(error.to_string())))
        };
        match tokio::time::timeout(self.request_timeout(), working).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(Problem::from(Error::unavailable(
                "the server is too busy: what was asked for may still happen, look before you \
                 ask again",
            ))),
        }
    }

    /// As [`Server::run`], for what runs a program again.
    async fn inspect<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Server, &Engine) -> durable_core::Result<T> + Send + 'static,
    ) -> Result<T, Problem> {
        let place = self.inspections.clone().acquire_owned();
        let Ok(Ok(place)) = tokio::time::timeout(self.request_timeout(), place).await else {
            return Err(Problem::from(Error::unavailable(
                "other programs are being looked into: try again",
            )));
        };
        let inspecting = move |server: &Server, engine: &Engine| {
            let _place = place;
            work(server, engine)
        };
        self.run(inspecting).await
    }

    fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.config.request_timeout_ms)
    }

    /// A place among those that wait for news.
    fn follow(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.followers.clone().try_acquire_owned().map_err(|_| {
            Problem::from(Error::unavailable("too many requests wait for news: try again later"))
        })
    }

    /// An execution that the caller may know of.
    fn visible(
        engine: &Engine,
        caller: &Caller,
        id: ExecutionId,
    ) -> durable_core::Result<ExecutionRecord> {
        let record = engine.execution(id)?;
        if caller.sees(&record.labels.namespace) {
            return Ok(record);
        }
        // Word for word what is said of an execution that does not exist.
        Err(Error::not_found(format!("no execution '{id}'")))
    }
}

/// Every path there is, and what answers there.
fn routes() -> Vec<(&'static str, MethodRouter<Arc<Server>>)> {
    vec![
        ("/health", get(workers::health)),
        ("/ready", get(workers::ready)),
        ("/openapi.json", get(openapi::openapi)),
        ("/executions", get(executions::list).post(start::start)),
        ("/executions/bulk", post(operate::bulk)),
        ("/executions/{id}", get(executions::get).delete(operate::delete)),
        ("/executions/{id}/calls", get(executions::calls)),
        ("/executions/{id}/checkpoints", get(checkpoints::list)),
        ("/executions/{id}/checkpoints/{number}", get(checkpoints::get)),
        ("/executions/{id}/checkpoints/{number}/diff", get(checkpoints::diff)),
        ("/executions/{id}/checkpoints/{number}/fork", post(checkpoints::fork)),
        ("/executions/{id}/checkpoints/{number}/restore", post(checkpoints::restore)),
        ("/executions/{id}/events", get(journal::events)),
        ("/executions/{id}/result", get(results::result)),
        ("/executions/{id}/cancel", post(operate::cancel)),
        ("/executions/{id}/pause", post(operate::pause)),
        ("/executions/{id}/resume", post(operate::resume)),
        ("/executions/{id}/retry", post(operate::retry)),
        ("/sessions", post(sessions::open)),
        ("/sessions/{id}/close", post(sessions::close)),
        ("/sessions/{id}/feeds", get(sessions::list).post(sessions::feed)),
        ("/sessions/{id}/feeds/{number}", get(sessions::get)),
        ("/sessions/{id}/fork", post(sessions::fork)),
        ("/sessions/{id}/rewind", post(sessions::rewind)),
        ("/sessions/{id}/variables", get(sessions::variables)),
        ("/workers", get(workers::list)),
        ("/tokens", get(tokens::list).post(tokens::create)),
        ("/tokens/{id}", delete(tokens::revoke)),
        ("/tasks/claim", post(tasks::claim)),
        ("/tasks/{id}/heartbeat", post(tasks::heartbeat)),
        ("/tasks/{id}/complete", post(tasks::complete)),
        ("/tasks/{id}/fail", post(tasks::fail)),
        ("/webhook/complete", post(webhook::complete)),
    ]
}

/// Paths where requests may wait for news: they have places of their own.
const WAITING: [&str; 6] = [
    "/executions/{id}/events",
    "/executions/{id}/result",
    "/sessions/{id}/close",
    "/sessions/{id}/feeds",
    "/sessions/{id}/feeds/{number}",
    "/tasks/claim",
];

/// The whole HTTP contract.
pub fn router(server: Arc<Server>) -> Router {
    let mut router = Router::new();
    for (path, methods) in routes() {
        let methods = match WAITING.contains(&path) {
            true => methods,
            false => methods.layer(middleware::from_fn_with_state(server.clone(), bounded)),
        };
        router = router.route(path, methods);
    }
    router
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::map_response(guarded))
        .with_state(server)
}

/// Answers one request.
pub async fn respond(router: &Router, request: Request) -> Response {
    match router.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

async fn no_such_path() -> Problem {
    Problem::new(Kind::NotFound, "there is no such path: /openapi.json lists those there are")
}

async fn no_such_method() -> Problem {
    Problem::new(Kind::MethodNotAllowed, "this path does not know this method")
}

/// Bounds how many requests are worked on at once.
async fn bounded(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let Ok(_permit) = server.requests.clone().try_acquire_owned() else {
        let busy = Error::unavailable("the server is busy: try again");
        return Problem::from(busy).into_response();
    };
    next.run(request).await
}

/// Tells browsers and proxies not to make anything of an answer, and not to keep it.
async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let value = axum::http::HeaderValue::from_static;
    headers.insert("x-content-type-options", value("nosniff"));
    headers.entry("cache-control").or_insert(value("no-store"));
    response
}

/// Waits for `event`, the end of the server, or the end of the time; whether it was the event.
async fn within(server: &Server, at_most: Duration, event: impl Future<Output = ()>) -> bool {
    tokio::select! {
        () = event => true,
        () = server.stopped() => false,
        () = tokio::time::sleep(at_most) => false,
    }
}

/// A response of JSON.
fn json(status: axum::http::StatusCode, value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => {
            let mut response = Response::new(Body::from(body));
            *response.status_mut() = status;
            let json = axum::http::HeaderValue::from_static("application/json");
            response.headers_mut().insert(axum::http::header::CONTENT_TYPE, json);
            response
        }
        Err(error) => Problem::from(Error::internal(error.to_string())).into_response(),
    }
}
