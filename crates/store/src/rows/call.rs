//! Rows of `execution_steps`: calls and timers.

use durable_core::{
    Call, CallId, CallStatus, Error, ExecutionId, Failure, FunctionOptions, NewCall, Outcome,
    Payload, Position, Request, Result, UnixMs,
};

use crate::CallRecord;

/// `kind` of a timer's row.
pub(crate) const TIMER: &str = "timer";
/// `kind` of a function call's row.
const FUNCTION: &str = "function";
/// `kind` of the row of a step, which an agent works on.
const AGENT: &str = "agent";

/// `kind` of the row of a call.
pub(crate) fn kind_of(request: &Request) -> &'static str {
    match request {
        Request::Timer { .. } => TIMER,
        Request::Function { .. } if request.agent().is_some() => AGENT,
        Request::Function { .. } => FUNCTION,
    }
}

/// The columns of one row, as every store has them.
pub(crate) struct CallRow {
    pub(crate) call: CallId,
    pub(crate) order: u32,
    pub(crate) resume_group_id: String,
    pub(crate) is_timer: bool,
    pub(crate) name: String,
    pub(crate) function: Option<String>,
    pub(crate) args: Option<Payload>,
    pub(crate) kwargs: Option<Payload>,
    pub(crate) options: Option<String>,
    pub(crate) position: Position,
    pub(crate) delay_ms: Option<i64>,
    pub(crate) status: CallStatus,
    pub(crate) attempts: u32,
    pub(crate) due_at_ms: Option<UnixMs>,
    pub(crate) job_id: Option<String>,
    pub(crate) result: Option<Payload>,
    pub(crate) failure: Option<Failure>,
    pub(crate) created_at_ms: UnixMs,
    pub(crate) completed_at_ms: Option<UnixMs>,
}

/// A call as it is stored: what was asked for, and where it stands.
pub(crate) struct StoredCall {
    /// As it was asked for: attempt 1, and a timer's first due time.
    pub(crate) requested: Call,
    pub(crate) record: CallRecord,
}

impl StoredCall {
    /// Reads a row.
    pub(crate) fn read(id: ExecutionId, row: CallRow) -> Result<Self> {
        let corrupt = |what: String| {
            Error::corrupt(format!("the row of call {} of execution {id}: {what}", row.call))
        };
        let group = row
            .resume_group_id
            .rsplit_once(':')
            .and_then(|(_, group)| group.parse().ok())
            .ok_or_else(|| corrupt(format!("'{}' is no resume_group_id", row.resume_group_id)))?;
        let args = row.args.unwrap_or_else(|| Payload::trusted("[]"));
        let kwargs = row.kwargs.unwrap_or_else(|| Payload::trusted("{}"));
        let (request, first_due_ms) = if row.is_timer {
            // All 64 bits are kept: the replay of an absurdly long sleep must compare equal.
            let delay_ms = row.delay_ms.unwrap_or(0) as u64;
            let added = i64::try_from(delay_ms).unwrap_or(i64::MAX);
            (Request::Timer { delay_ms }, Some(row.created_at_ms.saturating_add(added)))
        } else {
            let options = match &row.options {
                Some(text) => serde_json::from_str(text)
                    .map_err(|error| corrupt(format!("its options can't be read: {error}")))?,
                None => FunctionOptions::default(),
            };
            let (name, args, kwargs) = (row.name.clone(), args.clone(), kwargs.clone());
            (Request::Function { name, args, kwargs, options }, None)
        };
        let new = NewCall { id: row.call, request, position: row.position };
        let requested = Call { new, order: row.order, group, attempt: 1, due_ms: first_due_ms };
        // Whoever closed the call by SQL may have left some columns out.
        let (result, failure) = match row.status {
            CallStatus::Completed => (Some(row.result.unwrap_or_else(Payload::null)), None),
            CallStatus::Failed => {
                let failure = row.failure.unwrap_or_else(|| Failure::new("RuntimeError", ""));
                (None, Some(failure))
            }
            CallStatus::Pending | CallStatus::Submitted | CallStatus::Cancelled => {
                (None, row.failure)
            }
        };
        let record = CallRecord {
            id: row.call,
            order: row.order,
            resume_group_id: row.resume_group_id,
            function: row.function.unwrap_or_else(|| row.name.clone()),
            name: row.name,
            is_timer: row.is_timer,
            args,
            kwargs,
            position: row.position,
            status: row.status,
            attempt: row.attempts,
            due_at_ms: row.due_at_ms,
            job_id: row.job_id,
            result,
            failure,
            created_at_ms: row.created_at_ms,
            completed_at_ms: row.completed_at_ms,
        };
        Ok(Self { requested, record })
    }

    /// The call as it stands now, for the state of its execution.
    pub(crate) fn current(self) -> Call {
        Call { attempt: self.record.attempt, due_ms: self.record.due_at_ms, ..self.requested }
    }

    /// What it came to, when it has ended with a result or a failure.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        let record = &self.record;
        match record.status {
            // A timer wakes; there is nothing else it could come to.
            CallStatus::Completed | CallStatus::Failed if record.is_timer => {
                Some(Outcome::Completed(Payload::null()))
            }
            CallStatus::Completed => record.result.clone().map(Outcome::Completed),
            CallStatus::Failed => record.failure.clone().map(Outcome::Failed),
            CallStatus::Pending | CallStatus::Submitted | CallStatus::Cancelled => None,
        }
    }
}

/// The failure in the error columns of a row, if there is one.
pub(crate) fn failure(
    error_type: Option<String>,
    message: Option<String>,
    traceback: Option<String>,
    cause_call: Option<CallId>,
) -> Option<Failure> {
    if error_type.is_none() && message.is_none() {
        return None;
    }
    Some(Failure {
        error_type: error_type.unwrap_or_else(|| "RuntimeError".into()),
        message: message.unwrap_or_default(),
        traceback,
        cause_call,
    })
}
