//! A queue that the embedding program's own threads pull calls from.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use durable_core::{CallId, ExecutionId, Outcome, Result};
use durable_engine::{CallRequest, Executor, Outcomes};
use parking_lot::{Condvar, Mutex, MutexGuard};

/// Hands calls to whoever asks for the next one.
///
/// Waking a thread costs more than a quick call, so at most one is being woken at a time: a
/// thread that takes a call while more are waiting wakes the next thread, and so on. Quick calls
/// stay with one thread; blocking ones spread over as many as there are.
#[derive(Default)]
pub struct PullQueue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    calls: VecDeque<CallRequest>,
    outcomes: Option<Outcomes>,
    /// Threads in [`PullQueue::next`].
    idle: usize,
    /// Whether one of them was woken and has not looked yet.
    waking: bool,
    /// Whether a thread looks out for the next call without sleeping.
    lingering: bool,
    closed: bool,
}

/// How long a thread looks out for the next call before it goes to sleep.
const LINGER: Duration = Duration::from_micros(100);

impl State {
    /// Takes a call; whether another thread is to be woken for the rest.
    fn take(&mut self) -> (Option<CallRequest>, bool) {
        let call = self.calls.pop_front();
        (call, self.wants_waking())
    }

    fn wants_waking(&mut self) -> bool {
        let wake = !self.calls.is_empty() && self.idle > 0 && !self.waking && !self.lingering;
        self.waking |= wake;
        wake
    }
}

impl PullQueue {
    /// The next call; `None` when the time is over or the queue was closed.
    pub fn next(&self, at_most: Duration) -> Option<CallRequest> {
        let begun = Instant::now();
        let until = begun + at_most;
        let mut state = self.state.lock();
        self.linger(&mut state, begun + LINGER.min(at_most));
        state.idle += 1;
        loop {
            if !state.calls.is_empty() || state.closed {
                break;
            }
            let over = self.changed.wait_until(&mut state, until).timed_out();
            state.waking = false;
            if over {
                break;
            }
        }
        state.idle -= 1;
        let (call, wake) = state.take();
        drop(state);
        if wake {
            self.changed.notify_one();
        }
        call
    }

    /// Looks out for the next call for a moment without going to sleep: waking a sleeping thread
    /// takes longer than most quick calls. One thread does so at a time.
    fn linger(&self, state: &mut MutexGuard<'_, State>, until: Instant) {
        if state.lingering {
            return;
        }
        state.lingering = true;
        while state.calls.is_empty() && !state.closed && Instant::now() < until {
            MutexGuard::unlocked(state, std::thread::yield_now);
        }
        state.lingering = false;
    }

    /// The next call if there is one now.
    pub fn try_next(&self) -> Option<CallRequest> {
        let (call, wake) = self.state.lock().take();
        if wake {
            self.changed.notify_one();
        }
        call
    }

    /// Reports what came of a call.
    pub fn report(&self, call: &CallRequest, outcome: Outcome) {
        let outcomes = self.state.lock().outcomes.clone();
        if let Some(outcomes) = outcomes {
            outcomes.report(call, outcome);
        }
    }

    /// Stores the name that a remote executor gave to a call.
    ///
    /// # Errors
    /// `Conflict` when the execution is not held by this engine any more.
    pub fn note_job(&self, call: &CallRequest, job_id: &str) -> Result<()> {
        let outcomes = self.state.lock().outcomes.clone();
        match outcomes {
            Some(outcomes) => outcomes.note_job(call, job_id),
            None => Ok(()),
        }
    }

    /// Stores the names that a remote executor gave to calls, soon.
    pub fn note_jobs<'a>(&self, jobs: impl IntoIterator<Item = (&'a CallRequest, String)>) {
        let outcomes = self.state.lock().outcomes.clone();
        if let Some(outcomes) = outcomes {
            outcomes.note_jobs(jobs);
        }
    }

    /// Whether somebody still waits for this attempt.
    pub fn is_wanted(&self, call: &CallRequest) -> bool {
        let outcomes = self.state.lock().outcomes.clone();
        outcomes.is_some_and(|outcomes| outcomes.is_wanted(call))
    }

    /// How many calls wait to be taken.
    pub fn len(&self) -> usize {
        self.state.lock().calls.len()
    }

    /// Whether no call waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lets every [`Self::next`] return; the queue is of no further use.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }
}

impl Executor for PullQueue {
    fn attach(&self, outcomes: Outcomes) {
        self.state.lock().outcomes = Some(outcomes);
    }

    fn submit(&self, calls: Vec<CallRequest>) {
        let mut state = self.state.lock();
        state.calls.extend(calls);
        let wake = state.wants_waking();
        drop(state);
        if wake {
            self.changed.notify_one();
        }
    }

    fn cancel(&self, execution: ExecutionId, call: CallId, attempt: u32) {
        self.state.lock().calls.retain(|queued| {
            (queued.execution, queued.call, queued.attempt) != (execution, call, attempt)
        });
    }

    fn recall(&self) -> Vec<CallRequest> {
        self.state.lock().calls.drain(..).collect()
    }
}
