//! The store in memory: for tests, simulations and trying things out. It forgets everything when
//! it is dropped, and it is the model that the other stores are compared with.

mod entry;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use durable_core::{
    CallId, Dictionary, ExecutionId, Owner, Program, ProgramId, Recorded, Result, UnixMs, replay,
};
use parking_lot::Mutex;

use crate::{
    CallRecord, ExecutionRecord, ListFilter, Loaded, NewExecution, Store, StoredProgram,
    TokenRecord, WorkerRecord, Write, Written, check, refusal,
};
use entry::Entry;

/// Executions in memory.
///
/// ```
/// use durable_store::{ListFilter, MemoryStore, Store};
/// assert!(MemoryStore::new().list(&ListFilter::default())?.is_empty());
/// # Ok::<(), durable_core::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct MemoryStore {
    data: Mutex<Data>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

#[derive(Debug, Default)]
struct Data {
    programs: BTreeMap<ProgramId, StoredProgram>,
    executions: BTreeMap<ExecutionId, Entry>,
    /// By namespace and key.
    by_key: BTreeMap<(String, String), ExecutionId>,
    workers: BTreeMap<Owner, WorkerRecord>,
    tokens: BTreeMap<String, TokenRecord>,
    commits: u64,
}

/// Who wants leases, and what counts as free.
struct Terms<'a> {
    owner: &'a Owner,
    now_ms: UnixMs,
    expires_at_ms: UnixMs,
    dead: &'a [Owner],
    /// Empty for all.
    queues: &'a [String],
}

impl Data {
    fn apply(&mut self, write: &Write) -> Result<Written> {
        match write {
            Write::PutProgram(program) => self.put_program(program),
            Write::PutDictionary { program, dictionary } => {
                return self.put_dictionary(program, dictionary);
            }
            Write::Create(new) => return self.create(new),
            Write::Transition(transition) => {
                let id = transition.after.id;
                let entry = self.executions.get_mut(&id).ok_or_else(|| refusal::deleted(id))?;
                entry.commit(transition)?;
            }
            Write::Claim { owner, now_ms, expires_at_ms, dead, queues, limit } => {
                let (now_ms, expires_at_ms) = (*now_ms, *expires_at_ms);
                let terms = Terms { owner, now_ms, expires_at_ms, dead, queues };
                return Ok(self.claim(&terms, *limit));
            }
            Write::ClaimOne { execution, owner, now_ms, expires_at_ms, dead } => {
                let (now_ms, expires_at_ms) = (*now_ms, *expires_at_ms);
                let terms = Terms { owner, now_ms, expires_at_ms, dead, queues: &[] };
                let entry = self.entry(*execution)?;
                entry.refuse_if_ended()?;
                entry.refuse_if_held(&terms)?;
                return Ok(Written::Claimed(vec![entry.take(&terms)]));
            }
            Write::Renew { owner, expires_at_ms } => {
                for entry in self.executions.values_mut() {
                    entry.renew(owner, *expires_at_ms);
                }
            }
            Write::Release { execution, lease, wake_at_ms } => {
                if let Some(entry) = self.executions.get_mut(execution) {
                    entry.release(lease, *wake_at_ms);
                }
            }
            Write::Report { execution, call, outcome, now_ms } => {
                self.entry(*execution)?.report(*call, outcome, *now_ms)?;
            }
            Write::Request { execution, control, reason } => {
                self.entry(*execution)?.request(*control, reason)?;
            }
            Write::Announce(worker) => {
                self.workers.insert(worker.owner.clone(), (**worker).clone());
            }
            Write::Withdraw(owner) => {
                self.workers.remove(owner);
            }
            Write::PutToken(token) => {
                if self.tokens.contains_key(&token.id) {
                    return Err(refusal::token_taken(&token.id));
                }
                self.tokens.insert(token.id.clone(), (**token).clone());
            }
            Write::RevokeToken { id, now_ms } => {
                let token = self.tokens.get_mut(id).ok_or_else(|| refusal::no_token(id))?;
                token.revoked_at_ms.get_or_insert(*now_ms);
            }
            Write::NoteJob { execution, lease, call, job_id } => {
                let entry = self.executions.get_mut(execution);
                entry
                    .ok_or_else(|| refusal::lease_lost(*execution))?
                    .note_job(lease, *call, job_id)?;
            }
            Write::Delete { execution, owner, now_ms } => {
                self.delete(*execution, owner, *now_ms)?;
            }
        }
        Ok(Written::Done)
    }

    fn entry(&mut self, id: ExecutionId) -> Result<&mut Entry> {
        self.executions.get_mut(&id).ok_or_else(|| refusal::no_execution(id))
    }

    fn put_program(&mut self, program: &Arc<Program>) {
        self.programs
            .entry(program.id().clone())
            .or_insert_with(|| StoredProgram { program: program.clone(), dictionary: None });
    }

    fn put_dictionary(&mut self, program: &ProgramId, dictionary: &Dictionary) -> Result<Written> {
        let stored = self.programs.get_mut(program).ok_or_else(|| refusal::no_program(program))?;
        let kept = stored.dictionary.get_or_insert_with(|| dictionary.clone());
        Ok(Written::Dictionary(kept.clone()))
    }

    fn create(&mut self, new: &NewExecution) -> Result<Written> {
        let key = new.idempotency_key.clone().map(|key| (new.labels.namespace.clone(), key));
        if let Some(id) = key.as_ref().and_then(|key| self.by_key.get(key)) {
            return Ok(Written::Created { id: *id, existing: true });
        }
        if !self.programs.contains_key(&new.program) {
            return Err(refusal::no_program(&new.program));
        }
        if self.executions.contains_key(&new.id) {
            return Err(refusal::id_taken(new.id));
        }
        if let Some(key) = key {
            self.by_key.insert(key, new.id);
        }
        self.executions.insert(new.id, Entry::new(new));
        Ok(Written::Created { id: new.id, existing: false })
    }

    fn claim(&mut self, terms: &Terms<'_>, limit: usize) -> Written {
        let mut candidates: Vec<_> = self
            .executions
            .iter()
            .filter_map(|(id, entry)| Some((entry.due_since_ms(terms)?, *id)))
            .collect();
        candidates.sort_unstable();
        let claimed = candidates
            .into_iter()
            .take(limit)
            .filter_map(|(_, id)| Some(self.executions.get_mut(&id)?.take(terms)));
        Written::Claimed(claimed.collect())
    }

    fn delete(&mut self, id: ExecutionId, owner: &Owner, now_ms: UnixMs) -> Result<()> {
        let terms = Terms { owner, now_ms, expires_at_ms: now_ms, dead: &[], queues: &[] };
        let entry = self.entry(id)?;
        entry.refuse_if_held(&terms)?;
        self.by_key.retain(|_, kept| *kept != id);
        self.executions.remove(&id);
        Ok(())
    }
}

impl Store for MemoryStore {
    fn commit(&self, batch: &[Write]) -> Result<Vec<Result<Written>>> {
        let mut data = self.data.lock();
        data.commits += u64::from(!batch.is_empty());
        Ok(batch.iter().map(|write| data.apply(write)).collect())
    }

    fn execution(&self, id: ExecutionId) -> Result<Option<ExecutionRecord>> {
        Ok(self.data.lock().executions.get(&id).map(Entry::record))
    }

    fn calls(&self, id: ExecutionId) -> Result<Vec<CallRecord>> {
        Ok(self.data.lock().executions.get(&id).map(Entry::calls).unwrap_or_default())
    }

    fn list(&self, filter: &ListFilter) -> Result<Vec<ExecutionRecord>> {
        let limit = if filter.limit == 0 { 100 } else { filter.limit };
        let data = self.data.lock();
        let records = data.executions.values().rev().map(Entry::record);
        Ok(records.filter(|record| matches(filter, record)).take(limit).collect())
    }

    fn journal(&self, id: ExecutionId, after_sequence: u64, limit: usize) -> Result<Vec<Recorded>> {
        let data = self.data.lock();
        let Some(entry) = data.executions.get(&id) else { return Ok(Vec::new()) };
        Ok(entry.journal_after(after_sequence).iter().take(limit).cloned().collect())
    }

    fn program(&self, id: &ProgramId) -> Result<Option<StoredProgram>> {
        Ok(self.data.lock().programs.get(id).cloned())
    }

    fn load(&self, id: ExecutionId) -> Result<Option<Loaded>> {
        Ok(self.data.lock().executions.get(&id).map(Entry::load))
    }

    fn inboxes(&self, owner: &Owner) -> Result<Vec<ExecutionId>> {
        let data = self.data.lock();
        let waiting = data.executions.iter().filter(|(_, entry)| {
            entry.owner() == Some(owner) && (entry.has_inbox() || entry.has_control())
        });
        Ok(waiting.map(|(id, _)| *id).collect())
    }

    fn next_due_ms(&self, owner: &Owner, queues: &[String]) -> Result<Option<UnixMs>> {
        let data = self.data.lock();
        let entries = data.executions.values().filter(|entry| entry.is_of(queues));
        Ok(entries.filter_map(|entry| entry.next_due_ms(owner)).min())
    }

    fn other_owners(&self, owner: &Owner) -> Result<Vec<Owner>> {
        let data = self.data.lock();
        let owners: BTreeSet<_> = data.executions.values().filter_map(Entry::owner).collect();
        Ok(owners.into_iter().filter(|other| *other != owner).cloned().collect())
    }

    /// Counts every commit: in memory nobody can say whose it was.
    fn change_token(&self) -> Result<u64> {
        Ok(self.data.lock().commits)
    }

    fn call_of_job(&self, job_id: &str) -> Result<Option<(ExecutionId, CallId)>> {
        let data = self.data.lock();
        let mut found = data.executions.iter().filter_map(|(id, entry)| {
            let calls = entry.calls();
            let call = calls.iter().find(|call| call.job_id.as_deref() == Some(job_id))?;
            Some((*id, call.id))
        });
        Ok(found.next())
    }

    fn workers(&self) -> Result<Vec<WorkerRecord>> {
        let data = self.data.lock();
        let mut workers: Vec<_> = data.workers.values().cloned().collect();
        for worker in &mut workers {
            let holds = |entry: &&Entry| entry.owner() == Some(&worker.owner);
            worker.held = data.executions.values().filter(holds).count() as u32;
        }
        Ok(workers)
    }

    fn tokens(&self) -> Result<Vec<TokenRecord>> {
        let mut tokens: Vec<_> = self.data.lock().tokens.values().cloned().collect();
        tokens.sort_by(|one, other| {
            (one.created_at_ms, &one.id).cmp(&(other.created_at_ms, &other.id))
        });
        Ok(tokens)
    }

    fn check(&self) -> Result<Vec<String>> {
        let data = self.data.lock();
        let mut findings = Vec::new();
        for (id, entry) in &data.executions {
            let loaded = entry.load();
            match replay::fold(*id, entry.journal_after(0)) {
                Ok(folded) if folded == loaded.execution => {}
                Ok(folded) => findings.push(format!(
                    "execution {id}: {}",
                    check::difference(&folded, &loaded.execution)
                )),
                Err(error) => findings.push(format!("execution {id}: {error}")),
            }
            if entry.is_stranded() {
                findings.push(format!(
                    "execution {id} is stranded, nobody holds it and nothing will wake it"
                ));
            }
        }
        Ok(findings)
    }
}

/// Whether a filter lets an execution through, whatever its limit.
fn matches(filter: &ListFilter, record: &ExecutionRecord) -> bool {
    let labels = &record.labels;
    filter.before.is_none_or(|before| record.id < before)
        && filter.namespace.as_ref().is_none_or(|namespace| labels.namespace == *namespace)
        && (filter.statuses.is_empty() || filter.statuses.contains(&record.status))
        && filter.workflow_id.as_ref().is_none_or(|wanted| record.workflow_id == *wanted)
        && filter.tag.as_ref().is_none_or(|tag| labels.tags.contains(tag))
        && filter.since_ms.is_none_or(|since_ms| record.created_at_ms >= since_ms)
        && filter.until_ms.is_none_or(|until_ms| record.created_at_ms < until_ms)
}
