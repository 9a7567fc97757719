//! What can be seen of a program that waits: its call stacks, and their variables.
//!
//! monty tells neither, but its states can be written down as a tree, whose names are known for
//! the one version this crate is built with. Only frames and names are read there. The values of
//! a frame become the globals of a session of their own, on the same heap, which is then asked for
//! them one by one: so values are converted by the interpreter alone.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ciborium::Value;
use durable_core::{Frame, Inspection, Payload, Position};
use monty::MontyRepl;
use monty_types::PrintWriter;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{program::SCRIPT_NAME, value};

/// Largest value that is shown, and how much of all.
const MAX_VALUE_BYTES: usize = 64 << 10;
const MAX_SHOWN_BYTES: usize = 16 << 20;

/// Most variables that are shown of a frame, and most frames of all.
const MAX_VARIABLES: usize = 500;
const MAX_FRAMES: usize = 1_000;

/// Texts of one ASCII letter and the empty one have the first ids; the table begins after them.
const FIRST_TEXT: u64 = 129;

static ASCII: [u8; 128] = {
    let mut letters = [0; 128];
    let mut letter = 0;
    while letter < letters.len() {
        letters[letter] = letter as u8;
        letter += 1;
    }
    letters
};

/// Where something in a source stands: the source's name, and the offset.
pub(crate) type Places<'a> = &'a dyn Fn(&str, usize) -> Option<Position>;

/// The call stacks of a state: a `RunProgress`, or the `ReplProgress` of a session in a feed.
///
/// # Errors
/// A sentence, when the state can't be read.
pub(crate) fn inspect(progress: &impl Serialize, places: Places<'_>) -> Result<Inspection, String> {
    let tree = written(progress)?;
    let state = State::read(&tree, places).ok_or(UNEXPECTED)?;
    let mut stacks = Vec::new();
    let mut left = MAX_FRAMES;
    let mut room = MAX_SHOWN_BYTES;
    for stack in state.stacks() {
        let (frames, values) = stack;
        let frames = frames.iter().take(left);
        let shown: Vec<_> =
            frames.filter_map(|frame| state.frame(frame, values, &mut room)).collect();
        left -= shown.len();
        if !shown.is_empty() {
            stacks.push(shown);
        }
    }
    Ok(Inspection { stacks })
}

/// The variables of an idle session, as those of one frame.
///
/// # Errors
/// A sentence, when the state can't be read.
pub(crate) fn inspect_idle(repl: &MontyRepl) -> Result<Inspection, String> {
    let tree = written(repl)?;
    let list = |path: &[&str]| at(&tree, path).and_then(Value::as_array).ok_or(UNEXPECTED);
    let texts = list(&["interns", "strings"])?;
    let slots = list(&["global_names", "slots"])?.iter().zip(list(&["globals"])?);
    let held = slots.filter(|(_, value)| value.as_text() != Some("U"));
    let names = held.filter_map(|(slot, _)| text(texts, number_of(slot)?));
    let mut room = MAX_SHOWN_BYTES;
    let mut copy: MontyRepl = tree.deserialized().map_err(|error| error.to_string())?;
    let variables = names
        .filter(|name| is_name(name))
        .take(MAX_VARIABLES)
        .map(|name| (name.to_owned(), show(&mut copy, name, &mut room)))
        .collect();
    let position = Position { line: 1, column: 1 };
    let frame = Frame { function: "<module>".to_owned(), position, variables };
    Ok(Inspection { stacks: vec![vec![frame]] })
}

const UNEXPECTED: &str = "the state has another form than expected";

fn written(state: &impl Serialize) -> Result<Value, String> {
    Value::serialized(state).map_err(|error| format!("the state can't be written down: {error}"))
}

/// The parts of a state that matter here.
struct State<'a> {
    executor: &'a Value,
    texts: &'a [Value],
    functions: &'a [Value],
    vm: &'a Value,
    heap: &'a Value,
    places: Places<'a>,
}

/// Frames, and the values they stand on.
type Stack<'a> = (&'a [Value], &'a [Value]);

/// A frame as monty writes it down: in short for the task that ran last, at length for others.
#[derive(Deserialize)]
struct RawFrame {
    /// The function; none for the module.
    #[serde(rename = "F", alias = "function_id")]
    function: Option<usize>,
    /// The instruction after the one it is at.
    #[serde(rename = "P", alias = "ip")]
    next_instruction: u64,
    /// Where its variables begin, and how many there are.
    #[serde(rename = "S", alias = "stack_base")]
    base: usize,
    #[serde(rename = "L", alias = "locals_count")]
    count: usize,
}

impl<'a> State<'a> {
    fn read(tree: &'a Value, places: Places<'a>) -> Option<Self> {
        let executor = at(tree, &["ResolveFutures", "executor"])?;
        let interns = at(executor, &["tables", "interns"])?;
        Some(Self {
            executor,
            texts: at(interns, &["strings"])?.as_array()?,
            functions: at(interns, &["functions"])?.as_array()?,
            vm: at(tree, &["ResolveFutures", "vm_state"])?,
            // A session keeps it over its feeds.
            heap: at(tree, &["ResolveFutures", "heap"])
                .or_else(|| at(tree, &["ResolveFutures", "repl", "heap"]))?,
            places,
        })
    }

    /// The stacks of all tasks, in the order in which the tasks were made.
    fn stacks(&self) -> Vec<Stack<'a>> {
        let stack = |of: &'a Value| -> Option<Stack<'a>> {
            Some((at(of, &["frames"])?.as_array()?, at(of, &["stack"])?.as_array()?))
        };
        let tasks = at(self.vm, &["scheduler", "tasks"]).and_then(Value::as_map);
        let mut stacks: Vec<_> = tasks
            .into_iter()
            .flatten()
            .filter_map(|(number, task)| Some((number_of(number), stack(task)?)))
            .collect();
        let current = at(self.vm, &["scheduler", "current_task"]).and_then(number_of);
        stacks.extend(stack(self.vm).map(|stack| (current, stack)));
        stacks.sort_by_key(|(number, _)| *number);
        stacks.into_iter().map(|(_, stack)| stack).collect()
    }

    fn frame(&self, frame: &Value, values: &[Value], room: &mut usize) -> Option<Frame> {
        let frame: RawFrame = frame.deserialized().ok()?;
        let (code, name, slots, values) = match frame.function {
            None => {
                let code = at(self.executor, &["program", "module_code"])?;
                let slots = at(self.executor, &["tables", "global_names", "slots"])?;
                (code, "<module>", slots, at(self.vm, &["globals"])?.as_array()?.as_slice())
            }
            Some(number) => {
                let function = self.functions.get(number)?;
                let code = at(function, &["B"])?;
                let name = self.text(number_of(at(function, &["N", "N"])?)?)?;
                let values = values.get(frame.base..frame.base.checked_add(frame.count)?)?;
                (code, name, at(code, &["N"])?, values)
            }
        };
        Some(Frame {
            function: name.to_owned(),
            position: self.position(code, frame.next_instruction),
            variables: self.variables(slots.as_array()?, values, room),
        })
    }

    fn text(&self, id: u64) -> Option<&'a str> {
        text(self.texts, id)
    }

    /// Where in the source the instruction before `next` stands.
    fn position(&self, code: &Value, next: u64) -> Position {
        let places = at(code, &["L"]).and_then(Value::as_array).into_iter().flatten();
        let begins = |place: &Value| at(place, &["B"]).and_then(number_of);
        let place = places.take_while(|place| begins(place).is_some_and(|b| b < next)).last();
        let position = place.and_then(|place| {
            let file = self.text(number_of(at(place, &["R", "F"])?)?)?;
            let start = number_of(at(place, &["R", "S"])?)?;
            (self.places)(file, usize::try_from(start).ok()?)
        });
        position.unwrap_or(Position { line: 1, column: 1 })
    }

    fn variables(
        &self,
        slots: &[Value],
        values: &[Value],
        room: &mut usize,
    ) -> std::collections::BTreeMap<String, Payload> {
        let named: Vec<_> = slots
            .iter()
            .zip(values)
            .filter_map(|(slot, value)| {
                Some((slot, self.text(number_of(slot)?)?, self.plain(value)))
            })
            .filter(|(_, name, value)| is_name(name) && value.as_text() != Some("U"))
            .take(MAX_VARIABLES)
            .collect();
        let Some(mut session) = self.session(&named) else {
            let unread = |_| repr("a value that can't be read");
            return named.iter().map(|(_, name, _)| ((*name).to_owned(), unread(()))).collect();
        };
        let names = named.iter().map(|(_, name, _)| *name);
        names.map(|name| (name.to_owned(), show(&mut session, name, room))).collect()
    }

    /// What a variable holds that functions inside of its own one share.
    fn plain(&self, value: &'a Value) -> &'a Value {
        let cell = at(value, &["C"]).and_then(number_of).and_then(|place| {
            let entries = at(self.heap, &["entries"])?.as_array()?;
            at(entries.get(usize::try_from(place).ok()?)?, &["D", "K"])
        });
        cell.unwrap_or(value)
    }

    /// A session whose globals are these values, on a copy of the heap.
    fn session(&self, named: &[(&Value, &str, &Value)]) -> Option<MontyRepl> {
        let slots: Vec<_> = named.iter().map(|(slot, ..)| (*slot).clone()).collect();
        let globals: Vec<_> = named.iter().map(|(.., value)| (*value).clone()).collect();
        let part = |path: &[&str]| at(self.executor, path).cloned();
        let text = |text: &str| Value::Text(text.to_owned());
        let names = vec![(text("slots"), Value::Array(slots))];
        let fields = [
            ("script_name", text(SCRIPT_NAME)),
            ("next_input_id", Value::from(0)),
            ("global_names", Value::Map(names)),
            ("interns", part(&["tables", "interns"])?),
            ("sources", Value::Map(Vec::new())),
            ("options", part(&["program", "options"])?),
            ("os_policy", part(&["program", "os_policy"])?),
            ("cwd", text("/")),
            ("random", at(self.vm, &["random"])?.clone()),
            ("heap", self.heap.clone()),
            ("globals", Value::Array(globals)),
        ];
        let tree = fields.map(|(name, value)| (text(name), value)).into();
        catch_unwind(AssertUnwindSafe(|| Value::Map(tree).deserialized().ok())).unwrap_or(None)
    }
}

/// The text of an id.
fn text(texts: &[Value], id: u64) -> Option<&str> {
    if id < FIRST_TEXT {
        let id = usize::try_from(id).ok()?;
        return ASCII.get(id..id + 1).and_then(|letter| std::str::from_utf8(letter).ok());
    }
    texts.get(usize::try_from(id - FIRST_TEXT).ok()?)?.as_text()
}

/// What stands in a tree where these names lead.
fn at<'a>(tree: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(tree, |tree, name| {
        let fields = tree.as_map()?;
        fields.iter().find(|(field, _)| field.as_text() == Some(name)).map(|(_, value)| value)
    })
}

fn number_of(value: &Value) -> Option<u64> {
    u64::try_from(value.as_integer()?).ok()
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
        Ok(Err(_)) | Err(_) => repr("a value that can't be read"),
    }
}

fn repr(words: &str) -> Payload {
    Payload::from_value(&json!({ "$py:repr": words }))
}

fn is_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first == '_' || first.is_alphabetic())
        && letters.all(|letter| letter == '_' || letter.is_alphanumeric())
}
