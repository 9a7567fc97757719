//! Rows of `executions` and `programs`, as they are shown to people.

use std::sync::Arc;

use durable_core::{
    CallId, Dictionary, Error, ExecutionId, Failure, Payload, Program, ProgramId, Result, Status,
    UnixMs,
};

use crate::{ExecutionRecord, Labels, StoredProgram};

use super::failure;

/// The columns of an execution and the holder of its lease, as every store has them.
pub(crate) struct ExecutionRow {
    pub(crate) id: ExecutionId,
    pub(crate) workflow_id: String,
    pub(crate) program: ProgramId,
    pub(crate) status: Status,
    pub(crate) inputs: Option<Payload>,
    pub(crate) output: Option<Payload>,
    pub(crate) error_type: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) error_traceback: Option<String>,
    pub(crate) error_call: Option<CallId>,
    pub(crate) version: u64,
    pub(crate) created_at_ms: UnixMs,
    pub(crate) started_at_ms: Option<UnixMs>,
    pub(crate) completed_at_ms: Option<UnixMs>,
    pub(crate) locked_by: Option<String>,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) namespace: String,
    pub(crate) queue: Option<String>,
    pub(crate) tags: Vec<String>,
}

impl ExecutionRow {
    pub(crate) fn into_record(self) -> ExecutionRecord {
        let failure = match self.status {
            Status::Failed => {
                failure(self.error_type, self.error, self.error_traceback, self.error_call)
            }
            Status::Paused => Some(Failure::new("Paused", self.error.unwrap_or_default())),
            Status::Cancelled => Some(Failure::new("Cancelled", self.error.unwrap_or_default())),
            Status::Scheduled | Status::Running | Status::Waiting | Status::Completed => None,
        };
        ExecutionRecord {
            id: self.id,
            workflow_id: self.workflow_id,
            program: self.program,
            status: self.status,
            inputs: self.inputs.unwrap_or_else(|| Payload::trusted("{}")),
            output: self.output,
            failure,
            version: self.version,
            created_at_ms: self.created_at_ms,
            started_at_ms: self.started_at_ms,
            completed_at_ms: self.completed_at_ms,
            locked_by: self.locked_by,
            idempotency_key: self.idempotency_key,
            labels: Labels {
                namespace: self.namespace,
                queue: self.queue.unwrap_or_else(|| Labels::DEFAULT.to_owned()),
                tags: self.tags,
            },
        }
    }
}

/// A program from its row; its id is the hash of its definition.
pub(crate) fn program(
    id: &ProgramId,
    definition: &str,
    dictionary: Option<Dictionary>,
) -> Result<StoredProgram> {
    let program = Program::from_stored(id, definition)?;
    Ok(StoredProgram { program: Arc::new(program), dictionary })
}

/// An execution id as it stands in a row.
pub(crate) fn parse_id(text: &str) -> Result<ExecutionId> {
    text.parse().map_err(|_| Error::corrupt(format!("'{text}' is no execution id")))
}

/// A JSON array of strings; nothing is an empty one.
pub(crate) fn words(text: Option<&str>) -> Result<Vec<String>> {
    let Some(text) = text else { return Ok(Vec::new()) };
    serde_json::from_str(text)
        .map_err(|error| Error::corrupt(format!("'{text}' is no list of words: {error}")))
}
