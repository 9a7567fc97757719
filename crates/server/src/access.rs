//! Who asks, and what they may do.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts, uri::Authority},
};
use durable_core::Result;
use durable_store::{Role, Store, TokenRecord};
use parking_lot::Mutex;

use crate::{Kind, Problem, Server, rates::Client, token};

/// The other end of the connection, as far as it is known; whoever calls the router puts it into
/// the extensions of the request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub Option<IpAddr>);

/// Headers by which a proxy tells that it is one: its own address says nothing of the client's.
const PROXY_HEADERS: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];

/// Whoever asks, once that is sure.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    role: Role,
    namespace: Option<String>,
}

impl Caller {
    /// Somebody on this machine, while there are no tokens.
    const LOCAL: Self = Self { role: Role::Admin, namespace: None };

    /// Whether the caller may know of what belongs to a namespace.
    pub(crate) fn sees(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|own| own == namespace)
    }

    /// The namespace the caller is confined to.
    pub(crate) fn confined_to(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The namespace that a request is about: the caller's own, if it is confined.
    pub(crate) fn namespace(&self, asked: Option<String>) -> Result<Option<String>, Problem> {
        match (&self.namespace, asked) {
            (None, asked) => Ok(asked),
            (Some(own), None) => Ok(Some(own.clone())),
            (Some(own), Some(asked)) if *own == asked => Ok(Some(asked)),
            (Some(own), Some(_)) => Err(Problem::new(
                Kind::Forbidden,
                format!("this token is confined to the namespace '{own}'"),
            )),
        }
    }

    /// Refuses callers that are confined to a namespace: this is about the whole.
    pub(crate) fn unconfined(&self) -> Result<(), Problem> {
        match &self.namespace {
            None => Ok(()),
            Some(_) => Err(Problem::new(
                Kind::Forbidden,
                "this is for tokens that are not confined to a namespace",
            )),
        }
    }

    fn check(self, allowed: &[Role]) -> Result<Self, Problem> {
        if allowed.contains(&self.role) {
            return Ok(self);
        }
        let words: Vec<_> = allowed.iter().map(|role| role.as_str()).collect();
        Err(Problem::new(
            Kind::Forbidden,
            format!(
                "a token of role {} may not do this: it takes {}",
                self.role.as_str(),
                words.join(" or ")
            ),
        ))
    }
}

macro_rules! permission {
    ($(#[$doc:meta])* $name:ident = $($role:ident)|+) => {
        $(#[$doc])*
        pub(crate) struct $name(pub(crate) Caller);

        impl FromRequestParts<Arc<Server>> for $name {
            type Rejection = Problem;

            async fn from_request_parts(
                parts: &mut Parts,
                server: &Arc<Server>,
            ) -> Result<Self, Problem> {
                caller(server, parts).await?.check(&[$(Role::$role),+]).map(Self)
            }
        }
    };
}

permission! {
    /// May see executions.
    Looks = Viewer | Operator | Admin
}
permission! {
    /// May start and steer executions.
    Operates = Operator | Admin
}
permission! {
    /// May take tasks and report what came of them.
    Works = Worker | Admin
}
permission! {
    /// May make and revoke tokens.
    Administers = Admin
}

/// The tokens of the store as they were a moment ago.
#[derive(Default)]
pub(crate) struct Access {
    known: Mutex<Option<(Instant, Arc<Vec<TokenRecord>>)>>,
}

impl Access {
    /// Has the tokens read again before the next decision.
    pub(crate) fn forget(&self) {
        *self.known.lock() = None;
    }

    pub(crate) async fn tokens(
        &self,
        server: &Arc<Server>,
    ) -> Result<Arc<Vec<TokenRecord>>, Problem> {
        let fresh = Duration::from_millis(server.config.token_staleness_ms);
        let read_at = Instant::now();
        if let Some((at, tokens)) = &*self.known.lock()
            && read_at.duration_since(*at) < fresh
        {
            return Ok(tokens.clone());
        }
        let tokens = Arc::new(server.run(|_, engine| engine.store().tokens()).await?);
        *self.known.lock() = Some((read_at, tokens.clone()));
        Ok(tokens)
    }
}

/// The machine that a request comes from.
pub(crate) fn peer(parts: &Parts) -> Option<IpAddr> {
    parts.extensions.get::<Peer>().and_then(|peer| peer.0).map(|peer| peer.to_canonical())
}

/// Whether a request comes from this machine, and from no page of another site that a browser
/// here shows.
pub(crate) fn is_local(server: &Server, parts: &Parts) -> bool {
    let headers = &parts.headers;
    let from_here = peer(parts).is_some_and(|peer| peer.is_loopback())
        && !PROXY_HEADERS.iter().any(|name| headers.contains_key(*name));
    let dotless = server.config.allow_dotless_hosts;
    let to_here = parts.uri.authority().is_none_or(|to| is_local_host(to.host(), dotless))
        && only(headers, header::HOST).is_some_and(|host| is_local_authority(host, dotless));
    let origin_here = match headers.contains_key(header::ORIGIN) {
        false => true,
        true => only(headers, header::ORIGIN)
            .and_then(|origin| origin.split_once("://"))
            .is_some_and(|(_, authority)| is_local_authority(authority, dotless)),
    };
    from_here && to_here && origin_here
}

fn is_local_authority(text: &str, dotless: bool) -> bool {
    text.parse::<Authority>().is_ok_and(|authority| is_local_host(authority.host(), dotless))
}

/// Whether a name means this machine whoever answers for names.
fn is_local_host(host: &str, dotless: bool) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => {
            host == "localhost" || host.ends_with(".localhost") || dotless && !host.contains('.')
        }
    }
}

/// The value of a header that is given once.
pub(crate) fn only(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// What stands behind `Authorization: Bearer`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = only(headers, header::AUTHORIZATION)?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Finds out who asks, and counts the request.
pub(crate) async fn caller(server: &Arc<Server>, parts: &Parts) -> Result<Caller, Problem> {
    let machine = Client::of(peer(parts));
    let tokens = server.access.tokens(server).await?;
    if parts.headers.contains_key(header::AUTHORIZATION) {
        let text = bearer(&parts.headers).unwrap_or_default();
        let now_ms = server.now_ms(&*server.engine()?);
        let mut found = token::find(text, &tokens, now_ms).cloned();
        if found.is_none() {
            server.rates.count(machine, Instant::now())?;
            // It may be newer than what is known here.
            server.access.forget();
            let tokens = server.access.tokens(server).await?;
            found = token::find(text, &tokens, now_ms).cloned();
        }
        let Some(record) = found else {
            return Err(Problem::new(
                Kind::Unauthorized,
                "the token is not known here, has expired or was revoked",
            ));
        };
        server.rates.count(Client::Token(record.id), Instant::now())?;
        return Ok(Caller { role: record.role, namespace: record.namespace });
    }
    server.rates.count(machine, Instant::now())?;
    if !tokens.is_empty() {
        return Err(Problem::new(
            Kind::Unauthorized,
            "a token is needed: Authorization: Bearer dm_…, made with `durable token create`",
        ));
    }
    if is_local(server, parts) {
        return Ok(Caller::LOCAL);
    }
    Err(Problem::new(
        Kind::Unauthorized,
        "without a token requests are taken from this machine only, under its own name: make one \
         with `durable token create`",
    ))
}

/// Whether a server on this store may be reached from other machines: there is a live token.
///
/// # Errors
/// When the store can't be read.
pub fn is_fit_for_network(
    store: &dyn Store,
    now_ms: durable_core::UnixMs,
) -> Result<bool, durable_core::Error> {
    Ok(store.tokens()?.iter().any(|token| token.is_live(now_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in
            ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "127.8.8.8", "[::1]:80", "a.localhost"]
        {
            assert!(is_local_authority(host, false), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "testserver",
            "",
            "127.0.0.1.nip.io",
        ] {
            assert!(!is_local_authority(host, false), "{host}");
        }
        assert!(is_local_authority("testserver", true));
        assert!(!is_local_authority("evil.example", true));
    }
}
