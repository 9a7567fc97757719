//! Which calls wait, which run, and which are somebody else's.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use durable_core::{CallId, ExecutionId};
use durable_engine::CallRequest;

use super::host::Ready;

/// How many processes may die while they run a call. More than one, because the call that kills
/// a process takes innocent ones with it.
pub(super) const MAX_DEATHS: u32 = 3;

/// Whose calls are run. The others are kept, and given back when the engine recalls them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serve {
    /// Nobody's for now.
    Nothing,
    /// Those of one execution, whatever function they name.
    Execution(ExecutionId),
    /// Those of every execution, as far as the module has the function.
    Everything,
}

/// One attempt of one call.
pub(super) type Key = (ExecutionId, CallId, u32);

fn key(call: &CallRequest) -> Key {
    (call.execution, call.call, call.attempt)
}

/// The calls that an executor has. Each has a number, in the order they came.
pub(super) struct Calls {
    serve: Serve,
    /// What the module has, and in which lane it runs.
    functions: HashMap<String, LaneName>,
    threads: Lane,
    event_loop: Lane,
    running: HashMap<u64, Running>,
    /// Calls that are not ours to run.
    kept: BTreeMap<u64, CallRequest>,
    numbers: HashMap<Key, u64>,
    next_number: u64,
    /// Functions that were asked for and are not in the module, each told of once.
    missed: BTreeSet<String>,
}

/// Most functions that are told of; whoever asks for more has the wrong module.
const MAX_MISSED: usize = 100;

struct Running {
    waiting: Waiting,
    lane: LaneName,
    /// Whether nobody waits for it any more.
    cancelled: bool,
}

/// A call and how many processes died while they ran it.
struct Waiting {
    call: CallRequest,
    deaths: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaneName {
    Threads,
    EventLoop,
}

/// Calls that run on threads, or calls that run on the event loop: the one kind never waits for
/// the other. They are handed to the process only as far as it can begin with them, so that
/// those that have not begun can be given back.
struct Lane {
    queue: BTreeMap<u64, Waiting>,
    running: usize,
    limit: usize,
}

impl Lane {
    fn new(limit: usize) -> Self {
        Self { queue: BTreeMap::new(), running: 0, limit }
    }
}

impl Calls {
    pub(super) fn new(threads: usize, async_calls: usize, ready: &Ready) -> Self {
        let lane_of = |name: &String| match ready.asyncs.contains(name) {
            true => LaneName::EventLoop,
            false => LaneName::Threads,
        };
        Self {
            serve: Serve::Nothing,
            functions: ready.functions.keys().map(|name| (name.clone(), lane_of(name))).collect(),
            threads: Lane::new(threads.max(1)),
            event_loop: Lane::new(async_calls.max(1)),
            running: HashMap::new(),
            kept: BTreeMap::new(),
            numbers: HashMap::new(),
            next_number: 1,
            missed: BTreeSet::new(),
        }
    }

    /// Says whose calls are run; what was kept is looked at again.
    pub(super) fn serve(&mut self, serve: Serve) {
        self.serve = serve;
        for (number, call) in std::mem::take(&mut self.kept) {
            self.put(number, call);
        }
    }

    pub(super) fn take(&mut self, call: CallRequest) {
        let number = self.next_number;
        self.next_number += 1;
        self.numbers.insert(key(&call), number);
        self.put(number, call);
    }

    fn put(&mut self, number: u64, call: CallRequest) {
        let is_ours = match self.serve {
            Serve::Nothing => false,
            Serve::Execution(id) => call.execution == id,
            Serve::Everything => self.functions.contains_key(&call.function),
        };
        if is_ours {
            self.queue(number, Waiting { call, deaths: 0 });
        } else {
            self.tell_if_missed(&call);
            self.kept.insert(number, call);
        }
    }

    /// A call that this worker keeps waits until a worker with another module takes it over.
    fn tell_if_missed(&mut self, call: &CallRequest) {
        let is_new = self.serve == Serve::Everything
            && self.missed.len() < MAX_MISSED
            && self.missed.insert(call.function.clone());
        if is_new {
            tracing::warn!(execution = %call.execution, function = call.function,
                "the module does not have a function that is called: its calls wait until this \
                 worker ends; give such executions a queue of their own");
        }
    }

    fn queue(&mut self, number: u64, waiting: Waiting) {
        // A function that is not there fails in whatever lane.
        let known = self.functions.get(&waiting.call.function).copied();
        self.lane(known.unwrap_or(LaneName::Threads)).queue.insert(number, waiting);
    }

    fn lane(&mut self, name: LaneName) -> &mut Lane {
        match name {
            LaneName::Threads => &mut self.threads,
            LaneName::EventLoop => &mut self.event_loop,
        }
    }

    /// The next call that the process can begin with; from now on it runs.
    pub(super) fn begin_next(&mut self) -> Option<(u64, &CallRequest)> {
        for name in [LaneName::Threads, LaneName::EventLoop] {
            let lane = self.lane(name);
            if lane.running < lane.limit
                && let Some((number, waiting)) = lane.queue.pop_first()
            {
                lane.running += 1;
                let running = Running { waiting, lane: name, cancelled: false };
                let running = self.running.entry(number).insert_entry(running).into_mut();
                return Some((number, &running.waiting.call));
            }
        }
        None
    }

    /// What was running under this number does not any more.
    pub(super) fn settle(&mut self, number: u64) -> Option<CallRequest> {
        self.stop(number).map(|running| running.waiting.call)
    }

    fn stop(&mut self, number: u64) -> Option<Running> {
        let running = self.running.remove(&number)?;
        self.lane(running.lane).running -= 1;
        self.forget(number, &running.waiting.call);
        Some(running)
    }

    fn forget(&mut self, number: u64, call: &CallRequest) {
        // The engine may have handed the same attempt out again, under another number.
        if self.numbers.get(&key(call)) == Some(&number) {
            self.numbers.remove(&key(call));
        }
    }

    /// Drops a call that waits; gives the number of one that runs, to tell the process.
    pub(super) fn cancel(&mut self, cancelled: Key) -> Option<u64> {
        let number = *self.numbers.get(&cancelled)?;
        if let Some(running) = self.running.get_mut(&number) {
            running.cancelled = true;
            return Some(number);
        }
        self.numbers.remove(&cancelled);
        self.kept.remove(&number);
        self.threads.queue.remove(&number);
        self.event_loop.queue.remove(&number);
        None
    }

    /// After the death of the process: what ran waits again, in its old place. Gives what has
    /// been through this too often.
    pub(super) fn requeue(&mut self) -> Vec<CallRequest> {
        let numbers: Vec<_> = self.running.keys().copied().collect();
        let mut lost = Vec::new();
        for number in numbers {
            let Some(Running { mut waiting, cancelled, .. }) = self.stop(number) else { continue };
            waiting.deaths += 1;
            if cancelled {
                continue;
            }
            if waiting.deaths >= MAX_DEATHS {
                lost.push(waiting.call);
                continue;
            }
            self.numbers.entry(key(&waiting.call)).or_insert(number);
            self.queue(number, waiting);
        }
        lost
    }

    /// Whether there is something for a process to do.
    pub(super) fn is_waiting(&self) -> bool {
        !self.threads.queue.is_empty() || !self.event_loop.queue.is_empty()
    }

    /// Takes out what waits to be run here.
    pub(super) fn drain(&mut self) -> Vec<CallRequest> {
        let mut waiting = std::mem::take(&mut self.threads.queue);
        waiting.append(&mut self.event_loop.queue);
        for (number, Waiting { call, .. }) in &waiting {
            self.forget(*number, call);
        }
        waiting.into_values().map(|waiting| waiting.call).collect()
    }

    /// Takes out everything that has not begun.
    pub(super) fn recall(&mut self) -> Vec<CallRequest> {
        let mut calls = self.drain();
        for (number, call) in std::mem::take(&mut self.kept) {
            self.forget(number, &call);
            calls.push(call);
        }
        calls
    }
}

#[cfg(test)]
mod tests {
    use durable_core::Payload;

    use super::*;

    fn id(ms: i64) -> ExecutionId {
        ExecutionId::new(ms, [0; 10])
    }

    fn call(execution: ExecutionId, call: CallId, function: &str) -> CallRequest {
        CallRequest {
            execution,
            call,
            attempt: 1,
            function: function.into(),
            step: function.into(),
            args: Payload::trusted("[]"),
            kwargs: Payload::trusted("{}"),
            timeout_ms: None,
            handed_out_at_ms: 0,
        }
    }

    fn calls(serve: Serve) -> Calls {
        let functions = ["sync", "async"].map(|name| (name.to_owned(), Default::default()));
        let ready = Ready {
            functions: BTreeMap::from(functions),
            asyncs: BTreeSet::from(["async".to_owned()]),
        };
        let mut calls = Calls::new(1, 1_000, &ready);
        calls.serve(serve);
        calls
    }

    fn begun(calls: &mut Calls) -> Vec<CallId> {
        std::iter::from_fn(|| calls.begin_next().map(|(_, call)| call.call)).collect()
    }

    #[test]
    fn one_kind_of_function_does_not_wait_for_the_other() {
        let mut calls = calls(Serve::Everything);
        for (number, function) in ["sync", "sync", "async", "async"].into_iter().enumerate() {
            calls.take(call(id(1), number as CallId, function));
        }
        assert_eq!(begun(&mut calls), [0, 2, 3]);
        assert_eq!(calls.settle(1).map(|call| call.call), Some(0));
        assert!(calls.settle(1).is_none());
        assert_eq!(begun(&mut calls), [1]);
    }

    #[test]
    fn what_is_not_served_is_kept_and_recalled() {
        let mut calls = calls(Serve::Nothing);
        calls.take(call(id(1), 0, "sync"));
        calls.take(call(id(2), 0, "sync"));
        calls.take(call(id(2), 1, "unknown"));
        assert!(begun(&mut calls).is_empty());
        calls.serve(Serve::Execution(id(1)));
        assert_eq!(begun(&mut calls), [0]);
        assert_eq!(calls.recall().len(), 2);
        assert!(calls.recall().is_empty());
    }

    #[test]
    fn after_a_death_calls_wait_in_their_old_order_until_it_was_too_often() {
        let mut calls = calls(Serve::Everything);
        for number in 0..3 {
            calls.take(call(id(1), number, "async"));
        }
        assert_eq!(begun(&mut calls), [0, 1, 2]);
        assert_eq!(calls.cancel((id(1), 1, 1)), Some(2));
        assert!(calls.requeue().is_empty());
        assert_eq!(begun(&mut calls), [0, 2]);
        assert!(calls.requeue().is_empty());
        assert_eq!(calls.cancel((id(1), 2, 1)), None);
        assert_eq!(begun(&mut calls), [0]);
        assert_eq!(calls.requeue().len(), 1);
        assert!(!calls.is_waiting() && calls.numbers.is_empty());
    }
}
