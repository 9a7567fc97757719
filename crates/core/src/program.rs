//! Programs: what an execution runs, and the seam to whatever can run it.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    Assignment, CHECKPOINT, CallId, Error, ExecutionId, Failure, Inspection, Limits, Outcome,
    Payload, ProgramId, Result, RetryPolicy, UnixMs,
};

/// A workflow's source with the functions it may call and its limits.
///
/// Content-addressed: the same definition has the same [`Program::id`] everywhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    id: ProgramId,
    definition: Definition,
    /// What the id is the hash of. A later version may write the same definition with more
    /// fields: what is stored keeps its text, and so its id.
    json: Arc<str>,
}

/// What a program is made of; its JSON is what the id is the hash of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// What the source is written in.
    // Left out for Python, so that programs stored before there was another one keep their ids.
    #[serde(default, skip_serializing_if = "Language::is_python")]
    pub language: Language,
    /// The text as its author wrote it.
    pub source: String,
    /// The functions it may call, by the name it calls them; for a step workflow, its agents.
    pub functions: BTreeMap<String, FunctionOptions>,
    /// Names of the inputs it is started with; they are global variables of the program.
    #[serde(default)]
    pub inputs: Vec<String>,
    /// Its limits.
    #[serde(default)]
    pub limits: Limits,
}

/// What a program is written in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Sandboxed Python.
    #[default]
    Python,
    /// A step workflow in YAML.
    Yaml,
    /// A step workflow in TOML.
    Toml,
    /// A step workflow in JSON.
    Json,
    /// No source at all: sandboxed Python comes piece by piece, as results of [`Request::feed`].
    Session,
}

impl Language {
    /// Its lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Yaml => "yaml",
            Self::Toml => "toml",
            Self::Json => "json",
            Self::Session => "session",
        }
    }

    /// Reads a name.
    ///
    /// # Errors
    /// `Invalid` that lists the names there are.
    pub fn parse(name: &str) -> Result<Self> {
        let all = [Self::Python, Self::Yaml, Self::Toml, Self::Json, Self::Session];
        all.into_iter().find(|language| language.as_str() == name).ok_or_else(|| {
            Error::invalid(format!(
                "there is no language {name:.50?}: give python, yaml, toml, json or session"
            ))
        })
    }

    /// The language of a file by the end of its name; Python unless it says something else.
    ///
    /// ```
    /// use durable_core::Language;
    /// assert_eq!(Language::of_file("flows/daily.yml"), Language::Yaml);
    /// assert_eq!(Language::of_file("daily.py"), Language::Python);
    /// ```
    pub fn of_file(name: &str) -> Self {
        match name.rsplit_once('.').map(|(_, end)| end.to_ascii_lowercase()).as_deref() {
            Some("yaml" | "yml") => Self::Yaml,
            Some("toml") => Self::Toml,
            Some("json") => Self::Json,
            _ => Self::Python,
        }
    }

    /// Whether a program in it is one sandboxed Python source.
    pub fn is_python(&self) -> bool {
        *self == Self::Python
    }

    /// Whether a program in it is a step workflow, and what it calls are agents.
    pub fn is_steps(&self) -> bool {
        matches!(self, Self::Yaml | Self::Toml | Self::Json)
    }
}

/// How calls of one function are run unless the call itself says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FunctionOptions {
    /// The name executors know it by, where that differs from the name the program uses
    /// (a dotted import path).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// When failed attempts are tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// Start-to-close time of one attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

impl Definition {
    /// Whether the program may call a function of this name.
    pub fn may_call(&self, name: &str) -> bool {
        name == CHECKPOINT || self.functions.contains_key(name)
    }

    /// What executors call a function, or an agent, that is declared under this name.
    pub fn target_of(&self, name: &str) -> String {
        match self.functions.get(name).and_then(|options| options.target.clone()) {
            Some(target) => target,
            None if self.language.is_steps() => Request::agent_target(name),
            None => name.to_owned(),
        }
    }

    /// The options of a call: its own where it has some, else its function's or its agent's.
    pub fn options_of(&self, request: &Request) -> FunctionOptions {
        let Request::Function { name, options, .. } = request else {
            return FunctionOptions::default();
        };
        let declared = self.functions.get(request.agent().unwrap_or(name));
        let declared = declared.cloned().unwrap_or_default();
        FunctionOptions {
            target: options.target.clone().or(declared.target),
            retry: options.retry.clone().or(declared.retry),
            timeout_ms: options.timeout_ms.or(declared.timeout_ms),
        }
    }
}

impl Program {
    /// Addresses a definition by its content.
    pub fn new(definition: Definition) -> Self {
        let json: Arc<str> = Self::canonical(&definition).into();
        Self { id: Self::address(&json), definition, json }
    }

    /// Reads a program as it was stored, by whatever version.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the text is not the one of this id, or is no definition.
    ///
    /// ```
    /// use durable_core::{Program, ProgramId};
    /// let json = r#"{"source":"1","functions":{}}"#;
    /// let id = ProgramId::from_stored(blake3::hash(json.as_bytes()).to_hex().as_str());
    /// let program = Program::from_stored(&id, json)?;
    /// assert_eq!((program.id(), program.to_json()), (&id, json));
    /// # Ok::<(), durable_core::Error>(())
    /// ```
    pub fn from_stored(id: &ProgramId, json: &str) -> Result<Self> {
        let found = Self::address(json);
        if found != *id {
            return Err(Error::corrupt(format!(
                "the definition of program {id} was altered: it is the one of {found}"
            )));
        }
        let definition = serde_json::from_str(json).map_err(|error| {
            Error::corrupt(format!("the definition of program {id} can't be read: {error}"))
        })?;
        Ok(Self { id: found, definition, json: json.into() })
    }

    /// The content address.
    pub fn id(&self) -> &ProgramId {
        &self.id
    }

    /// What it is made of.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// The JSON that the id is the hash of, and that is stored.
    pub fn to_json(&self) -> &str {
        &self.json
    }

    fn address(json: &str) -> ProgramId {
        ProgramId::from_stored(blake3::hash(json.as_bytes()).to_hex().as_str())
    }

    fn canonical(definition: &Definition) -> String {
        // Structs serialize in field order and maps are sorted, so this is canonical.
        serde_json::to_string(definition).unwrap_or_else(|error| {
            unreachable!("a definition holds only strings, numbers and maps: {error}")
        })
    }
}

/// A snapshot as it is stored: sealed by the runner, opaque to everybody else.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot(pub Arc<[u8]>);

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot({} bytes)", self.0.len())
    }
}

/// A program's compression dictionary: its own first dump, kept once per program.
pub type Dictionary = Arc<[u8]>;

/// Names one state of one execution that a runner may still hold live: a lease's epoch and
/// the version after the transition. Two states with the same token are the same state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StateToken {
    /// Epoch of the lease under which the state came to be.
    pub epoch: u64,
    /// The execution's version once the transition that made the state has committed.
    pub version: u64,
}

/// From which state a runner is to go on.
#[derive(Debug, Clone)]
pub enum Base {
    /// From the start of the program.
    Start {
        /// A JSON object: the value of each input by name.
        inputs: Payload,
        /// Seeds the program's `random`.
        seed: u64,
        /// What the program's clock says during the first advance.
        now_ms: UnixMs,
    },
    /// From a stored snapshot.
    Snapshot {
        /// The snapshot.
        snapshot: Snapshot,
        /// The execution's version when it was taken ([`StateToken::version`] of the advance that
        /// took it): a snapshot of another version is refused.
        version: u64,
    },
    /// From the state that the runner named so itself, if it still has it.
    Live(StateToken),
}

/// What is applied together, in one go: the variables first.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// What the program's clock says meanwhile.
    pub now_ms: UnixMs,
    /// The variables that are given other values.
    pub variables: Vec<Assignment>,
    /// The results, in journal order. Every call named is open.
    pub results: Vec<(CallId, Outcome)>,
}

/// One request to a [`Runner`]: go to a state, apply what has come since, run until nothing more
/// can run.
#[derive(Debug, Clone)]
pub struct Advance {
    /// Whose state it is.
    pub execution: ExecutionId,
    /// What it runs.
    pub program: Arc<Program>,
    /// The program's dictionary, if it has one already.
    pub dictionary: Option<Dictionary>,
    /// From where.
    pub base: Base,
    /// What to apply, in order. More than one group when a journal is replayed or caught up with.
    pub groups: Vec<Group>,
    /// The name that the state reached is to be kept live under.
    pub next: StateToken,
}

/// A call or timer that a program asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct NewCall {
    /// Its number, given by the program: ascending within an execution, not always dense.
    pub id: CallId,
    /// What was asked for.
    pub request: Request,
    /// Where in the source.
    pub position: Position,
}

/// What a program can ask for.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Run a declared function.
    Function {
        /// The name the program called it by.
        name: String,
        /// A JSON array.
        args: Payload,
        /// A JSON object, without the reserved `_retry` and `_timeout`.
        kwargs: Payload,
        /// What is asked of this call alone, over the function's own options: the reserved
        /// keyword arguments; a step's retry and timeout, and the agent as the target.
        options: FunctionOptions,
    },
    /// Wake up after a while (`asyncio.sleep`).
    Timer {
        /// How long, from the moment the program asked.
        delay_ms: u64,
    },
}

/// What the target of a call of an agent begins with; its name follows.
const AGENT_TARGET: &str = "agent:";

/// The name of the call by which a session asks for its next piece of code.
const FEED: &str = "__feed__";

impl Request {
    /// What a session asks for when it is idle: its next piece of code. `last` is a JSON array of
    /// one element, what the piece before came to; `number` is the number of the next piece.
    ///
    /// No executor sees this call. It stays open until somebody gives it a result.
    pub fn feed(last: Payload, number: u32) -> Self {
        Self::Function {
            name: FEED.to_owned(),
            args: last,
            kwargs: Payload::trusted(format!(r#"{{"feed":{number}}}"#)),
            options: FunctionOptions::default(),
        }
    }

    /// Whether a function's name is that of [`Request::feed`], which no program may declare.
    pub fn is_feed_name(name: &str) -> bool {
        name == FEED
    }

    /// Whether it is [`Request::feed`].
    pub fn is_feed(&self) -> bool {
        match self {
            Self::Function { name, options, .. } => name == FEED && options.target.is_none(),
            Self::Timer { .. } => false,
        }
    }

    /// Whether a replay that asks for `replayed` asks for the same.
    ///
    /// What a feed printed and gave may show addresses of objects (`<Box object at 0x50>`), and
    /// an object's address changes when a state is stored and loaded: those are not compared.
    pub fn is_same(&self, replayed: &Self) -> bool {
        if self == replayed {
            return true;
        }
        let (
            Self::Function { args, kwargs, .. },
            Self::Function { args: other_args, kwargs: other_kwargs, .. },
        ) = (self, replayed)
        else {
            return false;
        };
        self.is_feed()
            && replayed.is_feed()
            && kwargs == other_kwargs
            && without_addresses(args.as_str()).eq(without_addresses(other_args.as_str()))
    }

    /// The target of a call that asks for an agent.
    pub fn agent_target(agent: &str) -> String {
        format!("{AGENT_TARGET}{agent}")
    }

    /// The agent that a target names, if it is that of one.
    pub fn agent_of(target: &str) -> Option<&str> {
        target.strip_prefix(AGENT_TARGET)
    }

    /// The agent that a step of a declarative workflow asks for.
    pub fn agent(&self) -> Option<&str> {
        match self {
            Self::Function { options, .. } => options.target.as_deref().and_then(Self::agent_of),
            Self::Timer { .. } => None,
        }
    }
}

/// A text between its hexadecimal numbers.
fn without_addresses(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split("0x").enumerate();
    parts.map(|(index, part)| match index {
        0 => part,
        _ => part.trim_start_matches(|c: char| c.is_ascii_hexdigit()),
    })
}

/// A place in the source, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

/// What a runner reached.
#[derive(Debug, Clone)]
pub struct Reached {
    /// The calls asked for on the way: one list for the start (when the base was
    /// [`Base::Start`]), then one for each group.
    pub calls: Vec<Vec<NewCall>>,
    /// What the program printed during the last advance.
    pub printed: String,
    /// How it ended.
    pub end: End,
}

/// How an advance ended.
#[derive(Debug, Clone)]
pub enum End {
    /// Everything waits for open calls.
    Suspended {
        /// The state, when the last advance asked for something new; without it the last
        /// stored snapshot and the journal since still give the same state.
        snapshot: Option<Snapshot>,
        /// The dump that the snapshot was compressed against, when this runner chose it because
        /// [`Advance::dictionary`] was empty. Store it with the program.
        new_dictionary: Option<Dictionary>,
    },
    /// The program ended with this value.
    Completed(Payload),
    /// The program ended with an uncaught exception, or broke a limit.
    Failed(Failure),
}

/// A runner's answer.
#[derive(Debug, Clone)]
pub enum Advanced {
    /// It ran.
    Reached(Reached),
    /// The live state that [`Base::Live`] named is gone: ask again from a stored base.
    NotLive,
    /// The snapshot can't be used (torn, forged, too old, another dictionary): replay.
    BadSnapshot(String),
    /// The runner failed through no known fault of the program (its process died for an
    /// unknown reason, it is shutting down). Asking again is right, within bounds.
    Lost(String),
}

/// Called exactly once with a runner's answer, on any thread.
pub type AdvanceDone = Box<dyn FnOnce(Advanced) + Send>;

/// The seam to program code: something that can start, take results and suspend.
///
/// A runner is asked for at most one advance per execution at a time.
pub trait Runner: Send + Sync {
    /// Starts the work and returns; `done` is called when it is finished. Never blocks for long.
    fn advance(&self, request: Advance, done: AdvanceDone);

    /// Checks a program before anything is stored: syntax, unknown constructs, undeclared
    /// functions, calls that are never awaited, the names of the inputs.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] that names line and column, shows the line with a caret, and
    /// says what to do.
    fn validate(&self, program: &Program) -> crate::Result<()>;

    /// Checks the inputs of one start, before anything is stored: what a program declares of its
    /// inputs beyond their names.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] that names the input, or as [`Runner::validate`].
    fn validate_inputs(&self, _program: &Program, _inputs: &Payload) -> crate::Result<()> {
        Ok(())
    }

    /// Drops whatever is held live for an execution.
    fn forget(&self, execution: ExecutionId);

    /// Goes to a state as [`Runner::advance`] does, and tells what can be seen of it. Nothing is
    /// kept of the state, and what is held live is left alone. Waits for the answer.
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] when the program does not wait there;
    /// [`crate::Error::Unavailable`] when the runner can't look now.
    fn inspect(&self, request: Advance) -> crate::Result<Inspection> {
        let program = request.program.id();
        Err(Error::invalid(format!("programs of the kind of {program} can't be looked into")))
    }
}
