//! Executions as files: taken out of one database, put into another.
//!
//! A file holds one execution: its program, its inputs, its labels, and its journal with
//! everything the journal refers to; no snapshot, for that is rebuilt from the journal. Putting it
//! in replays the journal through the ordinary door, transition by transition, with the times it
//! holds.

mod file;
mod import;

use std::{
    io,
    time::{Duration, Instant},
};

use durable_core::{
    Assignment, CallId, Error, Event, Execution, ExecutionId, Outcome, Recorded, Result, Status,
    replay,
};
use durable_store::{ExecutionRecord, ListFilter, Loaded, Store, Write};

use crate::{
    Engine, OwnerProbe as _, ProcessTable,
    checkpoints::{self, Checkpoint},
    shell::whole_journal,
};

pub(crate) use file::transitions;
pub use file::{MAX_FILE_BYTES, Portable};
pub use import::{Imported, discard};

/// How often a journal is read again that grew while it was read.
const MAX_READS: u32 = 5;

/// How long another engine is given to pause what it holds, and how often that is looked at.
const PATIENCE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(20);

/// How many executions are listed at a time.
const PAGE: usize = 1_000;

impl Portable {
    /// Takes an execution out of a database; it stays there as it is.
    ///
    /// Snapshots are left out: they are built again. The names of jobs and what an operator asked
    /// for and nobody has done yet come along. A call that was handed to an executor is handed out
    /// again.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while an engine holds it; `Corrupt` when its journal can't be read.
    pub fn export(engine: &Engine, id: ExecutionId) -> Result<Self> {
        let store = engine.store();
        for _ in 0..MAX_READS {
            let record = engine.execution(id)?;
            let loaded =
                store.load(id)?.ok_or_else(|| Error::not_found(format!("no execution '{id}'")))?;
            let is_settled = record.status.is_terminal() || record.status == Status::Paused;
            if let Some(lease) = &loaded.lease
                && !is_settled
                && !ProcessTable::new().is_gone(&lease.owner)
            {
                return Err(Error::conflict(format!(
                    "execution {id} is held by {}: stop the workers of its queue, or pause it",
                    lease.owner
                )));
            }
            let journal = whole_journal(store, id)?;
            let is_same = replay::fold(id, &journal)? == loaded.execution;
            let program = engine.program_of(&record)?;
            if is_same {
                let calls = store.calls(id)?;
                return Ok(Self::new(&record, &program, journal, &loaded, &calls));
            }
            if store.execution(id)?.is_some_and(|now| now.version == loaded.execution.version) {
                return Err(Error::corrupt(format!(
                    "the journal of execution {id} does not give its state: `durable doctor`"
                )));
            }
        }
        Err(Error::conflict(format!("execution {id} goes on while it is read: pause it first")))
    }

    /// What an execution was at a checkpoint, as another one. `results` are in its inbox, and
    /// `variables` are set next.
    pub(crate) fn fork(
        engine: &Engine,
        checkpoint: &Checkpoint,
        id: ExecutionId,
        results: &[(CallId, Outcome)],
        variables: Vec<Assignment>,
    ) -> Result<Self> {
        let record = engine.execution(checkpoint.execution)?;
        let program = engine.program_of(&record)?;
        let mut journal = checkpoints::journal_until(engine, checkpoint)?;
        let created_at_ms = id.made_at_ms();
        if !variables.is_empty() {
            journal.push(Recorded {
                sequence: checkpoint.sequence + 1,
                transition: checkpoint.transition + 1,
                at_ms: created_at_ms,
                event: Event::VariablesSet { variables },
            });
        }
        let loaded = Loaded {
            execution: Execution::scheduled(id),
            program: record.program.clone(),
            inputs: record.inputs.clone(),
            lease: None,
            snapshot: None,
            tail: Vec::new(),
            inbox: results.to_vec(),
            control: None,
        };
        let record = ExecutionRecord { id, idempotency_key: None, created_at_ms, ..record };
        Ok(Self::new(&record, &program, journal, &loaded, &[]))
    }

    /// Writes it down as JSON.
    ///
    /// # Errors
    /// As the writer's.
    pub fn write(&self, writer: impl io::Write) -> io::Result<()> {
        serde_json::to_writer(writer, self.as_file()).map_err(io::Error::from)
    }
}

/// How [`copy`] went on.
#[derive(Debug)]
pub enum Copied {
    /// It is in the other database now, or was.
    Done(ExecutionId, Imported),
    /// It was not copied.
    Refused(ExecutionId, Error),
}

/// Copies the access tokens that the other database does not have, and has revoked there what is
/// revoked here. Gives how many were changed. Their secrets stand in neither: bearers go on with
/// what they were given.
///
/// # Errors
/// Those of the stores.
pub fn copy_tokens(from: &Engine, to: &Engine) -> Result<usize> {
    let known = to.store().tokens()?;
    let mut writes = Vec::new();
    for token in from.store().tokens()? {
        match (known.iter().find(|known| known.id == token.id), token.revoked_at_ms) {
            (None, _) => writes.push(Write::PutToken(Box::new(token))),
            (Some(known), Some(now_ms)) if known.revoked_at_ms.is_none() => {
                writes.push(Write::RevokeToken { id: token.id, now_ms });
            }
            (Some(_), _) => {}
        }
    }
    for answer in to.store().commit(&writes)? {
        answer?;
    }
    Ok(writes.len())
}

/// Which executions are copied, and how.
#[derive(Debug, Clone, Default)]
pub struct CopyPlan {
    /// These; all of them when empty.
    pub ids: Vec<ExecutionId>,
    /// Whether those that have not ended are paused in the source first. They arrive paused, and
    /// wait for [`Engine::resume`] there.
    pub pause_source: bool,
}

/// Copies executions from one database to another, the oldest first, and tells of each. Nothing is
/// removed from the source. Copying again goes on where it stopped: what is there already is left
/// alone, and what has gone on in the source meanwhile goes on in the copy.
///
/// Two databases whose workers run would both run what has not ended.
///
/// # Errors
/// Those of listing the source. What can't be copied is told and left out.
pub fn copy(
    from: &Engine,
    to: &Engine,
    plan: &CopyPlan,
    mut tell: impl FnMut(Copied),
) -> Result<()> {
    let ids = if plan.ids.is_empty() { all(from.store())? } else { plan.ids.clone() };
    for id in ids {
        let copied = pause(from, id, plan.pause_source)
            .and_then(|()| Portable::export(from, id))
            .and_then(|portable| portable.import(to));
        tell(match copied {
            Ok(imported) => Copied::Done(id, imported),
            Err(error) => Copied::Refused(id, error),
        });
    }
    Ok(())
}

fn pause(engine: &Engine, id: ExecutionId, is_wanted: bool) -> Result<()> {
    let status = engine.execution(id)?.status;
    if is_wanted && !status.is_terminal() && status != Status::Paused {
        engine.pause(id, "paused to be copied to another database")?;
        // When another engine holds it, that one does it soon.
        let give_up_at = Instant::now() + PATIENCE;
        while engine.execution(id)?.status != Status::Paused {
            if Instant::now() >= give_up_at {
                return Err(Error::conflict(format!(
                    "execution {id} was asked to pause and has not done so yet: try again"
                )));
            }
            std::thread::sleep(TICK);
        }
    }
    Ok(())
}

/// All executions, the oldest first.
fn all(store: &dyn Store) -> Result<Vec<ExecutionId>> {
    let mut ids: Vec<ExecutionId> = Vec::new();
    loop {
        let before = ids.last().copied();
        let page = store.list(&ListFilter { before, limit: PAGE, ..ListFilter::default() })?;
        if page.is_empty() {
            ids.reverse();
            return Ok(ids);
        }
        ids.extend(page.iter().map(|record| record.id));
    }
}
