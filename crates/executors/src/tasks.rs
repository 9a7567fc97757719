//! Calls as tasks that workers elsewhere claim, keep alive and complete.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    str::FromStr,
    time::{Duration, Instant},
};

use durable_core::{CallId, Error, ExecutionId, Outcome, Result};
use durable_engine::{CallRequest, Executor, Outcomes};
use durable_store::Labels;
use parking_lot::Mutex;
use tokio::sync::{Notify, futures::Notified};

/// Most waiting calls that a claim looks at to find some of its namespace and queue.
const MAX_LOOKED_AT: usize = 1_000;

/// Most tasks that are with workers at once; more are handed out when some come back.
const MAX_CLAIMED: usize = 10_000;

/// Hands calls to workers that ask for them, each for a limited time: a task that is neither
/// completed nor kept alive is handed to the next worker, with the same idempotency key.
///
/// The name of a task is a secret between its worker and the store: who knows it may complete the
/// task, on any process that has the store open. The store keeps its hash, as the job of the call.
/// When a task is handed out again the store has the new name's, and the old one is worth nothing.
#[derive(Default)]
pub struct TaskQueue {
    state: Mutex<State>,
    changed: Notify,
}

/// Which tasks a worker asks for.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The functions it runs.
    pub functions: BTreeSet<String>,
    /// Only tasks of executions of this namespace.
    pub namespace: Option<String>,
    /// Only tasks of executions of this queue.
    pub queue: Option<String>,
    /// Most tasks to hand out.
    pub max: usize,
    /// How long each is its own without a heartbeat.
    pub lease: Duration,
    /// Whom operators see.
    pub worker: String,
}

/// A task that a worker has.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its name.
    pub id: TaskId,
    /// What to run.
    pub call: CallRequest,
    /// How long it is the worker's own without a heartbeat.
    pub lease: Duration,
    /// Who has it.
    pub worker: String,
}

/// The name of a task: execution, call, attempt and a secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TaskId {
    /// The execution that asked.
    pub execution: ExecutionId,
    /// The call.
    pub call: CallId,
    /// The attempt.
    pub attempt: u32,
    secret: [u8; 16],
}

impl TaskId {
    fn new(call: &CallRequest) -> Result<Self> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret)
            .map_err(|error| Error::unavailable(format!("no randomness for a task: {error}")))?;
        Ok(Self { execution: call.execution, call: call.call, attempt: call.attempt, secret })
    }

    /// The name as the store knows it, which gives nobody the right to anything.
    pub fn job_id(&self) -> String {
        let hash = blake3::hash(self.to_string().as_bytes());
        format!("task:{}", &hash.to_hex()[..32])
    }

    fn key(&self) -> Key {
        (self.execution, self.call, self.attempt)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = u128::from_be_bytes(self.secret);
        write!(f, "{}.{}.{}.{secret:032x}", self.execution, self.call, self.attempt)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.…", self.execution, self.call, self.attempt)
    }
}

impl FromStr for TaskId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let mut parts = text.split('.');
            let execution = parts.next()?.parse().ok()?;
            let call = parts.next()?.parse().ok()?;
            let attempt = parts.next()?.parse().ok()?;
            let secret = parts.next().filter(|text| text.len() == 32)?;
            let secret = u128::from_str_radix(secret, 16).ok()?.to_be_bytes();
            let id = Self { execution, call, attempt, secret };
            // One name a task: no leading zeros, no other way to write the UUID.
            (parts.next().is_none() && id.to_string() == text).then_some(id)
        };
        parse().ok_or_else(|| Error::not_found("no such task: its id came with it when claimed"))
    }
}

type Key = (ExecutionId, CallId, u32);

fn key(call: &CallRequest) -> Key {
    (call.execution, call.call, call.attempt)
}

#[derive(Default)]
struct State {
    outcomes: Option<Outcomes>,
    next_number: u64,
    /// In the order they came.
    waiting: BTreeMap<u64, Waiting>,
    /// The same, by what claims choose by.
    lines: HashMap<Line, BTreeSet<u64>>,
    numbers: HashMap<Key, u64>,
    claimed: HashMap<Key, Claimed>,
}

struct Waiting {
    call: CallRequest,
    place: Option<Place>,
}

/// What a claim chooses waiting calls by: it wants all of those that have it in common, or none.
#[derive(PartialEq, Eq, Hash)]
struct Line {
    function: String,
    /// `None` until somebody has asked.
    place: Option<Place>,
}

/// Where the execution of a call belongs, as far as claims care.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    namespace: String,
    queue: String,
}

impl Claim {
    fn is_for_any_place(&self) -> bool {
        self.namespace.is_none() && self.queue.is_none()
    }

    fn is_for(&self, place: &Place) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == place.namespace)
            && self.queue.as_ref().is_none_or(|queue| *queue == place.queue)
    }

    /// Whether the calls of a line may be among what it asks for.
    fn may_be_for(&self, line: &Line) -> bool {
        self.functions.contains(&line.function)
            && line.place.as_ref().is_none_or(|place| self.is_for(place))
    }
}

impl Waiting {
    fn line(&self) -> Line {
        Line { function: self.call.function.clone(), place: self.place.clone() }
    }
}

struct Claimed {
    number: u64,
    task: Task,
    until: Instant,
}

impl State {
    fn put(&mut self, number: u64, call: CallRequest, place: Option<Place>) {
        let waiting = Waiting { call, place };
        self.numbers.insert(key(&waiting.call), number);
        self.lines.entry(waiting.line()).or_default().insert(number);
        self.waiting.insert(number, waiting);
    }

    fn take(&mut self, number: u64) -> Option<CallRequest> {
        let waiting = self.waiting.remove(&number)?;
        self.numbers.remove(&key(&waiting.call));
        let line = waiting.line();
        if let Some(numbers) = self.lines.get_mut(&line) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.lines.remove(&line);
            }
        }
        Some(waiting.call)
    }

    /// Takes tasks back from workers that were not heard of.
    fn expire(&mut self, now: Instant) {
        let over = |claimed: &Claimed| claimed.until <= now;
        let keys: Vec<_> =
            self.claimed.iter().filter(|(_, claimed)| over(claimed)).map(|(key, _)| *key).collect();
        for key in keys {
            let Some(Claimed { number, task, .. }) = self.claimed.remove(&key) else { continue };
            tracing::info!(task = ?task.id, worker = task.worker, "its worker is silent");
            self.put(number, task.call, None);
        }
    }

    /// The oldest calls that a claim wants, or may want when it is known where they belong.
    fn candidates(&self, claim: &Claim) -> Vec<u64> {
        let lines = self.lines.iter().filter(|(line, _)| claim.may_be_for(line));
        let mut numbers: Vec<_> =
            lines.flat_map(|(_, numbers)| numbers.iter().take(MAX_LOOKED_AT).copied()).collect();
        numbers.sort_unstable();
        numbers.truncate(MAX_LOOKED_AT);
        numbers
    }
}

impl TaskQueue {
    /// Hands out tasks: those asked for first come first. Empty when there is nothing to do.
    ///
    /// `labels_of` tells where an execution belongs; it is asked only for a claim that names a
    /// namespace or a queue. Blocks while the store notes who has what.
    ///
    /// # Errors
    /// What `labels_of` fails with; `Unavailable` when the store can't be written.
    pub fn claim(
        &self,
        claim: &Claim,
        labels_of: &dyn Fn(ExecutionId) -> Result<Labels>,
    ) -> Result<Vec<Task>> {
        let candidates = {
            let mut state = self.state.lock();
            state.expire(Instant::now());
            if state.claimed.len() >= MAX_CLAIMED {
                return Ok(Vec::new());
            }
            state.candidates(claim)
        };
        let is_full = candidates.len() == MAX_LOOKED_AT;
        let mut candidates = candidates.into_iter();
        let mut tasks = Vec::new();
        // Usually once: only a call that somebody else has taken or ended leaves a place free.
        while tasks.len() < claim.max && candidates.len() > 0 {
            let mut numbers = Vec::new();
            while tasks.len() + numbers.len() < claim.max
                && let Some(number) = candidates.next()
            {
                if self.fits(number, claim, labels_of)? {
                    numbers.push(number);
                }
            }
            match self.hand_out(&numbers, claim) {
                Ok(handed_out) => tasks.extend(handed_out),
                // What is noted already is the worker's.
                Err(error) if tasks.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        if tasks.is_empty() && is_full {
            // Nothing of what was looked at is of any use to this claim, and it is known now: the
            // next look is at what comes after.
            self.changed.notify_waiters();
        }
        Ok(tasks)
    }

    fn fits(
        &self,
        number: u64,
        claim: &Claim,
        labels_of: &dyn Fn(ExecutionId) -> Result<Labels>,
    ) -> Result<bool> {
        if claim.is_for_any_place() {
            return Ok(true);
        }
        let execution = match self.state.lock().waiting.get(&number) {
            None => return Ok(false),
            Some(Waiting { place: Some(place), .. }) => return Ok(claim.is_for(place)),
            Some(Waiting { call, place: None }) => call.execution,
        };
        let labels = match labels_of(execution) {
            Ok(labels) => Some(labels),
            Err(Error::NotFound(_)) => None,
            Err(error) => return Err(error),
        };
        let mut state = self.state.lock();
        // Nobody waits for what an execution asked for that is not there any more.
        let (Some(call), Some(labels)) = (state.take(number), labels) else { return Ok(false) };
        let place = Place { namespace: labels.namespace, queue: labels.queue };
        let fits = claim.is_for(&place);
        state.put(number, call, Some(place));
        Ok(fits)
    }

    /// Makes waiting calls tasks of a worker, noted in one commit; without those that somebody
    /// else was faster with, or that nobody waits for any more.
    ///
    /// # Errors
    /// None of them is handed out.
    fn hand_out(&self, numbers: &[u64], claim: &Claim) -> Result<Vec<Task>> {
        let Some(outcomes) = self.state.lock().outcomes.clone() else { return Ok(Vec::new()) };
        let mut taken = Vec::with_capacity(numbers.len());
        for number in numbers {
            let Some(task) = self.take(*number, claim)? else { continue };
            // Outside of the lock: the engine has one of its own.
            if outcomes.is_wanted(&task.call) {
                taken.push((*number, task));
            } else {
                self.release(&task.id);
            }
        }
        let jobs = taken.iter().map(|(_, task)| (&task.call, task.id.job_id()));
        let noted = outcomes.note_all(jobs);
        let mut tasks = Vec::with_capacity(taken.len());
        let mut failed = None;
        for ((number, task), noted) in taken.into_iter().zip(noted) {
            match noted {
                Ok(()) => tasks.push(task),
                // The execution is somebody else's, or the call has ended meanwhile.
                Err(Error::Conflict(_) | Error::NotFound(_)) => self.release(&task.id),
                Err(error) => {
                    self.put_back(number, task);
                    failed = Some(error);
                }
            }
        }
        match failed {
            Some(error) if tasks.is_empty() => Err(error),
            _ => Ok(tasks),
        }
    }

    /// Takes a waiting call for a worker.
    fn take(&self, number: u64, claim: &Claim) -> Result<Option<Task>> {
        let mut state = self.state.lock();
        let Some(call) = state.take(number) else { return Ok(None) };
        let id = match TaskId::new(&call) {
            Ok(id) => id,
            Err(error) => {
                state.put(number, call, None);
                return Err(error);
            }
        };
        let (lease, worker) = (claim.lease, claim.worker.clone());
        let task = Task { id, call, lease, worker };
        let until = Instant::now() + lease;
        state.claimed.insert(task.id.key(), Claimed { number, task: task.clone(), until });
        Ok(Some(task))
    }

    /// Lets a task that was not noted wait again, unless it was handed out anew meanwhile.
    fn put_back(&self, number: u64, task: Task) {
        let mut state = self.state.lock();
        if state.claimed.remove(&task.id.key()).is_some() {
            state.put(number, task.call, None);
        }
    }

    /// Ends when there may be something new to claim. Get it before [`TaskQueue::claim`].
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// When the first task comes back from its worker unless that is heard of.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.state.lock().claimed.values().map(|claimed| claimed.until).min()
    }

    /// The task of this name, if it was handed out here and is still its worker's.
    pub fn held(&self, id: &TaskId) -> Option<Task> {
        let state = self.state.lock();
        let claimed = state.claimed.get(&id.key())?;
        (claimed.task.id == *id).then(|| claimed.task.clone())
    }

    /// Keeps a task its worker's for another lease; `None` when it is not any more.
    pub fn heartbeat(&self, id: &TaskId) -> Option<Duration> {
        let mut state = self.state.lock();
        let claimed = state.claimed.get_mut(&id.key())?;
        if claimed.task.id != *id {
            return None;
        }
        claimed.until = Instant::now() + claimed.task.lease;
        Some(claimed.task.lease)
    }

    /// Takes up a task that an earlier process handed out, when its call waits here to be handed
    /// out again. The caller has made sure that the store knows the name.
    pub fn adopt(&self, id: &TaskId, lease: Duration, worker: &str) -> bool {
        let mut state = self.state.lock();
        let Some(&number) = state.numbers.get(&id.key()) else { return false };
        let Some(call) = state.take(number) else { return false };
        let task = Task { id: id.clone(), call, lease, worker: worker.to_owned() };
        let until = Instant::now() + lease;
        state.claimed.insert(id.key(), Claimed { number, task, until });
        true
    }

    /// Reports that the attempt of a task failed: it is made again if its policy says so. Returns
    /// when that is durable.
    ///
    /// # Errors
    /// As [`Outcomes::report_durably`].
    pub fn fail(&self, task: &Task, failure: durable_core::Failure) -> Result<()> {
        self.release(&task.id);
        let outcomes = self.state.lock().outcomes.clone();
        let Some(outcomes) = outcomes else {
            return Err(Error::unavailable("no engine hands out tasks any more"));
        };
        outcomes.report_durably(&task.call, Outcome::Failed(failure))
    }

    /// Forgets a task: it is completed.
    pub fn release(&self, id: &TaskId) {
        let mut state = self.state.lock();
        if state.claimed.get(&id.key()).is_some_and(|claimed| claimed.task.id == *id) {
            state.claimed.remove(&id.key());
        }
    }

    /// How many calls wait to be claimed, and how many are with workers.
    pub fn len(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.waiting.len(), state.claimed.len())
    }
}

impl Executor for TaskQueue {
    fn attach(&self, outcomes: Outcomes) {
        self.state.lock().outcomes = Some(outcomes);
    }

    fn submit(&self, calls: Vec<CallRequest>) {
        let mut state = self.state.lock();
        for call in calls {
            state.next_number += 1;
            let number = state.next_number;
            // The same attempt, handed out again after the lease was lost and won back: whoever
            // had it is not waited for.
            state.claimed.remove(&key(&call));
            if let Some(old) = state.numbers.get(&key(&call)).copied() {
                state.take(old);
            }
            state.put(number, call, None);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    fn cancel(&self, execution: ExecutionId, call: CallId, attempt: u32) {
        let mut state = self.state.lock();
        let key = (execution, call, attempt);
        state.claimed.remove(&key);
        if let Some(number) = state.numbers.get(&key).copied() {
            state.take(number);
        }
    }

    fn recall(&self) -> Vec<CallRequest> {
        let mut state = self.state.lock();
        let numbers: Vec<_> = state.waiting.keys().copied().collect();
        numbers.into_iter().filter_map(|number| state.take(number)).collect()
    }
}

#[cfg(test)]
mod tests {
    use durable_core::Payload;

    use super::*;

    fn call(number: CallId, function: &str) -> CallRequest {
        CallRequest {
            execution: ExecutionId::new(1, [7; 10]),
            call: number,
            attempt: 1,
            function: function.into(),
            step: function.into(),
            args: Payload::trusted("[]"),
            kwargs: Payload::trusted("{}"),
            timeout_ms: None,
            handed_out_at_ms: 0,
        }
    }

    #[test]
    fn the_name_of_a_task_is_written_in_one_way_only() {
        let id = TaskId::new(&call(3, "f")).unwrap();
        let text = id.to_string();
        assert_eq!(text.parse::<TaskId>().unwrap(), id);
        assert!(!format!("{id:?}").contains(&text[text.len() - 32..]), "secrets are not logged");
        for other in [text.to_uppercase(), text.replacen(".3.", ".03.", 1), format!("{text}.1")] {
            assert!(other.parse::<TaskId>().is_err(), "{other}");
        }
        for nonsense in ["", ".", "a.b.c.d", "\0", &text[1..], &text[..text.len() - 1]] {
            assert!(nonsense.parse::<TaskId>().is_err(), "{nonsense}");
        }
    }

    #[test]
    fn what_waits_is_recalled_and_cancelled() {
        let queue = TaskQueue::default();
        queue.submit(vec![call(1, "f"), call(2, "g"), call(3, "f")]);
        queue.cancel(ExecutionId::new(1, [7; 10]), 1, 1);
        assert_eq!(queue.len(), (2, 0));
        queue.submit(vec![call(2, "g")]);
        assert_eq!(queue.len(), (2, 0), "an attempt waits once");
        let recalled: Vec<_> = queue.recall().iter().map(|call| call.call).collect();
        assert_eq!(recalled, [3, 2]);
        assert_eq!(queue.len(), (0, 0));
    }
}
