//! Group commit: many writes, one transaction, one fsync.
//!
//! While one batch is being made durable the next one gathers. Each write is answered after the
//! commit it went into.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use durable_core::{Error, Result};
use durable_store::{Store, Write, Written};
use parking_lot::{Condvar, Mutex, MutexGuard};

/// How long the committer looks out for the next write before it goes to sleep: about as long as a
/// step of a workflow takes from one commit to the next.
const LINGER: Duration = Duration::from_micros(300);

/// Called with the answer to a write, on the committer's thread.
pub(crate) type Answer = Box<dyn FnOnce(Result<Written>) + Send>;

pub(crate) struct Committer {
    store: Arc<dyn Store>,
    max_batch: usize,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<(Write, Answer)>,
    closed: bool,
}

impl Committer {
    pub(crate) fn new(store: Arc<dyn Store>, max_batch: usize) -> Self {
        Self { store, max_batch, queue: Mutex::default(), changed: Condvar::new() }
    }

    /// Queues a write. Writes of one caller are committed in the order they were queued.
    pub(crate) fn submit(&self, write: Write, answer: Answer) {
        self.submit_all(vec![(write, answer)]);
    }

    /// Queues writes side by side.
    pub(crate) fn submit_all(&self, writes: Vec<(Write, Answer)>) {
        let mut queue = self.queue.lock();
        if queue.closed {
            drop(queue);
            for (_, answer) in writes {
                answer(Err(Error::unavailable("the engine is closed")));
            }
            return;
        }
        let idle = queue.waiting.is_empty();
        queue.waiting.extend(writes);
        drop(queue);
        if idle {
            self.changed.notify_one();
        }
    }

    /// Commits batch after batch until the committer is closed and its queue is empty.
    pub(crate) fn run(&self) {
        loop {
            let batch = {
                let mut queue = self.queue.lock();
                while queue.waiting.is_empty() {
                    if queue.closed {
                        return;
                    }
                    if !self.linger(&mut queue) {
                        self.changed.wait(&mut queue);
                    }
                }
                self.take(&mut queue)
            };
            self.commit(batch);
        }
    }

    /// Looks out for the next write for a moment without going to sleep: waking a sleeping thread
    /// takes longer than most steps of a workflow. Whether one came.
    fn linger(&self, queue: &mut MutexGuard<'_, Queue>) -> bool {
        let until = Instant::now() + LINGER;
        while Instant::now() < until {
            MutexGuard::unlocked(queue, std::thread::yield_now);
            if !queue.waiting.is_empty() || queue.closed {
                return true;
            }
        }
        false
    }

    /// Takes no further writes; what is queued is still committed.
    pub(crate) fn close(&self) {
        self.queue.lock().closed = true;
        self.changed.notify_all();
    }

    fn take(&self, queue: &mut Queue) -> Vec<(Write, Answer)> {
        if queue.waiting.len() <= self.max_batch {
            return std::mem::take(&mut queue.waiting);
        }
        let rest = queue.waiting.split_off(self.max_batch);
        std::mem::replace(&mut queue.waiting, rest)
    }

    fn commit(&self, batch: Vec<(Write, Answer)>) {
        let (writes, answers): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let committed = self.store.commit(&writes);
        // A transition shares its state with the dispatcher, which goes on with it uncopied if it
        // is the only one left.
        drop(writes);
        match committed {
            Ok(results) => {
                assert_eq!(results.len(), answers.len(), "the store answers every write");
                for (answer, result) in answers.into_iter().zip(results) {
                    answer(result);
                }
            }
            Err(error) => {
                tracing::error!(%error, writes = answers.len(), "a batch was not committed");
                for answer in answers {
                    answer(Err(error.clone()));
                }
            }
        }
    }
}
