//! Which variables are meant when a fork is given other values.

use durable_core::{Assignment, Error, Frame, Inspection, Payload, Result, report::nearest};

use super::{Checkpoint, definition, inspect};
use crate::Engine;

/// Most variables that a fork is given.
const MAX_VARIABLES: usize = 500;

/// Finds the variables, and makes sure that the program at the checkpoint takes the values.
///
/// # Errors
/// See [`super::fork`].
pub(super) fn find(
    engine: &Engine,
    checkpoint: &Checkpoint,
    variables: &[(String, Payload)],
) -> Result<Vec<Assignment>> {
    if variables.is_empty() {
        return Ok(Vec::new());
    }
    let definition = definition(engine, checkpoint)?;
    if definition.language.is_steps() {
        return Err(Error::invalid(format!(
            "execution {} runs a step workflow, which has no variables: give results of its steps",
            checkpoint.execution
        )));
    }
    if variables.len() > MAX_VARIABLES {
        return Err(Error::invalid(format!(
            "{} variables are given, the limit is {MAX_VARIABLES}",
            variables.len()
        )));
    }
    let limit = definition.limits.max_payload_bytes;
    for (name, value) in variables {
        let size = value.as_str().len();
        if size as u64 > limit {
            return Err(Error::invalid(format!(
                "the value of '{name}' has {size} bytes, the limit max_payload_bytes is {limit}"
            )));
        }
    }
    let seen = inspect(engine, checkpoint)?;
    let mut found = Vec::with_capacity(variables.len());
    for (name, value) in variables {
        let assignment = find_in(&seen, name, value)?;
        if found.iter().any(|other| is_same(other, &assignment)) {
            return Err(Error::invalid(format!("the variable '{name}' is given two values")));
        }
        found.push(assignment);
    }
    found.sort_by_key(|assignment| (assignment.task, assignment.depth));
    match engine.inspect(checkpoint.execution, checkpoint.transition, &found) {
        Ok(_) => Ok(found),
        // The program got there: it is the values.
        Err(Error::Conflict(why)) => Err(Error::Invalid(why)),
        Err(error) => Err(error),
    }
}

fn is_same(one: &Assignment, other: &Assignment) -> bool {
    (one.task, one.depth, &one.name) == (other.task, other.depth, &other.name)
}

/// Frames with their task and their depth, as text and as numbers.
fn frames(seen: &Inspection) -> impl Iterator<Item = (String, u32, u32, &Frame)> {
    (0..).zip(&seen.stacks).flat_map(|(task, stack)| {
        let frames = (0..).zip(stack);
        frames.map(move |(depth, frame)| (format!("{task}.{depth}"), task, depth, frame))
    })
}

/// The variable that is called `name`, `function.name` or `task.depth.name`.
fn find_in(seen: &Inspection, wanted: &str, value: &Payload) -> Result<Assignment> {
    let (place, name) = match wanted.rsplit_once('.') {
        Some((place, name)) => (Some(place), name),
        None => (None, wanted),
    };
    let found: Vec<_> = frames(seen)
        .filter(|(number, .., frame)| {
            frame.variables.contains_key(name)
                && place.is_none_or(|place| place == frame.function || place == number)
        })
        .collect();
    match found.as_slice() {
        [(_, task, depth, frame)] => Ok(Assignment {
            task: *task,
            depth: *depth,
            function: frame.function.clone(),
            name: name.to_owned(),
            value: value.clone(),
        }),
        [] => Err(unknown(seen, wanted)),
        several => {
            let line = |(number, .., frame): &(String, u32, u32, &Frame)| {
                let Frame { function, position, .. } = frame;
                format!("{number}.{name} ({function}, line {})", position.line)
            };
            Err(Error::invalid(format!(
                "there are several variables '{wanted}': say {}",
                several.iter().map(line).collect::<Vec<_>>().join(" or ")
            )))
        }
    }
}

fn unknown(seen: &Inspection, wanted: &str) -> Error {
    let known: Vec<String> = frames(seen)
        .flat_map(|(number, .., frame)| {
            let function = frame.function.as_str();
            let forms = move |name: &String| {
                [name.clone(), format!("{function}.{name}"), format!("{number}.{name}")]
            };
            frame.variables.keys().flat_map(forms).collect::<Vec<_>>()
        })
        .collect();
    let hint = match nearest(wanted, known.iter().map(String::as_str)) {
        Some(nearest) => format!("did you mean '{nearest}'?"),
        None => "look at what `checkpoints show` prints".to_owned(),
    };
    Error::invalid(format!("there is no variable '{wanted}' at the checkpoint: {hint}"))
}
