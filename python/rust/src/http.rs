//! The HTTP API inside an ASGI server: its requests go to the same router as those of
//! `durable serve`.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header},
    response::{IntoResponse as _, Response},
};
use durable::Engine as RustEngine;
use durable_executors::TaskQueue;
use durable_server::{Config, Kind, Peer, Problem, Server, respond, router};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use pyo3::{prelude::*, types::PyBytes};
use tokio::{runtime::Runtime, sync::Mutex as AsyncMutex, task::AbortHandle};

use crate::{engine::Engine, error::to_python};

/// What a test client calls itself where others tell their address.
const TEST_CLIENT: &str = "testclient";

#[pyclass(frozen, module = "durable_monty._internal")]
pub(crate) struct HttpApp {
    server: Arc<Server>,
    router: Router,
    engine: std::sync::Weak<RustEngine>,
    hands_out_tasks: bool,
    threads: Arc<Threads>,
}

/// The threads that answer, until the last answer is given.
struct Threads {
    runtime: Option<Runtime>,
    /// They don't survive a fork.
    pid: u32,
}

impl Drop for Threads {
    fn drop(&mut self) {
        let runtime = self.runtime.take();
        if std::process::id() != self.pid {
            // They are the parent's.
            return std::mem::forget(runtime);
        }
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }
}

#[pymethods]
impl HttpApp {
    #[staticmethod]
    #[pyo3(signature = (engine, webhook_secret = None, tasks = false))]
    fn open(
        py: Python<'_>,
        engine: &Engine,
        webhook_secret: Option<String>,
        tasks: bool,
    ) -> PyResult<Self> {
        let engine = engine.engine()?;
        let queue = tasks.then(|| Arc::new(TaskQueue::default()));
        if let Some(queue) = queue.clone() {
            py.detach(|| engine.attach(queue)).map_err(to_python)?;
        }
        let config = Config { webhook_secret, allow_dotless_hosts: true, ..Config::default() };
        let server = Server::new(&engine, queue, config);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("durable-http")
            .enable_time()
            .build()
            .map_err(|error| {
                to_python(durable::Error::unavailable(format!("can't start threads: {error}")))
            })?;
        Ok(Self {
            router: router(server.clone()),
            server,
            engine: Arc::downgrade(&engine),
            hands_out_tasks: tasks,
            threads: Arc::new(Threads { runtime: Some(runtime), pid: std::process::id() }),
        })
    }

    /// Takes a request; `body` is None when it did not arrive in time.
    fn request(
        &self,
        method: &[u8],
        target: &[u8],
        headers: Vec<(Vec<u8>, Vec<u8>)>,
        body: Option<Vec<u8>>,
        client: Option<&str>,
    ) -> Exchange {
        let stage = match to_request(method, target, headers, body, client) {
            Ok(request) => Stage::Request(Box::new(request), self.router.clone()),
            Err(problem) => Stage::Answered(problem.into_response()),
        };
        let stage = Arc::new(AsyncMutex::new(stage));
        Exchange { stage, threads: self.threads.clone(), running: Mutex::default() }
    }

    /// Ends what waits for news, and gives back what the engine holds for the tasks of this app.
    fn close(&self, py: Python<'_>, grace_s: f64) {
        self.server.stop();
        py.detach(|| {
            if let Some(engine) = self.engine.upgrade().filter(|_| self.hands_out_tasks) {
                engine.detach(Duration::try_from_secs_f64(grace_s).unwrap_or_default());
            }
        });
    }
}

fn to_request(
    method: &[u8],
    target: &[u8],
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Option<Vec<u8>>,
    client: Option<&str>,
) -> Result<Request<Body>, Problem> {
    let malformed = |what: &str| Problem::new(Kind::Invalid, format!("malformed {what}"));
    let late = || Problem::new(Kind::Timeout, "the body took too long to arrive");
    let mut request = Request::new(Body::from(body.ok_or_else(late)?));
    *request.method_mut() = Method::from_bytes(method).map_err(|_| malformed("method"))?;
    *request.uri_mut() = Uri::try_from(target).map_err(|_| malformed("path"))?;
    for (name, value) in headers {
        let name = HeaderName::from_bytes(&name).map_err(|_| malformed("header"))?;
        let value = HeaderValue::from_bytes(&value).map_err(|_| malformed("header"))?;
        request.headers_mut().append(name, value);
    }
    let peer = match client {
        Some(TEST_CLIENT) => Some(IpAddr::from([127, 0, 0, 1])),
        Some(text) => text.parse().ok(),
        None => None,
    };
    request.extensions_mut().insert(Peer(peer));
    Ok(request)
}

/// One request and its answer, which is taken piece by piece.
#[pyclass(frozen, module = "durable_monty._internal")]
pub(crate) struct Exchange {
    stage: Arc<AsyncMutex<Stage>>,
    threads: Arc<Threads>,
    running: Mutex<Option<AbortHandle>>,
}

enum Stage {
    Request(Box<Request<Body>>, Router),
    Answered(Response),
    Body(Body),
    Over,
}

/// A piece of an answer.
enum Piece {
    Head(u16, HeaderMap),
    Body(bytes::Bytes),
    End,
}

impl Stage {
    async fn next(&mut self) -> Piece {
        let response = match std::mem::replace(self, Self::Over) {
            Self::Request(request, router) => respond(&router, *request).await,
            Self::Answered(response) => response,
            Self::Body(mut body) => {
                while let Some(Ok(frame)) = body.frame().await {
                    if let Ok(bytes) = frame.into_data() {
                        *self = Self::Body(body);
                        return Piece::Body(bytes);
                    }
                }
                return Piece::End;
            }
            Self::Over => return Piece::End,
        };
        let (mut head, body) = response.into_parts();
        if let Some(length) = http_body::Body::size_hint(&body).exact() {
            // 204 has neither a body nor a length.
            if head.status != axum::http::StatusCode::NO_CONTENT {
                head.headers.entry(header::CONTENT_LENGTH).or_insert(length.into());
            }
        }
        *self = Self::Body(body);
        Piece::Head(head.status.as_u16(), head.headers)
    }
}

#[pymethods]
impl Exchange {
    /// Has `done` called with the next piece, from another thread.
    fn next(&self, done: Py<PyAny>) {
        let Some(runtime) = &self.threads.runtime else { return };
        let stage = self.stage.clone();
        let task = runtime.spawn(async move {
            let piece = stage.lock().await.next().await;
            // Waiting for the GIL holds nobody else up there.
            tokio::task::spawn_blocking(move || tell(&done, piece));
        });
        *self.running.lock() = Some(task.abort_handle());
    }

    /// Gives the exchange up: whatever works on it is told so.
    fn cancel(&self) {
        let Some(runtime) = &self.threads.runtime else { return };
        if let Some(running) = self.running.lock().take() {
            running.abort();
        }
        let stage = self.stage.clone();
        runtime.spawn(async move { *stage.lock().await = Stage::Over });
    }
}

fn tell(done: &Py<PyAny>, piece: Piece) {
    let told = Python::try_attach(|py| match piece {
        Piece::Head(status, headers) => {
            let bytes = |bytes: &[u8]| PyBytes::new(py, bytes).unbind();
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| (bytes(name.as_str().as_bytes()), bytes(value.as_bytes())))
                .collect();
            done.call1(py, ("head", status, headers))
        }
        Piece::Body(body) => done.call1(py, ("body", PyBytes::new(py, &body), py.None())),
        Piece::End => done.call1(py, ("end", py.None(), py.None())),
    });
    // The event loop may be closed by now, or Python itself.
    if let Some(Err(error)) = told {
        tracing::debug!(%error, "nobody takes the answer");
    }
}
