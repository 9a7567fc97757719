//! What everybody uses: a provider with validation, sealing, leases and retention.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use durable_core::{Error, Lease, Owner, Result};
use durable_engine::{OwnerProbe as _, ProcessTable, SystemRandom, new_owner};
use durable_store::KeyRing;
use parking_lot::Mutex;

use crate::{Ask, CheckpointId, ExecutionName, Provider, envelope};

/// Most executions whose leases are remembered at once; those used longest ago are given back.
const MAX_HELD: usize = 10_000;

/// How checkpoints are kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Largest content, before it is compressed.
    pub max_bytes: usize,
    /// How many checkpoints of an execution are kept when another one is saved, at least 1; `None`
    /// for all of them.
    pub keep_last: Option<usize>,
    /// How long a writer that is not heard of any more keeps others out.
    pub lease: Duration,
    /// What contents are sealed with; an empty ring seals nothing.
    pub keys: KeyRing,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_bytes: 10 << 20,
            keep_last: Some(10),
            lease: Duration::from_secs(30),
            keys: KeyRing::default(),
        }
    }
}

/// What came of [`Checkpoints::save`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// How many bytes are kept.
    pub bytes: usize,
    /// How many older checkpoints were removed.
    pub removed: usize,
}

/// The newest good checkpoint of an execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latest {
    /// Its id.
    pub id: CheckpointId,
    /// Its content.
    pub content: Vec<u8>,
    /// Newer ones that can't be read: what is wrong with each, newest first.
    pub skipped: Vec<String>,
}

/// Checkpoints behind a provider.
///
/// Whoever saves a checkpoint holds the lease of its execution: it is taken with the first save,
/// kept up by every other one, and given back by [`Checkpoints::release`] or by dropping this.
/// Nobody else can save one meanwhile.
///
/// ```
/// use durable_checkpoints::{Checkpoints, Options, connect};
/// let checkpoints = Checkpoints::new(connect("memory:")?, Options::default());
/// checkpoints.save("order-7_ckpt_1", b"state")?;
/// assert_eq!(checkpoints.load("order-7_ckpt_1")?.as_deref(), Some(&b"state"[..]));
/// assert_eq!(checkpoints.list("order-7")?, ["order-7_ckpt_1"]);
/// # Ok::<(), durable_core::Error>(())
/// ```
pub struct Checkpoints {
    provider: Arc<dyn Provider>,
    options: Options,
    owner: Owner,
    probe: ProcessTable,
    held: Mutex<HashMap<ExecutionName, Arc<Mutex<Held>>>>,
    /// A forked child has no part in the leases of its parent.
    pid: u32,
}

/// What is known of the lease of one execution. Locked while one of its checkpoints is saved.
#[derive(Default)]
struct Held {
    lease: Option<Lease>,
    renewed_at: Option<Instant>,
    /// Somebody else took over: what this one would save may be out of date.
    is_lost: bool,
}

impl Checkpoints {
    /// Stands before a provider, as an owner of its own.
    pub fn new(provider: Arc<dyn Provider>, options: Options) -> Self {
        Self {
            provider,
            options,
            owner: new_owner(&SystemRandom),
            probe: ProcessTable::new(),
            held: Mutex::default(),
            pid: std::process::id(),
        }
    }

    /// Where the checkpoints are, without secrets.
    pub fn place(&self) -> String {
        self.provider.place()
    }

    /// Keeps a content under an id, and removes the oldest checkpoints of the execution.
    ///
    /// # Errors
    /// `Invalid` for an id or a size that can't be; `Conflict` when somebody else writes the
    /// checkpoints of this execution; `Unavailable`.
    pub fn save(&self, id: &str, content: &[u8]) -> Result<Saved> {
        let id = CheckpointId::parse(id)?;
        if content.len() > self.options.max_bytes {
            return Err(Error::invalid(format!(
                "checkpoint {id} has {:.2} MB, and max_checkpoint_size_mb allows {:.2}",
                content.len() as f64 / f64::from(1 << 20),
                self.options.max_bytes as f64 / f64::from(1 << 20)
            )));
        }
        let stored = envelope::wrap(&id, &self.options.keys, content)?;
        let held = self.held_of(&id.execution);
        let mut held = held.lock();
        let lease = self.lease(&id.execution, &mut held)?;
        self.provider.save(&id, &lease, &stored).inspect_err(|error| held.note(error))?;
        Ok(Saved { bytes: stored.len(), removed: self.remove_old(&id.execution) })
    }

    /// What is saved is durable by now: an old one that can't be removed is removed with the next.
    fn remove_old(&self, execution: &ExecutionName) -> usize {
        let Some(keep_last) = self.options.keep_last else { return 0 };
        self.provider.cleanup(execution, keep_last.max(1)).unwrap_or_else(|error| {
            tracing::warn!(%execution, %error, "old checkpoints are not removed");
            0
        })
    }

    /// What was saved under an id.
    ///
    /// # Errors
    /// `Corrupt` that names it when it is torn, altered or in another one's place; `Unavailable`.
    pub fn load(&self, id: &str) -> Result<Option<Vec<u8>>> {
        self.open(&CheckpointId::parse(id)?)
    }

    fn open(&self, id: &CheckpointId) -> Result<Option<Vec<u8>>> {
        let Some(stored) = self.provider.load(id)? else { return Ok(None) };
        envelope::unwrap(id, &self.options.keys, self.options.max_bytes, &stored).map(Some)
    }

    /// The newest checkpoint of an execution that can be read.
    ///
    /// # Errors
    /// `Corrupt` that names all of them when there are some and none can be read; `Unavailable`,
    /// also for want of a key.
    pub fn latest(&self, execution: &str) -> Result<Option<Latest>> {
        let execution = ExecutionName::parse(execution)?;
        let mut skipped = Vec::new();
        for number in self.provider.list(&execution)?.into_iter().rev() {
            let id = execution.checkpoint(number);
            match self.open(&id) {
                Ok(Some(content)) => return Ok(Some(Latest { id, content, skipped })),
                // Removed since it was listed.
                Ok(None) => {}
                Err(Error::Corrupt(why)) => {
                    tracing::warn!(checkpoint = %id, %why, "an older one is used");
                    skipped.push(why.into_owned());
                }
                Err(other) => return Err(other),
            }
        }
        if skipped.is_empty() {
            return Ok(None);
        }
        Err(Error::corrupt(format!(
            "no checkpoint of execution {execution} can be read: {}",
            skipped.join("; ")
        )))
    }

    /// The ids of the checkpoints of an execution, oldest first.
    ///
    /// # Errors
    /// `Invalid` for a name that can't be; `Unavailable`.
    pub fn list(&self, execution: &str) -> Result<Vec<String>> {
        let execution = ExecutionName::parse(execution)?;
        let numbers = self.provider.list(&execution)?;
        Ok(numbers.into_iter().map(|number| execution.checkpoint(number).to_string()).collect())
    }

    /// Removes a checkpoint; whether it was there.
    ///
    /// # Errors
    /// As [`Checkpoints::list`].
    pub fn delete(&self, id: &str) -> Result<bool> {
        self.provider.delete(&CheckpointId::parse(id)?)
    }

    /// Removes all but the last checkpoints of an execution; how many were removed.
    ///
    /// # Errors
    /// As [`Checkpoints::list`].
    pub fn cleanup(&self, execution: &str, keep_last: usize) -> Result<usize> {
        self.provider.cleanup(&ExecutionName::parse(execution)?, keep_last)
    }

    /// Takes the lease of an execution, also after it was lost to somebody else: then what is to
    /// be saved has to be made from the newest checkpoint again.
    ///
    /// # Errors
    /// `Conflict` that names who holds it; `Unavailable`.
    pub fn acquire(&self, execution: &str) -> Result<()> {
        let execution = ExecutionName::parse(execution)?;
        let held = self.held_of(&execution);
        let mut held = held.lock();
        held.is_lost = false;
        self.lease(&execution, &mut held).map(drop)
    }

    /// Gives the lease of an execution back.
    ///
    /// # Errors
    /// `Unavailable`: it expires by itself then.
    pub fn release(&self, execution: &str) -> Result<()> {
        let execution = ExecutionName::parse(execution)?;
        let Some(held) = self.held.lock().remove(&execution) else { return Ok(()) };
        match held.lock().lease.take() {
            Some(lease) => self.provider.release(&execution, &lease),
            None => Ok(()),
        }
    }

    fn held_of(&self, execution: &ExecutionName) -> Arc<Mutex<Held>> {
        let mut held = self.held.lock();
        if held.len() >= MAX_HELD && !held.contains_key(execution) {
            let by_age = |held: &Arc<Mutex<Held>>| held.try_lock().map(|held| held.renewed_at);
            let oldest = held.iter().filter_map(|(name, held)| Some((by_age(held)?, name)));
            if let Some(name) = oldest.min().map(|(_, name)| name.clone())
                && let Some(gone) = held.remove(&name)
                && let Some(lease) = gone.lock().lease.take()
            {
                // It expires by itself otherwise.
                let _ = self.provider.release(&name, &lease);
            }
        }
        held.entry(execution.clone()).or_default().clone()
    }

    /// The lease to save with: the one that is held, kept up, or a new one.
    fn lease(&self, execution: &ExecutionName, held: &mut Held) -> Result<Lease> {
        if std::process::id() != self.pid {
            return Err(Error::invalid(
                "these checkpoints were opened before the process forked: open them in the child",
            ));
        }
        if held.is_lost {
            return Err(Error::conflict(format!(
                "somebody else took over the checkpoints of execution {execution}: go on from the \
                 newest one, or stop"
            )));
        }
        if let Some(lease) = held.lease.clone() {
            if held.renewed_at.is_none_or(|at| at.elapsed() > self.options.lease / 3) {
                let renewed = self.provider.renew(execution, &lease, self.options.lease);
                if let Err(error) = renewed {
                    held.note(&error);
                    return Err(error);
                }
                held.renewed_at = Some(Instant::now());
            }
            return Ok(lease);
        }
        let asked_at = Instant::now();
        let ask = |gone| {
            let duration = self.options.lease;
            self.provider.acquire(&Ask { execution, owner: &self.owner, duration, gone })
        };
        let epoch = match ask(None) {
            Err(refused @ Error::Conflict(_)) => match self.provider.holder(execution)? {
                Some(holder) if self.probe.is_gone(&holder) => ask(Some(&holder))?,
                _ => return Err(refused),
            },
            asked => asked?,
        };
        let lease = Lease { owner: self.owner.clone(), epoch };
        *held = Held { lease: Some(lease.clone()), renewed_at: Some(asked_at), is_lost: false };
        Ok(lease)
    }
}

impl Held {
    /// Takes down that the lease is lost, if that is what an error says.
    fn note(&mut self, error: &Error) {
        if matches!(error, Error::Conflict(_)) {
            *self = Self { lease: None, renewed_at: None, is_lost: true };
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        if std::process::id() != self.pid {
            return;
        }
        for (execution, held) in self.held.get_mut().drain() {
            if let Some(lease) = held.lock().lease.take()
                && self.provider.release(&execution, &lease).is_err()
            {
                // The server is away. They expire by themselves.
                return;
            }
        }
    }
}

/// The refusal of a lease that somebody else holds.
pub(crate) fn is_held(execution: &ExecutionName, holder: &str) -> Error {
    Error::conflict(format!(
        "execution {execution}: its checkpoints are written by {holder}, whose lease has not \
         expired: wait for it, or end that process"
    ))
}

/// The refusal of a lease that is lost.
pub(crate) fn is_lost(execution: &ExecutionName) -> Error {
    Error::conflict(format!(
        "execution {execution}: the lease on its checkpoints was lost: go on from the newest one, \
         or stop"
    ))
}
