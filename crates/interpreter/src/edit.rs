//! Gives variables of a program that waits other values.
//!
//! The other way round than looking at them: the variables become the globals of a session on the
//! program's own heap, which is given the values as inputs; heap and globals then go back to where
//! they came from. So values are made, and references counted, by the interpreter alone.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
};

use ciborium::Value;
use monty_types::{MontyObject, PrintWriter};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    protocol::WireAssignment,
    tree::{Form, Home, Parts, State, UNEXPECTED, Variable, at, at_mut, written},
    value,
};

/// Code of the session that is given the values.
const NOTHING: &str = "pass";

/// What stands where a value was that somebody else holds now: `None`, which nobody counts.
const NONE: &str = "O";

/// The tables of texts and numbers that values refer to.
const TABLES: [&str; 3] = ["strings", "bytes", "long_ints"];

/// The state with the variables set: a `RunProgress`, or of a session the `ReplProgress` of a feed
/// or the `MontyRepl`.
///
/// # Errors
/// A sentence, when there is no such variable, or a value that can't be read.
pub(crate) fn set<T: Serialize + DeserializeOwned>(
    state: T,
    assignments: &[WireAssignment<'_>],
) -> Result<T, String> {
    let changed = catch_unwind(AssertUnwindSafe(|| {
        let mut tree = written(&state)?;
        // It counts as the program's memory.
        drop(state);
        let is_same_frame = |one: &WireAssignment<'_>, other: &WireAssignment<'_>| {
            (one.task, one.depth) == (other.task, other.depth)
        };
        for of_frame in assignments.chunk_by(is_same_frame) {
            set_in_frame(&mut tree, of_frame)?;
        }
        tree.deserialized().map_err(|error| format!("the state can't be restored: {error}"))
    }));
    changed.unwrap_or_else(|_| Err("the interpreter can't take the new values".to_owned()))
}

/// Sets variables of one frame.
fn set_in_frame(tree: &mut Value, assignments: &[WireAssignment<'_>]) -> Result<(), String> {
    let state = State::read(tree).ok_or(UNEXPECTED)?;
    let stacks = state.stacks();
    let mut variables: Vec<&Variable<'_>> = Vec::with_capacity(assignments.len());
    let mut inputs: Vec<(String, MontyObject)> = Vec::with_capacity(assignments.len());
    for assignment in assignments {
        let WireAssignment { task, depth, function, name, value } = assignment;
        let scope = stacks.get(*task as usize).and_then(|stack| stack.get(*depth as usize));
        let variable = scope
            .filter(|scope| scope.function == *function)
            .and_then(|scope| scope.variables.iter().find(|variable| variable.name == *name))
            .filter(|_| inputs.iter().all(|(given, _)| given != name))
            .ok_or_else(|| format!("{function} has no variable {task}.{depth}.{name} to set"))?;
        let value = value::decode(value)
            .map_err(|error| format!("the value of {name} can't be read: {error}"))?;
        variables.push(variable);
        inputs.push(((*name).to_owned(), value));
    }
    let homes: Vec<Home> = variables.iter().map(|variable| variable.home).collect();
    let parts = state.parts(&variables).ok_or(UNEXPECTED)?;
    let form = state.form;
    exchange(tree, form, &homes, parts, inputs)
}

/// Has a session take the inputs in, and puts what it then holds into the homes of its globals.
fn exchange(
    tree: &mut Value,
    form: &Form,
    homes: &[Home],
    parts: Parts,
    inputs: Vec<(String, MontyObject)>,
) -> Result<(), String> {
    let interns = parts.interns.clone();
    // What the session holds nobody else may hold: the interpreter counts who does.
    for home in homes {
        *form.home_mut(tree, *home).ok_or(UNEXPECTED)? = Value::Text(NONE.to_owned());
    }
    let heap = taken(tree, form.heap)?;
    let mut session = parts.session(heap).ok_or(UNEXPECTED)?;
    session.feed_run(NOTHING, inputs, PrintWriter::Disabled).map_err(|error| {
        let (kind, why) = (error.exc_type(), error.message().unwrap_or_default());
        format!("the values can't be set: {kind}: {why}")
    })?;
    let mut after = written(&session)?;
    drop(session);
    let grown = taken(&mut after, &["interns"])?;
    // The program's code refers to them by their places.
    if !TABLES.iter().all(|table| begins_with(at(&grown, &[table]), at(&interns, &[table]))) {
        return Err(UNEXPECTED.to_owned());
    }
    *at_mut(tree, form.interns).ok_or(UNEXPECTED)? = grown;
    *at_mut(tree, form.heap).ok_or(UNEXPECTED)? = taken(&mut after, &["heap"])?;
    let globals = taken(&mut after, &["globals"])?.into_array().unwrap_or_default();
    if globals.len() != homes.len() {
        return Err(UNEXPECTED.to_owned());
    }
    for (home, value) in homes.iter().zip(globals) {
        *form.home_mut(tree, *home).ok_or(UNEXPECTED)? = value;
    }
    Ok(())
}

fn taken(tree: &mut Value, path: &[&str]) -> Result<Value, String> {
    let part = at_mut(tree, path).ok_or(UNEXPECTED)?;
    Ok(mem::replace(part, Value::Null))
}

fn begins_with(table: Option<&Value>, with: Option<&Value>) -> bool {
    let tables = table.and_then(Value::as_array).zip(with.and_then(Value::as_array));
    tables.is_some_and(|(table, with)| table.starts_with(with))
}
