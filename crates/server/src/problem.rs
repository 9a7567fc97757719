//! Errors as RFC 9457 tells them: `application/problem+json`.

use std::borrow::Cow;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use durable_core::Error;
use serde::Serialize;
use utoipa::ToSchema;

/// What kind of problem it is, in terms of what the client can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The request can never succeed as it is.
    Invalid,
    /// There is no such thing, or it is not yours.
    NotFound,
    /// The state of things forbids it: look again.
    Conflict,
    /// Something is busy or gone for now: try again.
    Unavailable,
    /// Stored data contradicts itself: an operator has to look.
    Corrupt,
    /// A bug.
    Internal,
    /// A token is needed, or the one given is worth nothing.
    Unauthorized,
    /// The token does not allow this.
    Forbidden,
    /// The path is right, the method is not.
    MethodNotAllowed,
    /// The request took too long to arrive.
    Timeout,
    /// The body is larger than the server takes.
    TooLarge,
    /// The body is not JSON.
    UnsupportedMediaType,
    /// Too many requests: wait as long as `Retry-After` says.
    RateLimited,
}

impl Kind {
    fn status(self) -> StatusCode {
        match self {
            Self::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Conflict => StatusCode::CONFLICT,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Corrupt | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    fn uri(self) -> &'static str {
        match self {
            Self::Invalid => "urn:durable:problem:invalid",
            Self::NotFound => "urn:durable:problem:not_found",
            Self::Conflict => "urn:durable:problem:conflict",
            Self::Unavailable => "urn:durable:problem:unavailable",
            Self::Corrupt => "urn:durable:problem:corrupt",
            Self::Internal => "urn:durable:problem:internal",
            Self::Unauthorized => "urn:durable:problem:unauthorized",
            Self::Forbidden => "urn:durable:problem:forbidden",
            Self::MethodNotAllowed => "urn:durable:problem:method_not_allowed",
            Self::Timeout => "urn:durable:problem:timeout",
            Self::TooLarge => "urn:durable:problem:too_large",
            Self::UnsupportedMediaType => "urn:durable:problem:unsupported_media_type",
            Self::RateLimited => "urn:durable:problem:rate_limited",
        }
    }
}

/// An error on its way to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    kind: Kind,
    detail: Cow<'static, str>,
    retry_after_s: Option<u64>,
}

/// What the client is told.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemView<'a> {
    /// `urn:durable:problem:` and the kind.
    #[serde(rename = "type")]
    uri: &'static str,
    /// The status in words.
    title: &'static str,
    /// The status.
    status: u16,
    /// What was wrong, where, and what to do.
    detail: &'a str,
    kind: Kind,
}

impl Problem {
    /// A problem of a kind, with what was wrong and what to do.
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), retry_after_s: None }
    }

    pub(crate) fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Invalid, detail)
    }

    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// What kind of problem it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(detail) => Self::new(Kind::Invalid, detail),
            Error::NotFound(detail) => Self::new(Kind::NotFound, detail),
            Error::Conflict(detail) => Self::new(Kind::Conflict, detail),
            Error::Unavailable(detail) => Self::new(Kind::Unavailable, detail).retry_after(1),
            Error::Corrupt(detail) => Self::new(Kind::Corrupt, detail),
            Error::Internal(detail) => {
                tracing::error!(%detail, "a request met a bug");
                Self::new(Kind::Internal, "this is a bug: the log of the server says more")
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.kind.status();
        let view = ProblemView {
            uri: self.kind.uri(),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: &self.detail,
            kind: self.kind,
        };
        let body = serde_json::to_vec(&view).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, json);
        if self.kind == Kind::Unauthorized {
            let scheme = HeaderValue::from_static("Bearer realm=\"durable\"");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
