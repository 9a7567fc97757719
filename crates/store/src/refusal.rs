//! What stores say when they refuse something: the same words from every store.

use durable_core::{CallId, Error, ExecutionId, ProgramId, Status, UnixMs};

pub(crate) fn no_execution(id: ExecutionId) -> Error {
    Error::not_found(format!("there is no execution {id}"))
}

pub(crate) fn no_program(id: &ProgramId) -> Error {
    Error::not_found(format!("there is no program {id}: store it first"))
}

pub(crate) fn no_call(id: ExecutionId, call: CallId) -> Error {
    Error::not_found(format!("execution {id} has no call {call}"))
}

pub(crate) fn id_taken(id: ExecutionId) -> Error {
    Error::conflict(format!("there is an execution {id} already: take another id"))
}

pub(crate) fn ended(id: ExecutionId, status: Status) -> Error {
    Error::conflict(format!("execution {id} has ended: it is {status}"))
}

pub(crate) fn held(id: ExecutionId, owner: &str, expires_at_ms: UnixMs) -> Error {
    Error::conflict(format!(
        "execution {id} is leased by {owner} until {expires_at_ms} (Unix milliseconds)"
    ))
}

pub(crate) fn lease_lost(id: ExecutionId) -> Error {
    Error::conflict(format!("the lease on execution {id} was lost: load it again"))
}

pub(crate) fn outdated(id: ExecutionId, expected: u64, found: u64) -> Error {
    Error::conflict(format!(
        "execution {id} is at version {found}, the writer expected {expected}: load it again"
    ))
}

pub(crate) fn deleted(id: ExecutionId) -> Error {
    Error::conflict(format!("execution {id} was deleted"))
}

pub(crate) fn call_closed(id: ExecutionId, call: CallId) -> Error {
    Error::conflict(format!(
        "call {call} of execution {id} has ended already: this came late or twice"
    ))
}

pub(crate) fn call_is_timer(id: ExecutionId, call: CallId) -> Error {
    Error::conflict(format!("call {call} of execution {id} is a timer: nobody reports on it"))
}

pub(crate) fn call_exists(id: ExecutionId, call: CallId) -> Error {
    Error::conflict(format!("execution {id} has a call {call} already"))
}

pub(crate) fn not_in_inbox(id: ExecutionId, call: CallId) -> Error {
    Error::conflict(format!(
        "call {call} of execution {id} does not stand in the inbox that way: load it again"
    ))
}

pub(crate) fn token_taken(id: &str) -> Error {
    Error::conflict(format!("there is a token '{id}' already"))
}

pub(crate) fn no_token(id: &str) -> Error {
    Error::not_found(format!("no token '{id}'"))
}
