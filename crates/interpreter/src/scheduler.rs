//! Which worker gets which request, and what follows from a worker's death.
//!
//! Every worker has a short queue that it answers in order; what fits nowhere waits in the
//! backlog. One lock guards all of it: what happens under it takes microseconds, because writing
//! to a worker never waits.
//!
//! The keeper is a thread that starts workers, kills those that pass their deadline and replaces
//! those that died. It sleeps while nothing is in flight.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::{
    pool::Isolation,
    process::{Death, ProcessLink},
    programs::{Known, KnownDictionary},
    protocol::{self, Bytes, ExecutionKey, FromWorker, ProgramKey, ToWorker, WireAnswer, WireEnd},
    thread::ThreadLink,
};

/// Longest queue of a worker that isn't held up: enough to hide the way there and back.
const MAX_QUEUE: usize = 4;

/// A worker that has been on one request for so long gets no others behind it.
const SLOW: Duration = Duration::from_millis(5);

/// How often the keeper looks while anything is in flight.
const TICK: Duration = Duration::from_millis(50);

/// Programs a worker holds compiled, and the text of their definitions: compiled they are many
/// times larger.
const MAX_WORKER_PROGRAMS: usize = 64;
const MAX_WORKER_PROGRAM_BYTES: usize = 4 << 20;

/// A worker that isn't ready by then is given up.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Deaths in a row without an answer in between before the next start waits, and how long.
const MAX_QUICK_RESTARTS: u32 = 3;
const RESTART_WAIT: Duration = Duration::from_secs(1);

/// What came of a request.
pub(crate) enum Answer<'a> {
    Advanced(WireAnswer<'a>),
    Validated(Result<(), String>),
    Inspected(Result<String, String>),
    /// The live state is gone.
    NotLive,
    /// It ran too long and was stopped.
    TimedOut,
    /// It killed its worker, twice.
    Killed(Death),
    /// It could not be run.
    Lost(String),
}

/// Called once with what came of a request.
pub(crate) type Done = Box<dyn FnOnce(Answer<'_>) + Send>;

/// A request on its way.
pub(crate) struct Job {
    pub(crate) frame: Vec<u8>,
    pub(crate) program: Arc<Known>,
    pub(crate) dictionary: Option<KnownDictionary>,
    /// Whose state it moves; none for a check.
    pub(crate) execution: Option<ExecutionKey>,
    /// Whether it goes on from a live state.
    pub(crate) is_live: bool,
    /// How long it may run.
    pub(crate) limit: Duration,
    /// Whether it was in a worker's hands when that worker died.
    pub(crate) is_suspect: bool,
    pub(crate) done: Done,
}

/// A worker, as the parent sees it.
enum Link {
    Process(ProcessLink),
    Thread(ThreadLink),
}

impl Link {
    fn send(&self, bytes: &[u8]) {
        match self {
            Self::Process(link) => link.send(bytes),
            Self::Thread(link) => link.send(bytes),
        }
    }

    fn kill(&self) {
        if let Self::Process(link) = self {
            link.kill();
        }
    }
}

/// A program that a worker holds.
struct Held {
    key: ProgramKey,
    dictionary: Option<u64>,
    bytes: usize,
}

/// A place for a worker, and the worker in it.
struct Slot {
    link: Option<Link>,
    /// Counts the workers that were here, so that what a dead one says late is known as such.
    generation: u64,
    is_ready: bool,
    started: Instant,
    queue: VecDeque<Job>,
    /// When the first of the queue began to run.
    since: Instant,
    is_overdue: bool,
    /// Programs it holds, least recently used first.
    programs: VecDeque<Held>,
    /// Executions to be told to forget, with the next request or when there is none.
    forgets: Vec<ExecutionKey>,
    /// Runs a suspect, alone.
    is_reserved: bool,
    deaths: u32,
    restart_at: Instant,
}

impl Slot {
    fn new(now: Instant) -> Self {
        Self {
            link: None,
            generation: 0,
            is_ready: false,
            started: now,
            queue: VecDeque::new(),
            since: now,
            is_overdue: false,
            programs: VecDeque::new(),
            forgets: Vec::new(),
            is_reserved: false,
            deaths: 0,
            restart_at: now,
        }
    }

    /// Whether it takes a request that could go elsewhere too.
    fn takes_more(&self, now: Instant) -> bool {
        self.link.is_some()
            && !self.is_reserved
            && (self.queue.is_empty()
                || (self.queue.len() < MAX_QUEUE && now.duration_since(self.since) < SLOW))
    }

    fn is_broken(&self) -> bool {
        self.link.is_none() && self.deaths >= MAX_QUICK_RESTARTS
    }

    /// Queues a request and sends it, with all that the worker needs for it.
    fn push(&mut self, job: Job, now: Instant) {
        if self.queue.is_empty() {
            self.since = now;
        }
        if let Some(link) = &self.link {
            let mut bytes = Vec::new();
            prepare(&mut self.programs, &mut self.forgets, &job, &mut bytes);
            if bytes.is_empty() {
                link.send(&job.frame);
            } else {
                bytes.extend_from_slice(&job.frame);
                link.send(&bytes);
            }
        }
        self.queue.push_back(job);
    }

    /// Tells a worker that has nothing to do what it holds in vain.
    fn forget_when_idle(&mut self) {
        if let Some(link) = &self.link
            && self.queue.is_empty()
            && !self.forgets.is_empty()
        {
            let mut bytes = Vec::new();
            say_forgets(&mut self.forgets, &mut bytes);
            link.send(&bytes);
        }
    }
}

fn say_forgets(forgets: &mut Vec<ExecutionKey>, bytes: &mut Vec<u8>) {
    for execution in forgets.drain(..) {
        let message = ToWorker::Forget { execution };
        bytes.extend_from_slice(&protocol::encode_frame(&message).unwrap_or_default());
    }
}

/// Appends the frames that must go before a request.
fn prepare(
    programs: &mut VecDeque<Held>,
    forgets: &mut Vec<ExecutionKey>,
    job: &Job,
    bytes: &mut Vec<u8>,
) {
    say_forgets(forgets, bytes);
    let mut say = |message: &ToWorker<'_>| {
        // Only a frame beyond the size limit fails; the worker then refuses the request.
        bytes.extend_from_slice(&protocol::encode_frame(message).unwrap_or_default());
    };
    let key = job.program.key;
    let position = programs.iter().position(|held| held.key == key);
    let mut held = position.and_then(|position| programs.remove(position)).unwrap_or_else(|| {
        say(&ToWorker::Program { key, definition: &job.program.json });
        Held { key, dictionary: None, bytes: job.program.json.len() }
    });
    if let Some(dictionary) = &job.dictionary
        && held.dictionary != Some(dictionary.id)
    {
        let bytes = Bytes(&dictionary.stored);
        say(&ToWorker::Dictionary { key, id: dictionary.id, bytes });
        held.dictionary = Some(dictionary.id);
    }
    let mut total = held.bytes + programs.iter().map(|held| held.bytes).sum::<usize>();
    while programs.len() >= MAX_WORKER_PROGRAMS || total > MAX_WORKER_PROGRAM_BYTES {
        let Some(oldest) = programs.pop_front() else { break };
        total -= oldest.bytes;
        say(&ToWorker::DropProgram { key: oldest.key });
    }
    programs.push_back(held);
}

struct State {
    slots: Vec<Slot>,
    backlog: VecDeque<Job>,
    /// Where executions are held live.
    homes: HashMap<ExecutionKey, usize>,
    /// Where the search for an idle worker begins, so that live states spread.
    next_slot: usize,
    is_keeper_asleep: bool,
    is_closed: bool,
    last_error: String,
}

/// The workers of a pool and all that is on its way to them.
pub(crate) struct Scheduler {
    isolation: Isolation,
    live_per_worker: u32,
    state: Mutex<State>,
    keeper: Condvar,
}

impl Scheduler {
    pub(crate) fn new(isolation: Isolation, workers: usize, live_per_worker: usize) -> Self {
        let now = Instant::now();
        let state = State {
            slots: (0..workers.max(1)).map(|_| Slot::new(now)).collect(),
            backlog: VecDeque::new(),
            homes: HashMap::new(),
            next_slot: 0,
            is_keeper_asleep: false,
            is_closed: false,
            last_error: String::new(),
        };
        Self {
            isolation,
            live_per_worker: u32::try_from(live_per_worker).unwrap_or(u32::MAX),
            state: Mutex::new(state),
            keeper: Condvar::new(),
        }
    }

    /// Runs a request, or answers it at once when it can't be.
    pub(crate) fn submit(&self, job: Job) {
        let now = Instant::now();
        let mut state = self.state.lock();
        if let Some((job, answer)) = state.place(job, now) {
            drop(state);
            (job.done)(answer);
            return;
        }
        self.wake_keeper(&mut state);
    }

    /// Drops what is held live for an execution.
    pub(crate) fn forget(&self, execution: ExecutionKey) {
        self.state.lock().forget(execution);
    }

    /// Stops all workers and answers all that is unanswered.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        let mut jobs: Vec<Job> = state.backlog.drain(..).collect();
        for slot in &mut state.slots {
            jobs.extend(slot.queue.drain(..));
            slot.generation += 1;
            if let Some(link) = slot.link.take() {
                link.kill();
            }
        }
        state.homes.clear();
        self.keeper.notify_all();
        drop(state);
        for job in jobs {
            (job.done)(Answer::Lost("the pool was closed".to_owned()));
        }
    }

    /// Ids of the running worker processes.
    pub(crate) fn process_ids(&self) -> Vec<u32> {
        let state = self.state.lock();
        let links = state.slots.iter().filter_map(|slot| slot.link.as_ref());
        links
            .filter_map(|link| match link {
                Link::Process(link) => Some(link.id()),
                Link::Thread(_) => None,
            })
            .collect()
    }

    fn wake_keeper(&self, state: &mut MutexGuard<'_, State>) {
        if state.is_keeper_asleep {
            state.is_keeper_asleep = false;
            self.keeper.notify_one();
        }
    }

    /// The keeper: runs until the scheduler is closed.
    pub(crate) fn keep(self: &Arc<Self>) {
        let mut state = self.state.lock();
        while !state.is_closed {
            let now = Instant::now();
            for index in 0..state.slots.len() {
                if state.slots[index].link.is_none() && state.slots[index].restart_at <= now {
                    self.start_worker(&mut state, index);
                }
            }
            state.kill_overdue(Instant::now());
            if state.is_closed {
                break;
            }
            match state.next_look(Instant::now()) {
                Some(wait) => {
                    let _ = self.keeper.wait_for(&mut state, wait);
                }
                None => {
                    state.is_keeper_asleep = true;
                    self.keeper.wait(&mut state);
                }
            }
            state.is_keeper_asleep = false;
        }
    }

    fn start_worker(self: &Arc<Self>, state: &mut MutexGuard<'_, State>, index: usize) {
        let generation = state.slots[index].generation;
        let events = Events { scheduler: Arc::clone(self), index, generation };
        // Starting a process takes a millisecond; the others go on meanwhile.
        let started = MutexGuard::unlocked(state, || match &self.isolation {
            Isolation::Process(command) => ProcessLink::start(command, events).map(Link::Process),
            Isolation::Thread => ThreadLink::start(events).map(Link::Thread),
        });
        let now = Instant::now();
        let link = match started {
            Ok(link) if state.is_closed || state.slots[index].generation != generation => {
                link.kill();
                return;
            }
            Ok(link) => link,
            Err(error) => return self.start_failed(state, index, &error),
        };
        let configure = ToWorker::Configure { live: self.live_per_worker };
        link.send(&protocol::encode_frame(&configure).unwrap_or_default());
        let slot = &mut state.slots[index];
        slot.link = Some(link);
        slot.started = now;
        // A suspect waits here for its fresh worker.
        for job in std::mem::take(&mut slot.queue) {
            slot.push(job, now);
        }
        state.place_backlog(now);
    }

    fn start_failed(
        &self,
        state: &mut MutexGuard<'_, State>,
        index: usize,
        error: &std::io::Error,
    ) {
        tracing::error!(%error, "a worker can't be started");
        state.last_error = format!("a worker can't be started: {error}");
        state.slots[index].count_death(Instant::now());
        let lost = state.take_hopeless(index);
        let why = state.last_error.clone();
        MutexGuard::unlocked(state, || {
            for job in lost {
                (job.done)(Answer::Lost(why.clone()));
            }
        });
    }
}

impl Slot {
    fn count_death(&mut self, now: Instant) {
        self.deaths = self.deaths.saturating_add(1);
        let wait = if self.deaths < MAX_QUICK_RESTARTS { Duration::ZERO } else { RESTART_WAIT };
        self.restart_at = now + wait;
    }
}

impl State {
    /// Finds a place for a request; hands it back with an answer when there is none.
    fn place(&mut self, job: Job, now: Instant) -> Option<(Job, Answer<'static>)> {
        if self.is_closed {
            return Some((job, Answer::Lost("the pool was closed".to_owned())));
        }
        let home = job.execution.and_then(|execution| self.homes.get(&execution).copied());
        if job.is_live {
            return match home.filter(|&index| self.slots[index].link.is_some()) {
                Some(index) => {
                    self.slots[index].push(job, now);
                    None
                }
                None => Some((job, Answer::NotLive)),
            };
        }
        if self.slots.iter().all(Slot::is_broken) {
            return Some((job, Answer::Lost(self.last_error.clone())));
        }
        if let Some(execution) = job.execution {
            self.forget(execution);
        }
        self.backlog.push_back(job);
        self.place_backlog(now);
        None
    }

    /// Hands the backlog to workers as far as they take it.
    fn place_backlog(&mut self, now: Instant) {
        while !self.backlog.is_empty() {
            let count = self.slots.len();
            let order = (0..count).map(|step| (self.next_slot + step) % count);
            let free = order.filter(|&index| self.slots[index].takes_more(now));
            let Some(index) = free.min_by_key(|&index| self.slots[index].queue.len()) else {
                return;
            };
            if let Some(job) = self.backlog.pop_front() {
                self.slots[index].push(job, now);
                self.next_slot = (index + 1) % count;
            }
        }
    }

    fn forget(&mut self, execution: ExecutionKey) {
        if let Some(index) = self.homes.remove(&execution) {
            self.slots[index].forgets.push(execution);
            self.slots[index].forget_when_idle();
        }
    }

    fn kill_overdue(&mut self, now: Instant) {
        for slot in &mut self.slots {
            let Some(link) = &slot.link else { continue };
            let is_overdue = match (slot.is_ready, slot.queue.front()) {
                (false, _) => now.duration_since(slot.started) > START_LIMIT,
                (true, Some(job)) => now.duration_since(slot.since) > job.limit,
                (true, None) => false,
            };
            if is_overdue && !slot.is_overdue {
                slot.is_overdue = true;
                link.kill();
            }
        }
    }

    /// When the keeper must look again; `None` when nothing is on its way.
    fn next_look(&self, now: Instant) -> Option<Duration> {
        let of_slot = |slot: &Slot| {
            if slot.link.is_none() {
                return Some(slot.restart_at.saturating_duration_since(now));
            }
            (!slot.is_ready || !slot.queue.is_empty()).then_some(TICK)
        };
        self.slots.iter().filter_map(of_slot).min()
    }

    /// Takes the requests that wait for a worker that can't be had.
    fn take_hopeless(&mut self, index: usize) -> Vec<Job> {
        let mut jobs = Vec::new();
        if self.slots[index].is_broken() {
            self.slots[index].is_reserved = false;
            jobs.extend(self.slots[index].queue.drain(..));
        }
        if self.slots.iter().all(Slot::is_broken) {
            jobs.extend(self.backlog.drain(..));
        }
        jobs
    }
}

/// What a worker's reader reports to.
pub(crate) struct Events {
    scheduler: Arc<Scheduler>,
    index: usize,
    generation: u64,
}

impl Events {
    /// A frame has come. `false` when it makes no sense: nothing more will be taken.
    pub(crate) fn frame(&self, frame: &[u8]) -> bool {
        let Ok(message) = postcard::from_bytes(frame) else { return false };
        match message {
            FromWorker::Hello { protocol } => self.hello(protocol),
            FromWorker::Advanced { answer, evicted } => {
                self.answer(Answer::Advanced(answer), &evicted)
            }
            FromWorker::Validated(found) => self.answer(Answer::Validated(found), &[]),
            FromWorker::Inspected(seen) => self.answer(Answer::Inspected(seen), &[]),
        }
    }

    fn hello(&self, version: u32) -> bool {
        let mut state = self.scheduler.state.lock();
        if version != protocol::PROTOCOL_VERSION {
            state.last_error = format!(
                "the worker speaks protocol {version}, this version {}: use one build for both",
                protocol::PROTOCOL_VERSION
            );
            return false;
        }
        let slot = &mut state.slots[self.index];
        if slot.generation == self.generation {
            slot.is_ready = true;
            slot.since = Instant::now();
        }
        true
    }

    fn answer(&self, answer: Answer<'_>, evicted: &[ExecutionKey]) -> bool {
        let now = Instant::now();
        let mut state = self.scheduler.state.lock();
        let state_ref = &mut *state;
        let slot = &mut state_ref.slots[self.index];
        if slot.generation != self.generation {
            return false;
        }
        let Some(job) = slot.queue.pop_front() else { return false };
        slot.since = now;
        slot.is_overdue = false;
        slot.is_reserved = false;
        slot.deaths = 0;
        for execution in evicted {
            if state_ref.homes.get(execution) == Some(&self.index) {
                state_ref.homes.remove(execution);
            }
        }
        if let (Some(execution), Answer::Advanced(answer)) = (job.execution, &answer) {
            let is_held = matches!(
                answer,
                WireAnswer::Reached(reached) if matches!(reached.end, WireEnd::Suspended { .. })
            );
            if is_held && !evicted.contains(&execution) {
                state_ref.homes.insert(execution, self.index);
            } else {
                state_ref.homes.remove(&execution);
            }
        }
        state_ref.place_backlog(now);
        state_ref.slots[self.index].forget_when_idle();
        drop(state);
        (job.done)(answer);
        true
    }

    /// The worker is gone.
    pub(crate) fn died(&self, death: &Death) {
        let now = Instant::now();
        let mut state = self.scheduler.state.lock();
        let state_ref = &mut *state;
        let index = self.index;
        let slot = &mut state_ref.slots[index];
        if slot.generation != self.generation || state_ref.is_closed {
            return;
        }
        tracing::warn!(?death, overdue = slot.is_overdue, "a worker died");
        if let Death::Unknown(why) = death {
            state_ref.last_error.clone_from(why);
        }
        let mut queue = std::mem::take(&mut slot.queue);
        let fresh = Slot::new(now);
        let dead = std::mem::replace(slot, fresh);
        slot.generation = dead.generation + 1;
        slot.deaths = dead.deaths;
        if !dead.is_ready || queue.is_empty() {
            slot.count_death(now);
        }
        state_ref.homes.retain(|_, home| *home != index);

        let mut answers = Vec::new();
        // Before it was ready it ran nothing, so nothing in the queue can be to blame.
        if dead.is_ready
            && let Some(job) = queue.pop_front()
        {
            state_ref.judge(index, job, dead.is_overdue, death, &mut answers);
        }
        for job in queue.into_iter().rev() {
            if job.is_live {
                answers.push((job, Answer::NotLive));
            } else {
                state_ref.backlog.push_front(job);
            }
        }
        let why = state_ref.last_error.clone();
        let hopeless = state_ref.take_hopeless(index).into_iter();
        answers.extend(hopeless.map(|job| (job, Answer::Lost(why.clone()))));
        state_ref.place_backlog(now);
        self.scheduler.wake_keeper(&mut state);
        self.scheduler.keeper.notify_one();
        drop(state);
        for (job, answer) in answers {
            (job.done)(answer);
        }
    }
}

impl State {
    /// Decides about the request that was running when its worker died.
    fn judge(
        &mut self,
        index: usize,
        mut job: Job,
        is_overdue: bool,
        death: &Death,
        answers: &mut Vec<(Job, Answer<'static>)>,
    ) {
        if is_overdue {
            answers.push((job, Answer::TimedOut));
        } else if job.is_live {
            // Its state died with the worker; from a stored one it will be judged alone.
            answers.push((job, Answer::NotLive));
        } else if !job.is_suspect {
            // It may have been killed from outside: once more, alone, on a fresh worker.
            job.is_suspect = true;
            let slot = &mut self.slots[index];
            slot.is_reserved = true;
            slot.queue.push_front(job);
        } else {
            let answer = match death {
                Death::Unknown(why) => Answer::Lost(why.clone()),
                death => Answer::Killed(death.clone()),
            };
            answers.push((job, answer));
        }
    }
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").finish_non_exhaustive()
    }
}
