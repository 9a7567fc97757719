//! Putting an execution into a database.

use std::{collections::BTreeMap, sync::Arc};

use durable_core::{
    CallId, Draft, Error, Execution, ExecutionId, Lease, Outcome, Owner, Recorded, Result,
    Transition, UnixMs, replay,
};
use durable_store::{MemoryStore, NewExecution, Store, Write, Written};

use super::{Portable, file::transitions};
use crate::{Clock as _, Engine, SystemClock, shell::whole_journal};

/// Who holds an execution while it is put in. Always the same name, so that another try takes
/// over at once, and [`discard`] may remove it; and none of a process, so that no engine takes it
/// for one that is gone, and goes on with a part of it.
const OWNER: &str = "durable-import";

/// How long nobody else may take up an execution that was put in only in part: a hundred years.
const LEASE_MS: i64 = 100 * 365 * 86_400_000;

/// Most transitions of one commit, and most open calls in them all together.
const MAX_BATCH: usize = 5_000;
const MAX_BATCH_CALLS: usize = 200_000;

/// What came of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// It was not there before.
    New,
    /// It was there, but not as far: it has got so many transitions more, or results that are
    /// not in its journal yet.
    Continued(u64),
    /// It was there already.
    Known,
}

impl Portable {
    /// Puts it into a database, under the id it has. It is then as it was where it came from: when
    /// it had not ended and was not paused, the workers of this database go on with it.
    ///
    /// What is there of it already is left alone, if it is the same or not as far. Nothing is
    /// written before everything was found to be in order.
    ///
    /// # Errors
    /// `Invalid` when the program is none that can be run, or the journal none that a store takes;
    /// `Conflict` when another execution of this id is there, or one with its idempotency key, or
    /// when it is there and somebody holds it.
    pub fn import(&self, engine: &Engine) -> Result<Imported> {
        engine.validate(self.program())?;
        let rehearsal = MemoryStore::new();
        put(&rehearsal, self, &[]).map_err(|error| {
            Error::invalid(format!("the journal is none that an execution can have: {error}"))
        })?;
        if whole_journal(&rehearsal, self.id())? != self.journal() {
            return Err(Error::invalid("the journal holds something that can't be stored"));
        }
        drop(rehearsal);
        let store = engine.store();
        let Some(there) = store.execution(self.id())? else {
            put(store, self, &[])?;
            return Ok(Imported::New);
        };
        let differs = |what: &str| {
            Err(Error::conflict(format!(
                "there is an execution {} already, with {what}: it is left as it is",
                self.id()
            )))
        };
        if there.program != *self.program().id() {
            return differs("another program");
        }
        if there.inputs != *self.inputs() || there.workflow_id != self.workflow_id() {
            return differs("other inputs or another name");
        }
        let known = whole_journal(store, self.id())?;
        if !self.journal().starts_with(&known) {
            return differs("another journal");
        }
        let missing = transitions(&self.journal()[known.len()..]).count() as u64;
        let is_partial = there.locked_by.as_deref() == Some(OWNER);
        let arrived = store.load(self.id())?.map(|loaded| loaded.inbox).unwrap_or_default();
        let is_new = |call| !arrived.iter().any(|(known, _)| *known == call);
        let has_more = missing > 0 || self.inbox().any(|(call, ..)| is_new(call));
        if !has_more && !is_partial {
            return Ok(Imported::Known);
        }
        put(store, self, &known)?;
        Ok(Imported::Continued(missing))
    }
}

/// Removes an execution that an import has put in only in part. Whether there was one.
///
/// # Errors
/// `NotFound`; those of the store.
pub fn discard(engine: &Engine, id: ExecutionId) -> Result<bool> {
    if engine.execution(id)?.locked_by.as_deref() != Some(OWNER) {
        return Ok(false);
    }
    let now_ms = engine.store().clock_ms().unwrap_or_else(|| SystemClock::default().now_ms());
    let write = Write::Delete { execution: id, owner: Owner::new(OWNER), now_ms };
    for answer in engine.store().commit(&[write])? {
        answer?;
    }
    Ok(true)
}

/// Writes what is missing after `known`.
fn put(store: &dyn Store, portable: &Portable, known: &[Recorded]) -> Result<()> {
    let now_ms = store.clock_ms().unwrap_or_else(|| SystemClock::default().now_ms());
    let state = replay::fold(portable.id(), known)?;
    let inbox = store.load(portable.id())?.map(|loaded| loaded.inbox).unwrap_or_default();
    let inbox = inbox.into_iter().collect();
    let mut putting =
        Putting { inbox, store, state, now_ms, epoch: None, writes: Vec::new(), open_calls: 0 };
    if known.is_empty() && store.execution(portable.id())?.is_none() {
        putting.create(portable);
    }
    for transition in transitions(&portable.journal()[known.len()..]) {
        putting.transition(transition)?;
    }
    putting.finish(portable)
}

/// An execution that is being put in.
struct Putting<'a> {
    store: &'a dyn Store,
    state: Execution,
    /// What stands in its inbox there already.
    inbox: BTreeMap<CallId, Outcome>,
    now_ms: UnixMs,
    /// The lease; `None` while there is none.
    epoch: Option<u64>,
    writes: Vec<Write>,
    /// In the transitions among the writes.
    open_calls: usize,
}

impl Putting<'_> {
    fn create(&mut self, portable: &Portable) {
        self.writes.push(Write::PutProgram(Arc::new(portable.program().clone())));
        self.writes.push(Write::Create(NewExecution {
            id: portable.id(),
            program: portable.program().id().clone(),
            workflow_id: portable.workflow_id().to_owned(),
            inputs: portable.inputs().clone(),
            labels: portable.labels(),
            idempotency_key: portable.idempotency_key().map(str::to_owned),
            created_at_ms: portable.created_at_ms(),
            lease: Some((Owner::new(OWNER), self.now_ms.saturating_add(LEASE_MS))),
        }));
        self.epoch = Some(1);
    }

    fn transition(&mut self, recorded: &[Recorded]) -> Result<()> {
        let mut draft = Draft::new(self.state.clone(), recorded[0].at_ms);
        for recorded in recorded {
            draft.push(recorded.event.clone())?;
            let Some((call, outcome)) = recorded.event.outcome() else { continue };
            if let Some(there) = self.inbox.remove(&call) {
                if there != outcome {
                    return Err(Error::conflict(format!(
                        "call {call} of execution {} has come to something else there",
                        self.state.id
                    )));
                }
                draft.inbox_taken.push(call);
            }
        }
        let is_retry = draft
            .events
            .first()
            .is_some_and(|event| matches!(event, durable_core::Event::ExecutionRetried(_)));
        // What has ended nobody holds, and a retry needs no lease.
        let lease = if is_retry { self.lease(0) } else { self.claimed()? };
        let (transition, _) = draft.finish(lease, false);
        self.state = Execution::clone(&transition.after);
        if self.state.status.is_terminal() {
            self.epoch = None;
        }
        self.push(transition)?;
        // At once, and in the same commit: no worker may come between.
        if is_retry { self.claim() } else { Ok(()) }
    }

    fn push(&mut self, transition: Transition) -> Result<()> {
        self.open_calls += transition.after.open_calls.len();
        self.writes.push(Write::Transition(Box::new(transition)));
        let is_full = self.writes.len() >= MAX_BATCH || self.open_calls >= MAX_BATCH_CALLS;
        // The lease that a retry needs is taken in the commit of the retry.
        if is_full && self.epoch.is_some() { self.flush() } else { Ok(()) }
    }

    fn lease(&self, epoch: u64) -> Lease {
        Lease { owner: Owner::new(OWNER), epoch }
    }

    fn claimed(&mut self) -> Result<Lease> {
        if self.epoch.is_none() {
            self.claim()?;
        }
        Ok(self.lease(self.epoch.unwrap_or(0)))
    }

    /// Takes the lease, and commits what is there so far, to learn its epoch.
    fn claim(&mut self) -> Result<()> {
        self.writes.push(Write::ClaimOne {
            execution: self.state.id,
            owner: Owner::new(OWNER),
            now_ms: self.now_ms,
            expires_at_ms: self.now_ms.saturating_add(LEASE_MS),
            dead: Vec::new(),
        });
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        self.open_calls = 0;
        for answer in self.store.commit(&std::mem::take(&mut self.writes))? {
            match answer? {
                Written::Created { id, existing: true } => {
                    return Err(Error::conflict(format!(
                        "execution {id} has the idempotency key of execution {} already",
                        self.state.id
                    )));
                }
                Written::Claimed(claimed) => {
                    let lease = claimed.into_iter().find_map(|loaded| loaded.lease);
                    self.epoch = lease.map(|lease| lease.epoch);
                }
                Written::Created { .. } | Written::Done | Written::Dictionary(_) => {}
            }
        }
        Ok(())
    }

    /// Adds what is in the inbox, and gives the lease back.
    fn finish(mut self, portable: &Portable) -> Result<()> {
        let execution = self.state.id;
        if !self.state.status.is_terminal() {
            let lease = self.claimed()?;
            for (call, job_id) in portable.jobs() {
                if self.inbox.contains_key(&call) {
                    continue;
                }
                let (lease, job_id) = (lease.clone(), job_id.to_owned());
                self.writes.push(Write::NoteJob { execution, lease, call, job_id });
            }
            for (call, outcome, now_ms) in portable.inbox() {
                if self.inbox.contains_key(&call) {
                    continue;
                }
                self.writes.push(Write::Report { execution, call, outcome, now_ms });
            }
            if let Some((control, reason)) = portable.control()? {
                self.writes.push(Write::Request { execution, control, reason });
            }
            let wake_at_ms = self.state.wake_at_ms();
            self.writes.push(Write::Release { execution, lease, wake_at_ms });
        }
        self.flush()
    }
}
