//! Failures of calls as exceptions inside the program, and uncaught exceptions as failures.

use durable_core::Limits;
use monty_types::{ExcType, MontyException};

use crate::protocol::WireFailure;

/// A failure of a call as the program sees it.
pub(super) struct Injected {
    call: u32,
    error_type: String,
    message: String,
    exc_type: ExcType,
    text: String,
}

impl Injected {
    pub(super) fn new(call: u32, error_type: &str, message: &str) -> Self {
        // Only builtin exceptions exist inside; those that end a process would slip past
        // `except Exception`.
        let builtin = error_type.strip_prefix("builtins.").unwrap_or(error_type);
        let known = builtin.parse::<ExcType>().ok();
        let (exc_type, text) = match known.filter(|known| known.is_subclass_of(ExcType::Exception))
        {
            Some(exc_type) => (exc_type, message.to_owned()),
            None => (ExcType::RuntimeError, format!("{error_type}: {message}")),
        };
        let (error_type, message) = (error_type.to_owned(), message.to_owned());
        Self { call, error_type, message, exc_type, text }
    }

    pub(super) fn exception(&self) -> MontyException {
        let text = (!self.text.is_empty()).then(|| self.text.clone());
        MontyException::new(self.exc_type, text)
    }

    fn is(&self, exception: &MontyException) -> bool {
        exception.exc_type() == self.exc_type && exception.message().unwrap_or("") == self.text
    }
}

/// An exception as a failure, with the traceback of the workflow's code.
pub(super) fn of_exception(exception: &MontyException) -> WireFailure {
    WireFailure {
        error_type: exception.exc_type().to_string(),
        message: exception.message().unwrap_or("").to_owned(),
        traceback: (!exception.traceback().is_empty()).then(|| exception.to_string()),
        cause_call: None,
    }
}

/// Why an execution failed whose program ended with `exception`.
pub(super) fn uncaught(
    exception: &MontyException,
    limits: &Limits,
    injected: Option<&Injected>,
) -> WireFailure {
    of_limit(exception, limits).unwrap_or_else(|| of_call(exception, injected))
}

/// The failure that an exception stands for by which the interpreter enforces a limit.
pub(super) fn of_limit(exception: &MontyException, limits: &Limits) -> Option<WireFailure> {
    let is_limit = |exc_type, start| {
        exception.exc_type() == exc_type
            && exception.message().is_some_and(|message| message.starts_with(start))
    };
    let failure = if is_limit(ExcType::TimeoutError, "turn time limit exceeded") {
        time_limit(limits)
    } else if is_limit(ExcType::MemoryError, "memory limit exceeded") {
        memory_limit(limits)
    } else {
        return None;
    };
    Some(WireFailure { traceback: of_exception(exception).traceback, ..failure })
}

/// An exception as a failure, with the call that it came from.
pub(super) fn of_call(exception: &MontyException, injected: Option<&Injected>) -> WireFailure {
    let mut failure = of_exception(exception);
    if let Some(injected) = injected.filter(|injected| injected.is(exception)) {
        failure.cause_call = Some(injected.call);
        // The type that has no counterpart inside is known again outside.
        failure.error_type.clone_from(&injected.error_type);
        failure.message.clone_from(&injected.message);
    }
    failure
}

/// The failure of a program that computes for too long.
pub(crate) fn time_limit(limits: &Limits) -> WireFailure {
    WireFailure::new(
        "TimeLimitExceeded",
        format!(
            "the program computed longer than max_advance_ms = {} without awaiting anything: \
             look for an endless loop, move heavy computing into a declared function, or raise \
             the limit",
            limits.max_advance_ms
        ),
    )
}

/// The failure of a program that holds too much memory.
pub(crate) fn memory_limit(limits: &Limits) -> WireFailure {
    WireFailure::new(
        "MemoryError",
        format!(
            "the program needed more memory than max_memory_bytes = {}: keep large data outside \
             and pass references to it, or raise the limit",
            limits.max_memory_bytes
        ),
    )
}

pub(super) fn too_many(when: &str, name: &str, limit: u32) -> WireFailure {
    WireFailure::new(
        "CallLimitExceeded",
        format!(
            "the program asked for more than {name} = {limit} calls and timers {when}: work in \
             batches, or raise the limit"
        ),
    )
}
