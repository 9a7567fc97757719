//! Starting executions.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use durable_core::{
    Definition, Error, ExecutionId, FunctionOptions, Language, Limits, Program, ProgramId,
};
use durable_engine::{Engine, Start};
use durable_store::Labels;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::{Map, Value, value::RawValue};
use utoipa::ToSchema;

use crate::{
    Problem, Server,
    access::{Caller, Operates, only},
    arrival::Json,
    check,
    extract::Query,
    json,
    openapi::Refusals,
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Most functions of a program, and most tags of an execution.
const MAX_FUNCTIONS: usize = 1_000;
const MAX_TAGS: usize = 100;

/// An execution to start: of a source, or of a program that is stored already.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartRequest {
    /// The workflow: Python whose last expression is the output. `code` is another word for it.
    #[serde(alias = "code")]
    #[schema(examples("await add(1, 2)"))]
    pub(crate) source: Option<String>,
    /// What the source is written in: `python`, or for a step workflow `yaml`, `toml` or `json`.
    #[serde(default = "python")]
    #[schema(examples("python"))]
    pub(crate) language: String,
    /// Instead of a source: the id of a program, as executions show it.
    pub(crate) program: Option<String>,
    /// The functions it may call: a list of names, or an object of names with
    /// `{"retry": {…}, "timeout_ms": 1000}`. `external_functions` is another word for it.
    #[serde(default, alias = "external_functions")]
    #[schema(examples(json!(["add"])))]
    pub(crate) functions: Value,
    /// An object: the value of each input by name. They are global variables of the workflow.
    #[schema(value_type = Option<Object>)]
    pub(crate) inputs: Option<Box<RawValue>>,
    /// A name to find it by.
    pub(crate) workflow: Option<String>,
    /// Words to find it by.
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    /// The queue that workers take it from.
    pub(crate) queue: Option<String>,
    /// The tenant it belongs to.
    pub(crate) namespace: Option<String>,
    /// Two starts with the same key in one namespace are one. The header `Idempotency-Key` says
    /// the same.
    pub(crate) idempotency_key: Option<String>,
    /// Bounds of the program that are to be lower than usual, such as `max_calls`.
    #[schema(value_type = Option<Object>)]
    pub(crate) limits: Option<Map<String, Value>>,
}

fn python() -> String {
    Language::Python.as_str().to_owned()
}

/// An execution that was started.
#[derive(Serialize, ToSchema)]
pub(crate) struct Started {
    /// Its id.
    #[schema(format = "uuid")]
    execution_id: String,
    /// Its status just now.
    status: &'static str,
    /// Whether it was there already, under the same idempotency key.
    existing: bool,
}

impl Started {
    /// An execution that was started just now.
    pub(crate) fn new(engine: &Engine, id: ExecutionId) -> durable_core::Result<Self> {
        Self::or_found(engine, id, false)
    }

    fn or_found(engine: &Engine, id: ExecutionId, existing: bool) -> durable_core::Result<Self> {
        let status = engine.execution(id)?.status.as_str();
        Ok(Self { execution_id: id.to_string(), status, existing })
    }

    /// The answer, which says where it is.
    pub(crate) fn into_response(self) -> Response {
        let status = if self.existing { StatusCode::OK } else { StatusCode::CREATED };
        let mut response = json(status, &self);
        if let Ok(location) = HeaderValue::try_from(format!("/executions/{}", self.execution_id)) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }
}

/// Start an execution
///
/// When the answer comes, the execution survives a crash.
#[utoipa::path(post, path = "/executions", operation_id = "start_execution",
    tag = "executions", request_body = StartRequest,
    params(("Idempotency-Key" = Option<String>, Header,
        description = "Two starts with the same key in one namespace are one")),
    responses(
        (status = 201, description = "It is stored", body = Started),
        (status = 200, description = "It was there, under the same key", body = Started),
        Refusals))]
pub(crate) async fn start(
    Operates(caller): Operates,
    State(server): State<Arc<Server>>,
    query: Query,
    headers: HeaderMap,
    Json(request): Json<StartRequest>,
) -> Result<Response, Problem> {
    query.done()?;
    let started = store(&server, caller, &headers, request, |_, _| Ok(())).await?;
    Ok(started.into_response())
}

/// Stores an execution, unless it is there under the same key. `check` may refuse what is there.
pub(crate) async fn store(
    server: &Arc<Server>,
    caller: Caller,
    headers: &HeaderMap,
    request: StartRequest,
    check: impl FnOnce(&Engine, ExecutionId) -> durable_core::Result<()> + Send + 'static,
) -> Result<Started, Problem> {
    let key = idempotency_key(headers, request.idempotency_key.clone())?;
    let namespace = caller.namespace(request.namespace.clone())?;
    server
        .run(move |_, engine| {
            let labels = labels(&request, namespace)?;
            let mut start = to_start(engine, &caller, request)?;
            start.labels = labels;
            start.idempotency_key = key;
            let (id, existing) = engine.start_or_find(start)?;
            check(engine, id)?;
            Started::or_found(engine, id, existing)
        })
        .await
}

fn idempotency_key(headers: &HeaderMap, body: Option<String>) -> Result<Option<String>, Problem> {
    let header = match headers.contains_key(IDEMPOTENCY_KEY) {
        false => None,
        true => Some(only(headers, IDEMPOTENCY_KEY).ok_or_else(|| {
            Problem::invalid("the header Idempotency-Key has to be one line of plain text")
        })?),
    };
    let key = match (header, body) {
        (Some(header), Some(body)) if header != body => {
            return Err(Problem::invalid("header and body give different idempotency keys"));
        }
        (Some(header), _) => Some(header.to_owned()),
        (None, body) => body,
    };
    if let Some(key) = &key {
        check::text("the idempotency key", key, check::MAX_TEXT_CHARS)?;
    }
    Ok(key)
}

fn labels(request: &StartRequest, namespace: Option<String>) -> durable_core::Result<Labels> {
    let mut labels = Labels { tags: request.tags.clone(), ..Labels::default() };
    if labels.tags.len() > MAX_TAGS {
        return Err(Error::invalid(format!("there are more than {MAX_TAGS} tags")));
    }
    for tag in &labels.tags {
        check::label("a tag", tag)?;
    }
    if let Some(queue) = &request.queue {
        check::label("queue", queue)?;
        labels.queue.clone_from(queue);
    }
    if let Some(namespace) = namespace {
        check::label("namespace", &namespace)?;
        labels.namespace = namespace;
    }
    Ok(labels)
}

fn to_start(
    engine: &Engine,
    caller: &Caller,
    request: StartRequest,
) -> durable_core::Result<Start> {
    let workflow = request.workflow.unwrap_or_else(|| "workflow".to_owned());
    check::text("workflow", &workflow, check::MAX_TEXT_CHARS)?;
    let limits = limits(request.limits)?;
    let inputs = request.inputs.as_deref();
    let inputs = match inputs {
        Some(raw) => check::payload("inputs", Some(raw), limits.max_payload_bytes)?,
        None => durable_core::Payload::trusted("{}"),
    };
    let names: BTreeMap<String, IgnoredAny> = serde_json::from_str(inputs.as_str())
        .map_err(|error| Error::invalid(format!("the inputs are no JSON object: {error}")))?;
    let program = match (request.source, request.program) {
        (Some(source), None) => Program::new(Definition {
            language: Language::parse(&request.language)?,
            source,
            functions: functions(request.functions)?,
            inputs: names.into_keys().collect(),
            limits,
        })
        .into(),
        (None, Some(program)) => stored(engine, caller, &program, &request.functions)?,
        _ => return Err(Error::invalid("give either a source or the id of a program")),
    };
    let unlabelled = Start::new(program.definition().clone());
    Ok(Start { program, inputs, workflow_id: workflow, ..unlabelled })
}

/// A program by its id, which only those know who have seen one of its executions.
fn stored(
    engine: &Engine,
    _caller: &Caller,
    id: &str,
    functions: &Value,
) -> durable_core::Result<Arc<Program>> {
    if !functions.is_null() {
        return Err(Error::invalid("a stored program has its functions already: leave them out"));
    }
    let unknown = || Error::invalid("there is no program of this id: give its source");
    let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_id {
        return Err(unknown());
    }
    let stored = engine.store().program(&ProgramId::from_stored(id))?;
    Ok(stored.ok_or_else(unknown)?.program)
}

/// Functions are named as workers registered them. Import paths, which a worker would follow to
/// any code it finds, are for those who start executions in the process that has that code.
fn functions(given: Value) -> durable_core::Result<BTreeMap<String, FunctionOptions>> {
    let functions: BTreeMap<String, FunctionOptions> = match given {
        Value::Null => BTreeMap::new(),
        Value::Array(names) => names
            .into_iter()
            .map(|name| match name {
                Value::String(name) => Ok((name, FunctionOptions::default())),
                _ => Err(Error::invalid("the list of functions has to hold names only")),
            })
            .collect::<durable_core::Result<_>>()?,
        Value::Object(_) => serde_json::from_value(given)
            .map_err(|error| Error::invalid(format!("the options of a function: {error}")))?,
        _ => return Err(Error::invalid("functions have to be a list of names, or an object")),
    };
    if functions.len() > MAX_FUNCTIONS {
        return Err(Error::invalid(format!("there are more than {MAX_FUNCTIONS} functions")));
    }
    for (name, options) in &functions {
        check::function(name)?;
        if options.target.is_some() {
            return Err(Error::invalid(format!(
                "function {name} has a target: over HTTP functions go by the name that workers \
                 registered them under"
            )));
        }
        if let Some(retry) = &options.retry {
            retry.validate()?;
        }
    }
    Ok(functions)
}

/// Limits can be lowered.
fn limits(given: Option<Map<String, Value>>) -> durable_core::Result<Limits> {
    let Some(given) = given else { return Ok(Limits::default()) };
    let usual = serde_json::to_value(Limits::default())
        .map_err(|error| Error::internal(error.to_string()))?;
    for (name, value) in &given {
        let Some(most) = usual.get(name).and_then(Value::as_u64) else {
            return Err(Error::invalid(format!("there is no limit {name:.50?}")));
        };
        if !value.as_u64().is_some_and(|value| (1..=most).contains(&value)) {
            return Err(Error::invalid(format!(
                "the limit {name} must be a whole number from 1 to {most}, its usual value"
            )));
        }
    }
    serde_json::from_value(Value::Object(given))
        .map_err(|error| Error::invalid(format!("the limits: {error}")))
}
