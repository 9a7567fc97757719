//! The runner of step workflows.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use durable_core::{
    Advance, AdvanceDone, Advanced, Base, End, Error, ExecutionId, Group, Inspection, Payload,
    Program, ProgramId, Reached, Result, Runner, Snapshot, StateToken,
    seal::{SnapshotKey, StateOf},
};
use parking_lot::Mutex;

use crate::{
    definition,
    run::{Compiled, Reach, Run},
    state,
};

/// Most workflows that are kept read, and the length of their texts.
const MAX_WORKFLOWS: usize = 1_000;
const MAX_WORKFLOW_BYTES: usize = 16 << 20;

/// Most executions that are held live, and the length of the results in them.
const MAX_LIVE: usize = 10_000;
const MAX_LIVE_BYTES: usize = 128 << 20;

/// A state of so few bytes is stored whenever something new is asked for. A larger one only when
/// it has grown by a quarter since: so what is stored in all stays in proportion to what the steps
/// returned, however many of them there are.
const SMALL_STATE_BYTES: usize = 4 << 10;

/// Why variables can't be set.
const NO_VARIABLES: &str = "a step workflow has no variables that can be set";

/// What a workflow's own thread may need at most: values nest at most 128 levels deep.
const STACK_BYTES: usize = 8 << 20;

/// Runs step workflows, on one thread of its own: that is a matter of microseconds, because what
/// takes time are the agents, which do not run here.
///
/// Dropping it ends the thread, once everything is answered that was asked before.
///
/// ```
/// use std::{collections::BTreeMap, sync::{Arc, mpsc}};
/// use durable_core::{
///     Advance, Advanced, Base, Definition, FunctionOptions, Language, Limits, ExecutionId,
///     Payload, Program, Runner, StateToken, seal::SnapshotKey,
/// };
/// use durable_steps::Steps;
///
/// let steps = Steps::new(SnapshotKey::new([7; 32]))?;
/// let program = Arc::new(Program::new(Definition {
///     language: Language::Yaml,
///     source: "id: hello\nsteps:\n  - {name: greet, agent: greeter}\n".to_owned(),
///     functions: BTreeMap::from([("greeter".to_owned(), FunctionOptions::default())]),
///     inputs: vec!["name".to_owned()],
///     limits: Limits::default(),
/// }));
/// steps.validate(&program)?;
/// let (sender, receiver) = mpsc::channel();
/// steps.advance(
///     Advance {
///         execution: ExecutionId::new(0, [1; 10]),
///         program,
///         dictionary: None,
///         base: Base::Start { inputs: Payload::trusted(r#"{"name":"you"}"#), seed: 1, now_ms: 0 },
///         groups: Vec::new(),
///         next: StateToken { epoch: 1, version: 1 },
///     },
///     Box::new(move |answer| sender.send(answer).unwrap()),
/// );
/// let Advanced::Reached(reached) = receiver.recv().unwrap() else { panic!("it runs") };
/// assert_eq!(reached.calls[0][0].request.agent(), Some("greeter"));
/// # Ok::<(), durable_core::Error>(())
/// ```
pub struct Steps {
    shared: Arc<Shared>,
    requests: Option<mpsc::Sender<(Advance, AdvanceDone)>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    key: SnapshotKey,
    workflows: Mutex<Workflows>,
    live: Mutex<LiveRuns>,
}

#[derive(Default)]
struct Workflows {
    known: HashMap<ProgramId, Arc<Compiled>>,
    bytes: usize,
}

#[derive(Default)]
struct LiveRuns {
    runs: HashMap<ExecutionId, Live>,
    bytes: usize,
}

/// A run between two advances.
struct Live {
    token: StateToken,
    run: Run,
    /// How many bytes the state had when it was last stored.
    stored_bytes: usize,
}

impl std::fmt::Debug for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steps").finish_non_exhaustive()
    }
}

impl Steps {
    /// Starts the runner.
    ///
    /// # Errors
    /// `Unavailable` when no thread can be started.
    pub fn new(key: SnapshotKey) -> Result<Self> {
        let shared = Arc::new(Shared { key, workflows: Mutex::default(), live: Mutex::default() });
        let (requests, to_do) = mpsc::channel::<(Advance, AdvanceDone)>();
        let working = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("durable-steps".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                while let Ok((request, done)) = to_do.recv() {
                    done(working.answer(&request));
                }
            })
            .map_err(|error| Error::unavailable(format!("no thread can be started: {error}")))?;
        Ok(Self { shared, requests: Some(requests), thread: Some(thread) })
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            // What it runs can't panic, and if it did there would be nothing left to do.
            let _ = thread.join();
        }
    }
}

impl Runner for Steps {
    fn advance(&self, request: Advance, done: AdvanceDone) {
        let unsent = match &self.requests {
            Some(requests) => requests.send((request, done)).err(),
            None => return,
        };
        if let Some(mpsc::SendError((_, done))) = unsent {
            done(Advanced::Lost("the thread of step workflows has ended".to_owned()));
        }
    }

    fn validate(&self, program: &Program) -> Result<()> {
        self.shared.compiled(program).map(drop)
    }

    fn validate_inputs(&self, program: &Program, inputs: &Payload) -> Result<()> {
        let compiled = self.shared.compiled(program)?;
        compiled.inputs(inputs.as_str()).map(drop).map_err(Error::invalid)
    }

    fn inspect(&self, request: Advance) -> Result<Inspection> {
        let program = Arc::clone(&request.program);
        let compiled = self.shared.compiled(&program)?;
        if request.groups.iter().any(|group| !group.variables.is_empty()) {
            return Err(Error::invalid(NO_VARIABLES));
        }
        let Base::Start { inputs, .. } = &request.base else {
            return Err(Error::invalid("a step workflow is looked into from its start"));
        };
        let inputs = compiled.inputs(inputs.as_str()).map_err(Error::conflict)?;
        let mut run = Run::new(&compiled, inputs);
        let mut ignored = String::new();
        let (_, mut reach) = run.advance(&compiled, &[], &mut ignored);
        for Group { results, .. } in &request.groups {
            (_, reach) = run.advance(&compiled, results, &mut ignored);
        }
        match reach {
            Reach::Waits => Ok(run.inspect(&compiled)),
            Reach::Ended(_) | Reach::Failed(_) => {
                Err(Error::conflict("the workflow does not wait there: it has ended"))
            }
        }
    }

    fn forget(&self, execution: ExecutionId) {
        self.shared.live.lock().take(execution);
    }
}

impl LiveRuns {
    fn take(&mut self, execution: ExecutionId) -> Option<Live> {
        let live = self.runs.remove(&execution)?;
        self.bytes -= live.run.bytes;
        Some(live)
    }

    /// Holds a run. When there are too many it starts afresh: the others go on from the store.
    fn put(&mut self, execution: ExecutionId, live: Live) {
        self.take(execution);
        if self.runs.len() >= MAX_LIVE || self.bytes + live.run.bytes > MAX_LIVE_BYTES {
            *self = Self::default();
        }
        self.bytes += live.run.bytes;
        self.runs.insert(execution, live);
    }
}

impl Shared {
    /// A workflow, ready to be run.
    fn compiled(&self, program: &Program) -> Result<Arc<Compiled>> {
        if let Some(known) = self.workflows.lock().known.get(program.id()) {
            return Ok(Arc::clone(known));
        }
        let definition = program.definition();
        // A mistake in a parser of somebody else's text ends nothing but this.
        let read = catch_unwind(AssertUnwindSafe(|| definition::read(definition)));
        let workflow = read.unwrap_or_else(|_| {
            Err(Error::invalid("the definition can't be read: it stops the parser"))
        })?;
        let compiled = Arc::new(Compiled {
            workflow,
            source: definition.source.clone(),
            label: definition::label(definition.language),
            limits: definition.limits.clone(),
        });
        let mut workflows = self.workflows.lock();
        let bytes = compiled.source.len();
        if workflows.known.len() >= MAX_WORKFLOWS || workflows.bytes + bytes > MAX_WORKFLOW_BYTES {
            *workflows = Workflows::default();
        }
        if workflows.known.insert(program.id().clone(), Arc::clone(&compiled)).is_none() {
            workflows.bytes += bytes;
        }
        Ok(compiled)
    }

    fn answer(&self, request: &Advance) -> Advanced {
        let answered = catch_unwind(AssertUnwindSafe(|| self.advance(request)));
        answered.unwrap_or_else(|_| {
            Advanced::Lost("the step workflow stopped the runner: this is a bug".to_owned())
        })
    }

    fn advance(&self, request: &Advance) -> Advanced {
        let compiled = match self.compiled(&request.program) {
            Ok(compiled) => compiled,
            Err(error) => return Advanced::Lost(error.to_string()),
        };
        let (mut run, mut stored_bytes, is_start) = match &request.base {
            Base::Start { inputs, .. } => match compiled.inputs(inputs.as_str()) {
                Ok(inputs) => (Run::new(&compiled, inputs), 0, true),
                Err(why) => {
                    let failure = durable_core::Failure::new("ValueError", why);
                    let reached = Reached {
                        calls: Vec::new(),
                        printed: String::new(),
                        end: End::Failed(failure),
                    };
                    return Advanced::Reached(reached);
                }
            },
            Base::Live(token) => match self.live.lock().take(request.execution) {
                Some(live) if live.token == *token => (live.run, live.stored_bytes, false),
                _ => return Advanced::NotLive,
            },
            Base::Snapshot { snapshot, version } => {
                let of = StateOf { execution: request.execution, version: *version };
                match state::read(&self.key, of, snapshot, &compiled) {
                    Ok(run) => {
                        let bytes = run.bytes;
                        (run, bytes, false)
                    }
                    Err(why) => return Advanced::BadSnapshot(why),
                }
            }
        };
        if request.groups.iter().any(|group| !group.variables.is_empty()) {
            return Advanced::Lost(NO_VARIABLES.to_owned());
        }
        let mut calls = Vec::with_capacity(request.groups.len() + usize::from(is_start));
        let mut printed = String::new();
        let mut reach = Reach::Waits;
        if is_start {
            let (asked, reached) = run.advance(&compiled, &[], &mut printed);
            calls.push(asked);
            reach = reached;
        }
        for Group { results, .. } in &request.groups {
            if let Some((call, _)) = results.iter().find(|(call, _)| !run.has_open(*call)) {
                return unknown(&request.base, *call);
            }
            printed.clear();
            let (asked, reached) = run.advance(&compiled, results, &mut printed);
            calls.push(asked);
            reach = reached;
        }
        let end = match reach {
            Reach::Ended(output) => End::Completed(output),
            Reach::Failed(failure) => End::Failed(failure),
            Reach::Waits => {
                let has_asked = calls.last().is_some_and(|calls| !calls.is_empty());
                let of = StateOf { execution: request.execution, version: request.next.version };
                let snapshot = if has_asked { self.snapshot(of, &run, stored_bytes) } else { None };
                if snapshot.is_some() {
                    stored_bytes = run.bytes;
                }
                let live = Live { token: request.next, run, stored_bytes };
                self.live.lock().put(request.execution, live);
                End::Suspended { snapshot, new_dictionary: None }
            }
        };
        Advanced::Reached(Reached { calls, printed, end })
    }

    /// The state to be stored, if it is worth that: the journal is enough.
    fn snapshot(&self, of: StateOf, run: &Run, stored_bytes: usize) -> Option<Snapshot> {
        // A step takes some bytes whatever it came to.
        let bytes = run.bytes + 16 * run.last_call as usize;
        let grown = run.bytes.saturating_sub(stored_bytes);
        if stored_bytes != 0 && bytes > SMALL_STATE_BYTES && grown < run.bytes / 4 {
            return None;
        }
        match state::write(&self.key, of, run) {
            Ok(snapshot) => Some(snapshot),
            Err(error) => {
                tracing::error!(execution = %of.execution, %error, "the state can't be stored");
                None
            }
        }
    }
}

/// The answer when a result is given for a call that is not open.
fn unknown(base: &Base, call: u32) -> Advanced {
    let why = format!("call {call} has a result and was never asked for");
    match base {
        Base::Snapshot { .. } => Advanced::BadSnapshot(why),
        Base::Live(_) => Advanced::NotLive,
        Base::Start { .. } => Advanced::Lost(why),
    }
}
