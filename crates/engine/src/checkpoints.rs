//! Checkpoints: the places at which an execution has waited, to look at and to go on from.
//!
//! Nothing is kept for them. The journal gives the state after any of its transitions, so every
//! `await` that asked for something new is a checkpoint for as long as the execution is there, on
//! every store, and also after it has ended.

mod variables;

use std::{collections::BTreeMap, ops::ControlFlow};

pub use durable_core::{Assignment, Frame, Inspection};
use durable_core::{
    Call, CallId, Definition, Error, Event, Execution, ExecutionId, Outcome, Payload, Recorded,
    Result, UnixMs, apply,
};

use crate::{
    Engine,
    portable::{Portable, transitions},
    shell::whole_journal,
};

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
    /// The variables that were given other values there: see [`fork`].
    pub set: Vec<Assignment>,
}

/// What a fork is given instead of what its original has.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Edits {
    /// What calls come to that are waited for at the checkpoint.
    pub results: Vec<(CallId, Outcome)>,
    /// Variables of the program, and the values they get. A variable is named as in the source,
    /// `total`. When several frames of what [`inspect`] shows have one of that name, the function
    /// comes first, `scale.total`, or task and depth, counted from 0: `1.0.total`.
    pub variables: Vec<(String, Payload)>,
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
pub fn list(engine: &Engine, id: ExecutionId) -> Result<Vec<Checkpoint>> {
    let mut all = Vec::new();
    visit(engine, id, 0, |checkpoint| {
        all.push(checkpoint);
        ControlFlow::Continue(())
    })?;
    Ok(all)
}

/// Shows the checkpoints after a number to `look`, one by one, until that breaks off: for those who
/// do not want them all in memory. Gives the number of the last one that was passed.
///
/// # Errors
/// As [`list`].
pub fn visit(
    engine: &Engine,
    id: ExecutionId,
    after: u32,
    look: impl FnMut(Checkpoint) -> ControlFlow<()>,
) -> Result<u32> {
    engine.execution(id)?;
    of_journal(id, &whole_journal(engine.store(), id)?, after, look)
}

/// One of them.
///
/// # Errors
/// As [`list`]; `NotFound` when there is none of this number.
pub fn get(engine: &Engine, id: ExecutionId, number: u32) -> Result<Checkpoint> {
    let mut found = None;
    let count = visit(engine, id, number.saturating_sub(1), |checkpoint| {
        found = Some(checkpoint);
        ControlFlow::Break(())
    })?;
    found.filter(|checkpoint| checkpoint.number == number).ok_or_else(|| {
        Error::not_found(format!(
            "execution {id} has no checkpoint {number}: it has {count}, counted from 1"
        ))
    })
}

/// The newest of them.
///
/// # Errors
/// As [`list`]; `NotFound` when it has not waited yet.
pub fn last(engine: &Engine, id: ExecutionId) -> Result<Checkpoint> {
    let mut last = None;
    visit(engine, id, 0, |checkpoint| {
        last = Some(checkpoint);
        ControlFlow::Continue(())
    })?;
    last.ok_or_else(|| {
        Error::not_found(format!("execution {id} has no checkpoint: it has not waited yet"))
    })
}

/// The call stacks and variables of the program at a checkpoint.
///
/// # Errors
/// As [`list`]; `Conflict` when the program does not get there any more.
pub fn inspect(engine: &Engine, checkpoint: &Checkpoint) -> Result<Inspection> {
    engine.inspect(checkpoint.execution, checkpoint.transition, &[])
}

/// The program that waits there.
///
/// # Errors
/// `NotFound`; `Corrupt` when it is missing.
pub fn definition(engine: &Engine, checkpoint: &Checkpoint) -> Result<Definition> {
    let record = engine.execution(checkpoint.execution)?;
    Ok(engine.program_of(&record)?.definition().clone())
}

/// What became of a program between two of its checkpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct Diff {
    /// The variables that differ, by task, depth, function and name.
    pub variables: Vec<Change>,
    /// What the program was given on the way, in order.
    pub ended: Vec<(CallId, Outcome)>,
    /// The variables that were set on the way, in order.
    pub set: Vec<Assignment>,
}

/// A variable that differs between two checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The number of its task's stack.
    pub task: usize,
    /// Its frame's place in the stack, from 0 for the outermost.
    pub depth: usize,
    /// The function whose variable it is.
    pub function: String,
    /// Its name.
    pub name: String,
    /// What it was; `None` when it was not there.
    pub before: Option<Payload>,
    /// What it is; `None` when it is not there any more.
    pub after: Option<Payload>,
}

/// What became of a program between two checkpoints of one execution.
///
/// # Errors
/// As [`inspect`].
pub fn diff(engine: &Engine, from: &Checkpoint, to: &Checkpoint) -> Result<Diff> {
    let (before, mut after) = (variables(inspect(engine, from)?), variables(inspect(engine, to)?));
    let mut pairs: BTreeMap<_, _> = before
        .into_iter()
        .map(|(place, was)| {
            let is = after.remove(&place);
            (place, (Some(was), is))
        })
        .collect();
    pairs.extend(after.into_iter().map(|(place, is)| (place, (None, Some(is)))));
    let changed = pairs.into_iter().filter(|(_, (was, is))| was != is);
    let variables = changed.map(|((task, depth, function, name), (before, after))| Change {
        task,
        depth,
        function,
        name,
        before,
        after,
    });
    let between = from.transition + 1..=to.transition;
    let journal = whole_journal(engine.store(), from.execution)?;
    let mut diff = Diff { variables: variables.collect(), ended: Vec::new(), set: Vec::new() };
    for recorded in journal {
        if !between.contains(&recorded.transition) {
            continue;
        }
        diff.ended.extend(recorded.event.outcome());
        if let Event::VariablesSet { variables } = recorded.event {
            diff.set.extend(variables);
        }
    }
    Ok(diff)
}

/// The variables of all frames, by task, depth, function and name.
fn variables(seen: Inspection) -> BTreeMap<(usize, usize, String, String), Payload> {
    let mut all = BTreeMap::new();
    for (task, stack) in seen.stacks.into_iter().enumerate() {
        for (depth, frame) in stack.into_iter().enumerate() {
            let function = frame.function;
            let named = frame.variables.into_iter();
            all.extend(named.map(|(name, value)| ((task, depth, function.clone(), name), value)));
        }
    }
    all
}

/// Starts a new execution that goes on from a checkpoint of another, which stays as it is. Its
/// journal begins with the other's. Variables that are set come next in it, and are a checkpoint of
/// their own; results lie in its inbox.
///
/// Calls of the fork have idempotency keys of their own. Those it waits for were asked for before
/// the variables were set, and keep their arguments.
///
/// # Errors
/// As [`list`]; `Invalid` for a result of a call that is not waited for there, for a variable that
/// is not there or is one of several, and for a value that can't be one; `Conflict` when the
/// program does not get there any more, or can't take the values.
pub fn fork(engine: &Engine, checkpoint: &Checkpoint, edits: &Edits) -> Result<ExecutionId> {
    for (call, _) in &edits.results {
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
    let set = variables::find(engine, checkpoint, &edits.variables)?;
    let fork = engine.new_id();
    Portable::fork(engine, checkpoint, fork, &edits.results, set)?.import(engine)?;
    Ok(fork)
}

/// Takes an execution back to a checkpoint: it is cancelled if it has not ended, and a fork goes on
/// in its place. The journal of what happened meanwhile stays where it is.
///
/// # Errors
/// As [`fork`].
pub fn restore(engine: &Engine, checkpoint: &Checkpoint) -> Result<ExecutionId> {
    let id = checkpoint.execution;
    let fork = fork(engine, checkpoint, &Edits::default())?;
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

/// As [`visit`].
fn of_journal(
    id: ExecutionId,
    journal: &[Recorded],
    after: u32,
    mut look: impl FnMut(Checkpoint) -> ControlFlow<()>,
) -> Result<u32> {
    let mut state = Execution::scheduled(id);
    let mut number = 0;
    for transition in transitions(journal) {
        let mut asked = Vec::new();
        let mut set = Vec::new();
        for recorded in transition {
            apply(&mut state, &recorded.event)?;
            match &recorded.event {
                Event::CallRequested(call) | Event::TimerStarted(call) => asked.push(call),
                Event::VariablesSet { variables } => set.extend_from_slice(variables),
                _ => {}
            }
        }
        let (Some(last), false) = (transition.last(), state.status.is_terminal()) else { continue };
        if asked.is_empty() && set.is_empty() {
            continue;
        }
        number += 1;
        if number <= after {
            continue;
        }
        let checkpoint = Checkpoint {
            execution: id,
            number,
            transition: last.transition,
            sequence: last.sequence,
            at_ms: last.at_ms,
            label: asked.iter().find_map(|call| call.checkpoint_label()),
            waits_for: state.open_calls.values().cloned().collect(),
            set,
        };
        if look(checkpoint).is_break() {
            break;
        }
    }
    Ok(number)
}

/// The journal up to a checkpoint.
pub(crate) fn journal_until(engine: &Engine, checkpoint: &Checkpoint) -> Result<Vec<Recorded>> {
    let mut journal = whole_journal(engine.store(), checkpoint.execution)?;
    journal.retain(|recorded| recorded.transition <= checkpoint.transition);
    Ok(journal)
}
