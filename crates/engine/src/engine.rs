//! The engine's face: start executions, follow them, operate them, run their calls.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use durable_core::{
    Advance, Assignment, Base, CallId, Definition, Draft, Error, ExecutionId, Group, Inspection,
    Lease, Outcome, Owner, Payload, Program, Result, Runner, StateToken, Status, UnixMs, replay,
};
use durable_store::{Control, ExecutionRecord, Labels, NewExecution, Store, Write, Written};
use parking_lot::{Mutex, RwLock};

use crate::{
    Config, Duty,
    clockwork::{Alarm, Clockwork},
    committer::{Answer, Committer},
    dispatcher::{Dispatcher, Input},
    executor::{Executor, Outcomes},
    owner::{ProcessTable, new_owner},
    ports::{Clock, OwnerProbe, Random, Spawn, StoreClock, SystemClock, SystemRandom, Threads},
    programs::{CachedProgram, Programs},
    shell::{Creations, Shell, Visits, rendezvous_ack, whole_journal},
};

/// How long the creation of an execution waits for its first transition, to be committed with it.
const MAX_CREATION_WAIT: Duration = Duration::from_millis(1);

/// What an engine is made of. A simulation replaces what [`Parts::system`] puts in.
pub struct Parts {
    /// Where executions are kept.
    pub store: Arc<dyn Store>,
    /// What runs programs.
    pub runner: Arc<dyn Runner>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Draws ids, seeds and jitter.
    pub random: Arc<dyn Random>,
    /// Starts the committer, the loader and the clockwork.
    pub spawn: Arc<dyn Spawn>,
    /// Knows which other engines are gone.
    pub probe: Arc<dyn OwnerProbe>,
    /// Bounds and intervals.
    pub config: Config,
}

impl Parts {
    /// The machine's own randomness, threads and process table; the store's clock where several
    /// machines share one, else the machine's own.
    pub fn system(store: Arc<dyn Store>, runner: Arc<dyn Runner>) -> Self {
        Self {
            clock: match store.clock_ms() {
                Some(_) => Arc::new(StoreClock::new(store.clone())),
                None => Arc::new(SystemClock::default()),
            },
            store,
            runner,
            random: Arc::new(SystemRandom),
            spawn: Arc::new(Threads),
            probe: Arc::new(ProcessTable::new()),
            config: Config::default(),
        }
    }
}

/// One execution to start.
#[derive(Debug, Clone)]
pub struct Start {
    /// What to run.
    pub program: Arc<Program>,
    /// A JSON object: a value for each of the definition's inputs.
    pub inputs: Payload,
    /// A name to find it by.
    pub workflow_id: String,
    /// Where it belongs.
    pub labels: Labels,
    /// Two starts with the same key in one namespace are one.
    pub idempotency_key: Option<String>,
}

impl Start {
    /// A start without inputs, under the name `workflow`.
    pub fn new(definition: Definition) -> Self {
        Self {
            program: Arc::new(Program::new(definition)),
            inputs: Payload::trusted("{}"),
            workflow_id: "workflow".into(),
            labels: Labels::default(),
            idempotency_key: None,
        }
    }
}

/// A running engine on one store. Dropping it without [`Engine::detach`] is like a crash: nothing
/// is lost, and what it held is taken over.
pub struct Engine {
    shell: Arc<Shell>,
}

impl Engine {
    /// Starts an engine. It takes up no work until [`Engine::attach`].
    ///
    /// # Errors
    /// `Unavailable` when its threads can't be started.
    pub fn new(parts: Parts) -> Result<Self> {
        let Parts { store, runner, clock, random, spawn, probe, config } = parts;
        let (loads, to_load) = mpsc::channel();
        let shell = Arc::new(Shell {
            owner: new_owner(&*random),
            started_at_ms: clock.now_ms(),
            programs: Programs::new(config.max_cached_programs),
            committer: Committer::new(store.clone(), config.max_batch),
            alarm: Alarm::default(),
            dispatcher: Mutex::new(Dispatcher::new(config.clone(), random.clone())),
            executor: RwLock::new(None),
            waiters: Mutex::default(),
            visits: Visits::default(),
            claims: RwLock::default(),
            unsettled: Mutex::default(),
            creations: Creations::default(),
            loads,
            store,
            runner,
            clock,
            random,
            probe,
            config,
            duty: RwLock::default(),
        });
        let listener = Arc::downgrade(&shell);
        shell.store.subscribe(Box::new(move || {
            if let Some(shell) = listener.upgrade() {
                shell.alarm.look_at_store();
            }
        }));
        let committer = shell.clone();
        spawn.spawn("durable-commit", Box::new(move || committer.committer.run()))?;
        let loader = shell.clone();
        spawn.spawn("durable-load", Box::new(move || loader.run_loader(&to_load)))?;
        let clockwork = shell.clone();
        spawn.spawn("durable-clock", Box::new(move || Clockwork::default().run(&clockwork)))?;
        Ok(Self { shell })
    }

    /// The store, to read from.
    pub fn store(&self) -> &dyn Store {
        &*self.shell.store
    }

    /// Begins to lease executions of all queues and to hand their calls to `executor`.
    ///
    /// # Errors
    /// `Conflict` when an executor is attached already.
    pub fn attach(&self, executor: Arc<dyn Executor>) -> Result<()> {
        self.attach_for(executor, Duty::default())
    }

    /// As [`Engine::attach`], for some queues only or as a worker that is listed.
    ///
    /// # Errors
    /// As [`Engine::attach`].
    pub fn attach_for(&self, executor: Arc<dyn Executor>, duty: Duty) -> Result<()> {
        let mut attached = self.shell.executor.write();
        if attached.is_some() {
            return Err(Error::conflict("this engine has an executor already: detach it first"));
        }
        *self.shell.duty.write() = duty;
        executor.attach(Outcomes { shell: Arc::downgrade(&self.shell) });
        *attached = Some(executor);
        drop(attached);
        self.shell.dispatcher.lock().attach();
        self.shell.alarm.look_at_store();
        self.announce()
    }

    /// Shows this engine among the workers, if it is to be.
    fn announce(&self) -> Result<()> {
        let now_ms = self.shell.clock.now_ms();
        if let Some(worker) = self.shell.announcement(now_ms) {
            self.shell.write(Write::Announce(Box::new(worker)))?;
        }
        Ok(())
    }

    /// Takes up no further work, waits for running calls for at most `patience`, and gives back
    /// everything it holds. Calls that have not begun by then are run by the next engine; calls
    /// that are still running are run again.
    pub fn detach(&self, patience: Duration) {
        let Some(executor) = self.shell.executor.read().clone() else { return };
        let give_up_at = Instant::now() + patience;
        self.shell.dispatcher.lock().detach();
        for call in executor.recall() {
            self.shell.feed(Input::Recalled(call));
        }
        self.shell.feed(Input::Drain);
        while self.shell.dispatcher.lock().held() > 0 && Instant::now() < give_up_at {
            // Shutting down is rare; a short poll is simpler than one more thing to signal.
            std::thread::sleep(Duration::from_millis(2));
        }
        self.shell.feed(Input::GiveUp);
        // The leases are given back once the committer has written that.
        let flushed = self.shell.write(Write::Renew {
            owner: self.shell.owner.clone(),
            expires_at_ms: self.shell.clock.now_ms(),
        });
        if let Err(error) = flushed {
            tracing::warn!(%error, "leases were not given back; they will expire");
        }
        if self.shell.duty.read().announcement.is_some()
            && let Err(error) = self.shell.write(Write::Withdraw(self.shell.owner.clone()))
        {
            tracing::warn!(%error, "this worker is still on the list; it will be seen to be silent");
        }
        *self.shell.executor.write() = None;
    }

    /// Stores an execution. It is durable, and `scheduled`, when this returns; when an executor is
    /// attached this engine begins with it at once.
    ///
    /// # Errors
    /// `Invalid` with every problem found in the program or its inputs; `Unavailable` when the
    /// store can't be written.
    pub fn start(&self, start: Start) -> Result<ExecutionId> {
        self.start_or_find(start).map(|(id, _)| id)
    }

    /// As [`Engine::start`]; also whether the execution was there already, under the same
    /// idempotency key.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn start_or_find(&self, start: Start) -> Result<(ExecutionId, bool)> {
        let mut started = self.start_all(vec![start])?;
        started.pop().ok_or_else(|| Error::internal("a start was not answered"))
    }

    /// Stores many executions in as few commits as possible.
    ///
    /// # Errors
    /// As [`Engine::start`]. Checks come first: when one start is invalid none is stored.
    pub fn start_many(&self, starts: Vec<Start>) -> Result<Vec<ExecutionId>> {
        Ok(self.start_all(starts)?.into_iter().map(|(id, _)| id).collect())
    }

    fn start_all(&self, starts: Vec<Start>) -> Result<Vec<(ExecutionId, bool)>> {
        let mut programs = Vec::with_capacity(starts.len());
        for start in &starts {
            check_inputs(start)?;
            self.shell.runner.validate_inputs(&start.program, &start.inputs)?;
            programs.push(self.checked(&start.program)?);
        }
        let mut writes: Vec<(Write, Answer)> = Vec::with_capacity(starts.len());
        let mut begun = Vec::new();
        let (sender, answers) = mpsc::channel();
        let now_ms = self.shell.clock.now_ms();
        let expires_at_ms = now_ms + self.shell.config.lease_ms as i64;
        let mut room = self.shell.dispatcher.lock().room();
        let duty = self.shell.duty.read().clone();
        for (index, (start, program)) in starts.into_iter().zip(programs).enumerate() {
            // Whether a key is new is known only after the commit, so keyed starts are leased by
            // the usual claim.
            let ours = duty.queues.is_empty() || duty.queues.contains(&start.labels.queue);
            let takes = room > 0 && ours && start.idempotency_key.is_none();
            let lease = takes.then(|| (self.shell.owner.clone(), expires_at_ms));
            let (id, inputs) = (self.id_of(now_ms), start.inputs.clone());
            let new = NewExecution {
                id,
                program: program.id().clone(),
                workflow_id: start.workflow_id,
                inputs: start.inputs,
                labels: start.labels,
                idempotency_key: start.idempotency_key,
                created_at_ms: now_ms,
                lease,
            };
            writes.push((Write::Create(new), self.on_created(index, takes, sender.clone())));
            if takes {
                room -= 1;
                let lease = Lease { owner: self.shell.owner.clone(), epoch: 1 };
                begun.push(Input::Created { id, program, inputs, lease });
            }
        }
        drop(sender);
        let alone = match begun.as_slice() {
            [Input::Created { id, .. }] if writes.len() == 1 => Some(*id),
            _ => None,
        };
        match (alone, writes.pop()) {
            (Some(id), Some(creation)) => self.shell.creations.put(id, creation),
            (_, last) => {
                writes.extend(last);
                self.shell.committer.submit_all(writes);
            }
        }
        // The program may run while its execution is being made durable: its first transition is
        // queued behind that, and no call leaves before both are committed.
        for input in begun {
            self.shell.feed(input);
        }
        let mut ids: Vec<(usize, (ExecutionId, bool))> = Vec::new();
        if let Some(id) = alone {
            match answers.recv_timeout(MAX_CREATION_WAIT) {
                Ok((index, answer)) => ids.push((index, answer?)),
                // The program takes its time: its execution is made durable without it.
                Err(_) => self
                    .shell
                    .committer
                    .submit_all(self.shell.creations.take(id).into_iter().collect()),
            }
        }
        for (index, answer) in answers {
            ids.push((index, answer?));
        }
        ids.sort_unstable_by_key(|(index, _)| *index);
        Ok(ids.into_iter().map(|(_, started)| started).collect())
    }

    /// An id for an execution that is made now.
    pub fn new_id(&self) -> ExecutionId {
        self.id_of(self.shell.clock.now_ms())
    }

    fn id_of(&self, now_ms: UnixMs) -> ExecutionId {
        let (high, low) = (self.shell.random.next_u64(), self.shell.random.next_u64());
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&high.to_le_bytes());
        bytes[8..].copy_from_slice(&low.to_le_bytes()[..2]);
        ExecutionId::new(now_ms, bytes)
    }

    fn on_created(
        &self,
        index: usize,
        taken: bool,
        sender: mpsc::Sender<(usize, Result<(ExecutionId, bool)>)>,
    ) -> Answer {
        let shell = self.shell.clone();
        Box::new(move |answer| {
            let created = match answer {
                Ok(Written::Created { id, existing }) => Ok((id, existing)),
                Ok(_) => Err(Error::internal("a creation was answered with something else")),
                Err(error) => Err(error),
            };
            if !taken {
                shell.alarm.look_at_store();
            }
            // Whoever started it may have gone away.
            let _ = sender.send((index, created));
        })
    }

    /// The program, checked and durable.
    fn checked(&self, program: &Arc<Program>) -> Result<Arc<CachedProgram>> {
        if let Some(known) = self.shell.programs.get(program.id()) {
            return Ok(known);
        }
        self.shell.runner.validate(program)?;
        match self.shell.store.program(program.id())? {
            Some(stored) => Ok(self.shell.programs.insert(stored.program, stored.dictionary)),
            None => {
                self.shell.write(Write::PutProgram(program.clone()))?;
                Ok(self.shell.programs.insert(program.clone(), None))
            }
        }
    }

    /// Checks a program as [`Engine::start`] does, without storing anything.
    ///
    /// # Errors
    /// `Invalid` with every problem found.
    pub fn validate(&self, program: &Program) -> Result<()> {
        self.shell.runner.validate(program)
    }

    /// The program that an execution runs, as it is stored.
    ///
    /// # Errors
    /// `Corrupt` when it is missing, or can't be read.
    pub fn program_of(&self, record: &ExecutionRecord) -> Result<Arc<Program>> {
        let stored = self.shell.store.program(&record.program)?.ok_or_else(|| {
            Error::corrupt(format!(
                "the program {} of execution {} is missing",
                record.program, record.id
            ))
        })?;
        Ok(stored.program)
    }

    /// The call stacks and variables of a program as they were after a transition, once `variables`
    /// were given other values.
    ///
    /// The program is run again against its journal up to there; the execution is left alone.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when the program did not wait after it, or does not get there any
    /// more, or can't take the values; `Invalid` when programs of its kind can't be looked into.
    pub fn inspect(
        &self,
        id: ExecutionId,
        transition: u64,
        variables: &[Assignment],
    ) -> Result<Inspection> {
        let record = self.execution(id)?;
        let mut journal = whole_journal(&*self.shell.store, id)?;
        journal.retain(|recorded| recorded.transition <= transition);
        let (seed, now_ms) = replay::started(&journal).ok_or_else(|| {
            Error::conflict(format!("execution {id} had not begun at transition {transition}"))
        })?;
        let program = self.program_of(&record)?;
        let mut groups = replay::groups(&journal);
        if !variables.is_empty() {
            groups.push(Group { variables: variables.to_vec(), ..Group::default() });
        }
        self.shell.runner.inspect(Advance {
            execution: id,
            program,
            dictionary: None,
            base: Base::Start { inputs: record.inputs, seed, now_ms },
            groups,
            next: StateToken { epoch: 0, version: transition },
        })
    }

    /// Reports what came of a call from outside. Returns when that is durable.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when the call has ended already (nothing is changed).
    pub fn complete_call(&self, id: ExecutionId, call: CallId, outcome: Outcome) -> Result<()> {
        let (ack, acked) = rendezvous_ack();
        self.shell.feed(Input::Reported { id, call, outcome, ack });
        acked()
    }

    /// Advances an execution once without running its calls: takes in what has arrived, runs the
    /// program to its next suspension, and gives the lease back.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when another engine holds it or it has ended.
    pub fn advance(&self, id: ExecutionId) -> Result<()> {
        self.shell.control(id, None)
    }

    /// Ends an execution: no further call is run, and running ones are told.
    ///
    /// When another engine holds it, that engine is asked, and does it within its poll interval.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it has ended.
    pub fn cancel(&self, id: ExecutionId, reason: &str) -> Result<()> {
        self.shell.control(id, Some((Control::Cancel, reason.to_owned())))
    }

    /// Stops advancing an execution. Results that come in meanwhile are kept.
    ///
    /// # Errors
    /// As [`Engine::cancel`].
    pub fn pause(&self, id: ExecutionId, reason: &str) -> Result<()> {
        self.shell.control(id, Some((Control::Pause, reason.to_owned())))
    }

    /// Lets a paused execution go on.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it is not paused.
    pub fn resume(&self, id: ExecutionId) -> Result<()> {
        self.shell.control(id, Some((Control::Resume, String::new())))?;
        self.shell.alarm.look_at_store();
        Ok(())
    }

    /// Lets a failed execution go on from where it failed.
    ///
    /// The transition that failed it is taken back. Calls whose failure was the cause are made
    /// again, from their first attempt; calls that its end cancelled are open again; what has
    /// completed stays. When no call was the cause, the program is advanced again as before.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it has not failed, or somebody else was faster, or its program
    /// failed of something that it had known for longer than since its last `await`.
    pub fn retry(&self, id: ExecutionId) -> Result<()> {
        let status = self.execution(id)?.status;
        if status != Status::Failed {
            return Err(Error::conflict(format!(
                "execution {id} is {status}: only one that failed is retried{}",
                if status == Status::Paused { "; resume it" } else { "" }
            )));
        }
        let (failed, event) = replay::retry(id, &whole_journal(&*self.shell.store, id)?)?;
        let mut draft = Draft::new(failed, self.shell.clock.now_ms());
        draft.retry(event)?;
        // Nobody holds a lease on what has ended, and none is needed.
        let lease = Lease { owner: self.shell.owner.clone(), epoch: 0 };
        let (transition, _) = draft.finish(lease, true);
        self.shell.write(Write::Transition(Box::new(transition)))?;
        self.shell.alarm.look_at_store();
        Ok(())
    }

    /// Removes an execution and all its rows.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while another engine holds it.
    pub fn delete(&self, id: ExecutionId) -> Result<()> {
        let now_ms = self.shell.clock.now_ms();
        let owner = self.shell.owner.clone();
        self.shell.write(Write::Delete { execution: id, owner, now_ms })?;
        self.shell.feed(Input::Deleted(id));
        Ok(())
    }

    /// Waits until an execution has ended. `None` when the time is over first.
    ///
    /// # Errors
    /// `NotFound` when there is no such execution, or it is deleted meanwhile.
    pub fn wait(
        &self,
        id: ExecutionId,
        at_most: Option<Duration>,
    ) -> Result<Option<ExecutionRecord>> {
        let until = at_most.map(|at_most| Instant::now() + at_most);
        loop {
            let (woken, wake) = mpsc::sync_channel::<()>(1);
            // The hook drops its end of the channel: that is the signal.
            let _registered = self.on_ended(id, move || drop(woken));
            let record = self.execution(id)?;
            if record.status.is_terminal() {
                return Ok(Some(record));
            }
            match until {
                Some(until) => {
                    let rest = until.saturating_duration_since(Instant::now());
                    if rest.is_zero() {
                        return Ok(None);
                    }
                    let _ = wake.recv_timeout(rest);
                }
                None => {
                    let _ = wake.recv();
                }
            }
        }
    }

    /// Calls `hook` once when the execution has ended or may have, or when it is a session that
    /// may ask for its next feed: read it again, and register
    /// again when it has not. Registering comes before reading. The hook is forgotten when the
    /// registration is dropped.
    pub fn on_ended(&self, id: ExecutionId, hook: impl FnOnce() + Send + 'static) -> Registration {
        let ticket = self.shell.on_ended(id, Box::new(hook));
        Registration { shell: self.shell.clone(), id, ticket }
    }

    /// An execution as it is stored.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn execution(&self, id: ExecutionId) -> Result<ExecutionRecord> {
        self.shell
            .store
            .execution(id)?
            .ok_or_else(|| Error::not_found(format!("no execution '{id}'")))
    }

    /// Whether nothing of this engine's queues is scheduled, running or waiting, with this engine
    /// or with any other. What is paused waits for an operator and does not count.
    ///
    /// # Errors
    /// As the store's.
    pub fn is_idle(&self) -> Result<bool> {
        let nobody = Owner::new("");
        let queues = self.shell.duty.read().queues.clone();
        // Whatever is not over is due at some time, or the lease on it ends at some time.
        let next_due_ms = || self.shell.store.next_due_ms(&nobody, &queues);
        // Looked at twice: between the parts of one look a lease may be given back.
        Ok(self.held() == 0 && next_due_ms()?.is_none() && next_due_ms()?.is_none())
    }

    /// How many executions this engine holds leases on.
    pub fn held(&self) -> usize {
        self.shell.dispatcher.lock().held()
    }
}

/// Keeps a hook of [`Engine::on_ended`].
pub struct Registration {
    shell: Arc<Shell>,
    id: ExecutionId,
    ticket: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shell.forget_hook(self.id, self.ticket);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shell.alarm.stop();
        self.shell.committer.close();
        let _ = self.shell.loads.send(None);
        *self.shell.executor.write() = None;
    }
}

/// Every input of the definition has a value, and there are no others.
fn check_inputs(start: &Start) -> Result<()> {
    let definition = start.program.definition();
    let max_bytes = definition.limits.max_payload_bytes;
    if start.inputs.as_str().len() as u64 > max_bytes {
        return Err(Error::invalid(format!(
            "the inputs have {} bytes, the limit max_payload_bytes is {max_bytes}",
            start.inputs.as_str().len()
        )));
    }
    if definition.inputs.is_empty() && start.inputs.as_str() == "{}" {
        return Ok(());
    }
    let value: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(start.inputs.as_str())
            .map_err(|error| Error::invalid(format!("the inputs are no JSON object: {error}")))?;
    for name in &definition.inputs {
        if !value.contains_key(name) {
            return Err(Error::invalid(format!("input '{name}' is missing")));
        }
    }
    for name in value.keys() {
        if !definition.inputs.contains(name) {
            return Err(Error::invalid(format!(
                "input '{name}' is not among the program's inputs: {}",
                definition.inputs.join(", ")
            )));
        }
    }
    Ok(())
}
