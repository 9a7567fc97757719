//! Sessions: executions that are fed code piece by piece, such as a model writes it.
//!
//! An idle session has one open call that nobody but its feeder answers
//! ([`Request::feed`](durable_core::Request::feed)). To feed it is to give that call its result,
//! and what the feed came to is told by the next such call. So a session needs nothing that other
//! executions have not: it can be fed by any process on the store, whoever runs it.

use std::{
    collections::BTreeMap,
    sync::mpsc,
    time::{Duration, Instant},
};

use durable_core::{
    CallId, CallStatus, Error, ExecutionId, Language, Outcome, Payload, Request, Result, Status,
};
use durable_store::{CallRecord, ExecutionRecord};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use crate::{
    Engine, Start,
    checkpoints::{self, Checkpoint, Edits},
};

/// An open or closed session.
#[derive(Clone, Copy)]
pub struct Session<'e> {
    engine: &'e Engine,
    id: ExecutionId,
}

/// A piece of code for a session.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Feed {
    /// Python, as long as it likes; its last expression is its output.
    pub code: String,
    /// What a model said when it wrote the code, to be kept with it.
    pub response: Option<Payload>,
    /// Which feed of the session it is, from 1. With it a feed can be repeated after a crash: one
    /// that was taken already is not run again, and gives what it came to.
    pub number: Option<u32>,
}

impl Feed {
    /// The next feed, with this code.
    pub fn new(code: &str) -> Self {
        Self { code: code.to_owned(), ..Self::default() }
    }
}

/// What a feed came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Came {
    /// Which feed of the session it was, from 1.
    pub number: u32,
    /// The value of the code's last expression; null without one, and after an error.
    pub output: Payload,
    /// How the value shows itself, when it has no form as a payload.
    pub repr: Option<String>,
    /// What the code printed.
    pub printed: String,
    /// The exception that ended it.
    pub error: Option<FeedError>,
}

/// The exception that ended a feed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FeedError {
    /// The exception's type.
    #[serde(rename = "type")]
    pub error_type: String,
    /// Its message.
    pub message: String,
    /// Where in which feeds it was raised.
    pub traceback: Option<String>,
    /// The call whose failure it is.
    pub call: Option<CallId>,
}

/// A feed as the session's history has it.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedRecord {
    /// Which feed of the session it is, from 1.
    pub number: u32,
    /// The code.
    pub code: String,
    /// What was kept with it.
    pub response: Option<Payload>,
    /// What it came to; `None` while it runs, and for the one that ended the session.
    pub came: Option<Came>,
}

/// The open call that asks for a feed.
struct Asked {
    call: CallId,
    /// Of the feed that is asked for.
    number: u32,
    /// What the feed before it came to.
    last: Payload,
    /// Whether its answer waits to be taken in.
    is_answered: bool,
}

/// What a session does.
enum Now {
    /// It asks for a feed.
    Asks(Asked),
    /// It is in this feed, or about to be.
    Runs(u32),
}

impl<'e> Session<'e> {
    /// Opens a session: an execution of a program in [`Language::Session`], which has no source.
    ///
    /// # Errors
    /// `Invalid` when the program is no session, and as [`Engine::start`].
    pub fn open(engine: &'e Engine, start: Start) -> Result<Self> {
        let language = start.program.definition().language;
        if language != Language::Session {
            return Err(not_a_session(&format!("the workflow '{}'", start.workflow_id), language));
        }
        Ok(Self { engine, id: engine.start(start)? })
    }

    /// A session that was opened before.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` when the execution is no session.
    pub fn get(engine: &'e Engine, id: ExecutionId) -> Result<Self> {
        let record = engine.execution(id)?;
        match engine.program_of(&record)?.definition().language {
            Language::Session => Ok(Self { engine, id }),
            language => Err(not_a_session(&format!("execution {id}"), language)),
        }
    }

    /// The id of its execution.
    pub fn id(&self) -> ExecutionId {
        self.id
    }

    /// Runs a piece of code and waits for what it comes to, at most for a while: `None` says that
    /// it still runs ([`Session::wait`]). An exception in the code is no error here.
    ///
    /// # Errors
    /// `Conflict` while another feed runs, when the session has ended, when it is paused, when
    /// [`Feed::number`] is not that of the next feed or was fed other code, or when this very feed
    /// broke a limit and so ended the session; `Invalid` for what is too large.
    pub fn feed(&self, feed: &Feed, at_most: Option<Duration>) -> Result<Option<Came>> {
        let until = at_most.map(|at_most| Instant::now() + at_most);
        match self.submit(feed, at_most)? {
            Some(number) => self.result_until(number, until),
            None => Ok(None),
        }
    }

    /// As [`Session::feed`], without waiting for what it comes to: gives the feed's number, for
    /// [`Session::result`]. Waits only for a session that has not begun yet; `None` when the time
    /// is over first.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn submit(&self, feed: &Feed, at_most: Option<Duration>) -> Result<Option<u32>> {
        let until = at_most.map(|at_most| Instant::now() + at_most);
        let response = feed.response.as_ref().map_or("null", Payload::as_str);
        // Written by hand around the response, whose text is kept to the letter.
        let fed = format!(r#"{{"code":{},"response":{response}}}"#, json!(feed.code));
        let result = Payload::trusted(fed);
        let max_bytes = durable_core::Limits::default().max_payload_bytes;
        if result.as_str().len() as u64 > max_bytes {
            return Err(Error::invalid(format!(
                "the feed has {} bytes with its response, the limit is {max_bytes}",
                result.as_str().len()
            )));
        }
        let now = match (self.now(until), feed.number) {
            // What was taken before is known for good.
            (Err(Error::Conflict(why)), Some(number)) => {
                let taken = self.taken_before(feed, number, number);
                return taken.map(Some).map_err(|_| Error::Conflict(why));
            }
            (now, _) => now?,
        };
        let Some(now) = now else { return Ok(None) };
        let (next, is_running) = match now {
            Now::Asks(asked) if feed.number.is_none_or(|number| number == asked.number) => {
                match self.engine.complete_call(self.id, asked.call, Outcome::Completed(result)) {
                    Ok(()) => return Ok(Some(asked.number)),
                    // Somebody was faster: with the same feed, perhaps.
                    Err(Error::Conflict(_)) => (asked.number, true),
                    Err(error) => return Err(error),
                }
            }
            Now::Asks(asked) => (asked.number, false),
            Now::Runs(number) => (number, true),
        };
        match feed.number {
            Some(number) if is_running && number == next + 1 => Err(self.busy(next)),
            Some(number) => self.taken_before(feed, number, next).map(Some),
            None => Err(self.busy(next)),
        }
    }

    /// Waits until no feed runs, at most for a while (`None` then), and gives what the last one
    /// came to. This is how to go on after a crash in the middle of a feed.
    ///
    /// # Errors
    /// `Conflict` when nothing was fed yet, or when the feed ended the session.
    pub fn wait(&self, at_most: Option<Duration>) -> Result<Option<Came>> {
        match self.feeds()?.last() {
            Some(FeedRecord { came: Some(came), .. }) => Ok(Some(came.clone())),
            Some(running) => self.result(running.number, at_most),
            None => Err(self.not_fed(1)),
        }
    }

    /// Waits for what a feed comes to that was taken, at most for a while (`None` then).
    ///
    /// # Errors
    /// `Conflict` when it ended the session.
    pub fn result(&self, number: u32, at_most: Option<Duration>) -> Result<Option<Came>> {
        self.result_until(number, at_most.map(|at_most| Instant::now() + at_most))
    }

    /// All that was fed so far, in order.
    ///
    /// # Errors
    /// Those of the store.
    pub fn feeds(&self) -> Result<Vec<FeedRecord>> {
        let calls = self.engine.store().calls(self.id)?;
        let asked: Vec<_> = calls.iter().filter(|call| is_feed(call)).collect();
        let mut feeds = Vec::with_capacity(asked.len());
        for (index, call) in asked.iter().enumerate() {
            let number = index as u32 + 1;
            let came = asked.get(index + 1).map(|next| came(number, &next.args)).transpose()?;
            let (came, fed) = (came.flatten(), fed(call));
            if came.is_some() || fed.is_some() {
                let (code, response) = fed.unwrap_or_default();
                feeds.push(FeedRecord { number, code, response, came });
            }
        }
        Ok(feeds)
    }

    /// The names the session knows by now and their values; during a feed, as they were when it
    /// last asked for something. What has no form as a payload is `{"$py:repr": …}` with a few
    /// words. The declared functions are left out.
    ///
    /// The session is run again against its journal for it, and itself left alone.
    ///
    /// # Errors
    /// `NotFound` when it has not begun; `Conflict` when it does not get there any more.
    pub fn variables(&self) -> Result<BTreeMap<String, Payload>> {
        let last = checkpoints::last(self.engine, self.id)?;
        let functions = checkpoints::definition(self.engine, &last)?.functions;
        let seen = checkpoints::inspect(self.engine, &last)?;
        let module = seen.stacks.into_iter().flatten().find(|frame| frame.function == "<module>");
        let mut variables = module.map(|frame| frame.variables).unwrap_or_default();
        variables.retain(|name, value| {
            !(functions.contains_key(name) && value.as_str().starts_with(r#"{"$py:repr""#))
        });
        Ok(variables)
    }

    /// A new session that goes on from where this one was after a feed (0 is before the first),
    /// or after the last one that has ended. This one stays as it is.
    ///
    /// # Errors
    /// `NotFound` when no such feed has ended.
    pub fn fork(&self, after: Option<u32>) -> Result<Self> {
        let checkpoint = self.checkpoint(after)?;
        let id = checkpoints::fork(self.engine, &checkpoint, &Edits::default())?;
        Ok(Self { engine: self.engine, id })
    }

    /// Takes the session back to where it was after a feed (0 is before the first): this one is
    /// cancelled if it has not ended, and the one returned goes on in its place. So one goes on
    /// after a feed that broke a limit, too.
    ///
    /// # Errors
    /// `NotFound` when no such feed has ended.
    pub fn rewind(&self, after: u32) -> Result<Self> {
        let checkpoint = self.checkpoint(Some(after))?;
        let id = checkpoints::restore(self.engine, &checkpoint)?;
        Ok(Self { engine: self.engine, id })
    }

    /// Where the session asked for the feed after this one.
    fn checkpoint(&self, after: Option<u32>) -> Result<Checkpoint> {
        let mut found: Vec<(u32, Checkpoint)> = Vec::new();
        for checkpoint in checkpoints::list(self.engine, self.id)? {
            let feed = checkpoint.waits_for.iter().find(|call| call.new.request.is_feed());
            let Some(Request::Function { kwargs, .. }) = feed.map(|call| &call.new.request) else {
                continue;
            };
            found.push((number_of(kwargs)?.saturating_sub(1), checkpoint));
        }
        let last = found.last().map(|(number, _)| *number);
        let wanted = after.or(last);
        // The last one: variables may have been set while the session waited.
        let at = found.into_iter().rfind(|(number, _)| Some(*number) == wanted);
        at.map(|(_, checkpoint)| checkpoint).ok_or_else(|| {
            Error::not_found(match last {
                Some(last) => format!(
                    "feed {} of session {} has not ended: the last one that has is {last}",
                    after.unwrap_or(last),
                    self.id
                ),
                None => format!("session {} has not begun", self.id),
            })
        })
    }

    /// Ends the session, which is completed then: its output is the number of its feeds. One that
    /// was closed before stays as it is. Waits until it has ended, at most for a while (`None`).
    ///
    /// # Errors
    /// `Conflict` while a feed runs, or when it has failed or was cancelled.
    pub fn close(&self, at_most: Option<Duration>) -> Result<Option<()>> {
        let until = at_most.map(|at_most| Instant::now() + at_most);
        if self.engine.execution(self.id)?.status == Status::Completed {
            return Ok(Some(()));
        }
        match self.now(until)? {
            None => return Ok(None),
            Some(Now::Asks(asked)) => {
                let close = Outcome::Completed(Payload::null());
                self.engine.complete_call(self.id, asked.call, close)?;
            }
            Some(Now::Runs(number)) if self.is_closing(number)? => {}
            Some(Now::Runs(number)) => return Err(self.busy(number)),
        }
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        Ok(self.engine.wait(self.id, left)?.map(drop))
    }

    /// Whether what a request for a feed was answered with closes the session.
    fn is_closing(&self, number: u32) -> Result<bool> {
        let calls = self.engine.store().calls(self.id)?;
        let call = calls.iter().filter(|call| is_feed(call)).nth(number as usize - 1);
        let result = call.and_then(|call| call.result.as_ref());
        Ok(result.is_some_and(|result| result.as_str() == "null"))
    }

    /// Where the session is; waits while it has not begun.
    fn now(&self, until: Option<Instant>) -> Result<Option<Now>> {
        self.watch(until, |session, record| {
            if record.status.is_terminal() {
                return Err(session.ended(record));
            }
            if record.status == Status::Paused {
                return Err(Error::conflict(format!(
                    "session {} is paused: resume it first",
                    session.id
                )));
            }
            let (mut open, mut asked_so_far) = (session.open_feed()?, 0);
            if open.is_none() {
                asked_so_far = session.asked_so_far()?;
                // It may have asked for one between the two looks.
                open = session.open_feed()?;
            }
            match (open, asked_so_far) {
                (Some(asked), _) if asked.is_answered => Ok(Some(Now::Runs(asked.number))),
                (Some(asked), _) => Ok(Some(Now::Asks(asked))),
                // It has not begun.
                (None, 0) => Ok(None),
                (None, number) => Ok(Some(Now::Runs(number))),
            }
        })
    }

    /// How many feeds it has asked for.
    fn asked_so_far(&self) -> Result<u32> {
        let calls = self.engine.store().calls(self.id)?;
        Ok(calls.iter().filter(|call| is_feed(call)).count() as u32)
    }

    /// Waits for what a feed comes to that was taken.
    fn result_until(&self, number: u32, until: Option<Instant>) -> Result<Option<Came>> {
        if number == 0 {
            return Err(self.not_fed(0));
        }
        let mut seen = None;
        self.watch(until, |session, record| {
            if !record.status.is_terminal() {
                // Only a transition opens the next feed.
                if seen.replace(record.version) == Some(record.version) {
                    return Ok(None);
                }
                return match session.open_feed()? {
                    Some(asked)
                        if asked.number < number
                            || asked.number == number && !asked.is_answered =>
                    {
                        Err(session.not_fed(number))
                    }
                    None if session.asked_so_far()? < number => Err(session.not_fed(number)),
                    Some(asked) if asked.number == number + 1 => came(number, &asked.last),
                    Some(asked) if asked.number > number => session.came(number),
                    _ => Ok(None),
                };
            }
            session.came(number)?.map_or_else(|| Err(session.ended(record)), |came| Ok(Some(came)))
        })
    }

    /// Looks at the session now and whenever there may be news, until `look` finds something or
    /// the time is over.
    fn watch<T>(
        &self,
        until: Option<Instant>,
        mut look: impl FnMut(&Self, &ExecutionRecord) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        loop {
            let (woken, wake) = mpsc::sync_channel::<()>(1);
            // The hook drops its end of the channel: that is the signal.
            let _registered = self.engine.on_ended(self.id, move || drop(woken));
            let record = self.engine.execution(self.id)?;
            if let Some(found) = look(self, &record)? {
                return Ok(Some(found));
            }
            match until {
                None => {
                    let _ = wake.recv();
                }
                Some(until) => {
                    let rest = until.saturating_duration_since(Instant::now());
                    if rest.is_zero() {
                        return Ok(None);
                    }
                    let _ = wake.recv_timeout(rest);
                }
            }
        }
    }

    fn open_feed(&self) -> Result<Option<Asked>> {
        let Some(loaded) = self.engine.store().load(self.id)? else { return Ok(None) };
        let open = loaded.execution.open_feed();
        let Some((call, Request::Function { args, kwargs, .. })) =
            open.map(|call| (call.id(), &call.new.request))
        else {
            return Ok(None);
        };
        let is_answered = loaded.inbox.iter().any(|(answered, _)| *answered == call);
        Ok(Some(Asked { call, number: number_of(kwargs)?, last: args.clone(), is_answered }))
    }

    /// What an earlier feed came to, as the calls tell it.
    fn came(&self, number: u32) -> Result<Option<Came>> {
        let feed = self.feeds()?.into_iter().find(|feed| feed.number == number);
        Ok(feed.and_then(|feed| feed.came))
    }

    /// The number of a feed that was taken before, if this is the same.
    fn taken_before(&self, feed: &Feed, number: u32, next: u32) -> Result<u32> {
        let taken = self.feeds()?.into_iter().find(|taken| taken.number == number);
        match taken {
            Some(taken) if taken.code == feed.code => Ok(number),
            Some(_) => Err(Error::conflict(format!(
                "feed {number} of session {} was other code: look at the session's feeds",
                self.id
            ))),
            None => Err(Error::conflict(format!(
                "session {} was given feed {number}, but is at feed {next}",
                self.id
            ))),
        }
    }

    fn not_fed(&self, number: u32) -> Error {
        Error::conflict(format!("session {} was not fed yet: there is no feed {number}", self.id))
    }

    fn busy(&self, number: u32) -> Error {
        Error::conflict(format!(
            "feed {number} of session {} is running: wait for it first",
            self.id
        ))
    }

    fn ended(&self, record: &ExecutionRecord) -> Error {
        let why = record.failure.as_ref().map(|failure| format!(": {failure}"));
        let closed = if record.status == Status::Completed { "closed" } else { "over" };
        Error::conflict(format!(
            "session {} is {closed}, its execution is {}{}",
            self.id,
            record.status,
            why.unwrap_or_default()
        ))
    }
}

fn not_a_session(what: &str, language: Language) -> Error {
    Error::invalid(format!("{what} is no session: its language is {}", language.as_str()))
}

fn is_feed(call: &CallRecord) -> bool {
    Request::is_feed_name(&call.name) && Request::is_feed_name(&call.function)
}

fn number_of(kwargs: &Payload) -> Result<u32> {
    #[derive(Deserialize)]
    struct Kwargs {
        feed: u32,
    }
    serde_json::from_str::<Kwargs>(kwargs.as_str())
        .map(|kwargs| kwargs.feed)
        .map_err(|error| Error::corrupt(format!("a session asks for a feed that is: {error}")))
}

/// The code and the response that a closed request was answered with; `None` for one that is open
/// or closed the session.
fn fed(call: &CallRecord) -> Option<(String, Option<Payload>)> {
    #[derive(Default, Deserialize)]
    struct Fed {
        code: String,
        response: Option<Box<RawValue>>,
    }
    let result = call.result.as_ref().filter(|_| call.status == CallStatus::Completed)?;
    if result.as_str() == "null" {
        return None;
    }
    // Whoever completes the call by hand may give anything; it then came to an error.
    let fed: Fed = serde_json::from_str(result.as_str()).unwrap_or_default();
    let response = fed.response.filter(|response| response.get() != "null");
    Some((fed.code, response.map(|response| Payload::trusted(response.get()))))
}

/// What a request for the next feed tells of the one before it; `None` at the first.
fn came(number: u32, args: &Payload) -> Result<Option<Came>> {
    #[derive(Deserialize)]
    struct Told {
        output: Box<RawValue>,
        printed: String,
        error: Option<FeedError>,
        #[serde(default)]
        repr: Option<String>,
    }
    let (told,): (Option<Told>,) = serde_json::from_str(args.as_str())
        .map_err(|error| Error::corrupt(format!("what feed {number} came to is: {error}")))?;
    Ok(told.map(|Told { output, printed, error, repr }| Came {
        number,
        output: Payload::trusted(output.get()),
        repr,
        printed,
        error,
    }))
}
