//! Payloads that only the holders of a key can read.
//!
//! [`SealedStore`] stands before a store: what goes in is sealed with XChaCha20-Poly1305, what
//! comes out is opened. Sealed are inputs, arguments, results, outputs, messages and tracebacks of
//! failures, what programs print, snapshots and dictionaries. Everything that stores search and
//! decide by stays as it is: ids, names, queues, tags, statuses, times, types of errors, reasons of
//! operators; and so do the sources of programs.

mod keys;
mod rekey;
mod turn;

use std::sync::Arc;

use durable_core::{
    CallId, Draft, Error, Event, ExecutionId, Owner, ProgramId, Recorded, Result, Status, UnixMs,
};

pub use keys::KeyRing;
pub use rekey::{Rekeyed, Rekeying};
use turn::{INPUTS, Turn, Way, bytes};

use crate::{
    CallRecord, ExecutionRecord, ListFilter, Loaded, PayloadChange, PayloadRow, PayloadTable,
    Store, StoredProgram, TokenRecord, Wake, WorkerRecord, Write, Written,
};

/// A store whose payloads are sealed. What was stored before without a key can still be read.
/// With an empty ring nothing is sealed, and what is sealed is refused.
///
/// ```
/// use std::sync::Arc;
/// use durable_store::{KeyRing, ListFilter, MemoryStore, SealedStore, Store};
/// let keys = KeyRing::parse("k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")?;
/// let store = SealedStore::new(Arc::new(MemoryStore::new()), keys);
/// assert!(store.list(&ListFilter::default())?.is_empty());
/// # Ok::<(), durable_core::Error>(())
/// ```
pub struct SealedStore {
    inner: Arc<dyn Store>,
    keys: KeyRing,
}

impl SealedStore {
    /// Stands before a store.
    pub fn new(inner: Arc<dyn Store>, keys: KeyRing) -> Self {
        Self { inner, keys }
    }

    fn turn<'a>(&'a self, way: Way<'a>, id: ExecutionId) -> Turn<'a> {
        Turn { keys: &self.keys, way, id }
    }

    fn open(&self, id: ExecutionId) -> Turn<'_> {
        self.turn(Way::Open, id)
    }

    fn seal(&self, write: &Write) -> Result<Write> {
        let mut write = write.clone();
        match &mut write {
            Write::Create(new) => {
                self.turn(Way::Seal, new.id).payload(&mut new.inputs, INPUTS)?;
            }
            // The state after goes by: stores write events, and build their state from them.
            Write::Transition(transition) => {
                let turn = self.turn(Way::Seal, transition.after.id);
                for (sequence, event) in (transition.first_sequence..).zip(&mut transition.events) {
                    turn.event(event, sequence)?;
                }
                if let Some(snapshot) = &mut transition.snapshot {
                    turn.snapshot(snapshot)?;
                }
            }
            Write::Report { execution, call, outcome, .. } => {
                self.turn(Way::Seal, *execution).outcome(*call, outcome)?;
            }
            Write::PutDictionary { program, dictionary } => {
                *dictionary = bytes(&self.keys, Way::Seal, &dictionary_of(program), dictionary)?;
            }
            Write::PutProgram(_)
            | Write::Claim { .. }
            | Write::ClaimOne { .. }
            | Write::Renew { .. }
            | Write::Release { .. }
            | Write::Request { .. }
            | Write::NoteJob { .. }
            | Write::Announce(_)
            | Write::Withdraw(_)
            | Write::PutToken(_)
            | Write::RevokeToken { .. }
            | Write::Delete { .. } => {}
        }
        Ok(write)
    }

    fn answer(&self, write: &Write, written: Written) -> Result<Written> {
        Ok(match (write, written) {
            (Write::Claim { now_ms, .. }, Written::Claimed(claimed)) => {
                let opened = claimed.into_iter().filter_map(|loaded| {
                    let id = loaded.execution.id;
                    match self.open_or_park(loaded, *now_ms) {
                        Ok(loaded) => Some(loaded),
                        Err(error) => {
                            tracing::error!(execution = %id, %error, "it can't be opened");
                            None
                        }
                    }
                });
                Written::Claimed(opened.collect())
            }
            (Write::ClaimOne { now_ms, .. }, Written::Claimed(claimed)) => {
                let opened = claimed.into_iter().map(|loaded| self.open_or_park(loaded, *now_ms));
                Written::Claimed(opened.collect::<Result<_>>()?)
            }
            (Write::PutDictionary { program, .. }, Written::Dictionary(kept)) => {
                let place = dictionary_of(program);
                Written::Dictionary(bytes(&self.keys, Way::Open, &place, &kept)?)
            }
            (_, written) => written,
        })
    }

    /// Opens an execution that was just leased. One that can't be opened is parked: it waits for
    /// the key, and stops nobody else.
    fn open_or_park(&self, mut loaded: Loaded, now_ms: UnixMs) -> Result<Loaded> {
        let as_stored = loaded.execution.clone();
        let id = as_stored.id;
        let Err(error) = self.open(id).loaded(&mut loaded) else { return Ok(loaded) };
        let Some(lease) = loaded.lease else { return Err(error) };
        let mut draft = Draft::new(as_stored, now_ms);
        let reason = format!("what is stored of it can't be opened: {error}");
        let is_paused = draft.after.status == Status::Paused;
        let write = if !is_paused && draft.push(Event::ExecutionPaused { reason }).is_ok() {
            Write::Transition(Box::new(draft.finish(lease, true).0))
        } else {
            Write::Release { execution: id, lease, wake_at_ms: None }
        };
        for answer in self.inner.commit(&[write])? {
            answer?;
        }
        Err(error)
    }
}

fn dictionary_of(program: impl std::fmt::Display) -> String {
    format!("program {program}, dictionary")
}

impl Store for SealedStore {
    fn commit(&self, batch: &[Write]) -> Result<Vec<Result<Written>>> {
        let answers = if self.keys.is_empty() {
            self.inner.commit(batch)?
        } else {
            let sealed = batch.iter().map(|write| self.seal(write)).collect::<Result<Vec<_>>>()?;
            self.inner.commit(&sealed)?
        };
        let answer = |(write, answer): (&Write, Result<Written>)| {
            answer.and_then(|written| self.answer(write, written))
        };
        Ok(batch.iter().zip(answers).map(answer).collect())
    }

    fn execution(&self, id: ExecutionId) -> Result<Option<ExecutionRecord>> {
        let mut record = self.inner.execution(id)?;
        if let Some(record) = &mut record {
            self.open(id).record(record)?;
        }
        Ok(record)
    }

    fn calls(&self, id: ExecutionId) -> Result<Vec<CallRecord>> {
        let mut calls = self.inner.calls(id)?;
        calls.iter_mut().try_for_each(|call| self.open(id).call_record(call))?;
        Ok(calls)
    }

    /// What can't be opened is shown as it is stored: one execution hides no other.
    fn list(&self, filter: &ListFilter) -> Result<Vec<ExecutionRecord>> {
        let mut records = self.inner.list(filter)?;
        for record in &mut records {
            let mut opened = record.clone();
            match self.open(record.id).record(&mut opened) {
                Ok(()) => *record = opened,
                Err(error) => tracing::warn!(%error, "listed as it is stored"),
            }
        }
        Ok(records)
    }

    fn journal(&self, id: ExecutionId, after_sequence: u64, limit: usize) -> Result<Vec<Recorded>> {
        let mut journal = self.inner.journal(id, after_sequence, limit)?;
        self.open(id).journal(&mut journal)?;
        Ok(journal)
    }

    fn program(&self, id: &ProgramId) -> Result<Option<StoredProgram>> {
        let Some(mut stored) = self.inner.program(id)? else { return Ok(None) };
        stored.dictionary = stored.dictionary.and_then(|dictionary| {
            // Without it states are rebuilt from their journals, as after any other damage to it.
            let opened = bytes(&self.keys, Way::Open, &dictionary_of(id), &dictionary);
            opened.inspect_err(|error: &Error| tracing::warn!(%error, "no dictionary")).ok()
        });
        Ok(Some(stored))
    }

    fn load(&self, id: ExecutionId) -> Result<Option<Loaded>> {
        let mut loaded = self.inner.load(id)?;
        if let Some(loaded) = &mut loaded {
            self.open(id).loaded(loaded)?;
        }
        Ok(loaded)
    }

    fn inboxes(&self, owner: &Owner) -> Result<Vec<ExecutionId>> {
        self.inner.inboxes(owner)
    }

    fn next_due_ms(&self, owner: &Owner, queues: &[String]) -> Result<Option<UnixMs>> {
        self.inner.next_due_ms(owner, queues)
    }

    fn other_owners(&self, owner: &Owner) -> Result<Vec<Owner>> {
        self.inner.other_owners(owner)
    }

    fn change_token(&self) -> Result<u64> {
        self.inner.change_token()
    }

    fn subscribe(&self, wake: Wake) {
        self.inner.subscribe(wake);
    }

    fn clock_ms(&self) -> Option<UnixMs> {
        self.inner.clock_ms()
    }

    fn call_of_job(&self, job_id: &str) -> Result<Option<(ExecutionId, CallId)>> {
        self.inner.call_of_job(job_id)
    }

    fn workers(&self) -> Result<Vec<WorkerRecord>> {
        self.inner.workers()
    }

    fn tokens(&self) -> Result<Vec<TokenRecord>> {
        self.inner.tokens()
    }

    fn payloads(
        &self,
        table: PayloadTable,
        after: &(String, u64),
        limit: usize,
    ) -> Result<Vec<PayloadRow>> {
        self.inner.payloads(table, after, limit)
    }

    fn replace_payloads(&self, table: PayloadTable, changes: &[PayloadChange]) -> Result<()> {
        self.inner.replace_payloads(table, changes)
    }

    fn check(&self) -> Result<Vec<String>> {
        self.inner.check()
    }
}
