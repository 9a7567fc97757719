//! What can be seen of a program that waits: its call stacks, and their variables.

use std::panic::{AssertUnwindSafe, catch_unwind};

use durable_core::{Frame, Inspection, Payload};
use monty::MontyRepl;
use monty_types::PrintWriter;
use serde::Serialize;
use serde_json::json;

use crate::{
    tree::{Places, Scope, State, UNEXPECTED, written},
    value,
};

/// Largest value that is shown, and how much of all.
const MAX_VALUE_BYTES: usize = 64 << 10;
const MAX_SHOWN_BYTES: usize = 16 << 20;

/// The call stacks of a state: a `RunProgress`, or of a session the `ReplProgress` of a feed or the
/// `MontyRepl`, whose variables are those of one frame.
///
/// # Errors
/// A sentence, when the state can't be read.
pub(crate) fn inspect(state: &impl Serialize, places: Places<'_>) -> Result<Inspection, String> {
    let tree = written(state)?;
    let state = State::read(&tree).ok_or(UNEXPECTED)?;
    let stacks = state.stacks();
    let mut room = MAX_SHOWN_BYTES;
    let mut frame = |scope: &Scope<'_>| frame(&state, scope, places, &mut room);
    Ok(Inspection {
        stacks: stacks.iter().map(|stack| stack.iter().map(&mut frame).collect()).collect(),
    })
}

fn frame(state: &State<'_>, scope: &Scope<'_>, places: Places<'_>, room: &mut usize) -> Frame {
    let variables: Vec<_> = scope.variables.iter().collect();
    let parts = state.parts(&variables).zip(state.heap());
    let mut session = parts.and_then(|(parts, heap)| parts.session(heap.clone()));
    let names = variables.iter().map(|variable| variable.name);
    let shown = names.map(|name| {
        let value = session.as_mut().map_or_else(unreadable, |session| show(session, name, room));
        (name.to_owned(), value)
    });
    let variables = shown.collect();
    Frame {
        function: scope.function.to_owned(),
        position: state.position(scope, places),
        variables,
    }
}

/// The value of a global of a session, as far as there is room for it.
fn show(session: &mut MontyRepl, name: &str, room: &mut usize) -> Payload {
    let found = catch_unwind(AssertUnwindSafe(|| {
        session.feed_run(name, Vec::new(), PrintWriter::Disabled)
    }));
    match found {
        Ok(Ok(found)) => match value::encode(&found, MAX_VALUE_BYTES.min(*room)) {
            Ok(json) => {
                *room = room.saturating_sub(json.len());
                Payload::trusted(json)
            }
            Err(error) => repr(&error.to_string()),
        },
        Ok(Err(_)) | Err(_) => unreadable(),
    }
}

fn unreadable() -> Payload {
    repr("a value that can't be read")
}

fn repr(words: &str) -> Payload {
    Payload::from_value(&json!({ "$py:repr": words }))
}
