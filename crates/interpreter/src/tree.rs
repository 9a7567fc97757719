//! A waiting program, written down as a tree: its frames, and where their variables stand.
//!
//! monty tells neither, but its states can be written down so, with names that are known for the
//! one version this crate is built with. Only frames and names are read here. The values of a frame
//! become the globals of a session of their own, on the same heap: so they are converted by the
//! interpreter alone.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use ciborium::Value;
use durable_core::Position;
use monty::MontyRepl;
use serde::{Deserialize, Serialize};

use crate::program::SCRIPT_NAME;

pub(crate) const UNEXPECTED: &str = "the state has another form than expected";

/// Most variables that are known of a frame, and most frames of all.
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

/// A slot that holds nothing.
const UNDEFINED: &str = "U";

/// Where something in a source stands: the source's name, and the offset.
pub(crate) type Places<'a> = &'a dyn Fn(&str, usize) -> Option<Position>;

type Path = &'static [&'static str];

/// Where the parts of a state stand.
pub(crate) struct Form {
    pub(crate) heap: Path,
    pub(crate) interns: Path,
    /// The ids of the names of the globals.
    names: Path,
    globals: Path,
    options: Path,
    os_policy: Path,
    random: Path,
    /// What runs: not there in an idle session.
    vm: Option<Path>,
}

/// A `RunProgress` that waits.
const RUN: Form = Form {
    heap: &["ResolveFutures", "heap"],
    interns: &["ResolveFutures", "executor", "tables", "interns"],
    names: &["ResolveFutures", "executor", "tables", "global_names", "slots"],
    globals: &["ResolveFutures", "vm_state", "globals"],
    options: &["ResolveFutures", "executor", "program", "options"],
    os_policy: &["ResolveFutures", "executor", "program", "os_policy"],
    random: &["ResolveFutures", "vm_state", "random"],
    vm: Some(&["ResolveFutures", "vm_state"]),
};

/// A `ReplProgress` that waits: the heap is that of the session.
const IN_FEED: Form = Form { heap: &["ResolveFutures", "repl", "heap"], ..RUN };

/// A `MontyRepl` that waits for a feed.
const IDLE: Form = Form {
    heap: &["heap"],
    interns: &["interns"],
    names: &["global_names", "slots"],
    globals: &["globals"],
    options: &["options"],
    os_policy: &["os_policy"],
    random: &["random"],
    vm: None,
};

const MODULE_CODE: Path = &["ResolveFutures", "executor", "program", "module_code"];

/// Where the value of a variable stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Home {
    Global(usize),
    /// On the stack of a task; `None` is the one that ran last.
    Stack {
        task: Option<u64>,
        slot: usize,
    },
    /// In an entry of the heap that functions inside of the variable's own one share.
    Cell(usize),
}

/// A state, as far as it matters here.
pub(crate) struct State<'a> {
    tree: &'a Value,
    pub(crate) form: &'static Form,
    texts: &'a [Value],
    functions: &'a [Value],
    /// What is on the heap.
    entries: &'a [Value],
}

/// A function that has been entered and not left.
pub(crate) struct Scope<'a> {
    pub(crate) function: &'a str,
    /// Its code, and the instruction after the one it is at; none of an idle session.
    at: Option<(&'a Value, u64)>,
    /// Those that have a value.
    pub(crate) variables: Vec<Variable<'a>>,
}

pub(crate) struct Variable<'a> {
    pub(crate) name: &'a str,
    pub(crate) home: Home,
    id: &'a Value,
    value: &'a Value,
}

/// The frames of one task, and the values they stand on.
#[derive(Clone, Copy)]
struct Stack<'a> {
    task: Option<u64>,
    frames: &'a [Value],
    values: &'a [Value],
}

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

/// Writes a state down.
///
/// # Errors
/// A sentence.
pub(crate) fn written(state: &impl Serialize) -> Result<Value, String> {
    Value::serialized(state).map_err(|error| format!("the state can't be written down: {error}"))
}

impl Form {
    /// The form of a tree that is one of the three.
    fn of(tree: &Value) -> &'static Self {
        if at(tree, &["ResolveFutures"]).is_none() {
            &IDLE
        } else if at(tree, IN_FEED.heap).is_some() {
            &IN_FEED
        } else {
            &RUN
        }
    }

    /// The place of a value.
    pub(crate) fn home_mut<'a>(&self, tree: &'a mut Value, home: Home) -> Option<&'a mut Value> {
        let (list, index) = match home {
            Home::Global(slot) => (at_mut(tree, self.globals)?, slot),
            Home::Cell(entry) => {
                let entries = at_mut(at_mut(tree, self.heap)?, &["entries"])?;
                return at_mut(entries.as_array_mut()?.get_mut(entry)?, &["D", "K"]);
            }
            Home::Stack { task: None, slot } => {
                (at_mut(at_mut(tree, self.vm?)?, &["stack"])?, slot)
            }
            Home::Stack { task: Some(task), slot } => {
                let tasks =
                    at_mut(at_mut(tree, self.vm?)?, &["scheduler", "tasks"])?.as_map_mut()?;
                let (_, task) =
                    tasks.iter_mut().find(|(number, _)| number_of(number) == Some(task))?;
                (at_mut(task, &["stack"])?, slot)
            }
        };
        list.as_array_mut()?.get_mut(index)
    }
}

impl<'a> State<'a> {
    /// Finds its way about in a tree; `None` when it has another form than expected.
    pub(crate) fn read(tree: &'a Value) -> Option<Self> {
        let form = Form::of(tree);
        let interns = at(tree, form.interns)?;
        Some(Self {
            tree,
            form,
            texts: at(interns, &["strings"])?.as_array()?,
            functions: at(interns, &["functions"])?.as_array()?,
            entries: at(at(tree, form.heap)?, &["entries"])?.as_array()?,
        })
    }

    /// The frames of every task that has some, in the order in which the tasks were made, each from
    /// the outermost to the innermost.
    pub(crate) fn stacks(&self) -> Vec<Vec<Scope<'a>>> {
        let Some(vm) = self.form.vm.and_then(|path| at(self.tree, path)) else {
            let variables = self.globals().unwrap_or_default();
            return vec![vec![Scope { function: "<module>", at: None, variables }]];
        };
        let mut left = MAX_FRAMES;
        let mut stacks = Vec::new();
        for stack in raw_stacks(vm) {
            let frames = stack.frames.iter().take(left);
            let scopes: Vec<_> = frames.filter_map(|frame| self.scope(frame, stack)).collect();
            left -= scopes.len();
            if !scopes.is_empty() {
                stacks.push(scopes);
            }
        }
        stacks
    }

    fn scope(&self, frame: &Value, stack: Stack<'a>) -> Option<Scope<'a>> {
        let RawFrame { function, next_instruction, base, count } = frame.deserialized().ok()?;
        let Some(number) = function else {
            let code = at(self.tree, MODULE_CODE)?;
            let at = Some((code, next_instruction));
            return Some(Scope { function: "<module>", at, variables: self.globals()? });
        };
        let function = self.functions.get(number)?;
        let code = at(function, &["B"])?;
        let name = self.text(number_of(at(function, &["N", "N"])?)?)?;
        let values = stack.values.get(base..base.checked_add(count)?)?;
        let home = |slot| Home::Stack { task: stack.task, slot: base + slot };
        Some(Scope {
            function: name,
            at: Some((code, next_instruction)),
            variables: self.variables(at(code, &["N"])?.as_array()?, values, home),
        })
    }

    fn globals(&self) -> Option<Vec<Variable<'a>>> {
        let names = at(self.tree, self.form.names)?.as_array()?;
        let values = at(self.tree, self.form.globals)?.as_array()?;
        Some(self.variables(names, values, Home::Global))
    }

    fn variables(
        &self,
        names: &'a [Value],
        values: &'a [Value],
        home: impl Fn(usize) -> Home,
    ) -> Vec<Variable<'a>> {
        // A parameter that functions inside share has two slots: what it was given, and after that
        // the shared one, which the code uses.
        let mut by_name = BTreeMap::new();
        for (slot, (id, value)) in names.iter().zip(values).enumerate() {
            let name = number_of(id).and_then(|id| self.text(id));
            if let Some(name) = name.filter(|name| is_name(name)) {
                by_name.insert(name, self.variable(name, id, value, home(slot)));
            }
        }
        let has_value = |variable: &Variable<'_>| variable.value.as_text() != Some(UNDEFINED);
        by_name.into_values().filter(has_value).take(MAX_VARIABLES).collect()
    }

    fn variable(&self, name: &'a str, id: &'a Value, value: &'a Value, home: Home) -> Variable<'a> {
        let cell = at(value, &["C"]).and_then(number_of).and_then(|entry| {
            let entry = usize::try_from(entry).ok()?;
            Some((entry, at(self.entries.get(entry)?, &["D", "K"])?))
        });
        match cell {
            Some((entry, value)) => Variable { name, id, value, home: Home::Cell(entry) },
            None => Variable { name, id, value, home },
        }
    }

    fn text(&self, id: u64) -> Option<&'a str> {
        if id < FIRST_TEXT {
            let id = usize::try_from(id).ok()?;
            return ASCII.get(id..id + 1).and_then(|letter| std::str::from_utf8(letter).ok());
        }
        self.texts.get(usize::try_from(id - FIRST_TEXT).ok()?)?.as_text()
    }

    /// Where in the source a frame is.
    pub(crate) fn position(&self, scope: &Scope<'_>, places: Places<'_>) -> Position {
        let position = scope.at.and_then(|(code, next)| {
            let lines = at(code, &["L"])?.as_array()?;
            let begins = |line: &Value| at(line, &["B"]).and_then(number_of);
            let lines = lines.iter().take_while(|line| begins(line).is_some_and(|b| b < next));
            let range = at(lines.last()?, &["R"])?;
            let file = self.text(number_of(at(range, &["F"])?)?)?;
            let start = number_of(at(range, &["S"])?)?;
            places(file, usize::try_from(start).ok()?)
        });
        position.unwrap_or(Position { line: 1, column: 1 })
    }

    /// What a session is made of whose globals are these variables. Its heap is still missing.
    pub(crate) fn parts(&self, variables: &[&Variable<'_>]) -> Option<Parts> {
        let part = |path| at(self.tree, path).cloned();
        Some(Parts {
            names: variables.iter().map(|variable| variable.id.clone()).collect(),
            globals: variables.iter().map(|variable| variable.value.clone()).collect(),
            interns: part(self.form.interns)?,
            options: part(self.form.options)?,
            os_policy: part(self.form.os_policy)?,
            random: part(self.form.random)?,
        })
    }

    /// The heap.
    pub(crate) fn heap(&self) -> Option<&'a Value> {
        at(self.tree, self.form.heap)
    }
}

/// See [`State::parts`].
pub(crate) struct Parts {
    names: Vec<Value>,
    globals: Vec<Value>,
    pub(crate) interns: Value,
    options: Value,
    os_policy: Value,
    random: Value,
}

impl Parts {
    /// The session, on a heap.
    pub(crate) fn session(self, heap: Value) -> Option<MontyRepl> {
        let text = |text: &str| Value::Text(text.to_owned());
        let names = vec![(text("slots"), Value::Array(self.names))];
        let fields = [
            ("script_name", text(SCRIPT_NAME)),
            ("next_input_id", Value::from(0)),
            ("global_names", Value::Map(names)),
            ("interns", self.interns),
            ("sources", Value::Map(Vec::new())),
            ("options", self.options),
            ("os_policy", self.os_policy),
            ("cwd", text("/")),
            ("random", self.random),
            ("heap", heap),
            ("globals", Value::Array(self.globals)),
        ];
        let tree = fields.map(|(name, value)| (text(name), value)).into();
        catch_unwind(AssertUnwindSafe(|| Value::Map(tree).deserialized().ok())).unwrap_or(None)
    }
}

/// The stacks of all tasks, in the order in which the tasks were made.
fn raw_stacks(vm: &Value) -> Vec<Stack<'_>> {
    let stack = |task, of| -> Option<Stack<'_>> {
        let list = |name| at(of, &[name])?.as_array().map(Vec::as_slice);
        Some(Stack { task, frames: list("frames")?, values: list("stack")? })
    };
    let tasks = at(vm, &["scheduler", "tasks"]).and_then(Value::as_map);
    let mut stacks: Vec<_> = tasks
        .into_iter()
        .flatten()
        .filter_map(|(number, task)| {
            let number = number_of(number);
            Some((number, stack(number, task)?))
        })
        .collect();
    let current = at(vm, &["scheduler", "current_task"]).and_then(number_of);
    stacks.extend(stack(None, vm).map(|stack| (current, stack)));
    stacks.sort_by_key(|(number, _)| *number);
    stacks.into_iter().map(|(_, stack)| stack).collect()
}

/// What stands in a tree where these names lead.
pub(crate) fn at<'a>(tree: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(tree, |tree, name| {
        let fields = tree.as_map()?;
        fields.iter().find(|(field, _)| field.as_text() == Some(name)).map(|(_, value)| value)
    })
}

/// As [`at`].
pub(crate) fn at_mut<'a>(tree: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    path.iter().try_fold(tree, |tree, name| {
        let fields = tree.as_map_mut()?;
        fields.iter_mut().find(|(field, _)| field.as_text() == Some(name)).map(|(_, value)| value)
    })
}

fn number_of(value: &Value) -> Option<u64> {
    u64::try_from(value.as_integer()?).ok()
}

fn is_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first == '_' || first.is_alphabetic())
        && letters.all(|letter| letter == '_' || letter.is_alphanumeric())
}
