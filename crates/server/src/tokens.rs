//! Making, listing and revoking access tokens.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use durable_core::{Error, Result as CoreResult};
use durable_engine::Engine;
use durable_store::{Role, TokenRecord, Write};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    NewToken, Problem, Server,
    access::{Administers, Caller},
    arrival::Json,
    extract::{PathText, Query},
    json, mint,
    openapi::Refusals,
    views::instant,
};

/// Longest life of a token that ends by itself.
const MAX_LIFE_S: u64 = 100 * 366 * 86_400;

/// What the bearer of a token may do.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "for the document")]
pub(crate) enum RoleWord {
    /// Look.
    Viewer,
    /// Take tasks and report what came of them.
    Worker,
    /// Look, start, and operate executions.
    Operator,
    /// Everything.
    Admin,
}

/// An access token; its secret is kept nowhere.
#[derive(Serialize, ToSchema)]
#[schema(as = Token)]
pub struct TokenView {
    id: String,
    /// Whom it was given to.
    name: String,
    #[schema(value_type = RoleWord)]
    role: &'static str,
    /// The namespace its bearer is confined to; null for all.
    namespace: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    #[schema(format = DateTime)]
    revoked_at: Option<String>,
    /// Whether it is worth anything now.
    is_live: bool,
}

impl TokenView {
    /// A token as it is shown.
    pub fn new(token: &TokenRecord, now_ms: i64) -> Self {
        Self {
            id: token.id.clone(),
            name: token.name.clone(),
            role: token.role.as_str(),
            namespace: token.namespace.clone(),
            created_at: instant(token.created_at_ms),
            expires_at: token.expires_at_ms.map(instant),
            revoked_at: token.revoked_at_ms.map(instant),
            is_live: token.is_live(now_ms),
        }
    }
}

/// All tokens, also those that are worth nothing any more.
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenList {
    items: Vec<TokenView>,
}

/// A token to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenRequest {
    /// Whom it is for.
    name: String,
    #[schema(value_type = RoleWord)]
    role: String,
    /// The namespace its bearer is to be confined to.
    namespace: Option<String>,
    /// How long it lives; for ever by default.
    #[schema(minimum = 1)]
    expires_in_s: Option<u64>,
}

/// A new token.
#[derive(Serialize, ToSchema)]
pub(crate) struct NewTokenView {
    /// The token itself. It is shown this once.
    token: String,
    #[serde(flatten)]
    view: TokenView,
}

/// List access tokens
#[utoipa::path(get, path = "/tokens", operation_id = "list_tokens", tag = "tokens",
    responses((status = 200, description = "The tokens", body = TokenList), Refusals))]
pub(crate) async fn list(
    Administers(caller): Administers,
    State(server): State<Arc<Server>>,
    query: Query,
) -> Result<Response, Problem> {
    query.done()?;
    let items = server
        .run(move |server, engine| {
            let now_ms = server.now_ms(engine);
            let tokens = engine.store().tokens()?;
            let visible = tokens.iter().filter(|token| sees(&caller, token));
            Ok(visible.map(|token| TokenView::new(token, now_ms)).collect())
        })
        .await?;
    Ok(json(StatusCode::OK, &TokenList { items }))
}

/// Whoever is confined to a namespace sees the tokens that are confined to it too.
fn sees(caller: &Caller, token: &TokenRecord) -> bool {
    caller.confined_to().is_none_or(|own| token.namespace.as_deref() == Some(own))
}

/// Make an access token
#[utoipa::path(post, path = "/tokens", operation_id = "create_token",
    tag = "tokens", request_body = TokenRequest,
    responses((status = 201, description = "The token, shown this once", body = NewTokenView),
        Refusals))]
pub(crate) async fn create(
    Administers(caller): Administers,
    State(server): State<Arc<Server>>,
    query: Query,
    Json(request): Json<TokenRequest>,
) -> Result<Response, Problem> {
    query.done()?;
    let role = Role::parse(&request.role)?;
    let namespace = caller.namespace(request.namespace)?;
    if request.expires_in_s.is_some_and(|life_s| !(1..=MAX_LIFE_S).contains(&life_s)) {
        return Err(Problem::invalid(format!("expires_in_s must be from 1 to {MAX_LIFE_S}")));
    }
    let created = server
        .run(move |server, engine| {
            let now_ms = server.now_ms(engine);
            let expires_at_ms = request.expires_in_s.map(|life_s| now_ms + life_s as i64 * 1_000);
            let new = NewToken { name: request.name, role, namespace, expires_at_ms };
            let (token, record) = mint(new, now_ms)?;
            let view = TokenView::new(&record, now_ms);
            commit(engine, Write::PutToken(Box::new(record)))?;
            Ok(NewTokenView { token, view })
        })
        .await?;
    server.access.forget();
    Ok(json(StatusCode::CREATED, &created))
}

/// Revoke an access token
#[utoipa::path(delete, path = "/tokens/{id}", operation_id = "revoke_token", tag = "tokens",
    params(("id" = String, Path, description = "The public half of the token")),
    responses((status = 204, description = "It is worth nothing any more"), Refusals))]
pub(crate) async fn revoke(
    Administers(caller): Administers,
    State(server): State<Arc<Server>>,
    PathText(id): PathText,
    query: Query,
) -> Result<Response, Problem> {
    query.done()?;
    server
        .run(move |server, engine| {
            let tokens = engine.store().tokens()?;
            if !tokens.iter().any(|token| token.id == id && sees(&caller, token)) {
                return Err(Error::not_found("there is no such token"));
            }
            commit(engine, Write::RevokeToken { id, now_ms: server.now_ms(engine) })
        })
        .await?;
    server.access.forget();
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn commit(engine: &Engine, write: Write) -> CoreResult<()> {
    let mut answers = engine.store().commit(&[write])?;
    let missing = || Err(Error::internal("a write was not answered"));
    answers.pop().unwrap_or_else(missing).map(drop)
}
