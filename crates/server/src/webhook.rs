//! Results that come by webhook.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{FromRequestParts, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::Response,
};
use durable_core::{CallId, Error, ExecutionId, Limits, Outcome, UnixMs};
use durable_engine::Engine;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::Sha256;
use utoipa::ToSchema;

use crate::{
    Kind, Problem, Server,
    access::{self, Caller, Works, bearer, only},
    arrival::{JsonBytes, parse},
    check,
    extract::Query,
    json,
    openapi::Refusals,
    rates::Client,
};

/// How far the clock of the sender may be off.
const MAX_SKEW_S: i64 = 300;
const SIGNATURE: HeaderName = HeaderName::from_static("x-durable-signature");
const MAX_JOB_CHARS: usize = 500;

/// What came of a job.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Report {
    /// The job, as the executor named it; or execution and call.
    job_id: Option<String>,
    #[schema(format = "uuid")]
    execution_id: Option<String>,
    call_id: Option<CallId>,
    /// What the function returned.
    #[schema(value_type = serde_json::Value)]
    result: Option<Box<RawValue>>,
    /// `finished` by default.
    #[serde(default)]
    status: ReportStatus,
    /// Why it failed: a text such as `ValueError: no price`, or an object with `type`, `message`
    /// and `traceback`.
    #[schema(value_type = Option<serde_json::Value>)]
    error: Option<Told>,
    /// The token of the call, for those who can't send headers.
    token: Option<String>,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ReportStatus {
    #[default]
    Finished,
    Failed,
}

/// A failure as senders tell it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Told {
    Text(String),
    Object {
        #[serde(rename = "type")]
        error_type: String,
        #[serde(default)]
        message: String,
        traceback: Option<String>,
    },
}

/// Whether a report counts.
#[derive(Serialize, ToSchema)]
pub(crate) struct Taken {
    /// `false` for a report that came late or twice: it changes nothing.
    applied: bool,
    #[schema(format = "uuid")]
    execution_id: String,
    call_id: CallId,
    /// Why it does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl Taken {
    fn refused(id: ExecutionId, call_id: CallId, detail: String) -> Self {
        Self { applied: false, execution_id: id.to_string(), call_id, detail: Some(detail) }
    }
}

impl Report {
    /// What the token of the call is made of: the job, or the call's idempotency key.
    fn name(&self) -> Result<String, Problem> {
        let missing = || {
            Problem::invalid("give either job_id, or execution_id and call_id, of what has ended")
        };
        match (&self.job_id, &self.execution_id, self.call_id) {
            (Some(job_id), None, None) => {
                check::text("job_id", job_id, MAX_JOB_CHARS)?;
                Ok(job_id.clone())
            }
            (None, Some(id), Some(call)) => Ok(format!("{id}:{call}")),
            _ => Err(missing()),
        }
    }

    fn call(&self, engine: &Engine) -> durable_core::Result<Found> {
        let Some(job_id) = &self.job_id else {
            return match (&self.execution_id, self.call_id) {
                (Some(id), Some(call)) => Ok(Found::Call(id.parse()?, call)),
                _ => Err(Error::invalid("the report names no call")),
            };
        };
        if let Some((id, call)) = engine.store().call_of_job(job_id)? {
            return Ok(Found::Call(id, call));
        }
        // A sender may be faster than whoever notes the job that he was given. The name itself
        // tells which attempt it is of, when it is one of ours.
        Ok(attempt_of(job_id)
            .map_or(Found::Nothing, |(id, call, attempt)| Found::Attempt(id, call, attempt)))
    }

    fn outcome(&self) -> durable_core::Result<Outcome> {
        let max_bytes = Limits::default().max_payload_bytes;
        match (self.status, &self.error) {
            (ReportStatus::Finished, None) => {
                check::payload("result", self.result.as_deref(), max_bytes).map(Outcome::Completed)
            }
            (ReportStatus::Finished, Some(_)) => Err(Error::invalid(
                "the report has an error, and its status is finished: say failed, or leave the \
                 error out",
            )),
            (ReportStatus::Failed, error) => {
                let failure = match error {
                    None => check::failure("RuntimeError", "the job failed", None)?,
                    Some(Told::Text(text)) => {
                        let (error_type, message) = split(text);
                        check::failure(error_type, message, None)?
                    }
                    Some(Told::Object { error_type, message, traceback }) => {
                        check::failure(error_type, message, traceback.as_deref())?
                    }
                };
                Ok(Outcome::Failed(failure))
            }
        }
    }
}

/// What a report is about.
enum Found {
    /// This call.
    Call(ExecutionId, CallId),
    /// This attempt of a call, of which no job is noted.
    Attempt(ExecutionId, CallId, u32),
    /// A job of another name that is not noted, or not any more.
    Nothing,
}

/// The attempt that a job is named after: `execution-call-attempt`.
fn attempt_of(job_id: &str) -> Option<(ExecutionId, CallId, u32)> {
    let mut parts = job_id.rsplitn(3, '-');
    let attempt = parts.next()?.parse().ok()?;
    let call = parts.next()?.parse().ok()?;
    let id: ExecutionId = parts.next()?.parse().ok()?;
    // One name an attempt: no leading zeros, no other way to write the UUID.
    (format!("{id}-{call}-{attempt}") == job_id).then_some((id, call, attempt))
}

/// Type and message of an error told as text.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let line = match text.starts_with("Traceback ") {
        true => text.rsplit('\n').next().unwrap_or(text),
        false => text,
    };
    let (name, message) = line.split_once(':').unwrap_or((line, ""));
    let is_name = name.chars().next().is_some_and(char::is_uppercase)
        && name.chars().all(|letter| letter.is_ascii_alphanumeric())
        && (name.ends_with("Error") || name.ends_with("Exception"));
    if is_name { (name, message.trim()) } else { ("RuntimeError", line) }
}

/// Report what came of a job
///
/// The sender shows that it may: with the token of the call, the hexadecimal HMAC-SHA256 of
/// `webhook:` and the job_id (or `execution_id:call_id`), as `Authorization: Bearer` or in the
/// field `token`; or with a signature of the body, `X-Durable-Signature: t=SECONDS,v1=HEX`, the
/// HMAC-SHA256 of `SECONDS.BODY`, at most five minutes old; or with an access token of role
/// worker. Without a secret on the server, reports are taken from the same machine.
///
/// A report that comes before its job is noted counts if the job is named after its attempt, as
/// those of HttpExecutor are; for another one it is answered with 503 and Retry-After.
#[utoipa::path(post, path = "/webhook/complete", operation_id = "report_job",
    tag = "webhook", request_body = Report,
    params(("X-Durable-Signature" = Option<String>, Header,
        description = "`t=SECONDS,v1=HEX`, a signature of the body")),
    responses((status = 200, description = "Whether the report counts", body = Taken), Refusals))]
pub(crate) async fn complete(
    State(server): State<Arc<Server>>,
    parts: Parts,
    query: Query,
    body: JsonBytes,
) -> Result<Response, Problem> {
    query.done()?;
    let JsonBytes(bytes) = body;
    let caller = authorize(&server, parts, &bytes).await?;
    let report: Report = parse(&bytes)?;
    let name = report.name()?;
    if let Permit::Token(token) = &caller {
        let secret = server.config.webhook_secret.as_deref().unwrap_or_default();
        let token = token.as_deref().or(report.token.as_deref()).unwrap_or_default();
        verify(secret, format!("webhook:{name}").as_bytes(), token)?;
    }
    let taken = server
        .run(move |_, engine| {
            let outcome = report.outcome()?;
            let (id, call, attempt) = match report.call(engine)? {
                Found::Call(id, call) => (id, call, None),
                Found::Attempt(id, call, attempt) => (id, call, Some(attempt)),
                // Whoever has its token or the secret was given the job by somebody who asked
                // for it: what is not known yet soon will be.
                Found::Nothing if caller.is_of_secret() => return Err(not_yet()),
                Found::Nothing => return Err(no_such_job()),
            };
            if let Permit::Caller(caller) = &caller {
                let visible = Server::visible(engine, caller, id);
                visible.map_err(|error| match error {
                    // The job of somebody else, whose execution the sender has not named: not
                    // even that is told.
                    Error::NotFound(_) if report.job_id.is_some() => no_such_job(),
                    error => error,
                })?;
            }
            if let Some(attempt) = attempt
                && let Some(detail) = refuse_attempt(engine, id, call, attempt)?
            {
                return Ok(Taken::refused(id, call, detail));
            }
            let (applied, detail) = match engine.complete_call(id, call, outcome) {
                Ok(()) => (true, None),
                Err(Error::Conflict(detail)) => {
                    require_call(engine, id, call)?;
                    (false, Some(detail.into_owned()))
                }
                Err(error) => return Err(error),
            };
            Ok(Taken { applied, execution_id: id.to_string(), call_id: call, detail })
        })
        .await?;
    Ok(json(StatusCode::OK, &taken))
}

fn no_such_job() -> Error {
    Error::not_found("there is no call with this job_id")
}

fn not_yet() -> Error {
    Error::unavailable("no call has this job_id yet: report it again soon")
}

/// Why a report about an attempt of which no job is noted does not count.
fn refuse_attempt(
    engine: &Engine,
    id: ExecutionId,
    call: CallId,
    attempt: u32,
) -> durable_core::Result<Option<String>> {
    engine.execution(id)?;
    let calls = engine.store().calls(id)?;
    let known = calls.iter().find(|known| known.id == call && !known.is_timer);
    let known =
        known.ok_or_else(|| Error::not_found(format!("execution {id} has no call {call}")))?;
    Ok((known.attempt != attempt).then(|| {
        format!("it is of attempt {attempt} of call {call}, and attempt {} counts", known.attempt)
    }))
}

/// What an execution never asked for is told from what has ended.
fn require_call(engine: &Engine, id: ExecutionId, call: CallId) -> durable_core::Result<()> {
    if engine.store().calls(id)?.iter().any(|known| known.id == call && !known.is_timer) {
        return Ok(());
    }
    Err(Error::not_found(format!("execution {id} has no call {call}")))
}

/// Why a report is listened to.
enum Permit {
    /// Its sender has signed it.
    Signed,
    /// Its sender is on this machine, and the server has no secret.
    Local,
    /// Its sender has an access token.
    Caller(Caller),
    /// Its sender has to have the token of the call: this one, or the one in the body.
    Token(Option<String>),
}

impl Permit {
    /// Whether the sender has shown that he, or who gave him the job, knows the secret.
    fn is_of_secret(&self) -> bool {
        matches!(self, Self::Signed | Self::Token(_))
    }
}

async fn authorize(server: &Arc<Server>, mut parts: Parts, body: &[u8]) -> Result<Permit, Problem> {
    if bearer(&parts.headers).is_some_and(|token| token.starts_with("dm_")) {
        let Works(caller) = Works::from_request_parts(&mut parts, server).await?;
        return Ok(Permit::Caller(caller));
    }
    server.rates.count(Client::of(access::peer(&parts)), Instant::now())?;
    let Some(secret) = server.config.webhook_secret.as_deref() else {
        let is_open = server.access.tokens(server).await?.is_empty();
        if is_open && access::is_local(server, &parts) {
            return Ok(Permit::Local);
        }
        return Err(Problem::new(
            Kind::Unauthorized,
            "set DURABLE_WEBHOOK_SECRET for the server to take reports from elsewhere: without \
             it they are taken from this machine, and only as long as there are no access tokens",
        ));
    };
    if parts.headers.contains_key(SIGNATURE) {
        let engine = server.engine()?;
        let now_ms = server.now_ms(&engine);
        check_signature(secret, &parts.headers, body, now_ms)?;
        return Ok(Permit::Signed);
    }
    Ok(Permit::Token(match parts.headers.get(header::AUTHORIZATION) {
        None => None,
        Some(_) => Some(bearer(&parts.headers).unwrap_or_default().to_owned()),
    }))
}

fn check_signature(
    secret: &str,
    headers: &HeaderMap<HeaderValue>,
    body: &[u8],
    now_ms: UnixMs,
) -> Result<(), Problem> {
    let wrong = || {
        Problem::new(Kind::Unauthorized, "X-Durable-Signature is not of the form t=SECONDS,v1=HEX")
    };
    let text = only(headers, SIGNATURE).ok_or_else(wrong)?;
    let (time, hex) =
        text.strip_prefix("t=").and_then(|rest| rest.split_once(",v1=")).ok_or_else(wrong)?;
    let at_s: i64 = time.parse().map_err(|_| wrong())?;
    let off_s = now_ms.div_euclid(1_000).saturating_sub(at_s).saturating_abs();
    if off_s > MAX_SKEW_S {
        return Err(Problem::new(
            Kind::Unauthorized,
            "the signature is too old, or a clock is wrong: sign again",
        ));
    }
    let mut signed = format!("{time}.").into_bytes();
    signed.extend_from_slice(body);
    verify(secret, &signed, hex)
}

/// Compares in constant time.
fn verify(secret: &str, message: &[u8], hex: &str) -> Result<(), Problem> {
    let forged = || {
        Problem::new(
            Kind::Unauthorized,
            "the report is not signed with the secret of this server: send the token of the \
             call, or a signature of the body",
        )
    };
    let given = from_hex(hex).ok_or_else(forged)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map_err(|_| forged())?;
    mac.update(message);
    mac.verify_slice(&given).map_err(|_| forged())
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(message: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(b"secret").unwrap();
        mac.update(message.as_bytes());
        check::hex(&mac.finalize().into_bytes())
    }

    fn signed(header: &str, body: &str, now_s: i64) -> Result<(), Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(SIGNATURE, header.parse().unwrap());
        check_signature("secret", &headers, body.as_bytes(), now_s * 1_000)
    }

    #[test]
    fn a_signature_holds_for_its_body_and_for_five_minutes() {
        let header = format!("t=1000,v1={}", sign("1000.{}"));
        for now_s in [700, 1_000, 1_300] {
            signed(&header, "{}", now_s).unwrap();
        }
        for now_s in [699, 1_301, i64::MAX / 1_000, 0] {
            signed(&header, "{}", now_s).unwrap_err();
        }
        signed(&header, "{ }", 1_000).unwrap_err();
        signed(&header.replace("t=1000", "t=1001"), "{}", 1_000).unwrap_err();
        for nonsense in ["", "t=", "t=1000", "v1=00", "t=1000,v1=zz", "t=-9223372036854775808,v1="]
        {
            signed(nonsense, "{}", 1_000).unwrap_err();
        }
    }

    #[test]
    fn a_job_that_is_named_after_its_attempt_tells_it() {
        let id = ExecutionId::new(1, [0xab; 10]);
        assert_eq!(attempt_of(&format!("{id}-3-12")), Some((id, 3, 12)));
        for other in ["", "-", "--", "a-1-1", &format!("{id}-03-1"), &format!("{id}-3-+1")] {
            assert_eq!(attempt_of(other), None, "{other}");
        }
        assert_eq!(attempt_of(&format!("{id}-3-1").to_uppercase()), None);
    }

    #[test]
    fn errors_told_as_text_are_split_as_python_tells_them() {
        assert_eq!(split("ValueError: no price"), ("ValueError", "no price"));
        assert_eq!(split("KeyError"), ("KeyError", ""));
        assert_eq!(split("out of memory: 3 GB"), ("RuntimeError", "out of memory: 3 GB"));
        let traceback = "Traceback (most recent call last):\n  File …\nOSError: busy";
        assert_eq!(split(traceback), ("OSError", "busy"));
    }
}
