//! One execution on a live interpreter: start it or apply results, run until nothing more can
//! run, and collect what it asked for.

mod clock;
mod failure;
mod feed;
mod printed;
mod request;

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use durable_core::{Inspection, Limits, Position};
use monty::{FunctionCall, MontyRun, OsCall, RunProgress, SessionRef};
use monty_types::{
    CallArgs, DateTimeSource, ExcType, ExtFunctionResult, MontyException, MontyObject,
    NameLookupResult, OsFunctionCall, OsPolicy, ProcessTime, RandomSeed, RandomStart,
    ResourceLimits, ResourceTracker, SleepMode,
};

use crate::{
    edit, inspect,
    program::{LoadedProgram, SCRIPT_NAME},
    protocol::{WireAssignment, WireCall, WireFailure, WireGroup, WireOutcome, WireRequest},
    value::{self, EncodeError},
};
use failure::Injected;
pub(crate) use failure::{memory_limit, time_limit};
use printed::Printed;

/// A program that waits for open calls.
pub(crate) enum Waiting {
    /// One source.
    Run(Run),
    /// One that is fed piece by piece.
    Session(Box<feed::Session>),
}

/// A one-shot run that waits for open calls.
pub(crate) struct Run {
    /// Always `RunProgress::ResolveFutures`.
    progress: Box<RunProgress>,
    /// Calls and timers asked for so far.
    asked: u32,
}

impl Waiting {
    /// The state as bytes. Of a run: the number of calls, then monty's dump. Of a session: see
    /// [`feed::Session::dump`].
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn dump(&self) -> Result<Vec<u8>, String> {
        let run = match self {
            Self::Session(session) => return session.dump(),
            Self::Run(run) => run,
        };
        let dump = dump_of(SessionRef::Running(&run.progress))?;
        let mut bytes = Vec::with_capacity(dump.len() + 4);
        bytes.extend_from_slice(&run.asked.to_le_bytes());
        bytes.extend_from_slice(&dump);
        Ok(bytes)
    }

    /// What can be seen of it.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn inspect(&self, program: &LoadedProgram) -> Result<Inspection, String> {
        match self {
            Self::Run(run) => inspect::inspect(&*run.progress, &|file, start| {
                (file == SCRIPT_NAME).then(|| program.position_at(start))
            }),
            Self::Session(session) => session.inspect(),
        }
    }

    /// The same with variables set.
    ///
    /// # Errors
    /// A sentence, when that can't be.
    pub(crate) fn set(self, variables: &[WireAssignment<'_>]) -> Result<Self, String> {
        Ok(match self {
            Self::Run(Run { progress, asked }) => {
                let progress = Box::new(edit::set(*progress, variables)?);
                Self::Run(Run { progress, asked })
            }
            Self::Session(session) => Self::Session(Box::new(session.set(variables)?)),
        })
    }

    /// Restores what [`Waiting::dump`] wrote for an execution of this program. The bytes must be
    /// authentic.
    ///
    /// # Errors
    /// A sentence, when they are from a version that can't be read.
    pub(crate) fn load(program: &LoadedProgram, bytes: &[u8]) -> Result<Self, String> {
        if program.is_session() {
            return feed::Session::load(bytes).map(|session| Self::Session(Box::new(session)));
        }
        let Some((asked, dump)) = bytes.split_first_chunk() else {
            return Err("the dump is torn".to_owned());
        };
        match monty::Dump::load(dump).map_err(|error| error.to_string())?.state {
            monty::Session::Running(progress)
                if matches!(*progress, RunProgress::ResolveFutures(_)) =>
            {
                Ok(Self::Run(Run { progress, asked: u32::from_le_bytes(*asked) }))
            }
            _ => Err("the dump is not that of a waiting program".to_owned()),
        }
    }
}

fn dump_of(state: SessionRef<'_>) -> Result<Vec<u8>, String> {
    monty::dump(SCRIPT_NAME, None, &[], state)
        .map_err(|error| format!("the state can't be dumped: {error}"))
}

/// Where a run came to a halt.
pub(crate) enum Halt {
    Waiting(Waiting),
    Completed(String),
    Failed(WireFailure),
}

/// A finished run from one suspension to the next.
pub(crate) struct Turn {
    pub(crate) halt: Halt,
    /// What was asked for, in order.
    pub(crate) calls: Vec<WireCall>,
    pub(crate) printed: String,
}

/// Starts a program. `inputs` is a JSON object.
pub(crate) fn start(
    program: &mut LoadedProgram,
    inputs: &str,
    seed: u64,
    now_ms: i64,
    has_memory_limit: bool,
) -> Turn {
    let tracker = tracker(&program.definition.limits, has_memory_limit);
    if program.is_session() {
        return feed::start(program, inputs, seed, now_ms, tracker);
    }
    let prepared = prepare(program, inputs, seed);
    let mut runner = Runner::new(program, now_ms, 0, 0);
    let halt = match prepared {
        Err(failure) => Halt::Failed(failure),
        Ok((run, values)) => {
            let first = run.start(values, tracker, runner.printed.writer());
            runner.drive(first, None)
        }
    };
    runner.finish(halt)
}

/// Applies results to a waiting program.
pub(crate) fn resume(program: &LoadedProgram, waiting: Waiting, group: &WireGroup<'_>) -> Turn {
    let run = match waiting {
        Waiting::Session(session) => return feed::resume(program, *session, group),
        Waiting::Run(run) => run,
    };
    let RunProgress::ResolveFutures(futures) = *run.progress else {
        let failure = WireFailure::new("SystemError", "the program does not wait");
        let halt = Halt::Failed(failure);
        return Turn { halt, calls: Vec::new(), printed: String::new() };
    };
    // A call that the program no longer waits for may still be answered: that changes nothing.
    let pending = futures.pending_call_ids();
    let awaited = awaited(pending, 0, group);
    let mut injected = None;
    let results = answers(&awaited, 0, group, &mut injected);
    let open = pending.len() - awaited.len();
    let mut runner = Runner::new(program, group.now_ms, run.asked, open);
    if results.is_empty() {
        let progress = Box::new(RunProgress::ResolveFutures(futures));
        return runner.finish(Halt::Waiting(Waiting::Run(Run { progress, ..run })));
    }
    let next = futures.resume(results, runner.printed.writer());
    let halt = runner.drive(next, injected);
    runner.finish(halt)
}

/// The results that are awaited, as the interpreter takes them. `first` is the number of what the
/// interpreter calls call 0.
fn answers(
    awaited: &HashSet<u32>,
    first: u32,
    group: &WireGroup<'_>,
    injected: &mut Option<Injected>,
) -> Vec<(u32, ExtFunctionResult)> {
    let wanted = group.results.iter().filter(|(id, _)| awaited.contains(id));
    wanted.map(|(id, outcome)| (*id - first, answer(*id, outcome, injected))).collect()
}

/// Which of the results are awaited, given what the interpreter waits for and the number of what
/// it calls call 0. Linear in both, because either may be long.
fn awaited(pending: &[u32], first: u32, group: &WireGroup<'_>) -> HashSet<u32> {
    if let [(id, _)] = group.results[..] {
        let is_pending = id.checked_sub(first).is_some_and(|inner| pending.contains(&inner));
        return is_pending.then_some(id).into_iter().collect();
    }
    let given: HashSet<u32> = group.results.iter().map(|(id, _)| *id).collect();
    pending.iter().map(|inner| inner + first).filter(|id| given.contains(id)).collect()
}

fn prepare(
    program: &mut LoadedProgram,
    inputs: &str,
    seed: u64,
) -> Result<(MontyRun, Vec<MontyObject>), WireFailure> {
    let run = program.compiled().map_err(|error| failure::of_exception(&error))?;
    let values = input_values(program, inputs)?.into_iter().map(|(_, value)| value).collect();
    Ok((run.with_os_policy(policy(seed)), values))
}

/// Everything nondeterministic comes from the host.
fn policy(seed: u64) -> OsPolicy {
    OsPolicy {
        datetime: DateTimeSource::CallHost,
        sleep: SleepMode::CallHost,
        process_time: ProcessTime::Zero,
        random_start: RandomStart::Seed(RandomSeed::Int(seed.into())),
        ..OsPolicy::default()
    }
}

/// The values of the declared inputs, in their order.
fn input_values(
    program: &LoadedProgram,
    inputs: &str,
) -> Result<Vec<(String, MontyObject)>, WireFailure> {
    let mut given = value::decode_object(inputs).map_err(|error| {
        WireFailure::new("ValueError", format!("the inputs can't be read: {error}"))
    })?;
    let values = program.definition.inputs.iter().map(|name| {
        let index = given.iter().position(|(key, _)| key == name);
        index
            .map(|index| given.swap_remove(index))
            .ok_or_else(|| WireFailure::new("TypeError", format!("the input '{name}' is missing")))
    });
    values.collect()
}

fn tracker(limits: &Limits, has_memory_limit: bool) -> ResourceTracker {
    let mut resources = ResourceLimits::default()
        .max_turn_duration(Duration::from_millis(limits.max_advance_ms))
        .max_recursion_depth(limits.max_recursion as usize);
    resources.max_suspensions = usize::MAX;
    if has_memory_limit {
        resources =
            resources.max_memory(usize::try_from(limits.max_memory_bytes).unwrap_or(usize::MAX));
    }
    ResourceTracker::new(resources)
}

fn answer(id: u32, outcome: &WireOutcome<'_>, last: &mut Option<Injected>) -> ExtFunctionResult {
    let exception = match outcome {
        WireOutcome::Completed(json) => match value::decode(json) {
            Ok(value) => return ExtFunctionResult::Return(value),
            Err(error) => MontyException::new(
                ExcType::ValueError,
                Some(format!("the result of the call can't be read: {error}")),
            ),
        },
        WireOutcome::Failed { error_type, message } => {
            let injected = Injected::new(id, error_type, message);
            let exception = injected.exception();
            *last = Some(injected);
            exception
        }
    };
    ExtFunctionResult::Error(exception)
}

/// Runs a program from one suspension point of the interpreter to the next.
struct Runner<'p> {
    program: &'p LoadedProgram,
    now_ms: i64,
    started: Instant,
    calls: Vec<WireCall>,
    printed: Printed,
    asked: u32,
    open: usize,
}

type Step = Result<RunProgress, MontyException>;

impl<'p> Runner<'p> {
    fn new(program: &'p LoadedProgram, now_ms: i64, asked: u32, open: usize) -> Self {
        Self {
            program,
            now_ms,
            started: Instant::now(),
            calls: Vec::new(),
            printed: Printed::new(program.definition.limits.max_output_bytes),
            asked,
            open,
        }
    }

    fn finish(self, halt: Halt) -> Turn {
        Turn { halt, calls: self.calls, printed: self.printed.into_text() }
    }

    /// Answers what the interpreter asks until it ends or waits.
    fn drive(&mut self, first: Step, injected: Option<Injected>) -> Halt {
        let mut next = first;
        loop {
            if let Some(failure) = self.broken_limit() {
                return Halt::Failed(failure);
            }
            next = match next {
                Err(exception) => {
                    let limits = &self.program.definition.limits;
                    return Halt::Failed(failure::uncaught(&exception, limits, injected.as_ref()));
                }
                Ok(RunProgress::Complete(value)) => return self.complete(&value),
                Ok(RunProgress::FunctionCall(call)) => self.function_call(call),
                Ok(RunProgress::OsCall(call)) => self.os_call(call),
                Ok(RunProgress::NameLookup(lookup)) => {
                    let function = self.look_up(&lookup.name, lookup.object_id().is_some());
                    lookup.resume(function, self.printed.writer())
                }
                Ok(RunProgress::ResolveFutures(futures)) => {
                    if futures.pending_call_ids().is_empty() {
                        return Halt::Failed(WireFailure::new(
                            "RuntimeError",
                            "deadlock: the program awaits something that nothing can complete",
                        ));
                    }
                    let progress = Box::new(RunProgress::ResolveFutures(futures));
                    return Halt::Waiting(Waiting::Run(Run { progress, asked: self.asked }));
                }
            }
        }
    }

    /// Checks the limits that the interpreter itself doesn't know.
    fn broken_limit(&self) -> Option<WireFailure> {
        let limits = &self.program.definition.limits;
        if self.asked > limits.max_calls {
            return Some(failure::too_many("in its life", "max_calls", limits.max_calls));
        }
        if self.open > limits.max_open_calls as usize {
            let limit = limits.max_open_calls;
            return Some(failure::too_many("at once", "max_open_calls", limit));
        }
        // Each answer restarts the interpreter's own clock, so a loop that asks for the time
        // would never meet its limit.
        if self.started.elapsed() > Duration::from_millis(limits.max_advance_ms) {
            return Some(failure::time_limit(limits));
        }
        None
    }

    fn complete(&self, value: &MontyObject) -> Halt {
        let limit = self.program.definition.limits.max_payload_bytes;
        match value::encode(value, usize::try_from(limit).unwrap_or(usize::MAX)) {
            Ok(json) => Halt::Completed(json),
            Err(error) => Halt::Failed(WireFailure::new(
                request::exception_type(&error).into(),
                format!("the program's result: {error}"),
            )),
        }
    }

    fn ask(&mut self, id: u32, position: Position, request: WireRequest) {
        self.calls.push(WireCall { id, line: position.line, column: position.column, request });
        self.asked = self.asked.saturating_add(1);
        self.open += 1;
    }

    /// What a name means that the program does not define: a declared function, or nothing.
    fn look_up(&self, name: &str, is_attribute: bool) -> NameLookupResult {
        let is_declared = !is_attribute && self.program.definition.may_call(name);
        NameLookupResult::from(is_declared.then(|| MontyObject::function(name.to_owned(), None)))
    }

    fn function_call(&mut self, call: FunctionCall) -> Step {
        let asked = Asked {
            id: call.call_id,
            inner: call.call_id,
            position: self.program.position(&call.position),
        };
        let is_method = call.object_id.is_some();
        let answer = self.call(asked, &call.function_name, &call.args, is_method);
        call.resume(answer, self.printed.writer())
    }

    /// Answers a call of a function: a declared one is asked for.
    fn call(
        &mut self,
        asked: Asked,
        name: &str,
        args: &CallArgs,
        is_method: bool,
    ) -> ExtFunctionResult {
        if is_method {
            return ExtFunctionResult::Error(MontyException::new(
                ExcType::AttributeError,
                Some(format!("no method '{name}': a value from outside carries its data only")),
            ));
        }
        if !self.program.definition.may_call(name) {
            return ExtFunctionResult::NotFound(name.to_owned());
        }
        match request::function(name, args, &self.program.definition.limits) {
            Ok(request) => {
                self.ask(asked.id, asked.position, request);
                ExtFunctionResult::Future(asked.inner)
            }
            Err(exception) => ExtFunctionResult::Error(exception),
        }
    }

    fn os_call(&mut self, call: OsCall) -> Step {
        let asked = Asked {
            id: call.call_id,
            inner: call.call_id,
            position: self.program.position(&call.position),
        };
        let answer = self.os(asked, &call.function_call);
        call.resume(answer, self.printed.writer())
    }

    /// Answers a call to the operating system: a timer is asked for.
    fn os(&mut self, asked: Asked, call: &OsFunctionCall) -> ExtFunctionResult {
        match call {
            OsFunctionCall::AsyncSleep(delay) => {
                let delay_ms = u64::try_from(delay.as_nanos().div_ceil(1_000_000));
                let request = WireRequest::Timer { delay_ms: delay_ms.unwrap_or(u64::MAX) };
                self.ask(asked.id, asked.position, request);
                ExtFunctionResult::Future(asked.inner)
            }
            other => clock::answer(other, self.now_ms),
        }
    }
}

/// A call as it is numbered and where it stands.
#[derive(Clone, Copy)]
struct Asked {
    /// Its number in the execution.
    id: u32,
    /// The interpreter's number for it.
    inner: u32,
    position: Position,
}

impl From<&EncodeError> for MontyException {
    fn from(error: &EncodeError) -> Self {
        Self::new(request::exception_type(error), Some(error.to_string()))
    }
}
