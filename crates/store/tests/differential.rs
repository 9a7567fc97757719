//! Random schedules of writes end the same in memory and in every other store: every answer on the
//! way, and everything that can be read afterwards.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;

use durable_core::{
    Assignment, Call, CallId, Draft, End, Event, Execution, Failure, Lease, NewCall, Outcome,
    Owner, Payload, Reached, Snapshot, UnixMs, replay,
};
use durable_store::{
    Control, ListFilter, Loaded, MemoryStore, MysqlOptions, MysqlStore, PostgresOptions,
    PostgresStore, SqliteOptions, SqliteStore, Store, Synchronous, Write, Written,
};
use proptest::prelude::*;
use support::{NOW_MS, create, function, id, mysql, postgres, program, timer};

const EXECUTIONS: u8 = 4;
const OWNERS: [&str; 3] = ["one", "two", "three"];
const QUEUES: [&str; 2] = ["default", "gpu"];

/// One step of a schedule. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Step {
    Create {
        execution: u8,
        held: bool,
        key: Option<u8>,
    },
    Claim {
        owner: usize,
        dead: Option<usize>,
        queue: Option<usize>,
        limit: usize,
    },
    ClaimOne {
        execution: u8,
        owner: usize,
    },
    Renew {
        owner: usize,
        lease_ms: UnixMs,
    },
    Release {
        execution: u8,
        wake_ms: Option<UnixMs>,
    },
    Report {
        execution: u8,
        call: CallId,
        succeeds: bool,
    },
    Request {
        execution: u8,
        control: u8,
    },
    NoteJob {
        execution: u8,
        call: CallId,
    },
    Delete {
        execution: u8,
        owner: usize,
    },
    Advance {
        execution: u8,
        moves: Vec<Move>,
        release: bool,
        snapshot: bool,
    },
    /// An operator lets a failed execution go on.
    RetryFailed {
        execution: u8,
    },
    /// The engine looks again at what it holds.
    Reload {
        execution: u8,
    },
    /// Time passes.
    Wait {
        ms: UnixMs,
    },
}

/// A part of a transition. What the state does not allow is left out.
#[derive(Debug, Clone)]
enum Move {
    Start,
    Request { calls: u8, timer: bool },
    Close { nth: usize, succeeds: bool },
    TakeInbox,
    Retry { nth: usize },
    Set,
    Pause,
    Resume,
    TakeControl,
    Complete,
    Fail,
    Cancel,
}

fn step() -> impl Strategy<Value = Step> {
    let execution = || 0..EXECUTIONS;
    let owner = || 0..OWNERS.len();
    let call = || 1..8_u32;
    prop_oneof![
        2 => (execution(), any::<bool>(), prop::option::weighted(0.3, 0..2_u8))
            .prop_map(|(execution, held, key)| Step::Create { execution, held, key }),
        2 => (
            owner(),
            prop::option::weighted(0.3, owner()),
            prop::option::weighted(0.3, 0..QUEUES.len()),
            0..4_usize,
        )
            .prop_map(|(owner, dead, queue, limit)| Step::Claim { owner, dead, queue, limit }),
        2 => (execution(), owner())
            .prop_map(|(execution, owner)| Step::ClaimOne { execution, owner }),
        1 => (owner(), 0..3_000_i64).prop_map(|(owner, lease_ms)| Step::Renew { owner, lease_ms }),
        1 => (execution(), prop::option::of(0..3_000_i64))
            .prop_map(|(execution, wake_ms)| Step::Release { execution, wake_ms }),
        3 => (execution(), call(), any::<bool>())
            .prop_map(|(execution, call, succeeds)| Step::Report { execution, call, succeeds }),
        1 => (execution(), 0..3_u8)
            .prop_map(|(execution, control)| Step::Request { execution, control }),
        1 => (execution(), call()).prop_map(|(execution, call)| Step::NoteJob { execution, call }),
        1 => (execution(), owner()).prop_map(|(execution, owner)| Step::Delete { execution, owner }),
        10 => (execution(), prop::collection::vec(a_move(), 1..4), prop::bool::weighted(0.2), any::<bool>())
            .prop_map(|(execution, moves, release, snapshot)| {
                Step::Advance { execution, moves, release, snapshot }
            }),
        2 => execution().prop_map(|execution| Step::RetryFailed { execution }),
        2 => execution().prop_map(|execution| Step::Reload { execution }),
        1 => (0..2_000_i64).prop_map(|ms| Step::Wait { ms }),
    ]
}

fn a_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        4 => Just(Move::Start),
        5 => (1..4_u8, any::<bool>()).prop_map(|(calls, timer)| Move::Request { calls, timer }),
        5 => (0..4_usize, any::<bool>()).prop_map(|(nth, succeeds)| Move::Close { nth, succeeds }),
        3 => Just(Move::TakeInbox),
        2 => (0..4_usize).prop_map(|nth| Move::Retry { nth }),
        1 => Just(Move::Set),
        1 => Just(Move::Pause),
        1 => Just(Move::Resume),
        1 => Just(Move::TakeControl),
        1 => Just(Move::Complete),
        1 => Just(Move::Fail),
        1 => Just(Move::Cancel),
    ]
}

/// What an engine believes of an execution; it may be wrong by now.
struct View {
    state: Execution,
    lease: Lease,
    inbox: Vec<(CallId, Outcome)>,
}

/// An engine that plays a schedule against two stores: the model in memory, and another.
struct Player {
    stores: [Box<dyn Store>; 2],
    views: BTreeMap<u8, View>,
    now_ms: UnixMs,
}

fn outcome(succeeds: bool, of: u32) -> Outcome {
    if succeeds {
        Outcome::Completed(Payload::trusted(format!("[{of}]")))
    } else {
        Outcome::Failed(Failure::new("ValueError", format!("no {of}")))
    }
}

impl Player {
    fn owner(number: usize) -> Owner {
        Owner::new(OWNERS[number])
    }

    /// The write of a step, if it has one.
    fn write_of(&mut self, step: &Step) -> Option<Write> {
        self.now_ms += 1;
        let (now_ms, expires_at_ms) = (self.now_ms, self.now_ms + 1_000);
        let lease_of = |execution: &u8| {
            let none = || Lease { owner: Owner::new("one"), epoch: 1 };
            self.views.get(execution).map_or_else(none, |view| view.lease.clone())
        };
        Some(match step {
            Step::Create { execution, held, key } => {
                let mut write = create(*execution, *held);
                if let Write::Create(new) = &mut write {
                    new.labels.queue = QUEUES[usize::from(*execution) % QUEUES.len()].to_owned();
                    new.idempotency_key = key.map(|key| key.to_string());
                    new.created_at_ms = now_ms;
                }
                write
            }
            Step::Claim { owner, dead, queue, limit } => Write::Claim {
                owner: Self::owner(*owner),
                now_ms,
                expires_at_ms,
                dead: dead.iter().map(|dead| Self::owner(*dead)).collect(),
                queues: queue.iter().map(|queue| QUEUES[*queue].to_owned()).collect(),
                limit: *limit,
            },
            Step::ClaimOne { execution, owner } => Write::ClaimOne {
                execution: id(*execution),
                owner: Self::owner(*owner),
                now_ms,
                expires_at_ms,
                dead: Vec::new(),
            },
            Step::Renew { owner, lease_ms } => {
                let expires_at_ms = now_ms + lease_ms;
                Write::Renew { owner: Self::owner(*owner), expires_at_ms }
            }
            Step::Release { execution, wake_ms } => {
                let lease = lease_of(execution);
                let wake_at_ms = wake_ms.map(|wake_ms| now_ms + wake_ms);
                Write::Release { execution: id(*execution), lease, wake_at_ms }
            }
            Step::Report { execution, call, succeeds } => {
                let outcome = outcome(*succeeds, *call);
                Write::Report { execution: id(*execution), call: *call, outcome, now_ms }
            }
            Step::Request { execution, control } => {
                let controls = [Control::Cancel, Control::Pause, Control::Resume];
                let control = controls[usize::from(*control)];
                let reason = format!("asked at {now_ms}");
                Write::Request { execution: id(*execution), control, reason }
            }
            Step::NoteJob { execution, call } => {
                let (lease, job_id) = (lease_of(execution), format!("job {now_ms}"));
                Write::NoteJob { execution: id(*execution), lease, call: *call, job_id }
            }
            Step::Delete { execution, owner } => {
                Write::Delete { execution: id(*execution), owner: Self::owner(*owner), now_ms }
            }
            Step::Advance { execution, moves, release, snapshot } => {
                return self.advance(*execution, moves, *release, *snapshot);
            }
            Step::RetryFailed { execution } => return self.retry(*execution),
            Step::Reload { execution } => {
                self.reload(*execution);
                return None;
            }
            Step::Wait { ms } => {
                self.now_ms += ms;
                return None;
            }
        })
    }

    fn reload(&mut self, execution: u8) {
        match self.stores[0].load(id(execution)).unwrap() {
            Some(loaded) => self.look_at(&loaded),
            None => {
                self.views.remove(&execution);
            }
        }
    }

    /// Takes the failing transition back, if there is one that can be.
    fn retry(&self, execution: u8) -> Option<Write> {
        let journal = self.stores[0].journal(id(execution), 0, usize::MAX).unwrap();
        let (state, event) = replay::retry(id(execution), &journal).ok()?;
        let mut draft = Draft::new(state, self.now_ms);
        draft.push(event).unwrap();
        let (transition, _) = draft.finish(Lease { owner: Owner::new("one"), epoch: 0 }, true);
        Some(Write::Transition(Box::new(transition)))
    }

    fn look_at(&mut self, loaded: &Loaded) {
        let Some(lease) = loaded.lease.clone() else { return };
        let number = (0..EXECUTIONS).find(|number| id(*number) == loaded.execution.id).unwrap();
        let (state, inbox) = (loaded.execution.clone(), loaded.inbox.clone());
        self.views.insert(number, View { state, lease, inbox });
    }

    fn advance(
        &self,
        execution: u8,
        moves: &[Move],
        release: bool,
        snapshot: bool,
    ) -> Option<Write> {
        let view = self.views.get(&execution)?;
        let mut draft = Draft::new(view.state.clone(), self.now_ms);
        for a_move in moves {
            make_move(&mut draft, view, a_move, snapshot, self.now_ms);
        }
        if draft.events.is_empty() {
            return None;
        }
        let (transition, _) = draft.finish(view.lease.clone(), release);
        Some(Write::Transition(Box::new(transition)))
    }

    /// Commits a batch to both stores and compares the answers.
    fn commit(&mut self, batch: &[Write]) {
        let [memory, other] = &self.stores;
        let answers = memory.commit(batch).unwrap();
        let others = other.commit(batch).unwrap();
        assert_eq!(format!("{answers:#?}"), format!("{others:#?}"), "answers to {batch:#?}");
        for (write, answer) in batch.iter().zip(answers) {
            match (write, answer) {
                (Write::Transition(transition), Ok(_)) => {
                    for view in self.views.values_mut() {
                        if view.state.id == transition.after.id {
                            view.state = Execution::clone(&transition.after);
                        }
                    }
                }
                (_, Ok(Written::Claimed(claimed))) => {
                    for loaded in &claimed {
                        self.look_at(loaded);
                    }
                }
                _ => {}
            }
        }
    }

    /// Compares everything that can be read.
    fn compare(&self) {
        let seen = self.stores.each_ref().map(|store| {
            let executions: Vec<_> = (0..EXECUTIONS)
                .map(|number| {
                    let id = id(number);
                    (
                        store.execution(id).unwrap(),
                        store.calls(id).unwrap(),
                        store.journal(id, 0, usize::MAX).unwrap(),
                        store.load(id).unwrap(),
                    )
                })
                .collect();
            let owners: Vec<_> = OWNERS
                .iter()
                .map(|name| {
                    let owner = Owner::new(name);
                    (
                        store.inboxes(&owner).unwrap(),
                        store.next_due_ms(&owner, &[]).unwrap(),
                        store.next_due_ms(&owner, &["gpu".to_owned()]).unwrap(),
                        store.other_owners(&owner).unwrap(),
                    )
                })
                .collect();
            let list = store.list(&ListFilter::default()).unwrap();
            (format!("{executions:#?}"), format!("{owners:?}"), format!("{list:?}"))
        });
        let [memory, other] = seen;
        assert_eq!(memory.0, other.0, "executions");
        assert_eq!(memory.1, other.1, "owners");
        assert_eq!(memory.2, other.2, "list");
    }
}

/// Adds what the state allows; the rest of a random transition is left out.
fn make_move(draft: &mut Draft, view: &View, a_move: &Move, snapshot: bool, now_ms: UnixMs) {
    let nth = |draft: &Draft, nth: usize| -> Option<Call> {
        let count = draft.after.open_calls.len();
        (count > 0).then(|| draft.after.open_calls.values().nth(nth % count).unwrap().clone())
    };
    let ignored = match a_move {
        Move::Start => draft.push(Event::ExecutionStarted { seed: 42 }),
        Move::Request { calls, timer: with_timer } => {
            let first = draft.after.requested_calls + 1;
            let mut new: Vec<NewCall> = (first..first + u32::from(*calls)).map(function).collect();
            if *with_timer {
                new.push(timer(first + u32::from(*calls), 1_500));
            }
            let end = End::Suspended {
                snapshot: snapshot.then(|| Snapshot([first as u8].as_slice().into())),
                new_dictionary: None,
            };
            draft.take_reached(Reached { calls: vec![new], printed: String::new(), end })
        }
        Move::Close { nth: number, succeeds } => match nth(draft, *number) {
            Some(call) if call.is_timer() => draft.push(Event::TimerFired { call: call.id() }),
            Some(call) => draft.close_call(call.id(), call.attempt, outcome(*succeeds, call.id())),
            None => Ok(()),
        },
        Move::TakeInbox => {
            for (call, outcome) in &view.inbox {
                let open = draft.after.open_calls.get(call).map(|open| open.attempt);
                let Some(attempt) = open else { continue };
                if draft.close_call(*call, attempt, outcome.clone()).is_ok() {
                    draft.inbox_taken.push(*call);
                }
            }
            Ok(())
        }
        Move::Retry { nth: number } => match nth(draft, *number) {
            Some(call) => draft.push(Event::CallRetrying {
                call: call.id(),
                attempt: call.attempt,
                failure: Failure::new("OSError", "busy"),
                due_ms: now_ms + 700,
            }),
            None => Ok(()),
        },
        Move::Set => draft.push(Event::VariablesSet {
            variables: vec![Assignment {
                task: 0,
                depth: 0,
                function: "f".into(),
                name: "x".into(),
                value: Payload::trusted("[1]"),
            }],
        }),
        Move::Pause => draft.push(Event::ExecutionPaused { reason: "why not".into() }),
        Move::Resume => draft.push(Event::ExecutionResumed),
        Move::TakeControl => {
            draft.control_taken = true;
            Ok(())
        }
        Move::Complete => draft.push(Event::ExecutionCompleted { output: Payload::null() }),
        Move::Fail => {
            let cause_call = draft.events.iter().rev().find_map(|event| match event {
                Event::CallFailed { call, .. } => Some(*call),
                _ => None,
            });
            draft.fail(Failure { cause_call, ..Failure::new("ValueError", "no") })
        }
        Move::Cancel => draft.push(Event::ExecutionCancelled { reason: "asked to".into() }),
    };
    drop(ignored);
}

/// Plays a schedule against the model and another store, and compares them after each batch.
fn play(other: Box<dyn Store>, schedule: Vec<Vec<Step>>) {
    let stores: [Box<dyn Store>; 2] = [Box::new(MemoryStore::new()), other];
    let mut player = Player { stores, views: BTreeMap::new(), now_ms: NOW_MS };
    player.commit(&[Write::PutProgram(program())]);
    for number in 0..EXECUTIONS {
        player.commit(&[create(number, true)]);
        player.reload(number);
    }
    for steps in schedule {
        let batch: Vec<_> = steps.iter().filter_map(|step| player.write_of(step)).collect();
        player.commit(&batch);
        player.compare();
    }
    for store in &player.stores {
        // A random schedule may well strand an execution: it releases without a wake time.
        let mut findings = store.check().unwrap();
        findings.retain(|finding| !finding.contains("stranded"));
        assert_eq!(findings, Vec::<String>::new());
    }
}

fn schedule() -> impl Strategy<Value = Vec<Vec<Step>>> {
    prop::collection::vec(prop::collection::vec(step(), 1..4), 1..40)
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn memory_and_sqlite_agree(schedule in schedule()) {
        let directory = tempfile::tempdir().unwrap();
        let options = SqliteOptions { synchronous: Synchronous::Off, ..SqliteOptions::default() };
        let sqlite = SqliteStore::open(&directory.path().join("random.db"), options).unwrap();
        play(Box::new(sqlite), schedule);
    }
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn memory_and_postgres_agree(schedule in schedule()) {
        let Some(server) = postgres::server() else { return Ok(()) };
        let options = PostgresOptions::parse(&server.new_database()).unwrap();
        play(Box::new(PostgresStore::open(&options).unwrap()), schedule);
    }
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn memory_and_mysql_agree(schedule in schedule()) {
        let Some(server) = mysql::server() else { return Ok(()) };
        let options = MysqlOptions::parse(&server.new_database()).unwrap();
        play(Box::new(MysqlStore::open(&options).unwrap()), schedule);
    }
}
