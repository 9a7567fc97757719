//! The document that describes the API.

use std::sync::LazyLock;

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::Response,
};
use utoipa::{
    IntoResponses, Modify, OpenApi,
    openapi::{
        self,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use crate::{
    checkpoints, executions, journal, operate, problem, results, sessions, start, tasks, tokens,
    webhook, workers,
};

/// What every operation may be refused with.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "for the document")]
pub(crate) enum Refusals {
    /// A token is needed, or the one given is worth nothing.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(#[to_schema] problem::ProblemView<'static>),
    /// The token does not allow this.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(#[to_schema] problem::ProblemView<'static>),
    /// There is no such thing, or it is not yours.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(#[to_schema] problem::ProblemView<'static>),
    /// The request took too long to arrive.
    #[response(status = 408, content_type = "application/problem+json")]
    Timeout(#[to_schema] problem::ProblemView<'static>),
    /// The state of things forbids it.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(#[to_schema] problem::ProblemView<'static>),
    /// The body is too large.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(#[to_schema] problem::ProblemView<'static>),
    /// The body is not JSON.
    #[response(status = 415, content_type = "application/problem+json")]
    UnsupportedMediaType(#[to_schema] problem::ProblemView<'static>),
    /// The request can never succeed as it is.
    #[response(status = 422, content_type = "application/problem+json")]
    Invalid(#[to_schema] problem::ProblemView<'static>),
    /// Too many requests.
    #[response(status = 429, content_type = "application/problem+json")]
    RateLimited(#[to_schema] problem::ProblemView<'static>),
    /// Something is busy or gone for now.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(#[to_schema] problem::ProblemView<'static>),
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "durable-monty",
        description = "Start, follow and operate durable executions; run their tasks in any \
            language. Errors are RFC 9457 problems.",
        license(name = "MIT")
    ),
    paths(
        executions::list, start::start, executions::get, operate::delete, executions::calls,
        journal::events, results::result, operate::cancel, operate::pause, operate::resume,
        operate::retry, operate::bulk, checkpoints::list, checkpoints::get, checkpoints::diff,
        checkpoints::fork, checkpoints::restore, sessions::open, sessions::close, sessions::list,
        sessions::feed, sessions::get, sessions::fork, sessions::rewind, sessions::variables, tasks::claim, tasks::heartbeat, tasks::complete, tasks::fail,
        webhook::complete, workers::list, tokens::list, tokens::create, tokens::revoke,
        workers::health, workers::ready, openapi
    ),
    components(schemas(problem::Kind)),
    security(("token" = [])),
    modifiers(&Token)
)]
struct Document;

struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An access token: dm_…"))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// The OpenAPI document of the server, as JSON.
pub fn document() -> &'static str {
    static DOCUMENT: LazyLock<String> =
        LazyLock::new(|| Document::openapi().to_pretty_json().unwrap_or_default());
    &DOCUMENT
}

/// This document
#[utoipa::path(get, path = "/openapi.json", operation_id = "get_document",
    tag = "server", security(()),
    responses((status = 200, description = "The document", body = serde_json::Value)))]
pub(crate) async fn openapi() -> Response {
    let mut response = Response::new(Body::from(document()));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_document_has_every_path_that_is_served_and_no_other() {
        let documented: BTreeSet<_> = Document::openapi().paths.paths.into_keys().collect();
        let served: BTreeSet<_> =
            crate::routes().into_iter().map(|(path, _)| path.to_owned()).collect();
        assert_eq!(documented, served);
    }

    #[test]
    fn every_operation_has_a_name_of_its_own() {
        let document: serde_json::Value = serde_json::from_str(document()).unwrap();
        let names: Vec<_> = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|operations| operations.as_object().unwrap().values())
            .map(|operation| operation["operationId"].as_str().unwrap())
            .collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
    }
}
