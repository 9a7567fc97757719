//! The journal of an execution: a page of it, or all of it as it is written.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use durable_core::{ExecutionId, Recorded};
use http_body::Frame;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use utoipa::ToSchema;

use crate::{
    Kind, Problem, Server,
    access::{Caller, Looks, only},
    executions::{DEFAULT_PAGE, MAX_PAGE, MAX_PAGE_BYTES},
    extract::{PathExecution, PathId, Query},
    json,
    openapi::Refusals,
    views::EventView,
    within,
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// How many events are read at a time: they may be large.
const READ: usize = 25;
/// How often a follower looks for news at most and at least. The end of an execution is told to
/// it at once.
const MIN_LOOK: Duration = Duration::from_millis(50);
const MAX_LOOK: Duration = Duration::from_secs(1);
/// Events that are ready for a follower that reads slowly.
const AHEAD: usize = 16;
/// How long a follower may not read before it is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Events in the order they happened.
#[derive(Serialize, ToSchema)]
pub(crate) struct EventPage {
    items: Vec<EventView>,
    /// Give it as `after` to get the next page; null when there is nothing further yet.
    next_after: Option<u64>,
}

/// Read or follow the journal of an execution
///
/// With `Accept: text/event-stream` the events are sent as they are written, each with its
/// sequence as id, until the execution has ended; the last one is named `end`. Comments are sent
/// as heartbeats. A client that was interrupted goes on with `Last-Event-ID`.
#[utoipa::path(get, path = "/executions/{id}/events", operation_id = "read_events",
    tag = "executions",
    params(("id" = String, Path, format = "uuid", description = "The execution"),
        ("after" = Option<u64>, Query, minimum = 0, maximum = 9223372036854775807u64,
            description = "Only events after this sequence"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000,
            description = "Most events of the page"),
        ("Last-Event-ID" = Option<u64>, Header, minimum = 0, maximum = 9223372036854775807u64,
            description = "As `after`, for a follower that goes on")),
    responses((status = 200, description = "A page of events, or all of them as they come",
        content((EventPage = "application/json"), (String = "text/event-stream"))), Refusals))]
pub(crate) async fn events(
    Looks(caller): Looks,
    State(server): State<Arc<Server>>,
    PathId(id): PathExecution,
    mut query: Query,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let after = query.number("after", 0..=i64::MAX as u64, 0)?;
    let limit = query.number("limit", 1..=MAX_PAGE, DEFAULT_PAGE)? as usize;
    query.done()?;
    let after = last_event_id(&headers)?.unwrap_or(after);
    let visible = caller.clone();
    if wants_stream(&headers) {
        server.run(move |_, engine| Server::visible(engine, &visible, id)).await?;
        let permit = server.follow()?;
        return Ok(stream(Follower { server, caller, id, after }, permit));
    }
    let page = server
        .run(move |_, engine| {
            Server::visible(engine, &visible, id)?;
            read_page(engine.store(), id, after, limit)
        })
        .await?;
    Ok(json(StatusCode::OK, &page))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    if !headers.contains_key(LAST_EVENT_ID) {
        return Ok(None);
    }
    let number = only(headers, LAST_EVENT_ID)
        .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .filter(|number| i64::try_from(*number).is_ok());
    let wrong = || Problem::new(Kind::Invalid, "the header Last-Event-ID is no sequence");
    number.map(Some).ok_or_else(wrong)
}

fn wants_stream(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.split(';').next().unwrap_or_default().trim() == "text/event-stream")
}

fn read_page(
    store: &dyn durable_store::Store,
    id: ExecutionId,
    after: u64,
    limit: usize,
) -> durable_core::Result<EventPage> {
    let (mut items, mut last, mut bytes) = (Vec::new(), after, 0);
    loop {
        let read = READ.min(limit - items.len());
        let recorded = store.journal(id, last, read)?;
        let is_last = recorded.len() < read;
        for event in &recorded {
            last = event.sequence;
            let view = EventView::new(event);
            bytes += view.payload.to_string().len();
            items.push(view);
        }
        if is_last {
            return Ok(EventPage { items, next_after: None });
        }
        if items.len() >= limit || bytes >= MAX_PAGE_BYTES {
            return Ok(EventPage { items, next_after: Some(last) });
        }
    }
}

/// Somebody who is sent the journal as it is written.
struct Follower {
    server: Arc<Server>,
    caller: Caller,
    id: ExecutionId,
    after: u64,
}

/// What there is for a follower now.
struct News {
    events: Vec<Recorded>,
    /// The status, if nothing will ever follow these events.
    ended: Option<&'static str>,
}

/// Whoever reads is gone, or the server stops.
struct Over;

fn stream(follower: Follower, permit: OwnedSemaphorePermit) -> Response {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let _permit = permit;
        // Whoever was interrupted comes again, with the last id.
        let _ = follower.run(sender).await;
    });
    let mut response = Response::new(Body::new(Stream(receiver)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // Proxies that collect what they pass on would keep the events.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl Follower {
    async fn run(mut self, sender: mpsc::Sender<Bytes>) -> Result<(), Over> {
        let heartbeat = Duration::from_millis(self.server.config.heartbeat_ms);
        let (mut look, mut silent) = (MIN_LOOK, Duration::ZERO);
        send(&sender, ": the journal follows\n\n".to_owned()).await?;
        loop {
            let (woken, wake) = oneshot::channel::<()>();
            let engine = self.server.engine().map_err(|_| Over)?;
            let _registered = engine.on_ended(self.id, move || drop(woken));
            drop(engine);
            let news = self.look().await?;
            let is_full = news.events.len() == READ;
            for event in &news.events {
                self.after = event.sequence;
                send(&sender, told(event)).await?;
                (look, silent) = (MIN_LOOK, Duration::ZERO);
            }
            if is_full {
                continue;
            }
            if let Some(status) = news.ended {
                let end = format!("event: end\ndata: {{\"status\":\"{status}\"}}\n\n");
                return send(&sender, end).await;
            }
            let ended = async {
                let _ = wake.await;
            };
            tokio::select! {
                () = sender.closed() => return Err(Over),
                () = self.server.stopped() => return Err(Over),
                _ = within(&self.server, look, ended) => {}
            }
            silent += look;
            look = (look * 2).min(MAX_LOOK);
            if silent >= heartbeat {
                silent = Duration::ZERO;
                send(&sender, ": still here\n\n".to_owned()).await?;
            }
        }
    }

    async fn look(&self) -> Result<News, Over> {
        let (caller, id, after) = (self.caller.clone(), self.id, self.after);
        let read = self.server.run(move |_, engine| {
            // The status is read first: what an ended execution did stands in the journal.
            let record = Server::visible(engine, &caller, id)?;
            let events = engine.store().journal(id, after, READ)?;
            let ended = record.status.is_terminal().then(|| record.status.as_str());
            Ok(News { events, ended })
        });
        match read.await {
            Ok(news) => Ok(news),
            Err(problem) if problem.kind() == Kind::NotFound => {
                Ok(News { events: Vec::new(), ended: Some("deleted") })
            }
            Err(problem) => {
                tracing::warn!(?problem, "a follower is sent away");
                Err(Over)
            }
        }
    }
}

/// An event as it is written into a stream.
fn told(recorded: &Recorded) -> String {
    let view = EventView::new(recorded);
    let data = serde_json::to_string(&view).unwrap_or_default();
    // JSON has no line breaks of its own, so that one line of data is enough.
    format!("id: {}\nevent: {}\ndata: {data}\n\n", view.sequence, view.event_type)
}

async fn send(sender: &mpsc::Sender<Bytes>, text: String) -> Result<(), Over> {
    sender.send_timeout(text.into(), PATIENCE).await.map_err(|_| Over)
}

/// A body that comes through a channel.
struct Stream(mpsc::Receiver<Bytes>);

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
