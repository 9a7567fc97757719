//! The body of a request: JSON, of bounded size, that arrives in bounded time.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{FromRequest, Request},
    http::{HeaderMap, header},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::{Deserialize, de::DeserializeOwned};
use utoipa::ToSchema;

use crate::{Kind, Problem, Server, access::only};

/// A body of JSON.
pub(crate) struct Json<T>(pub(crate) T);

/// A body of JSON, or none.
pub(crate) struct JsonOrNothing<T>(pub(crate) T);

/// The body of a request with which nothing has to be said.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// The bytes of a body of JSON, not looked at yet.
pub(crate) struct JsonBytes(pub(crate) Bytes);

impl FromRequest<Arc<Server>> for JsonBytes {
    type Rejection = Problem;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, Problem> {
        require_json(request.headers())?;
        read(request.into_body(), server).await.map(Self)
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<Server>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, Problem> {
        let JsonBytes(bytes) = JsonBytes::from_request(request, server).await?;
        parse(&bytes).map(Self)
    }
}

impl<T: DeserializeOwned + Default> FromRequest<Arc<Server>> for JsonOrNothing<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, Problem> {
        let has_type = request.headers().contains_key(header::CONTENT_TYPE);
        let checked = require_json(request.headers());
        let bytes = read(request.into_body(), server).await?;
        if bytes.is_empty() && (!has_type || checked.is_ok()) {
            return Ok(Self(T::default()));
        }
        checked?;
        let given: Option<T> = parse(&bytes)?;
        Ok(Self(given.unwrap_or_default()))
    }
}

/// Reads a JSON object.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| Problem::invalid(format!("the body is not UTF-8: {error}")))?;
    // A list would be taken for the fields in their order.
    if text.trim_start().starts_with('[') {
        return Err(Problem::invalid("the body is a list: an object is expected"));
    }
    serde_json::from_str(text)
        .map_err(|error| Problem::invalid(format!("the body is not what is expected: {error}")))
}

/// A browser sends JSON to another site only after it has asked that site, which never agrees.
fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let media_type = only(headers, header::CONTENT_TYPE)
        .map(|value| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    match media_type.as_deref() {
        Some("application/json") => Ok(()),
        Some(other) if other.starts_with("application/") && other.ends_with("+json") => Ok(()),
        _ => Err(Problem::new(
            Kind::UnsupportedMediaType,
            "the body has to be JSON: send Content-Type: application/json",
        )),
    }
}

async fn read(body: Body, server: &Server) -> Result<Bytes, Problem> {
    let max_bytes = server.config.max_body_bytes;
    let limit = server.request_timeout();
    let arrival = Limited::new(body, max_bytes).collect();
    match tokio::time::timeout(limit, arrival).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::new(
            Kind::TooLarge,
            format!("the body is larger than {max_bytes} bytes: store large data elsewhere"),
        )),
        Ok(Err(_)) => Err(Problem::invalid("the body did not arrive whole")),
        Err(_) => Err(Problem::new(Kind::Timeout, "the body took too long to arrive")),
    }
}
