//! Checkpoints: the places at which an execution has waited, to look at and to go on from.
//!
//! Nothing is kept for them. The journal gives the state after any of its transitions, so every
//! `await` that asked for something new is a checkpoint for as long as the execution is there, on
//! every store, and also after it has ended.

use durable_core::{
    Call, CallId, Definition, Error, Event, Execution, ExecutionId, Outcome, Recorded, Result,
    UnixMs, apply,
};
pub use durable_core::{Frame, Inspection};
use durable_engine::{Engine, whole_journal};

use crate::portable::{Portable, transitions};

/// A place at which an execution has waited.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The execution.
    pub execution: ExecutionId,
    /// Its number, from 1.
    pub number: u32,
    /// The transition that led there.
    pub transition: u64,
    /// The last event of that transition.
    pub sequence: u64,
    /// When it was reached.
    pub at_ms: UnixMs,
    /// The calls and timers it waited for, in the order in which they were asked for.
    pub waits_for: Vec<Call>,
    /// What the program called it: the argument of its `__checkpoint__(…)`.
    pub label: Option<String>,
}

impl Checkpoint {
    /// Its name, unique in a database: `<execution>_ckpt_<number>`.
    pub fn id(&self) -> String {
        format!("{}_ckpt_{}", self.execution, self.number)
    }
}

/// The checkpoints of an execution, the oldest first.
///
/// # Errors
/// `NotFound`; `Corrupt` when its journal can't be read.
///
/// ```
/// use durable::{Durable, FunctionError, Workflow, checkpoints};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # durable::run_worker_if_asked();
/// let durable = Durable::builder("memory:")
///     .isolation(durable::Isolation::Thread)
///     .function("double", |(x,): (i64,)| async move { Ok::<_, FunctionError>(2 * x) })
///     .open()?;
/// let id = durable.start(&Workflow::new("a = await double(2)\nawait double(a)"))?;
/// assert_eq!(durable.result::<i64>(id)?, 8);
/// let engine = durable.engine();
/// let second = &checkpoints::list(engine, id)?[1];
/// let seen = checkpoints::inspect(engine, second)?;
/// assert_eq!(seen.stacks[0][0].variables["a"].as_str(), "4");
/// let fork = checkpoints::fork(engine, second, &[])?;
/// assert_eq!(durable.result::<i64>(fork)?, 8);
/// # Ok(())
/// # }
/// ```
pub fn list(engine: &Engine, id: ExecutionId) -> Result<Vec<Checkpoint>> {
    engine.execution(id)?;
    of_journal(id, &whole_journal(engine.store(), id)?)
}

/// One of them.
///
/// # Errors
/// As [`list`]; `NotFound` when there is none of this number.
pub fn get(engine: &Engine, id: ExecutionId, number: u32) -> Result<Checkpoint> {
    let all = list(engine, id)?;
    let count = all.len();
    all.into_iter().find(|checkpoint| checkpoint.number == number).ok_or_else(|| {
        Error::not_found(format!(
            "execution {id} has no checkpoint {number}: it has {count}, counted from 1"
        ))
    })
}

/// The call stacks and variables of the program at a checkpoint.
///
/// # Errors
/// As [`list`]; `Conflict` when the program does not get there any more.
pub fn inspect(engine: &Engine, checkpoint: &Checkpoint) -> Result<Inspection> {
    engine.inspect(checkpoint.execution, checkpoint.transition)
}

/// The program that waits there.
///
/// # Errors
/// `NotFound`; `Corrupt` when it is missing.
pub fn definition(engine: &Engine, checkpoint: &Checkpoint) -> Result<Definition> {
    let record = engine.execution(checkpoint.execution)?;
    Ok(engine.program_of(&record)?.definition().clone())
}

/// What the program was given between two checkpoints of one execution, in order.
///
/// # Errors
/// As [`list`].
pub fn ended_between(
    engine: &Engine,
    from: &Checkpoint,
    to: &Checkpoint,
) -> Result<Vec<(CallId, Outcome)>> {
    let between = from.transition + 1..=to.transition;
    let journal = whole_journal(engine.store(), from.execution)?;
    let given = journal.iter().filter(|recorded| between.contains(&recorded.transition));
    Ok(given.filter_map(|recorded| recorded.event.outcome()).collect())
}

/// Starts a new execution that goes on from a checkpoint of another, which stays as it is. Its
/// journal begins with the other's. `results` are what calls come to that it waits for there.
///
/// Calls of the fork have idempotency keys of their own.
///
/// # Errors
/// As [`list`]; `Invalid` for a result of a call that is not waited for there.
pub fn fork(
    engine: &Engine,
    checkpoint: &Checkpoint,
    results: &[(CallId, Outcome)],
) -> Result<ExecutionId> {
    for (call, _) in results {
        if !checkpoint.waits_for.iter().any(|open| open.id() == *call && !open.is_timer()) {
            let open: Vec<_> =
                checkpoint.waits_for.iter().map(|call| call.id().to_string()).collect();
            return Err(Error::invalid(format!(
                "checkpoint {} does not wait for call {call}: it waits for {}",
                checkpoint.number,
                open.join(", ")
            )));
        }
    }
    let fork = engine.new_id();
    Portable::fork(engine, checkpoint, fork, results)?.import(engine)?;
    Ok(fork)
}

/// Takes an execution back to a checkpoint: it is cancelled if it has not ended, and a fork goes on
/// in its place. The journal of what happened meanwhile stays where it is.
///
/// # Errors
/// As [`fork`].
pub fn restore(engine: &Engine, checkpoint: &Checkpoint) -> Result<ExecutionId> {
    let id = checkpoint.execution;
    let fork = fork(engine, checkpoint, &[])?;
    if !engine.execution(id)?.status.is_terminal() {
        let reason = format!("restored to checkpoint {}: {fork} goes on", checkpoint.number);
        match engine.cancel(id, &reason) {
            // It was faster.
            Ok(()) | Err(Error::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(fork)
}

fn of_journal(id: ExecutionId, journal: &[Recorded]) -> Result<Vec<Checkpoint>> {
    let mut state = Execution::scheduled(id);
    let mut found = Vec::new();
    for transition in transitions(journal) {
        let mut asked = Vec::new();
        for recorded in transition {
            apply(&mut state, &recorded.event)?;
            if let Event::CallRequested(call) | Event::TimerStarted(call) = &recorded.event {
                asked.push(call);
            }
        }
        let (Some(last), false) = (transition.last(), state.status.is_terminal()) else { continue };
        if asked.is_empty() {
            continue;
        }
        found.push(Checkpoint {
            execution: id,
            number: found.len() as u32 + 1,
            transition: last.transition,
            sequence: last.sequence,
            at_ms: last.at_ms,
            label: asked.iter().find_map(|call| call.checkpoint_label()),
            waits_for: state.open_calls.values().cloned().collect(),
        });
    }
    Ok(found)
}

/// The journal up to a checkpoint.
pub(crate) fn journal_until(engine: &Engine, checkpoint: &Checkpoint) -> Result<Vec<Recorded>> {
    let mut journal = whole_journal(engine.store(), checkpoint.execution)?;
    journal.retain(|recorded| recorded.transition <= checkpoint.transition);
    Ok(journal)
}
