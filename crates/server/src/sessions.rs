//! Sessions: executions that are fed code piece by piece.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use durable_core::{CallId, Error, ExecutionId, Language, Limits};
use durable_engine::{Came, Engine, Feed, FeedRecord, Session};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use tokio::sync::oneshot;
use utoipa::ToSchema;

use crate::{
    Problem, Server,
    access::{Caller, Looks, Operates},
    arrival::{Json, JsonOrNothing},
    check,
    executions::{DEFAULT_PAGE, MAX_PAGE, page_of},
    extract::{PathExecution, PathId, PathNumbered, Query},
    json,
    openapi::Refusals,
    start::{StartRequest, Started, store},
    views::{ExecutionView, raw, raw_fields},
    within,
};

/// A session to open. The fields mean what they mean for executions.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OpenRequest {
    /// The functions its code may call: a list of names, or an object of names with options.
    #[serde(default)]
    #[schema(examples(json!(["fetch"])))]
    functions: Value,
    /// An object: its first variables by name.
    #[schema(value_type = Option<Object>)]
    inputs: Option<Box<RawValue>>,
    /// A name to find it by; `session` by default.
    workflow: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    queue: Option<String>,
    namespace: Option<String>,
    /// Two sessions that are opened with the same key in one namespace are one.
    idempotency_key: Option<String>,
    #[schema(value_type = Option<Object>)]
    limits: Option<Map<String, Value>>,
}

impl From<OpenRequest> for StartRequest {
    fn from(open: OpenRequest) -> Self {
        Self {
            source: Some(String::new()),
            language: Language::Session.as_str().to_owned(),
            program: None,
            functions: open.functions,
            inputs: open.inputs,
            workflow: Some(open.workflow.unwrap_or_else(|| "session".to_owned())),
            tags: open.tags,
            queue: open.queue,
            namespace: open.namespace,
            idempotency_key: open.idempotency_key,
            limits: open.limits,
        }
    }
}

/// Open a session
///
/// It is an execution, with an id of that kind, and everything that can be done with executions can
/// be done with it.
#[utoipa::path(post, path = "/sessions", operation_id = "open_session", tag = "sessions",
    request_body = OpenRequest,
    params(("Idempotency-Key" = Option<String>, Header,
        description = "Two sessions that are opened with the same key in one namespace are one")),
    responses(
        (status = 201, description = "It is stored", body = Started),
        (status = 200, description = "It was there, under the same key", body = Started),
        Refusals))]
pub(crate) async fn open(
    Operates(caller): Operates,
    State(server): State<Arc<Server>>,
    query: Query,
    headers: HeaderMap,
    Json(request): Json<OpenRequest>,
) -> Result<Response, Problem> {
    query.done()?;
    let started = store(&server, caller, &headers, request.into(), |engine, id| {
        // What was there under the same key may be something else.
        Session::get(engine, id).map(drop)
    });
    Ok(started.await?.into_response())
}

/// Looks a session up that the caller may know of, and does something with it.
async fn with<T: Send + 'static>(
    server: &Arc<Server>,
    caller: &Caller,
    id: ExecutionId,
    work: impl FnOnce(&Engine, Session<'_>) -> durable_core::Result<T> + Send + 'static,
) -> Result<T, Problem> {
    let caller = caller.clone();
    server
        .run(move |_, engine| {
            Server::visible(engine, &caller, id)?;
            work(engine, Session::get(engine, id)?)
        })
        .await
}

/// Asks now and whenever there may be news, until there is an answer or the time is over. It holds
/// no thread meanwhile.
async fn poll<T: Send + 'static>(
    server: &Arc<Server>,
    caller: &Caller,
    id: ExecutionId,
    until: Instant,
    ask: impl Fn(Session<'_>) -> durable_core::Result<Option<T>> + Clone + Send + 'static,
) -> Result<Option<T>, Problem> {
    loop {
        let (woken, wake) = oneshot::channel::<()>();
        // Registering comes before asking. The hook drops its end: that is the signal.
        let _registered = server.engine()?.on_ended(id, move || drop(woken));
        let ask = ask.clone();
        let found = with(server, caller, id, move |_, session| ask(session)).await?;
        let rest = until.saturating_duration_since(Instant::now());
        let news = async {
            let _ = wake.await;
        };
        if found.is_some() || rest.is_zero() || !within(server, rest, news).await {
            return Ok(found);
        }
    }
}

/// A piece of code for a session.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FeedRequest {
    /// Python, as long as it likes; its last expression is its output.
    #[schema(examples("page = await fetch('a')\nlen(page)"))]
    code: String,
    /// What a model said when it wrote the code, or anything else that is to be kept with it.
    #[schema(value_type = Value)]
    response: Option<Box<RawValue>>,
    /// Which feed of the session it is, from 1. With it the request can be repeated: a feed that
    /// was taken already is not run again.
    #[schema(minimum = 1)]
    number: Option<u32>,
    /// How long to wait for what it comes to; by default not at all.
    #[schema(minimum = 0, maximum = 60000, default = 0)]
    wait_ms: Option<u64>,
}

/// The exception that ended a feed.
#[derive(Serialize, ToSchema)]
pub(crate) struct FeedErrorView {
    /// The name of the exception.
    #[serde(rename = "type")]
    error_type: String,
    message: String,
    /// Where in which feeds it was raised.
    traceback: Option<String>,
    /// The call whose failure it is.
    cause_call: Option<CallId>,
}

/// What a feed came to.
#[derive(Serialize, ToSchema)]
pub(crate) struct CameView {
    /// The value of the code's last expression; null without one, and after an error.
    #[schema(value_type = Value)]
    output: Option<Box<RawValue>>,
    /// How the value shows itself, when it has no form as JSON.
    repr: Option<String>,
    /// What the code printed.
    printed: String,
    error: Option<FeedErrorView>,
}

impl CameView {
    fn new(came: &Came) -> Self {
        Self {
            output: raw(&came.output),
            repr: came.repr.clone(),
            printed: came.printed.clone(),
            error: came.error.as_ref().map(|error| FeedErrorView {
                error_type: error.error_type.clone(),
                message: error.message.clone(),
                traceback: error.traceback.clone(),
                cause_call: error.call,
            }),
        }
    }
}

/// A feed of a session.
#[derive(Serialize, ToSchema)]
#[schema(as = Feed)]
pub(crate) struct FeedView {
    /// Which feed of the session it is, from 1.
    number: u32,
    code: String,
    /// What was kept with it.
    #[schema(value_type = Value)]
    response: Option<Box<RawValue>>,
    /// What it came to; null while it runs, and for the one that ended the session.
    result: Option<CameView>,
}

impl FeedView {
    fn new(feed: &FeedRecord) -> Self {
        Self {
            number: feed.number,
            code: feed.code.clone(),
            response: feed.response.as_ref().and_then(raw),
            result: feed.came.as_ref().map(CameView::new),
        }
    }
}

/// About how many bytes the JSON of a feed has.
fn bytes(feed: &FeedRecord) -> usize {
    let response = feed.response.as_ref().map_or(0, |response| response.as_str().len());
    let came = feed.came.as_ref().map_or(0, |came| {
        let error = came.error.as_ref();
        came.output.as_str().len()
            + came.printed.len()
            + error.map_or(0, |error| error.message.len())
            + error.and_then(|error| error.traceback.as_ref()).map_or(0, String::len)
    });
    feed.code.len() + response + came + 500
}

/// Waits for what a feed comes to, and answers.
async fn answer(
    server: &Arc<Server>,
    caller: &Caller,
    id: ExecutionId,
    number: u32,
    until: Instant,
) -> Result<Response, Problem> {
    let find = move |_: &Engine, session: Session<'_>| {
        let mut feeds = session.feeds()?.into_iter();
        feeds
            .find(|feed| feed.number == number)
            .ok_or_else(|| Error::not_found(format!("session {id} was not given feed {number}")))
    };
    let mut feed = with(server, caller, id, find).await?;
    if feed.came.is_none() {
        let ask = move |session: Session<'_>| session.result(number, Some(Duration::ZERO));
        feed.came = poll(server, caller, id, until, ask).await?;
    }
    let status = if feed.came.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(json(status, &FeedView::new(&feed)))
}

/// Have a session run a piece of code
///
/// Answers as soon as it has ended, at the latest after `wait_ms`. When the answer comes, the feed
/// survives a crash and runs to its end. A session that has not begun takes no feed yet: 503.
/// One feed runs at a time: another is refused with 409, and so is the one that ends the session
/// because it breaks a limit.
#[utoipa::path(post, path = "/sessions/{id}/feeds", operation_id = "feed_session",
    tag = "sessions", request_body = FeedRequest,
    params(("id" = String, Path, format = "uuid", description = "The session")),
    responses(
        (status = 200, description = "It has ended", body = FeedView),
        (status = 202, description = "It is stored and has not ended yet", body = FeedView),
        Refusals))]
pub(crate) async fn feed(
    Operates(caller): Operates,
    State(server): State<Arc<Server>>,
    PathId(id): PathExecution,
    query: Query,
    Json(request): Json<FeedRequest>,
) -> Result<Response, Problem> {
    query.done()?;
    let FeedRequest { code, response, number, wait_ms } = request;
    let until = Instant::now() + wait(&server, wait_ms)?;
    let response = response.filter(|response| response.get() != "null");
    let max_bytes = Limits::default().max_payload_bytes;
    let response = response.map(|given| check::payload("response", Some(&*given), max_bytes));
    let feed = Feed { code, response: response.transpose()?, number };
    let _permit = server.follow()?;
    let submit = move |session: Session<'_>| session.submit(&feed, Some(Duration::ZERO));
    match poll(&server, &caller, id, until, submit).await? {
        Some(number) => answer(&server, &caller, id, number, until).await,
        None => Err(Problem::from(Error::unavailable(format!(
            "session {id} has not begun: some worker has to take it up; try again, or give wait_ms"
        )))),
    }
}

fn wait(server: &Server, wait_ms: Option<u64>) -> Result<Duration, Problem> {
    let (wait_ms, most) = (wait_ms.unwrap_or(0), server.config.max_wait_ms);
    match wait_ms <= most {
        true => Ok(Duration::from_millis(wait_ms)),
        false => Err(Problem::invalid(format!("wait_ms must be from 0 to {most}"))),
    }
}

/// Show a feed, and wait for what it comes to
///
/// Answers as soon as it has ended, at the latest after `wait_ms`. With 409 when it ended the
/// session by breaking a limit.
#[utoipa::path(get, path = "/sessions/{id}/feeds/{number}", operation_id = "get_feed",
    tag = "sessions",
    params(("id" = String, Path, format = "uuid", description = "The session"),
        ("number" = u32, Path, minimum = 1, description = "The feed"),
        ("wait_ms" = Option<u64>, Query, minimum = 0, maximum = 60000,
            description = "How long to wait at most; by default not at all")),
    responses(
        (status = 200, description = "It has ended", body = FeedView),
        (status = 202, description = "It has not ended yet", body = FeedView),
        Refusals))]
pub(crate) async fn get(
    Looks(caller): Looks,
    State(server): State<Arc<Server>>,
    PathNumbered(id, number): PathNumbered,
    mut query: Query,
) -> Result<Response, Problem> {
    let wait_ms = query.number("wait_ms", 0..=server.config.max_wait_ms, 0)?;
    query.done()?;
    let _permit = server.follow()?;
    let until = Instant::now() + Duration::from_millis(wait_ms);
    answer(&server, &caller, id, number, until).await
}

/// Feeds in their order.
#[derive(Serialize, ToSchema)]
pub(crate) struct FeedPage {
    items: Vec<FeedView>,
    /// Give it as `cursor` to get the next page; null when there is none.
    next_cursor: Option<String>,
}

/// List all that was fed to a session
///
/// A page ends early when it becomes very large.
#[utoipa::path(get, path = "/sessions/{id}/feeds", operation_id = "list_feeds",
    tag = "sessions",
    params(("id" = String, Path, format = "uuid", description = "The session"),
        ("cursor" = Option<u32>, Query, description = "`next_cursor` of the page before",
            minimum = 0, maximum = 4294967295u64),
        ("limit" = Option<u64>, Query, description = "Most feeds of the page",
            minimum = 1, maximum = 1000)),
    responses((status = 200, description = "A page of feeds", body = FeedPage), Refusals))]
pub(crate) async fn list(
    Looks(caller): Looks,
    State(server): State<Arc<Server>>,
    PathId(id): PathExecution,
    mut query: Query,
) -> Result<Response, Problem> {
    let after = query.number("cursor", 0..=u64::from(u32::MAX), 0)?;
    let limit = query.number("limit", 1..=MAX_PAGE, DEFAULT_PAGE)? as usize;
    query.done()?;
    let page = with(&server, &caller, id, move |_, session| {
        Ok(feed_page(&session.feeds()?, after, limit))
    });
    Ok(json(StatusCode::OK, &page.await?))
}

/// Feeds are in their order.
fn feed_page(feeds: &[FeedRecord], after: u64, limit: usize) -> FeedPage {
    let from = feeds.partition_point(|feed| u64::from(feed.number) <= after);
    let (items, is_last) =
        page_of(&feeds[from..], limit, |feed| (FeedView::new(feed), bytes(feed)));
    let next_cursor = items.last().filter(|_| !is_last).map(|last| last.number.to_string());
    FeedPage { items, next_cursor }
}

/// The names a session knows.
#[derive(Serialize, ToSchema)]
pub(crate) struct Variables {
    /// Their values; what has no form as JSON is `{"$py:repr": …}` with a few words.
    #[schema(value_type = BTreeMap<String, Value>)]
    variables: BTreeMap<String, Option<Box<RawValue>>>,
}

/// Show the names a session knows and their values
///
/// During a feed, as they were when it last asked for something. The session is run again against
/// its journal for it, and itself left alone.
#[utoipa::path(get, path = "/sessions/{id}/variables", operation_id = "get_variables",
    tag = "sessions",
    params(("id" = String, Path, format = "uuid", description = "The session")),
    responses((status = 200, description = "The variables", body = Variables), Refusals))]
pub(crate) async fn variables(
    Looks(caller): Looks,
    State(server): State<Arc<Server>>,
    PathId(id): PathExecution,
    query: Query,
) -> Result<Response, Problem> {
    query.done()?;
    let variables = server
        .inspect(move |_, engine| {
            Server::visible(engine, &caller, id)?;
            Session::get(engine, id)?.variables()
        })
        .await?;
    Ok(json(StatusCode::OK, &Variables { variables: raw_fields(&variables) }))
}

/// Where a fork begins.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ForkSessionRequest {
    /// After this feed; 0 is before the first. By default after the last one that has ended.
    after: Option<u32>,
}

/// Open a session that goes on from where another was
///
/// That one stays as it is.
#[utoipa::path(post, path = "/sessions/{id}/fork", operation_id = "fork_session",
    tag = "sessions", request_body(content = Option<ForkSessionRequest>),
    params(("id" = String, Path, format = "uuid", description = "The session")),
    responses((status = 201, description = "The new one is stored", body = Started), Refusals))]
pub(crate) async fn fork(
    Operates(caller): Operates,
    State(server): State<Arc<Server>>,
    PathId(id): PathExecution,
    query: Query,
    JsonOrNothing(ForkSessionRequest { after }): JsonOrNothing<ForkSessionRequest>,
) -> Result<Response, Problem> {
    query.done()?;
    let forked = with(&server, &caller, id, move |engine, session| {
        Started::new(engine, session.fork(after)?.id())
    });
    Ok(forked.await?.into_response())
}

/// Where a session is taken back to.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RewindRequest {
    /// After this feed; 0 is before the first.
    after: u32,
}

/// Take a session back to where it was after a feed
///
/// It is cancelled if it has not ended, and a new one goes on in its place: also after a feed that
/// broke a limit.
#[utoipa::path(post, path = "/sessions/{id}/rewind", operation_id = "rewind_session",
    tag = "sessions", request_body = RewindRequest,
    params(("id" = String, Path, format = "uuid", description = "The session")),
    responses((status = 201, description = "The new one is stored", body = Started), Refusals))]
pub(crate) async fn rewind(
    Operates(caller): Operates,
    State(server): State<Arc<Server>>,
    PathId(id): PathExecution,
    query: Query,
    Json(RewindRequest { after }): Json<RewindRequest>,
) -> Result<Response, Problem> {
    query.done()?;
    let rewound = with(&server, &caller, id, move |engine, session| {
        Started::new(engine, session.rewind(after)?.id())
    });
    Ok(rewound.await?.into_response())
}

/// How long to wait for the end of a session.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CloseRequest {
    /// By default not at all.
    #[schema(minimum = 0, maximum = 60000, default = 0)]
    wait_ms: Option<u64>,
}

/// End a session
///
/// It is completed then; its history stays. Answers as soon as it has ended, at the latest after
/// `wait_ms`; after 202 ask again, for a session that has not begun is not closed. Refused with 409
/// while a feed runs.
#[utoipa::path(post, path = "/sessions/{id}/close", operation_id = "close_session",
    tag = "sessions", request_body(content = Option<CloseRequest>),
    params(("id" = String, Path, format = "uuid", description = "The session")),
    responses(
        (status = 200, description = "It has ended", body = ExecutionView),
        (status = 202, description = "It has not ended yet", body = ExecutionView),
        Refusals))]
pub(crate) async fn close(
    Operates(caller): Operates,
    State(server): State<Arc<Server>>,
    PathId(id): PathExecution,
    query: Query,
    JsonOrNothing(CloseRequest { wait_ms }): JsonOrNothing<CloseRequest>,
) -> Result<Response, Problem> {
    query.done()?;
    let until = Instant::now() + wait(&server, wait_ms)?;
    let _permit = server.follow()?;
    let close = |session: Session<'_>| session.close(Some(Duration::ZERO));
    let closed = poll(&server, &caller, id, until, close).await?;
    let status = if closed.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let record = with(&server, &caller, id, move |engine, _| engine.execution(id)).await?;
    Ok(json(status, &ExecutionView::new(&record)))
}
