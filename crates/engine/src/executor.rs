//! Where calls run: the seam to executors.

use std::sync::Weak;

use durable_core::{CallId, Error, ExecutionId, Outcome, Payload, Result, UnixMs};

use crate::shell::{Shell, rendezvous_ack};

/// One attempt of one call, ready to run.
#[derive(Debug, Clone)]
pub struct CallRequest {
    /// The execution that asked.
    pub execution: ExecutionId,
    /// The call.
    pub call: CallId,
    /// The attempt, from 1.
    pub attempt: u32,
    /// The name executors know the function by.
    pub function: String,
    /// The name the program has for the call: that of the function, or of the step.
    pub step: String,
    /// A JSON array.
    pub args: Payload,
    /// A JSON object.
    pub kwargs: Payload,
    /// How long the attempt may take; after that its outcome is refused.
    pub timeout_ms: Option<u64>,
    /// When it was handed out.
    pub handed_out_at_ms: UnixMs,
}

impl CallRequest {
    /// The key that every attempt of this call carries: `execution id : call id`.
    pub fn idempotency_key(&self) -> String {
        format!("{}:{}", self.execution, self.call)
    }
}

/// Runs calls.
///
/// An engine hands a call out after the transition that asked for it is durable, and again after
/// a crash: the function runs at least once, its outcome counts once.
pub trait Executor: Send + Sync {
    /// Called once before anything else: where outcomes go.
    fn attach(&self, outcomes: Outcomes);

    /// Takes calls and returns at once. The outcome of each is reported to [`Outcomes`] later,
    /// from another thread, never from within this call.
    fn submit(&self, calls: Vec<CallRequest>);

    /// Nobody waits for this attempt any more. Stopping it is a courtesy.
    fn cancel(&self, execution: ExecutionId, call: CallId, attempt: u32);

    /// Gives back the calls that were submitted and have not begun.
    fn recall(&self) -> Vec<CallRequest>;
}

/// Where an executor reports outcomes.
#[derive(Clone)]
pub struct Outcomes {
    pub(crate) shell: Weak<Shell>,
}

impl Outcomes {
    /// Reports what an attempt came to. Late and repeated reports change nothing.
    pub fn report(&self, call: &CallRequest, outcome: Outcome) {
        if let Some(shell) = self.shell.upgrade() {
            shell.finished(call.execution, call.call, call.attempt, outcome, None);
        }
    }

    /// As [`Outcomes::report`], for somebody who waits until it is durable.
    ///
    /// # Errors
    /// `Conflict` when nobody waits for this attempt any more, or not now, for its execution is
    /// paused; `Unavailable` when it was given back in this moment, or the engine is closed: the
    /// attempt of a failure that is refused is made again.
    pub fn report_durably(&self, call: &CallRequest, outcome: Outcome) -> Result<()> {
        let closed = || Error::unavailable("the engine is closed");
        let shell = self.shell.upgrade().ok_or_else(closed)?;
        let (ack, acked) = rendezvous_ack();
        shell.finished(call.execution, call.call, call.attempt, outcome, Some(ack));
        drop(shell);
        acked()
    }

    /// Stores the name that a remote executor gave to a call, so that operators can find it.
    ///
    /// # Errors
    /// `Conflict` when the execution is not held by this engine any more.
    pub fn note_job(&self, call: &CallRequest, job_id: &str) -> Result<()> {
        match self.shell.upgrade() {
            Some(shell) => shell.note_job(call.execution, call.call, job_id),
            None => Err(Error::conflict("the engine is closed")),
        }
    }

    /// As [`Outcomes::note_job`], for many calls in one commit. What came of each, in order.
    pub fn note_all<'a>(
        &self,
        jobs: impl IntoIterator<Item = (&'a CallRequest, String)>,
    ) -> Vec<Result<()>> {
        let jobs = jobs.into_iter().map(|(call, job_id)| (call.execution, call.call, job_id));
        match self.shell.upgrade() {
            Some(shell) => shell.note_all(jobs.collect()),
            None => jobs.map(|_| Err(Error::conflict("the engine is closed"))).collect(),
        }
    }

    /// Stores the names that a remote executor gave to calls, soon: for an executor whose names
    /// follow from the calls, so that a lost one can be made again. A call that has come to
    /// something meanwhile, or is held by another engine, is passed over.
    pub fn note_jobs<'a>(&self, jobs: impl IntoIterator<Item = (&'a CallRequest, String)>) {
        if let Some(shell) = self.shell.upgrade() {
            let jobs = jobs.into_iter().map(|(call, job_id)| (call.execution, call.call, job_id));
            shell.note_jobs(jobs.collect());
        }
    }

    /// Whether somebody still waits for this attempt.
    pub fn is_wanted(&self, call: &CallRequest) -> bool {
        self.shell
            .upgrade()
            .is_some_and(|shell| shell.is_wanted(call.execution, call.call, call.attempt))
    }
}
