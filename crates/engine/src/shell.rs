//! The async shell around the dispatcher: carries its actions out, and brings it what comes of
//! them.
//!
//! Nobody waits in here: stores are written by the committer's thread and read by the loader's,
//! programs run in the runner, calls in the executor. Whatever thread has news feeds it to the
//! dispatcher under its lock and carries the resulting actions out after releasing it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use durable_core::{
    CHECKPOINT, CallId, Draft, Error, Event, ExecutionId, Outcome, Owner, Payload, ProgramId,
    Result, Runner, Transition, UnixMs, replay,
};
use durable_store::{Control, Loaded, Store, WorkerRecord, Write, Written};
use parking_lot::{Condvar, Mutex, RwLock};

use crate::{
    Config, Duty,
    clockwork::Alarm,
    committer::{Answer, Committer},
    dispatcher::{Ack, Action, Dispatcher, GIVEN_BACK, Input},
    executor::{CallRequest, Executor},
    ports::{Clock, OwnerProbe, Random},
    programs::{CachedProgram, Programs},
};

/// Called when an execution has ended, or might have: look again.
pub(crate) type EndedHook = Box<dyn FnOnce() + Send>;

/// How often an execution is asked for something that is given back in this very moment.
const MAX_ASKED: u32 = 10;

pub(crate) struct Shell {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) runner: Arc<dyn Runner>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) probe: Arc<dyn OwnerProbe>,
    pub(crate) config: Config,
    pub(crate) duty: RwLock<Duty>,
    pub(crate) owner: Owner,
    pub(crate) started_at_ms: UnixMs,
    pub(crate) programs: Programs,
    pub(crate) committer: Committer,
    pub(crate) alarm: Alarm,
    pub(crate) dispatcher: Mutex<Dispatcher>,
    pub(crate) executor: RwLock<Option<Arc<dyn Executor>>>,
    pub(crate) waiters: Mutex<Waiters>,
    pub(crate) visits: Visits,
    /// Held from a claim until the dispatcher has what was claimed, or this engine would take
    /// leases away from itself: shared by visits, each of another execution, and alone by whoever
    /// claims what it does not know.
    pub(crate) claims: RwLock<()>,
    /// Writes that the store could not take for now, and that nobody but this engine can make up
    /// for.
    pub(crate) unsettled: Mutex<Vec<Write>>,
    pub(crate) creations: Creations,
    /// `None` ends the loader.
    pub(crate) loads: mpsc::Sender<Option<Load>>,
}

/// Who waits for the end of which execution.
#[derive(Default)]
pub(crate) struct Waiters {
    hooks: HashMap<ExecutionId, Vec<(u64, EndedHook)>>,
    next_ticket: u64,
}

/// Creations that wait to be committed together with the first transition of their execution:
/// one fsync for both, when the program is quick.
#[derive(Default)]
pub(crate) struct Creations {
    waiting: Mutex<HashMap<ExecutionId, (Write, Answer)>>,
}

impl Creations {
    pub(crate) fn put(&self, id: ExecutionId, creation: (Write, Answer)) {
        self.waiting.lock().insert(id, creation);
    }

    /// Takes a creation to commit it; whoever gets it has to.
    pub(crate) fn take(&self, id: ExecutionId) -> Option<(Write, Answer)> {
        self.waiting.lock().remove(&id)
    }
}

/// Executions that somebody visits: one visitor at a time, or each would take the lease away
/// from the one before.
#[derive(Default)]
pub(crate) struct Visits {
    under_way: Mutex<HashSet<ExecutionId>>,
    changed: Condvar,
}

/// The right to visit one execution, until it is dropped.
struct Visiting<'a> {
    visits: &'a Visits,
    id: ExecutionId,
}

impl Visits {
    /// Waits until nobody else visits the execution.
    fn enter(&self, id: ExecutionId) -> Visiting<'_> {
        let mut under_way = self.under_way.lock();
        while !under_way.insert(id) {
            self.changed.wait(&mut under_way);
        }
        Visiting { visits: self, id }
    }
}

impl Drop for Visiting<'_> {
    fn drop(&mut self) {
        self.visits.under_way.lock().remove(&self.id);
        self.visits.changed.notify_all();
    }
}

/// Something to read from the store.
pub(crate) struct Load {
    pub(crate) id: ExecutionId,
    /// Of the lease under which it is asked for.
    pub(crate) epoch: u64,
    /// With the whole journal instead of a snapshot.
    pub(crate) full: bool,
    pub(crate) not_before: Instant,
}

impl Shell {
    /// Gives the dispatcher something to think about and carries out what it decides.
    pub(crate) fn feed(self: &Arc<Self>, input: Input) {
        let mut actions = Vec::new();
        self.dispatcher.lock().handle(self.clock.now_ms(), input, &mut actions);
        for action in actions {
            self.carry_out(action);
        }
    }

    pub(crate) fn finished(
        self: &Arc<Self>,
        id: ExecutionId,
        call: CallId,
        attempt: u32,
        outcome: Outcome,
        ack: Option<Ack>,
    ) {
        self.feed(Input::Finished { id, call, attempt, outcome, ack });
    }

    pub(crate) fn is_wanted(&self, id: ExecutionId, call: CallId, attempt: u32) -> bool {
        self.dispatcher.lock().is_wanted(id, call, attempt)
    }

    pub(crate) fn note_job(&self, id: ExecutionId, call: CallId, job_id: &str) -> Result<()> {
        self.note_all(vec![(id, call, job_id.to_owned())]).pop().unwrap_or(Ok(()))
    }

    /// Stores names of jobs, all in one commit as far as one batch holds them, and waits for it.
    /// What came of each, in order.
    pub(crate) fn note_all(&self, jobs: Vec<(ExecutionId, CallId, String)>) -> Vec<Result<()>> {
        let mut writes: Vec<(Write, Answer)> = Vec::with_capacity(jobs.len());
        let mut waiting = Vec::with_capacity(jobs.len());
        let dispatcher = self.dispatcher.lock();
        for (execution, call, job_id) in jobs {
            waiting.push(dispatcher.lease(execution).map_or_else(
                || Err(not_held(execution)),
                |lease| {
                    let (answer, answered) = rendezvous();
                    writes.push((Write::NoteJob { execution, lease, call, job_id }, answer));
                    Ok(answered)
                },
            ));
        }
        drop(dispatcher);
        self.committer.submit_all(writes);
        waiting.into_iter().map(|answered| answered.and_then(|wait| wait().map(drop))).collect()
    }

    /// Has names of jobs stored with the next commit, without waiting for it.
    pub(crate) fn note_jobs(&self, jobs: Vec<(ExecutionId, CallId, String)>) {
        let dispatcher = self.dispatcher.lock();
        let writes = jobs
            .into_iter()
            .filter_map(|(execution, call, job_id)| {
                let lease = dispatcher.lease(execution)?;
                let answer: Answer = Box::new(|_| {});
                Some((Write::NoteJob { execution, lease, call, job_id }, answer))
            })
            .collect();
        drop(dispatcher);
        self.committer.submit_all(writes);
    }

    /// Commits one write and waits for it.
    pub(crate) fn write(&self, write: Write) -> Result<Written> {
        let (answer, answered) = rendezvous();
        self.committer.submit(write, answer);
        answered()
    }

    /// Calls `hook` once, when the execution has ended or its row may have changed. The ticket
    /// is for [`Self::forget_hook`].
    pub(crate) fn on_ended(&self, id: ExecutionId, hook: EndedHook) -> u64 {
        let mut waiters = self.waiters.lock();
        waiters.next_ticket += 1;
        let ticket = waiters.next_ticket;
        waiters.hooks.entry(id).or_default().push((ticket, hook));
        ticket
    }

    pub(crate) fn forget_hook(&self, id: ExecutionId, ticket: u64) {
        let mut waiters = self.waiters.lock();
        if let Some(hooks) = waiters.hooks.get_mut(&id) {
            hooks.retain(|(other, _)| *other != ticket);
            if hooks.is_empty() {
                waiters.hooks.remove(&id);
            }
        }
    }

    /// Wakes those who wait for executions that other engines may have ended.
    pub(crate) fn wake_remote_waiters(&self) {
        let ids: Vec<_> = self.waiters.lock().hooks.keys().copied().collect();
        for id in ids {
            if !self.dispatcher.lock().holds(id) {
                self.ended(id);
            }
        }
    }

    fn ended(&self, id: ExecutionId) {
        let hooks = self.waiters.lock().hooks.remove(&id).unwrap_or_default();
        for (_, hook) in hooks {
            hook();
        }
    }

    fn carry_out(self: &Arc<Self>, action: Action) {
        match action {
            Action::Commit(id, transition, dictionary) => self.commit(id, transition, dictionary),
            Action::Release { id, lease, wake_at_ms, done } => {
                let write = Write::Release { execution: id, lease, wake_at_ms };
                self.commit_for(write, done, "a lease was not given back");
            }
            Action::Report { id, call, outcome, ack } => {
                let now_ms = self.clock.now_ms();
                let write = Write::Report { execution: id, call, outcome, now_ms };
                self.commit_for(write, ack, "an outcome was refused");
            }
            Action::Advance(request) => {
                let shell = self.clone();
                let (id, epoch) = (request.execution, request.next.epoch);
                let done = move |advanced| shell.feed(Input::Advanced { id, epoch, advanced });
                self.runner.advance(*request, Box::new(done));
            }
            Action::Load { id, epoch, full, after_ms } => {
                let not_before = Instant::now() + Duration::from_millis(after_ms);
                // The loader ends only with the engine itself.
                let _ = self.loads.send(Some(Load { id, epoch, full, not_before }));
            }
            Action::Submit(calls) => self.submit(calls),
            Action::Cancel { id, call, attempt } => {
                if let Some(executor) = &*self.executor.read() {
                    executor.cancel(id, call, attempt);
                }
            }
            Action::Forget(id) => self.runner.forget(id),
            Action::Answer(ack, result) => ack(result),
            Action::News(id) => self.ended(id),
            Action::GivenBack(due_ms) => self.alarm.given_back(due_ms),
            Action::WakeClockwork => self.alarm.ring(),
            Action::HasRoom => self.alarm.look_at_store(),
        }
    }

    fn submit(self: &Arc<Self>, calls: Vec<CallRequest>) {
        let (marks, calls): (Vec<_>, Vec<_>) =
            calls.into_iter().partition(|call| call.function == CHECKPOINT);
        for mark in marks {
            let outcome = Outcome::Completed(Payload::null());
            self.finished(mark.execution, mark.call, mark.attempt, outcome, None);
        }
        if calls.is_empty() {
            return;
        }
        match &*self.executor.read() {
            Some(executor) => executor.submit(calls),
            // It was taken away in this very moment: whoever leases them next runs them.
            None => tracing::debug!(calls = calls.len(), "no executor is attached any more"),
        }
    }

    fn commit(
        self: &Arc<Self>,
        id: ExecutionId,
        transition: Box<Transition>,
        dictionary: Option<(ProgramId, durable_core::Dictionary)>,
    ) {
        let mut writes: Vec<(Write, Answer)> = Vec::with_capacity(3);
        writes.extend(self.creations.take(id));
        if let Some((program, dictionary)) = dictionary {
            let shell = self.clone();
            let known = program.clone();
            let answer = move |answer: Result<Written>| {
                if let (Ok(Written::Dictionary(kept)), Some(program)) =
                    (answer, shell.programs.get(&known))
                {
                    program.set_dictionary(kept);
                }
            };
            writes.push((Write::PutDictionary { program, dictionary }, Box::new(answer)));
        }
        let (shell, epoch) = (self.clone(), transition.lease.epoch);
        let answer = move |answer: Result<Written>| {
            shell.feed(Input::Committed { id, epoch, result: answer.map(drop) });
        };
        writes.push((Write::Transition(transition), Box::new(answer)));
        self.committer.submit_all(writes);
    }

    fn commit_for(self: &Arc<Self>, write: Write, ack: Option<Ack>, refused: &'static str) {
        let shell = self.clone();
        let again = write.clone();
        self.committer.submit(
            write,
            Box::new(move |answer| {
                if let Err(error) = &answer {
                    tracing::debug!(%error, "{refused}");
                    // An outcome is reported again by whoever waits for the answer.
                    let is_ours = ack.is_none() || !matches!(again, Write::Report { .. });
                    let is_final = matches!(
                        error,
                        Error::Conflict(_) | Error::NotFound(_) | Error::Invalid(_)
                    );
                    if is_ours && !is_final {
                        shell.unsettled.lock().push(again);
                    }
                }
                shell.alarm.look_at_store();
                if let Some(ack) = ack {
                    ack(answer.map(drop));
                }
            }),
        );
    }

    /// Tries again what the store could not take. Repeating it is harmless: a lease that was given
    /// back meanwhile has another epoch, and a call that has ended takes no outcome.
    pub(crate) fn settle(self: &Arc<Self>) {
        for write in std::mem::take(&mut *self.unsettled.lock()) {
            self.commit_for(write, None, "what was to be made up for was refused");
        }
    }

    /// Reads what the dispatcher asked for, one after the other, until the engine is dropped.
    pub(crate) fn run_loader(self: &Arc<Self>, loads: &mpsc::Receiver<Option<Load>>) {
        while let Ok(Some(load)) = loads.recv() {
            let wait = load.not_before.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                std::thread::sleep(wait);
            }
            let loaded = self.read(&load);
            self.feed(Input::Loaded { id: load.id, epoch: load.epoch, loaded });
        }
    }

    fn read(&self, load: &Load) -> Result<Option<Loaded>> {
        let Some(mut loaded) = self.store.load(load.id)? else { return Ok(None) };
        if load.full && loaded.snapshot.is_some() {
            loaded.snapshot = None;
            loaded.tail = whole_journal(&*self.store, load.id)?;
        }
        Ok(Some(loaded))
    }

    /// Finds the programs of leased executions. Those whose program is damaged are parked, or
    /// cancelled if that is asked for; when it could only not be read for now they are given back,
    /// to be claimed again soon.
    pub(crate) fn with_programs(
        self: &Arc<Self>,
        claimed: Vec<Loaded>,
    ) -> Vec<(Loaded, Arc<CachedProgram>)> {
        let mut ready = Vec::with_capacity(claimed.len());
        for loaded in claimed {
            match self.programs.load(&loaded.program, &*self.store) {
                Ok(program) => ready.push((loaded, program)),
                Err(error) => self.give_back_without_program(loaded, &error, None),
            }
        }
        ready
    }

    fn give_back_without_program(
        self: &Arc<Self>,
        loaded: Loaded,
        error: &Error,
        ack: Option<Ack>,
    ) {
        let id = loaded.execution.id;
        tracing::error!(execution = %id, %error, "the program can't be loaded");
        let Some(lease) = loaded.lease else { return };
        let now_ms = self.clock.now_ms();
        let mut draft = Draft::new(loaded.execution, now_ms);
        let is_damaged = matches!(error, Error::Corrupt(_));
        let event = match loaded.control {
            // No program is needed to end it.
            Some((Control::Cancel, reason)) => Event::ExecutionCancelled { reason },
            _ => Event::ExecutionPaused { reason: format!("the program can't be loaded: {error}") },
        };
        let write = if is_damaged && draft.push(event).is_ok() {
            let (transition, _) = draft.finish(lease, true);
            Write::Transition(Box::new(transition))
        } else {
            let again_ms = now_ms.saturating_add(self.config.retry_commit_ms as i64);
            // What is paused already waits for an operator.
            let wake_at_ms = (!is_damaged).then_some(again_ms);
            Write::Release { execution: id, lease, wake_at_ms }
        };
        self.commit_for(write, ack, "a lease was not given back");
    }

    /// Asks whoever holds the execution to do something, or does it if nobody holds it.
    pub(crate) fn control(
        self: &Arc<Self>,
        id: ExecutionId,
        control: Option<(Control, String)>,
    ) -> Result<()> {
        let _visiting = self.visits.enter(id);
        for _ in 0..MAX_ASKED {
            let (ack, acked) = rendezvous_ack();
            self.ask(id, control.clone(), ack)?;
            match acked() {
                Err(Error::Unavailable(why)) if why == GIVEN_BACK => {}
                answer => return answer,
            }
        }
        Err(Error::unavailable(GIVEN_BACK))
    }

    /// As [`Self::control`]; what comes of it is told to `ack`.
    fn ask(
        self: &Arc<Self>,
        id: ExecutionId,
        control: Option<(Control, String)>,
        ack: Ack,
    ) -> Result<()> {
        let _claiming = self.claims.read();
        if self.dispatcher.lock().holds(id) {
            let Some((control, reason)) = control else {
                return Err(Error::conflict(format!("execution {id} is being run by this engine")));
            };
            self.feed(Input::Control { id, control, reason, ack });
            return Ok(());
        }
        let now_ms = self.clock.now_ms();
        let claim = Write::ClaimOne {
            execution: id,
            owner: self.owner.clone(),
            now_ms,
            expires_at_ms: now_ms + self.config.lease_ms as i64,
            dead: self.gone_owners()?,
        };
        match (self.write(claim), control) {
            (Ok(Written::Claimed(mut claimed)), control) => {
                let Some(loaded) = claimed.pop() else {
                    return Err(Error::internal("a claim of one was answered with none"));
                };
                self.visit(loaded, control, ack)
            }
            (Ok(_), _) => Err(Error::internal("a claim was answered with something else")),
            (Err(Error::Conflict(_)), Some((control, reason))) => {
                ack(self.write(Write::Request { execution: id, control, reason }).map(drop));
                Ok(())
            }
            (Err(error), _) => Err(error),
        }
    }

    fn visit(
        self: &Arc<Self>,
        loaded: Loaded,
        control: Option<(Control, String)>,
        ack: Ack,
    ) -> Result<()> {
        match self.programs.load(&loaded.program, &*self.store) {
            Ok(program) => {
                let loaded = Box::new(loaded);
                self.feed(Input::Visit { loaded, program, control, done: ack });
                Ok(())
            }
            Err(error @ Error::Corrupt(_)) if matches!(control, Some((Control::Cancel, _))) => {
                self.give_back_without_program(Loaded { control, ..loaded }, &error, Some(ack));
                Ok(())
            }
            Err(error) => {
                self.give_back_without_program(loaded, &error, None);
                Err(error)
            }
        }
    }

    /// How this engine is shown among the workers, while it takes up work.
    pub(crate) fn announcement(&self, now_ms: UnixMs) -> Option<WorkerRecord> {
        self.executor.read().as_ref()?;
        let Duty { queues, announcement } = self.duty.read().clone();
        let announced = announcement?;
        Some(WorkerRecord {
            owner: self.owner.clone(),
            host: announced.host,
            pid: std::process::id(),
            queues,
            functions: announced.functions,
            concurrency: announced.concurrency,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at_ms: self.started_at_ms,
            seen_at_ms: now_ms,
            held: 0,
        })
    }

    /// Owners of leases that are surely gone.
    pub(crate) fn gone_owners(&self) -> Result<Vec<Owner>> {
        let mut owners = self.store.other_owners(&self.owner)?;
        owners.retain(|owner| self.probe.is_gone(owner));
        Ok(owners)
    }
}

fn not_held(id: ExecutionId) -> Error {
    Error::conflict(format!("execution {id} is not held by this engine any more"))
}

/// The journal of an execution from its first event to its last.
///
/// # Errors
/// `Corrupt` when it has a gap, or an event that can't be read or can't follow those before.
pub fn whole_journal(store: &dyn Store, id: ExecutionId) -> Result<Vec<durable_core::Recorded>> {
    const PAGE: usize = 10_000;
    let mut journal = store.journal(id, 0, PAGE)?;
    loop {
        let last = journal.last().map_or(0, |recorded| recorded.sequence);
        let page = store.journal(id, last, PAGE)?;
        if page.is_empty() {
            // Folding it checks that it has no gap before anything is built on it.
            replay::fold(id, &journal)?;
            return Ok(journal);
        }
        journal.extend(page);
    }
}

/// An answer to give, and the function that waits for it.
fn rendezvous() -> (Answer, impl FnOnce() -> Result<Written>) {
    let (send, receive) = mpsc::sync_channel(1);
    let answer = Box::new(move |answer| {
        // The other side waits, or has gone away and does not care.
        let _ = send.send(answer);
    });
    let closed = || Error::unavailable("the engine was closed while it worked on this");
    (answer, move || receive.recv().map_err(|_| closed())?)
}

pub(crate) fn rendezvous_ack() -> (Ack, impl FnOnce() -> Result<()>) {
    let (send, receive) = mpsc::sync_channel(1);
    let ack = Box::new(move |answer| {
        let _ = send.send(answer);
    });
    let closed = || Error::unavailable("the engine was closed while it worked on this");
    (ack, move || receive.recv().map_err(|_| closed())?)
}
