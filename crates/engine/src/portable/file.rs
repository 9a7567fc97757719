//! What stands in a file, and what is believed of it.

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
};

use durable_core::{
    CallId, CallStatus, Error, Event, Execution, ExecutionId, Failure, Outcome, Payload, Program,
    ProgramId, Recorded, Result, UnixMs, apply, replay, wire,
};
use durable_store::{CallRecord, Control, ExecutionRecord, Labels, Loaded};
use serde::{Deserialize, Serialize};

/// The version of the form below. Readers know this one and those before it.
const VERSION: u32 = 1;

/// Largest file that is read.
pub const MAX_FILE_BYTES: u64 = 1 << 30;

/// Longest name of a job.
const MAX_JOB_BYTES: usize = 10_000;

/// Instants lie between 1970 and the year 10000.
const INSTANTS_MS: std::ops::Range<UnixMs> = 0..253_402_300_800_000;

/// The file: one JSON object. Payloads stand in it as JSON text, so that no number changes its
/// form; instants are Unix milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// The version of this form.
    durable_execution: u32,
    id: ExecutionId,
    workflow: String,
    namespace: String,
    queue: String,
    tags: Vec<String>,
    idempotency_key: Option<String>,
    created_at_ms: UnixMs,
    program: FileProgram,
    /// A JSON object.
    inputs: Payload,
    journal: Vec<FileEvent>,
    /// Results from outside that are not in the journal yet.
    inbox: Vec<FileReport>,
    /// The jobs that executors have made of open calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    jobs: Vec<FileJob>,
    /// What an operator asks for and nobody has done yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    control: Option<FileControl>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileJob {
    call: CallId,
    job_id: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileControl {
    /// `CANCEL`, `PAUSE` or `RESUME`.
    request: String,
    reason: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileProgram {
    id: ProgramId,
    /// What the id is the hash of.
    definition: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEvent {
    sequence: u64,
    transition: u64,
    at_ms: UnixMs,
    #[serde(rename = "type")]
    event_type: String,
    /// As [`wire::encode_whole`] writes it.
    payload: serde_json::Value,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileReport {
    call: CallId,
    at_ms: UnixMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Payload>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

/// One execution, to be written to a file or put into a database.
///
/// ```no_run
/// use durable_engine::{Engine, portable::Portable};
///
/// # fn by_file(here: &Engine, there: &Engine) -> Result<(), Box<dyn std::error::Error>> {
/// let portable = Portable::export(here, "01900000-0000-7000-8000-000000000000".parse()?)?;
/// portable.write(std::fs::File::create("run.json")?)?;
/// Portable::read(std::fs::File::open("run.json")?)?.import(there)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Portable {
    file: File,
    program: Program,
    journal: Vec<Recorded>,
}

impl Portable {
    pub(super) fn new(
        record: &ExecutionRecord,
        program: &Program,
        journal: Vec<Recorded>,
        loaded: &Loaded,
        calls: &[CallRecord],
    ) -> Self {
        let arrived: BTreeMap<_, _> =
            calls.iter().map(|call| (call.id, call.completed_at_ms)).collect();
        let report = |(call, outcome): &(CallId, Outcome)| {
            let at_ms = arrived.get(call).copied().flatten().unwrap_or(record.created_at_ms);
            let (result, error) = match outcome.clone() {
                Outcome::Completed(result) => (Some(result), None),
                Outcome::Failed(failure) => (None, Some(failure)),
            };
            FileReport { call: *call, at_ms, result, error }
        };
        let job = |call: &CallRecord| {
            let job_id = call.job_id.clone().filter(|_| call.status == CallStatus::Submitted)?;
            Some(FileJob { call: call.id, job_id })
        };
        let event = |recorded: &Recorded| {
            let whole = wire::encode_whole(&recorded.event);
            FileEvent {
                sequence: recorded.sequence,
                transition: recorded.transition,
                at_ms: recorded.at_ms,
                event_type: whole.event_type.to_owned(),
                payload: whole.payload,
            }
        };
        let Labels { namespace, queue, tags } = record.labels.clone();
        let file = File {
            durable_execution: VERSION,
            id: record.id,
            workflow: record.workflow_id.clone(),
            namespace,
            queue,
            tags,
            idempotency_key: record.idempotency_key.clone(),
            created_at_ms: record.created_at_ms,
            program: FileProgram {
                id: program.id().clone(),
                definition: program.to_json().to_owned(),
            },
            inputs: record.inputs.clone(),
            journal: journal.iter().map(event).collect(),
            inbox: loaded.inbox.iter().map(report).collect(),
            jobs: calls.iter().filter_map(job).collect(),
            control: loaded.control.as_ref().map(|(control, reason)| FileControl {
                request: control.as_stored().to_owned(),
                reason: reason.clone(),
            }),
        };
        Self { file, program: program.clone(), journal }
    }

    /// Reads a file and checks that it holds together: the program is the one of its id, the
    /// journal has no gap and is one that an execution can have.
    ///
    /// # Errors
    /// `Invalid` with what is wrong and where.
    pub fn read(reader: impl io::Read) -> Result<Self> {
        let mut text = Vec::new();
        reader
            .take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut text)
            .map_err(|error| Error::unavailable(format!("the file can't be read: {error}")))?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(Error::invalid(format!(
                "the file has more than {MAX_FILE_BYTES} bytes: that is more than is read"
            )));
        }
        /// The version comes first: another one may have other fields.
        #[derive(Deserialize)]
        struct Head {
            durable_execution: u32,
        }
        let no_file = |error| Error::invalid(format!("this is no exported execution: {error}"));
        let head: Head = serde_json::from_slice(&text).map_err(no_file)?;
        if head.durable_execution != VERSION {
            return Err(Error::invalid(format!(
                "the file has version {}, this program reads {VERSION}: upgrade durable",
                head.durable_execution
            )));
        }
        let file: File = serde_json::from_slice(&text).map_err(no_file)?;
        drop(text);
        Self::check(file).map_err(|error| match error {
            Error::Invalid(_) => error,
            other => Error::invalid(format!("the file contradicts itself: {other}")),
        })
    }

    fn check(file: File) -> Result<Self> {
        let program = Program::from_stored(&file.program.id, &file.program.definition)?;
        let instants = file.journal.iter().map(|event| event.at_ms);
        let instants = instants.chain(file.inbox.iter().map(|report| report.at_ms));
        for at_ms in instants.chain([file.created_at_ms]) {
            if !INSTANTS_MS.contains(&at_ms) {
                return Err(Error::invalid(format!("{at_ms} is no instant in milliseconds")));
            }
        }
        let decode = |event: &FileEvent| {
            let decoded = wire::decode_whole(&event.event_type, &event.payload)?;
            let FileEvent { sequence, transition, at_ms, .. } = *event;
            Ok(Recorded { sequence, transition, at_ms, event: decoded })
        };
        let journal: Vec<Recorded> = file.journal.iter().map(decode).collect::<Result<_>>()?;
        check_journal(file.id, &journal)?;
        for report in &file.inbox {
            if report.result.is_some() == report.error.is_some() {
                return Err(Error::invalid(format!(
                    "the inbox holds a result or an error of call {}, and one only",
                    report.call
                )));
            }
        }
        if let Some(control) = &file.control {
            Control::from_stored(&control.request)?;
        }
        if let Some(job) = file.jobs.iter().find(|job| job.job_id.len() > MAX_JOB_BYTES) {
            return Err(Error::invalid(format!(
                "the job of call {} has too long a name",
                job.call
            )));
        }
        Ok(Self { file, program, journal })
    }

    pub(super) fn as_file(&self) -> &File {
        &self.file
    }

    /// Which execution it is.
    pub fn id(&self) -> ExecutionId {
        self.file.id
    }

    /// What it runs.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Its journal.
    pub fn journal(&self) -> &[Recorded] {
        &self.journal
    }

    pub(super) fn labels(&self) -> Labels {
        let File { namespace, queue, tags, .. } = &self.file;
        Labels { namespace: namespace.clone(), queue: queue.clone(), tags: tags.clone() }
    }

    pub(super) fn workflow_id(&self) -> &str {
        &self.file.workflow
    }

    pub(super) fn idempotency_key(&self) -> Option<&str> {
        self.file.idempotency_key.as_deref()
    }

    pub(super) fn inputs(&self) -> &Payload {
        &self.file.inputs
    }

    pub(super) fn created_at_ms(&self) -> UnixMs {
        self.file.created_at_ms
    }

    /// The jobs of open calls.
    pub(super) fn jobs(&self) -> impl Iterator<Item = (CallId, &str)> {
        self.file.jobs.iter().map(|job| (job.call, job.job_id.as_str()))
    }

    /// What an operator asks for, and why.
    pub(super) fn control(&self) -> Result<Option<(Control, String)>> {
        let Some(control) = &self.file.control else { return Ok(None) };
        Ok(Some((Control::from_stored(&control.request)?, control.reason.clone())))
    }

    /// Results that are not in the journal yet: call, outcome and when it came.
    pub(super) fn inbox(&self) -> impl Iterator<Item = (CallId, Outcome, UnixMs)> + '_ {
        self.file.inbox.iter().map(|report| {
            let failed = || {
                let failure = report.error.clone();
                Outcome::Failed(failure.unwrap_or_else(|| Failure::new("RuntimeError", "")))
            };
            let outcome = report.result.clone().map_or_else(failed, Outcome::Completed);
            (report.call, outcome, report.at_ms)
        })
    }
}

/// Splits a journal into its transitions.
pub(crate) fn transitions(journal: &[Recorded]) -> impl Iterator<Item = &[Recorded]> {
    journal.chunk_by(|one, other| one.transition == other.transition)
}

/// Refuses what no engine writes. What [`apply`] and the stores refuse is not looked at here.
fn check_journal(id: ExecutionId, journal: &[Recorded]) -> Result<()> {
    replay::fold(id, journal)?;
    let mut before = Execution::scheduled(id);
    let mut state = before.clone();
    let mut last: &[Recorded] = &[];
    for (number, transition) in (1..).zip(transitions(journal)) {
        let wrong =
            |what: &str| Err(Error::invalid(format!("transition {number} of the journal {what}")));
        if transition[0].transition != number {
            return wrong("has another number");
        }
        if transition.iter().any(|recorded| recorded.at_ms != transition[0].at_ms) {
            return wrong("has events of several instants");
        }
        if let Event::ExecutionRetried(_) = &transition[0].event
            && replay::retry_of(&before, last.iter().map(|recorded| &recorded.event))?
                != transition[0].event
        {
            return wrong("takes back something else than what failed before it");
        }
        before.clone_from(&state);
        for (place, recorded) in transition.iter().enumerate() {
            match &recorded.event {
                Event::ExecutionRetried(_) if place > 0 => return wrong("retries half-way"),
                Event::VariablesSet { .. } if transition.len() > 1 => {
                    return wrong("does something else beside setting variables");
                }
                Event::TimerStarted(call) if !is_timer_of(call, recorded.at_ms) => {
                    return wrong("starts a timer that is due at another time than it asks for");
                }
                Event::CallRequested(call) if call.is_timer() => {
                    return wrong("asks for a timer as if it were a call");
                }
                _ => {}
            }
            apply(&mut state, &recorded.event)?;
        }
        state.version = number;
        last = transition;
    }
    Ok(())
}

fn is_timer_of(call: &durable_core::Call, at_ms: UnixMs) -> bool {
    match call.new.request {
        durable_core::Request::Timer { delay_ms } => {
            let delay_ms = i64::try_from(delay_ms).unwrap_or(i64::MAX);
            call.due_ms == Some(at_ms.saturating_add(delay_ms))
        }
        durable_core::Request::Function { .. } => false,
    }
}
