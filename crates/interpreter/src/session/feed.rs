//! A session on a live interpreter: code comes piece by piece, and names keep their values.
//!
//! A session is idle, and then one call of it is open that asks for the next piece of code (a
//! *feed*); or it is in a feed, which runs like a program. What a feed came to is told by the
//! request for the next one. An exception in a feed ends the feed, never the session; a broken
//! limit ends the session, because where it strikes can't be replayed.
//!
//! The interpreter numbers calls anew in every feed. Here they are numbered on: the interpreter's
//! call 0 of a feed is the call after the feed's own.

use durable_core::{Inspection, Position, report::LineIndex};
use monty::{MontyRepl, ReplProgress, ReplStartError, SessionRef};
use monty_types::{
    CompileOptions, ExcType, MontyException, MontyObject, PrintWriter, ResourceTracker,
    SourceRange, StackFrame,
    unstable::{self, MontyNode},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Asked, Halt, Injected, Runner, Turn, Waiting, answers, awaited, dump_of, failure, input_values,
    policy, printed::Printed, request,
};
use crate::{
    edit, inspect,
    program::{LoadedProgram, SCRIPT_NAME},
    protocol::{WireAssignment, WireFailure, WireGroup, WireOutcome, WireRequest},
    value::{self, EncodeError},
};

/// Takes the place of code that can't be run, so that the interpreter counts feeds as we do.
const NOTHING: &str = "pass";

/// A session that waits: for its next feed, or for calls of the feed it is in.
pub(crate) struct Session {
    notes: Notes,
    state: State,
}

enum State {
    Idle(Box<MontyRepl>),
    /// Always `ReplProgress::ResolveFutures`.
    InFeed(Box<ReplProgress>),
}

/// What is known of a session beside the interpreter's own state.
#[derive(Serialize, Deserialize)]
struct Notes {
    /// Calls and timers asked for so far, feeds among them.
    asked: u32,
    /// When idle, the number of the open call that asks for the next feed; in a feed, the number
    /// of the interpreter's call 0.
    first: u32,
    /// One more than the highest number in use.
    next: u32,
    /// What the feed printed so far.
    printed: Printed,
    /// The code of all feeds so far.
    sources: Vec<String>,
}

/// The result of the call that asks for a feed. What else the object holds is for its readers.
#[derive(Deserialize)]
struct Fed {
    code: String,
}

type Step = Result<ReplProgress, Box<ReplStartError>>;

impl Session {
    /// The state as bytes: the length of the notes, the notes, monty's dump.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn dump(&self) -> Result<Vec<u8>, String> {
        let notes = postcard::to_allocvec(&self.notes)
            .map_err(|error| format!("the notes of the session can't be dumped: {error}"))?;
        let dump = dump_of(match &self.state {
            State::Idle(repl) => SessionRef::Idle(repl),
            State::InFeed(progress) => SessionRef::Suspended(progress),
        })?;
        let len = u32::try_from(notes.len()).map_err(|error| error.to_string())?;
        let mut bytes = Vec::with_capacity(4 + notes.len() + dump.len());
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&notes);
        bytes.extend_from_slice(&dump);
        Ok(bytes)
    }

    /// What can be seen of it.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn inspect(&self) -> Result<Inspection, String> {
        match &self.state {
            State::Idle(repl) => inspect::inspect(&**repl, &|_, _| None),
            State::InFeed(progress) => {
                inspect::inspect(&**progress, &|file, start| self.notes.place(file, start))
            }
        }
    }

    /// The same with variables set.
    ///
    /// # Errors
    /// A sentence, when that can't be.
    pub(crate) fn set(self, variables: &[WireAssignment<'_>]) -> Result<Self, String> {
        let Self { notes, state } = self;
        let state = match state {
            State::Idle(repl) => State::Idle(Box::new(edit::set(*repl, variables)?)),
            State::InFeed(progress) => State::InFeed(Box::new(edit::set(*progress, variables)?)),
        };
        Ok(Self { notes, state })
    }

    /// Restores what [`Session::dump`] wrote.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn load(bytes: &[u8]) -> Result<Self, String> {
        let torn = || "the dump is torn".to_owned();
        let (len, rest) = bytes.split_first_chunk().ok_or_else(torn)?;
        let (notes, dump) =
            rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or_else(torn)?;
        let notes = postcard::from_bytes(notes).map_err(|error| error.to_string())?;
        let state = match monty::Dump::load(dump).map_err(|error| error.to_string())?.state {
            monty::Session::Idle(repl) => State::Idle(repl),
            monty::Session::Suspended(progress)
                if matches!(*progress, ReplProgress::ResolveFutures(_)) =>
            {
                State::InFeed(progress)
            }
            _ => return Err("the dump is not that of a waiting session".to_owned()),
        };
        Ok(Self { notes, state })
    }
}

/// Opens a session: its inputs are its first variables, and it asks for its first feed.
pub(super) fn start(
    program: &LoadedProgram,
    inputs: &str,
    seed: u64,
    now_ms: i64,
    tracker: ResourceTracker,
) -> Turn {
    let mut runner = Runner::new(program, now_ms, 0, 0);
    let opened = input_values(program, inputs).and_then(|values| {
        let repl = MontyRepl::new(SCRIPT_NAME, tracker, CompileOptions::default());
        let mut repl = repl.with_os_policy(policy(seed));
        let set = repl.feed_run(NOTHING, values, PrintWriter::Disabled);
        set.map_err(|error| failure::of_exception(&error)).map(|_| repl)
    });
    let halt = match opened {
        Err(failure) => Halt::Failed(failure),
        Ok(repl) => {
            let printed = Printed::new(program.definition.limits.max_output_bytes);
            let notes = Notes { asked: 0, first: 0, next: 0, printed, sources: Vec::new() };
            ask_for_feed(&mut runner, notes, repl, "[null]".to_owned())
        }
    };
    runner.finish(halt)
}

/// Applies results to a waiting session. A call that nothing waits for any more may still be
/// answered: that changes nothing.
pub(super) fn resume(program: &LoadedProgram, session: Session, group: &WireGroup<'_>) -> Turn {
    let Session { mut notes, state } = session;
    match state {
        State::Idle(repl) => {
            let fed = group.results.iter().find(|(id, _)| *id == notes.first);
            let mut runner = Runner::new(program, group.now_ms, notes.asked, 0);
            let halt = match fed {
                Some((_, outcome)) => begin(&mut runner, notes, *repl, outcome),
                None => waiting(notes, State::Idle(repl)),
            };
            runner.finish(halt)
        }
        State::InFeed(progress) => {
            let ReplProgress::ResolveFutures(futures) = *progress else {
                let failure = WireFailure::new("SystemError", "the session does not wait");
                return Runner::new(program, group.now_ms, 0, 0).finish(Halt::Failed(failure));
            };
            let pending = futures.pending_call_ids();
            let awaited = awaited(pending, notes.first, group);
            let mut injected = None;
            let results = answers(&awaited, notes.first, group, &mut injected);
            let open = pending.len() - awaited.len();
            let mut runner = Runner::new(program, group.now_ms, notes.asked, open);
            if results.is_empty() {
                let state = State::InFeed(Box::new(ReplProgress::ResolveFutures(futures)));
                return runner.finish(waiting(notes, state));
            }
            let step = futures.resume(results, runner.printed.writer());
            let halt = match drive(&mut runner, &mut notes, step) {
                Ok(Reached::Waiting(progress)) => {
                    notes.asked = runner.asked;
                    notes.printed.append(&runner.printed);
                    waiting(notes, State::InFeed(progress))
                }
                Ok(Reached::Ended(repl, ended)) => {
                    end(&mut runner, notes, *repl, ended, injected.as_ref())
                }
                Err(failure) => Halt::Failed(failure),
            };
            runner.finish(halt)
        }
    }
}

fn waiting(notes: Notes, state: State) -> Halt {
    Halt::Waiting(Waiting::Session(Box::new(Session { notes, state })))
}

/// Takes the answer to the request for a feed: runs its code, or closes the session.
fn begin(
    runner: &mut Runner<'_>,
    mut notes: Notes,
    mut repl: MontyRepl,
    outcome: &WireOutcome<'_>,
) -> Halt {
    let code = match code_of(outcome, runner.program.definition.limits.max_source_bytes) {
        Ok(None) => return Halt::Completed(notes.sources.len().to_string()),
        Ok(Some(code)) => repl.check_source(&code).map(|_| ()).map(|()| code),
        Err(exception) => Err(exception),
    };
    notes.first += 1;
    notes.printed = Printed::new(runner.program.definition.limits.max_output_bytes);
    let code = match code {
        Ok(code) => code,
        Err(exception) => {
            notes.sources.push(String::new());
            // It does nothing and can't fail.
            let _ = repl.feed_run(NOTHING, Vec::new(), PrintWriter::Disabled);
            return end(runner, notes, repl, Err(exception), None);
        }
    };
    notes.sources.push(code.clone());
    let code = if code.is_empty() { NOTHING } else { &code };
    let step = repl.feed_start(code, Vec::new(), runner.printed.writer());
    match drive(runner, &mut notes, step) {
        Ok(Reached::Waiting(progress)) => {
            notes.asked = runner.asked;
            notes.printed.append(&runner.printed);
            waiting(notes, State::InFeed(progress))
        }
        Ok(Reached::Ended(repl, ended)) => end(runner, notes, *repl, ended, None),
        Err(failure) => Halt::Failed(failure),
    }
}

/// The code of a feed; `None` closes the session.
fn code_of(outcome: &WireOutcome<'_>, max_bytes: u64) -> Result<Option<String>, MontyException> {
    let refuse = |why: String| Err(MontyException::new(ExcType::ValueError, Some(why)));
    match outcome {
        WireOutcome::Completed(json) => match serde_json::from_str::<Option<Fed>>(json) {
            Ok(None) => Ok(None),
            Ok(Some(fed)) if fed.code.len() as u64 > max_bytes => refuse(format!(
                "the code has {} bytes, the limit max_source_bytes is {max_bytes}",
                fed.code.len()
            )),
            Ok(Some(fed)) => Ok(Some(fed.code)),
            Err(error) => refuse(format!("a feed is an object with the text \"code\": {error}")),
        },
        WireOutcome::Failed { error_type, message } => {
            Err(Injected::new(0, error_type, message).exception())
        }
    }
}

/// How far a feed got.
enum Reached {
    /// It waits; always `ReplProgress::ResolveFutures`.
    Waiting(Box<ReplProgress>),
    Ended(Box<MontyRepl>, Result<MontyObject, MontyException>),
}

/// Answers what the interpreter asks until the feed ends or waits.
fn drive(runner: &mut Runner<'_>, notes: &mut Notes, first: Step) -> Result<Reached, WireFailure> {
    let mut next = first;
    loop {
        if let Some(failure) = runner.broken_limit() {
            return Err(failure);
        }
        next = match next {
            Err(ended) => {
                let ReplStartError { repl, error } = *ended;
                return match failure::of_limit(&error, &runner.program.definition.limits) {
                    Some(failure) => Err(failure),
                    None => Ok(Reached::Ended(Box::new(repl), Err(error))),
                };
            }
            Ok(ReplProgress::Complete { repl, value }) => {
                return Ok(Reached::Ended(Box::new(repl), Ok(value)));
            }
            Ok(ReplProgress::FunctionCall(call)) => {
                let asked = notes.number(call.call_id, &call.position);
                let is_method = call.object_id.is_some();
                let answer = runner.call(asked, &call.function_name, &call.args, is_method);
                call.resume(answer, runner.printed.writer())
            }
            Ok(ReplProgress::OsCall(call)) => {
                let asked = notes.number(call.call_id, &call.position);
                let answer = runner.os(asked, &call.function_call);
                call.resume(answer, runner.printed.writer())
            }
            Ok(ReplProgress::NameLookup(lookup)) => {
                let function = runner.look_up(&lookup.name, lookup.object_id().is_some());
                lookup.resume(function, runner.printed.writer())
            }
            Ok(ReplProgress::ResolveFutures(futures)) => {
                if !futures.pending_call_ids().is_empty() {
                    return Ok(Reached::Waiting(Box::new(ReplProgress::ResolveFutures(futures))));
                }
                let deadlock = MontyException::new(
                    ExcType::RuntimeError,
                    Some(
                        "deadlock: this awaits something that nothing can complete; a call has \
                         to be awaited in the feed that makes it"
                            .to_owned(),
                    ),
                );
                futures.abort(deadlock, runner.printed.writer())
            }
        };
    }
}

/// Tells what a feed came to, and asks for the next.
fn end(
    runner: &mut Runner<'_>,
    mut notes: Notes,
    repl: MontyRepl,
    ended: Result<MontyObject, MontyException>,
    injected: Option<&Injected>,
) -> Halt {
    notes.printed.append(&runner.printed);
    let printed = std::mem::replace(&mut notes.printed, Printed::new(0)).into_text();
    let max_bytes = runner.program.definition.limits.max_payload_bytes;
    let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
    let ended = ended.and_then(|value| output(&value, max_bytes));
    let (output, repr, error) = match ended {
        Ok((output, repr)) => (output, repr, Value::Null),
        Err(exception) => {
            let failure = failure::of_call(&named(&exception), injected);
            let error = json!({
                "type": failure.error_type,
                "message": failure.message,
                "traceback": failure.traceback,
                "call": failure.cause_call,
            });
            ("null".to_owned(), None, error)
        }
    };
    // Written by hand around the output, whose text is kept to the letter.
    let mut last = format!(r#"[{{"output":{output},"printed":{},"error":{error}"#, json!(printed));
    if let Some(repr) = repr {
        last.push_str(&format!(r#","repr":{}"#, json!(repr)));
    }
    last.push_str("}]");
    ask_for_feed(runner, notes, repl, last)
}

/// The value of a feed's last expression as JSON, and how it shows itself if it has no such form.
fn output(
    value: &MontyObject,
    max_bytes: usize,
) -> Result<(String, Option<String>), MontyException> {
    match value::encode(value, max_bytes) {
        Ok(json) => Ok((json, None)),
        Err(EncodeError::Unsupported(why)) => {
            let repr = match unstable::node(value.as_ref()) {
                MontyNode::Repr(text) => text.clone(),
                _ => format!("<{why}>"),
            };
            Ok(("null".to_owned(), Some(repr)))
        }
        Err(error) => Err(MontyException::new(
            request::exception_type(&error),
            Some(format!("the feed's output: {error}")),
        )),
    }
}

fn ask_for_feed(runner: &mut Runner<'_>, mut notes: Notes, repl: MontyRepl, last: String) -> Halt {
    notes.first = notes.next;
    notes.next = notes.next.saturating_add(1);
    let number = notes.sources.len() as u32 + 1;
    let request = WireRequest::Feed { last, number };
    runner.ask(notes.first, Position { line: 1, column: 1 }, request);
    notes.asked = runner.asked;
    waiting(notes, State::Idle(Box::new(repl)))
}

impl Notes {
    /// Numbers a call of the feed and finds its place.
    fn number(&mut self, inner: u32, range: &SourceRange) -> Asked {
        let id = self.first.saturating_add(inner);
        self.next = self.next.max(id.saturating_add(1));
        let position = self.place(&range.filename, range.start as usize);
        Asked { id, inner, position: position.unwrap_or(Position { line: 1, column: 1 }) }
    }

    /// Where in the code of a feed something stands.
    fn place(&self, filename: &str, start: usize) -> Option<Position> {
        let code = self.sources.get(feed_of(filename)?.checked_sub(1)?)?;
        Some(LineIndex::new(code).position(code, start))
    }
}

/// The number of a feed by the interpreter's name for it.
fn feed_of(filename: &str) -> Option<usize> {
    filename.strip_prefix("<python-input-")?.strip_suffix('>')?.parse().ok()
}

/// The exception with tracebacks that name feeds as everybody else does.
fn named(exception: &MontyException) -> MontyException {
    let frames = exception.traceback().iter().map(|frame| StackFrame {
        filename: match feed_of(&frame.filename) {
            Some(feed) => format!("feed {feed}"),
            None => frame.filename.clone(),
        },
        ..frame.clone()
    });
    let message = exception.message().map(str::to_owned);
    MontyException::with_traceback(exception.exc_type(), message, frames.collect())
}
