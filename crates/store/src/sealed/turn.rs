//! Sealing and opening what belongs to one execution: the same walk in both directions.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use durable_core::{
    Call, Error, Event, Execution, ExecutionId, Failure, Outcome, Payload, Recorded, Request,
    Result, Retried, Snapshot,
};
use serde::{Deserialize, Serialize};

use super::{KeyRing, keys::parts};
use crate::{CallRecord, ExecutionRecord, Loaded};

/// The version of the sealed form.
const VERSION: &str = "1";

/// A sealed payload as it is stored: still JSON, for columns that want it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed<'a> {
    #[serde(rename = "$sealed")]
    version: &'a str,
    key: &'a str,
    data: std::borrow::Cow<'a, str>,
}

/// Which way.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way<'a> {
    Seal,
    Open,
    /// Seals under the first key what is not, and counts it.
    Renew(&'a Tally),
}

/// How many payloads were renewed, by the name of the key they were sealed with; of those in the
/// clear the name is empty.
#[derive(Debug, Default)]
pub(super) struct Tally(pub(super) RefCell<BTreeMap<String, u64>>);

impl Tally {
    fn add(&self, key: &str) {
        *self.0.borrow_mut().entry(key.to_owned()).or_default() += 1;
    }
}

/// Seals or opens what belongs to one execution. What is sealed is bound to its place: the
/// execution and, within it, the call or the event.
pub(super) struct Turn<'a> {
    pub(super) keys: &'a KeyRing,
    pub(super) way: Way<'a>,
    pub(super) id: ExecutionId,
}

impl Turn<'_> {
    /// The text sealed or opened; `None` when it stays as it is.
    pub(super) fn text(&self, text: &str, place: &str) -> Result<Option<String>> {
        let place = || format!("execution {}, {place}", self.id);
        match self.way {
            Way::Seal => seal_text(self.keys, text, &place()).map(Some),
            // What was written before there were keys is not sealed.
            Way::Open => match as_sealed(text) {
                None => Ok(None),
                Some(sealed) => open_text(self.keys, &sealed, &place()).map(Some),
            },
            Way::Renew(tally) => {
                let place = place();
                let (key, opened) = match as_sealed(text) {
                    None => (String::new(), text.to_owned()),
                    // Also what needs no other key is opened: it is known then that it can be.
                    Some(sealed) => (sealed.key.to_owned(), open_text(self.keys, &sealed, &place)?),
                };
                if self.keys.is_first(&key) {
                    return Ok(None);
                }
                tally.add(&key);
                seal_text(self.keys, &opened, &place).map(Some)
            }
        }
    }

    pub(super) fn string(&self, string: &mut String, place: &str) -> Result<()> {
        if let Some(text) = self.text(string, place)? {
            *string = text;
        }
        Ok(())
    }

    pub(super) fn payload(&self, payload: &mut Payload, place: &str) -> Result<()> {
        if let Some(text) = self.text(payload.as_str(), place)? {
            *payload = Payload::trusted(text);
        }
        Ok(())
    }

    /// Type and cause stay readable.
    pub(super) fn failure(&self, failure: &mut Failure, place: &str) -> Result<()> {
        if !failure.message.is_empty() {
            self.string(&mut failure.message, &message_of(place))?;
        }
        match &mut failure.traceback {
            Some(traceback) => self.string(traceback, &traceback_of(place)),
            None => Ok(()),
        }
    }

    pub(super) fn outcome(&self, call: u32, outcome: &mut Outcome) -> Result<()> {
        match outcome {
            Outcome::Completed(result) => self.payload(result, &result_of(call)),
            Outcome::Failed(failure) => self.failure(failure, &error_of(call)),
        }
    }

    fn call(&self, call: &mut Call) -> Result<()> {
        let id = call.id();
        match &mut call.new.request {
            Request::Function { args, kwargs, .. } => {
                self.payload(args, &args_of(id))?;
                self.payload(kwargs, &kwargs_of(id))
            }
            Request::Timer { .. } => Ok(()),
        }
    }

    pub(super) fn event(&self, event: &mut Event, sequence: u64) -> Result<()> {
        match event {
            Event::CallRequested(call) => self.call(call),
            Event::CallRetrying { call, failure, .. } | Event::CallFailed { call, failure, .. } => {
                self.failure(failure, &error_of(*call))
            }
            Event::CallCompleted { call, result, .. } => self.payload(result, &result_of(*call)),
            Event::Printed { text } => self.string(text, &printed_of(sequence)),
            Event::VariablesSet { variables } => {
                variables.iter_mut().enumerate().try_for_each(|(place, variable)| {
                    self.payload(&mut variable.value, &variable_of(sequence, place))
                })
            }
            Event::ExecutionCompleted { output } => self.payload(output, OUTPUT),
            Event::ExecutionFailed { failure } => self.failure(failure, ERROR),
            Event::ExecutionRetried(retried) => self.retried(retried),
            Event::AgentResponded { metadata: Some(metadata), .. } => {
                self.payload(metadata, &metadata_of(sequence))
            }
            Event::ExecutionStarted { .. }
            | Event::AgentInvoked { .. }
            | Event::AgentResponded { .. }
            | Event::TimerStarted(_)
            | Event::TimerFired { .. }
            | Event::ExecutionPaused { .. }
            | Event::ExecutionResumed
            | Event::ExecutionCancelled { .. } => Ok(()),
        }
    }

    fn retried(&self, retried: &mut Retried) -> Result<()> {
        let Retried { open, again, dropped, failure } = retried;
        for call in open.iter_mut().chain(dropped) {
            self.call(call)?;
        }
        for (call, failure) in again {
            self.failure(failure, &error_of(*call))?;
        }
        self.failure(failure, ERROR)
    }

    pub(super) fn journal(&self, journal: &mut [Recorded]) -> Result<()> {
        journal
            .iter_mut()
            .try_for_each(|recorded| self.event(&mut recorded.event, recorded.sequence))
    }

    fn state(&self, state: &mut Execution) -> Result<()> {
        state.open_calls.values_mut().try_for_each(|call| self.call(call))
    }

    pub(super) fn loaded(&self, loaded: &mut Loaded) -> Result<()> {
        self.state(&mut loaded.execution)?;
        self.payload(&mut loaded.inputs, INPUTS)?;
        self.journal(&mut loaded.tail)?;
        for (call, outcome) in &mut loaded.inbox {
            self.outcome(*call, outcome)?;
        }
        if let Some((snapshot, _)) = &mut loaded.snapshot {
            self.snapshot(snapshot)?;
        }
        Ok(())
    }

    pub(super) fn record(&self, record: &mut ExecutionRecord) -> Result<()> {
        self.payload(&mut record.inputs, INPUTS)?;
        if let Some(output) = &mut record.output {
            self.payload(output, OUTPUT)?;
        }
        record.failure.as_mut().map_or(Ok(()), |failure| self.failure(failure, ERROR))
    }

    pub(super) fn call_record(&self, record: &mut CallRecord) -> Result<()> {
        let id = record.id;
        if !record.is_timer {
            self.payload(&mut record.args, &args_of(id))?;
            self.payload(&mut record.kwargs, &kwargs_of(id))?;
        }
        if let Some(result) = &mut record.result {
            self.payload(result, &result_of(id))?;
        }
        record.failure.as_mut().map_or(Ok(()), |failure| self.failure(failure, &error_of(id)))
    }

    pub(super) fn snapshot(&self, snapshot: &mut Snapshot) -> Result<()> {
        let place = snapshot_of(&self.id.to_string());
        *snapshot = Snapshot(bytes(self.keys, self.way, &place, &snapshot.0)?);
        Ok(())
    }
}

pub(super) const INPUTS: &str = "inputs";
pub(super) const OUTPUT: &str = "output";
pub(super) const ERROR: &str = "error";

pub(super) fn snapshot_of(execution: &str) -> String {
    format!("execution {execution}, snapshot")
}

pub(super) fn args_of(call: u32) -> String {
    format!("call {call}, args")
}

pub(super) fn kwargs_of(call: u32) -> String {
    format!("call {call}, kwargs")
}

pub(super) fn printed_of(sequence: u64) -> String {
    format!("event {sequence}, printed")
}

pub(super) fn variable_of(sequence: u64, place: usize) -> String {
    format!("event {sequence}, variable {place}")
}

pub(super) fn metadata_of(sequence: u64) -> String {
    format!("event {sequence}, agent_metadata")
}

pub(super) fn result_of(call: u32) -> String {
    format!("call {call}, result")
}

pub(super) fn error_of(call: u32) -> String {
    format!("call {call}, error")
}

/// The place of a failure's message, and of its traceback.
pub(super) fn message_of(failure: &str) -> String {
    format!("{failure}, message")
}

pub(super) fn traceback_of(failure: &str) -> String {
    format!("{failure}, traceback")
}

fn seal_text(keys: &KeyRing, text: &str, place: &str) -> Result<String> {
    let (key, sealed) = keys.seal(place, text.as_bytes())?;
    let data = BASE64_STANDARD.encode(sealed).into();
    serde_json::to_string(&Sealed { version: VERSION, key, data })
        .map_err(|error| Error::internal(format!("{place} can't be sealed: {error}")))
}

fn open_text(keys: &KeyRing, sealed: &Sealed<'_>, place: &str) -> Result<String> {
    let Sealed { version, key, data } = sealed;
    if *version != VERSION {
        return Err(Error::corrupt(format!(
            "{place} is sealed in the form {version}, this version knows {VERSION}: upgrade durable"
        )));
    }
    let torn = || Error::corrupt(format!("{place} is sealed, and torn"));
    let sealed = BASE64_STANDARD.decode(&**data).map_err(|_| torn())?;
    let opened = keys.open(key, place, &sealed)?;
    String::from_utf8(opened).map_err(|_| torn())
}

fn as_sealed(text: &str) -> Option<Sealed<'_>> {
    (text.starts_with('{') && text.contains("\"$sealed\""))
        .then(|| serde_json::from_str(text).ok())?
}

/// Seals or opens bytes: snapshots and dictionaries. `None` when they stay as they are.
pub(super) fn turned_bytes(
    keys: &KeyRing,
    way: Way<'_>,
    place: &str,
    bytes: &[u8],
) -> Result<Option<Vec<u8>>> {
    let open = |bytes: &[u8]| -> Result<Option<(String, Vec<u8>)>> {
        let Some((key, sealed)) = parts(place, bytes)? else { return Ok(None) };
        Ok(Some((key.to_owned(), keys.open(key, place, sealed)?)))
    };
    match way {
        Way::Seal => keys.seal_bytes(place, bytes).map(Some),
        Way::Open => Ok(open(bytes)?.map(|(_, opened)| opened)),
        Way::Renew(tally) => {
            let (key, opened) = open(bytes)?.unwrap_or_else(|| (String::new(), bytes.to_owned()));
            if keys.is_first(&key) {
                return Ok(None);
            }
            tally.add(&key);
            keys.seal_bytes(place, &opened).map(Some)
        }
    }
}

/// Seals or opens bytes.
pub(super) fn bytes(keys: &KeyRing, way: Way<'_>, place: &str, bytes: &[u8]) -> Result<Arc<[u8]>> {
    Ok(turned_bytes(keys, way, place, bytes)?.map_or_else(|| bytes.into(), Into::into))
}
