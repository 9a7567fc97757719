//! What a request brings: its path, its query.

use std::{str::FromStr, sync::Arc};

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
};
use durable_core::ExecutionId;
use durable_executors::TaskId;

use crate::{Kind, Problem, Server};

/// Most parameters of a query.
const MAX_PARAMETERS: usize = 100;

/// The `{id}` of the path.
pub(crate) struct PathId<T>(pub(crate) T);

/// The `{id}` of an execution.
pub(crate) type PathExecution = PathId<ExecutionId>;
/// The `{id}` of a task.
pub(crate) type PathTask = PathId<TaskId>;

impl<T: FromStr<Err = durable_core::Error>> FromRequestParts<Arc<Server>> for PathId<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, server: &Arc<Server>) -> Result<Self, Problem> {
        let params = RawPathParams::from_request_parts(parts, server).await;
        let params = params.map_err(|_| nothing())?;
        let (_, text) = params.iter().next().ok_or_else(nothing)?;
        // Whatever can't be an id names nothing.
        text.parse().map(PathId).map_err(|_| nothing())
    }
}

fn nothing() -> Problem {
    Problem::new(Kind::NotFound, "the path names nothing that can be there")
}

/// The `{id}` and the `{number}` of the path: of an execution, and of something that is counted
/// there from 1.
pub(crate) struct PathNumbered(pub(crate) ExecutionId, pub(crate) u32);

impl FromRequestParts<Arc<Server>> for PathNumbered {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, server: &Arc<Server>) -> Result<Self, Problem> {
        let params = RawPathParams::from_request_parts(parts, server).await;
        let params = params.map_err(|_| nothing())?;
        let mut texts = params.iter().map(|(_, text)| text);
        let (Some(id), Some(number)) = (texts.next(), texts.next()) else { return Err(nothing()) };
        let counted = number.parse::<u32>().ok();
        // One way to write it: no sign, no leading zeros.
        let counted = counted.filter(|counted| *counted > 0 && counted.to_string() == number);
        let (Ok(id), Some(number)) = (id.parse(), counted) else { return Err(nothing()) };
        Ok(Self(id, number))
    }
}

/// The `{id}` of the path as text.
pub(crate) struct PathText(pub(crate) String);

impl FromRequestParts<Arc<Server>> for PathText {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, server: &Arc<Server>) -> Result<Self, Problem> {
        let params = RawPathParams::from_request_parts(parts, server).await;
        let params = params.map_err(|_| nothing())?;
        params.iter().next().map(|(_, text)| Self(text.to_owned())).ok_or_else(nothing)
    }
}

/// The parameters behind the `?`, of which every one has to be taken.
pub(crate) struct Query(Vec<(String, String)>);

impl FromRequestParts<Arc<Server>> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Server>) -> Result<Self, Problem> {
        let text = parts.uri.query().unwrap_or_default();
        let pairs: Vec<_> = form_urlencoded::parse(text.as_bytes())
            .take(MAX_PARAMETERS + 1)
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        if pairs.len() > MAX_PARAMETERS {
            return Err(Problem::invalid(format!(
                "the query has more than {MAX_PARAMETERS} parameters"
            )));
        }
        Ok(Self(pairs))
    }
}

impl Query {
    /// All values of a parameter.
    pub(crate) fn all(&mut self, name: &str) -> Vec<String> {
        let (taken, left) =
            std::mem::take(&mut self.0).into_iter().partition(|(key, _)| key == name);
        self.0 = left;
        let taken: Vec<(String, String)> = taken;
        taken.into_iter().map(|(_, value)| value).collect()
    }

    /// The value of a parameter that is given once or not at all.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let mut values = self.all(name);
        match values.len() {
            0 | 1 => Ok(values.pop()),
            _ => Err(Problem::invalid(format!("the parameter {name} is given more than once"))),
        }
    }

    /// A number within bounds.
    pub(crate) fn number(
        &mut self,
        name: &str,
        bounds: std::ops::RangeInclusive<u64>,
        default: u64,
    ) -> Result<u64, Problem> {
        let Some(text) = self.text(name)? else { return Ok(default) };
        // Digits only: not every reader takes a sign.
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| text.parse().ok()).flatten();
        number.filter(|number| bounds.contains(number)).ok_or_else(|| {
            Problem::invalid(format!(
                "the parameter {name} must be a whole number from {} to {}",
                bounds.start(),
                bounds.end()
            ))
        })
    }

    /// An instant: Unix milliseconds, or a date and time with its offset.
    pub(crate) fn instant(&mut self, name: &str) -> Result<Option<i64>, Problem> {
        self.text(name)?.map(|text| instant(name, &text)).transpose()
    }

    /// Refuses what nobody took.
    pub(crate) fn done(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => {
                let name: String = name.chars().take(50).collect();
                Err(Problem::invalid(format!("there is no parameter {name:?} here")))
            }
        }
    }
}

/// Reads an instant: Unix milliseconds, or a date and time with its offset.
pub(crate) fn instant(name: &str, text: &str) -> Result<i64, Problem> {
    let wrong = || {
        Problem::invalid(format!(
            "{name} is no instant: expected Unix milliseconds, or 2026-01-31T12:00:00Z"
        ))
    };
    if text.len() > 64 {
        return Err(wrong());
    }
    match text.parse::<i64>() {
        Ok(at_ms) => Ok(at_ms),
        Err(_) => {
            let at: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
            Ok(at.as_millisecond())
        }
    }
}
