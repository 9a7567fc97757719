//! What the checks are written with.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use durable_core::{
    CallId, Definition, Draft, End, Event, Execution, ExecutionId, Failure, FunctionOptions,
    Language, Lease, Limits, NewCall, Outcome, Owner, Payload, Position, Program, Reached,
    Recorded, Request, Result, Snapshot, Transition, UnixMs, replay,
};

use crate::{CallRecord, ExecutionRecord, Labels, Loaded, NewExecution, Store, Write, Written};

/// When the checks begin.
pub(super) const NOW_MS: UnixMs = 1_790_000_000_000;
/// How long their leases last.
pub(super) const LEASE_MS: UnixMs = 30_000;

/// A store with a program in it.
pub(super) struct Kit {
    pub(super) store: Box<dyn Store>,
    pub(super) program: Arc<Program>,
}

/// An execution under a lease, as an engine holds it.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) state: Execution,
    pub(super) lease: Lease,
    /// The clock of its next transition.
    pub(super) at_ms: UnixMs,
}

/// Takes the value out of what must have worked.
#[track_caller]
pub(super) fn ok<T>(result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("refused: {error}"),
    }
}

/// Takes the value out of what must be there.
#[track_caller]
pub(super) fn some<T>(value: Option<T>) -> T {
    match value {
        Some(value) => value,
        None => panic!("nothing there"),
    }
}

/// Asserts that a result is an error of one kind.
macro_rules! refused {
    ($result:expr, $kind:ident) => {
        match $result {
            Err(durable_core::Error::$kind(message)) => {
                assert!(!message.is_empty(), "a refusal says why")
            }
            other => panic!("expected {}, got {other:?}", stringify!($kind)),
        }
    };
}
pub(super) use refused;

pub(super) fn id(number: u8) -> ExecutionId {
    ExecutionId::new(NOW_MS + i64::from(number), [number; 10])
}

pub(super) fn owner(name: &str) -> Owner {
    Owner::new(name)
}

pub(super) fn json(text: &str) -> Payload {
    Payload::trusted(text)
}

pub(super) fn completed(text: &str) -> Outcome {
    Outcome::Completed(json(text))
}

pub(super) fn failed(message: &str) -> Outcome {
    Outcome::Failed(Failure::new("ValueError", message).with_traceback("Traceback…"))
}

pub(super) fn function(id: CallId, name: &str) -> NewCall {
    NewCall {
        id,
        request: Request::Function {
            name: name.into(),
            args: json(&format!("[{id}]")),
            kwargs: json(r#"{"key": "wert ü"}"#),
            options: FunctionOptions::default(),
        },
        position: Position { line: 3, column: 14 },
    }
}

pub(super) fn timer(id: CallId, delay_ms: u64) -> NewCall {
    let position = Position { line: 5, column: 1 };
    NewCall { id, request: Request::Timer { delay_ms }, position }
}

/// What a program reached that asked for calls and waits.
pub(super) fn suspended(calls: Vec<NewCall>, snapshot: Option<&[u8]>) -> Reached {
    let snapshot = snapshot.map(|bytes| Snapshot(bytes.into()));
    let end = End::Suspended { snapshot, new_dictionary: None };
    Reached { calls: vec![calls], printed: String::new(), end }
}

impl Kit {
    pub(super) fn new(store: Box<dyn Store>) -> Self {
        let program = Arc::new(Program::new(Definition {
            language: Language::Python,
            source: "await a(1)".into(),
            functions: BTreeMap::from([("a".to_owned(), FunctionOptions::default())]),
            inputs: vec!["text".into()],
            limits: Limits::default(),
        }));
        let kit = Self { store, program };
        ok(kit.write(Write::PutProgram(kit.program.clone())));
        kit
    }

    /// Commits a batch of one.
    pub(super) fn write(&self, write: Write) -> Result<Written> {
        let mut answers = self.store.commit(&[write])?;
        assert_eq!(answers.len(), 1, "one answer for each member");
        some(answers.pop())
    }

    #[track_caller]
    pub(super) fn done(&self, write: Write) {
        match self.write(write) {
            Ok(Written::Done) => {}
            other => panic!("expected Done, got {other:?}"),
        }
    }

    pub(super) fn new_execution(&self, id: ExecutionId) -> NewExecution {
        NewExecution {
            id,
            program: self.program.id().clone(),
            workflow_id: "flow".into(),
            inputs: json(r#"{"text": "hello"}"#),
            labels: Labels::default(),
            idempotency_key: None,
            created_at_ms: NOW_MS,
            lease: None,
        }
    }

    /// Stores an execution that nobody holds.
    pub(super) fn create(&self, number: u8) -> ExecutionId {
        ok(self.write(Write::Create(self.new_execution(id(number)))));
        id(number)
    }

    /// Stores an execution under a lease of the owner.
    pub(super) fn create_held(&self, number: u8, owner: &Owner) -> Held {
        let lease = Some((owner.clone(), NOW_MS + LEASE_MS));
        let id = id(number);
        ok(self.write(Write::Create(NewExecution { lease, ..self.new_execution(id) })));
        let lease = Lease { owner: owner.clone(), epoch: 1 };
        Held { state: Execution::scheduled(id), lease, at_ms: NOW_MS + 10 }
    }

    /// A held execution that has asked for these calls and waits; without a snapshot.
    pub(super) fn waiting(&self, number: u8, owner: &Owner, calls: Vec<NewCall>) -> Held {
        let mut held = self.create_held(number, owner);
        self.advance(&mut held, |draft| {
            draft.push(Event::ExecutionStarted { seed: u64::MAX - 1 })?;
            draft.take_reached(suspended(calls, None))
        });
        held
    }

    /// Commits a transition that must win.
    #[track_caller]
    pub(super) fn advance(&self, held: &mut Held, fill: impl FnOnce(&mut Draft) -> Result<()>) {
        let transition = held.transition(fill);
        held.state = Execution::clone(&transition.after);
        held.at_ms += 10;
        self.done(Write::Transition(Box::new(transition)));
        self.assert_state(&held.state);
    }

    #[track_caller]
    pub(super) fn load(&self, id: ExecutionId) -> Loaded {
        some(ok(self.store.load(id)))
    }

    #[track_caller]
    pub(super) fn record(&self, id: ExecutionId) -> ExecutionRecord {
        some(ok(self.store.execution(id)))
    }

    #[track_caller]
    pub(super) fn journal(&self, id: ExecutionId) -> Vec<Recorded> {
        ok(self.store.journal(id, 0, usize::MAX))
    }

    #[track_caller]
    pub(super) fn call(&self, id: ExecutionId, call: CallId) -> CallRecord {
        some(ok(self.store.calls(id)).into_iter().find(|record| record.id == call))
    }

    /// Asserts that rows, journal and record all say the state is this one.
    #[track_caller]
    pub(super) fn assert_state(&self, state: &Execution) {
        let id = state.id;
        assert_eq!(self.load(id).execution, *state, "the state in the rows");
        assert_eq!(ok(replay::fold(id, &self.journal(id))), *state, "the state by the journal");
        let record = self.record(id);
        assert_eq!((record.status, record.version), (state.status, state.version));
        assert_eq!(ok(self.store.check()), Vec::<String>::new(), "check finds nothing");
    }

    /// Claims for an owner at a time, knowing of no dead owners.
    #[track_caller]
    pub(super) fn claim(&self, owner: &Owner, now_ms: UnixMs, limit: usize) -> Vec<Loaded> {
        self.claim_from_dead(owner, now_ms, limit, &[])
    }

    #[track_caller]
    pub(super) fn claim_from_dead(
        &self,
        owner: &Owner,
        now_ms: UnixMs,
        limit: usize,
        dead: &[Owner],
    ) -> Vec<Loaded> {
        let expires_at_ms = now_ms + LEASE_MS;
        let (owner, dead) = (owner.clone(), dead.to_vec());
        let queues = Vec::new();
        let claim = Write::Claim { owner, now_ms, expires_at_ms, dead, queues, limit };
        match ok(self.write(claim)) {
            Written::Claimed(claimed) => claimed,
            other => panic!("expected Claimed, got {other:?}"),
        }
    }

    pub(super) fn claim_one(
        &self,
        id: ExecutionId,
        owner: &Owner,
        now_ms: UnixMs,
        dead: &[Owner],
    ) -> Result<Loaded> {
        let claim = Write::ClaimOne {
            execution: id,
            owner: owner.clone(),
            now_ms,
            expires_at_ms: now_ms + LEASE_MS,
            dead: dead.to_vec(),
        };
        match self.write(claim)? {
            Written::Claimed(mut claimed) => {
                assert_eq!(claimed.len(), 1);
                Ok(some(claimed.pop()))
            }
            other => panic!("expected Claimed, got {other:?}"),
        }
    }

    pub(super) fn report(
        &self,
        id: ExecutionId,
        call: CallId,
        outcome: Outcome,
    ) -> Result<Written> {
        self.report_at(id, call, outcome, NOW_MS + 500)
    }

    pub(super) fn report_at(
        &self,
        execution: ExecutionId,
        call: CallId,
        outcome: Outcome,
        now_ms: UnixMs,
    ) -> Result<Written> {
        self.write(Write::Report { execution, call, outcome, now_ms })
    }
}

impl Held {
    pub(super) fn id(&self) -> ExecutionId {
        self.state.id
    }

    /// Puts a transition together that keeps the lease.
    #[track_caller]
    pub(super) fn transition(&self, fill: impl FnOnce(&mut Draft) -> Result<()>) -> Transition {
        let mut draft = Draft::new(self.state.clone(), self.at_ms);
        ok(fill(&mut draft));
        draft.finish(self.lease.clone(), false).0
    }

    /// The same as a write.
    #[track_caller]
    pub(super) fn write(&self, fill: impl FnOnce(&mut Draft) -> Result<()>) -> Write {
        Write::Transition(Box::new(self.transition(fill)))
    }

    /// Takes up an execution that was claimed.
    pub(super) fn of(loaded: &Loaded, at_ms: UnixMs) -> Self {
        Self { state: loaded.execution.clone(), lease: some(loaded.lease.clone()), at_ms }
    }
}

/// Executions of claims, in order.
pub(super) fn ids(claimed: &[Loaded]) -> Vec<ExecutionId> {
    claimed.iter().map(|loaded| loaded.execution.id).collect()
}

/// Asserts that two loads of one execution say the same.
#[track_caller]
pub(super) fn assert_same_load(one: &Loaded, other: &Loaded) {
    let show = |loaded: &Loaded| -> Box<dyn Debug> { Box::new(loaded.clone()) };
    assert_eq!(format!("{:?}", show(one)), format!("{:?}", show(other)));
    assert_eq!(one.snapshot, other.snapshot);
}
