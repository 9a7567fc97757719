//! A call of a declared function as a request: its arguments, and its reserved keywords.

use durable_core::{Limits, RetryPolicy};
use monty_types::{
    CallArgs, ExcType, MontyException, ObjectRef,
    unstable::{self, MontyNode},
};

use crate::{
    protocol::WireRequest,
    value::{self, EncodeError},
};

const RETRY: &str = "_retry";
const TIMEOUT: &str = "_timeout";

/// Describes a call.
///
/// # Errors
/// What is to be raised in the program at the call: arguments that can't be passed out, or
/// reserved keywords that make no sense.
pub(super) fn function(
    name: &str,
    args: &CallArgs,
    limits: &Limits,
) -> Result<WireRequest, MontyException> {
    let retry = args.kwarg(RETRY).map(retry).transpose()?.flatten();
    let timeout_ms = args.kwarg(TIMEOUT).map(timeout).transpose()?.flatten();
    let max_bytes = usize::try_from(limits.max_payload_bytes).unwrap_or(usize::MAX);
    let is_reserved = |name: &str| name == RETRY || name == TIMEOUT;
    let (args, kwargs) = value::encode_args(args, is_reserved, max_bytes).map_err(|error| {
        let text = format!("{name}(): {error}");
        MontyException::new(exception_type(&error), Some(text))
    })?;
    Ok(WireRequest::Function { name: name.to_owned(), args, kwargs, retry, timeout_ms })
}

/// The exception that tells the program about a value without a JSON form.
pub(super) fn exception_type(error: &EncodeError) -> ExcType {
    match error {
        EncodeError::Unsupported(_) => ExcType::TypeError,
        EncodeError::Shape(_) | EncodeError::TooLarge { .. } => ExcType::ValueError,
    }
}

fn error<T>(exc_type: ExcType, message: String) -> Result<T, MontyException> {
    Err(MontyException::new(exc_type, Some(message)))
}

fn retry(value: ObjectRef<'_>) -> Result<Option<RetryPolicy>, MontyException> {
    let policy = match unstable::node(value) {
        MontyNode::None => return Ok(None),
        MontyNode::Int(attempts) => match u32::try_from(*attempts) {
            Ok(max_attempts) => RetryPolicy { max_attempts, ..RetryPolicy::default() },
            Err(_) => {
                return error(
                    ExcType::ValueError,
                    format!("{RETRY}={attempts}: the number of attempts must be at least 1"),
                );
            }
        },
        MontyNode::Dict(_) => {
            let json = value::encode(&value.to_owned(), 1 << 16)
                .map_err(|error| MontyException::from(&error))?;
            serde_json::from_str(&json).map_err(|problem| {
                let text = problem.to_string();
                let what = text.split(" at line ").next().unwrap_or(&text);
                MontyException::new(ExcType::ValueError, Some(format!("{RETRY}: {what}")))
            })?
        }
        _ => {
            let given = value.type_name();
            let text = format!(
                "{RETRY} must be a number of attempts or a dict of its settings, not {given}"
            );
            return error(ExcType::TypeError, text);
        }
    };
    match policy.validate() {
        Ok(()) => Ok(Some(policy)),
        Err(problem) => error(ExcType::ValueError, format!("{RETRY}: {problem}")),
    }
}

fn timeout(value: ObjectRef<'_>) -> Result<Option<u64>, MontyException> {
    let seconds = match unstable::node(value) {
        MontyNode::None => return Ok(None),
        MontyNode::Int(seconds) => *seconds as f64,
        MontyNode::Float(seconds) => *seconds,
        _ => {
            let given = value.type_name();
            let text = format!("{TIMEOUT} must be a number of seconds, not {given}");
            return error(ExcType::TypeError, text);
        }
    };
    let milliseconds = (seconds * 1_000.0).ceil();
    // Up to here every whole number of milliseconds is exact.
    if milliseconds >= 1.0 && milliseconds <= (1u64 << 53) as f64 {
        return Ok(Some(milliseconds as u64));
    }
    let text = format!("{TIMEOUT}={seconds}: the timeout must be a positive number of seconds");
    error(ExcType::ValueError, text)
}
