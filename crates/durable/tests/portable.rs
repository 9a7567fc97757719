//! Executions as files, and copied from one database to another.
#![allow(clippy::unwrap_used)]

mod support;

use std::{path::Path, sync::Arc, time::Duration};

use durable::{
    Engine, Error, ExecutionId, Failure, Language, Outcome, Payload, Program, Role, Status,
    TokenRecord, Workflow,
    portable::{Copied, CopyPlan, Imported, Portable, copy, copy_tokens, discard},
};
use durable_core::{
    Advance, AdvanceDone, Assignment, Call, Definition, Draft, End, Event, Execution,
    FunctionOptions, Lease, NewCall, Owner, Position, Reached, Request, Runner, replay,
};
use durable_engine::Parts;
use durable_store::{
    Control, Labels, ListFilter, MemoryStore, NewExecution, SqliteOptions, SqliteStore, Store,
    Synchronous, Write,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::*;

/// Runs nothing: these executions were made up.
struct Nobody;

impl Runner for Nobody {
    fn advance(&self, _: Advance, _: AdvanceDone) {}
    fn validate(&self, _: &Program) -> durable::Result<()> {
        Ok(())
    }
    fn forget(&self, _: ExecutionId) {}
}

fn engine(store: impl Store) -> Engine {
    Engine::new(Parts::system(Arc::new(store), Arc::new(Nobody))).unwrap()
}

fn memory() -> Engine {
    engine(MemoryStore::new())
}

fn sqlite(directory: &Path) -> Engine {
    let options = SqliteOptions { synchronous: Synchronous::Off, ..SqliteOptions::default() };
    engine(SqliteStore::open(&directory.join("other.db"), options).unwrap())
}

/// What happens in one transition of a random life.
type Step = (u8, usize, u8);

const NOW_MS: i64 = 1_790_000_000_000;

/// Lives through random transitions in a store.
struct Life<'a> {
    store: &'a dyn Store,
    state: Execution,
    lease: Lease,
}

impl<'a> Life<'a> {
    fn begin(store: &'a dyn Store) -> Self {
        let id = ExecutionId::new(NOW_MS, [7; 10]);
        let definition = Definition {
            language: Language::Python,
            source: "await f(1)".into(),
            functions: Default::default(),
            inputs: vec!["n".into()],
            limits: Default::default(),
        };
        let program = Arc::new(Program::new(definition));
        let owner = Owner::new("life");
        let new = NewExecution {
            id,
            program: program.id().clone(),
            workflow_id: "a 'life'".into(),
            inputs: Payload::trusted(r#"{"n": 1e400}"#),
            labels: Labels {
                namespace: "acme".into(),
                queue: "gpu".into(),
                tags: vec!["ü".into(), "b".into()],
            },
            idempotency_key: Some("key".into()),
            created_at_ms: NOW_MS,
            lease: Some((owner.clone(), NOW_MS * 2)),
        };
        for answer in store.commit(&[Write::PutProgram(program), Write::Create(new)]).unwrap() {
            answer.unwrap();
        }
        Self { store, state: Execution::scheduled(id), lease: Lease { owner, epoch: 1 } }
    }

    fn reached(&self, count: u8, end: End) -> Reached {
        let first = self.state.requested_calls + 1;
        let calls = (first..first + u32::from(count)).map(|id| {
            let position = Position { line: id, column: 1 };
            let request = if id % 3 == 0 {
                Request::Timer { delay_ms: u64::MAX >> (id % 64) }
            } else {
                Request::Function {
                    name: "f".into(),
                    args: Payload::trusted(format!("[{id}, 12345678901234567890123]")),
                    kwargs: Payload::trusted("{}"),
                    options: FunctionOptions { timeout_ms: Some(9), ..Default::default() },
                }
            };
            NewCall { id, request, position }
        });
        Reached { calls: vec![calls.collect()], printed: "a line\n".into(), end }
    }

    fn draft(&self, (what, pick, count): Step, at_ms: i64) -> Option<Draft> {
        let mut draft = Draft::new(self.state.clone(), at_ms);
        let suspended = || End::Suspended { snapshot: None, new_dictionary: None };
        let failure = Failure::new("OSError", "busy").with_traceback("line 1");
        let open: Vec<&Call> = self.state.open_calls.values().collect();
        let picked = (!open.is_empty()).then(|| open[pick % open.len()].clone());
        let close = |draft: &mut Draft, outcome: Outcome| match &picked {
            Some(call) if call.is_timer() => draft.push(Event::TimerFired { call: call.id() }),
            Some(call) => draft.close_call(call.id(), call.attempt, outcome),
            None => Err(Error::conflict("none")),
        };
        let done = match what % 12 {
            0 => draft
                .push(Event::ExecutionStarted { seed: u64::MAX })
                .and_then(|()| draft.take_reached(self.reached(count + 1, suspended()))),
            1..=4 => {
                let result = Payload::trusted(r#"{"x": [1.50]}"#);
                close(&mut draft, Outcome::Completed(result))
                    .and_then(|()| draft.take_reached(self.reached(count + 1, suspended())))
            }
            5 => close(&mut draft, Outcome::Failed(failure)),
            6 => {
                let call = picked.filter(|call| !call.is_timer())?;
                let (call, attempt) = (call.id(), call.attempt);
                let due_ms = at_ms + 700;
                draft.push(Event::CallRetrying { call, attempt, failure, due_ms })
            }
            7 => {
                let cause_call = picked.as_ref().filter(|call| !call.is_timer()).map(Call::id);
                let end = End::Failed(Failure { cause_call, ..failure.clone() });
                close(&mut draft, Outcome::Failed(failure))
                    .and_then(|()| draft.take_reached(self.reached(count, end)))
            }
            8 => draft.push(Event::ExecutionPaused { reason: "lunch".into() }),
            9 => draft.push(Event::ExecutionResumed),
            10 => {
                let journal = self.store.journal(self.state.id, 0, usize::MAX).unwrap();
                let (_, event) = replay::retry(self.state.id, &journal).ok()?;
                draft.push(event)
            }
            _ if count == 0 => draft.push(Event::ExecutionCancelled { reason: "late".into() }),
            _ if count == 1 => {
                close(&mut draft, Outcome::Completed(Payload::null())).and_then(|()| {
                    draft.push(Event::ExecutionCompleted { output: Payload::trusted("1.0") })
                })
            }
            _ if count == 2 => draft.push(Event::VariablesSet {
                variables: vec![Assignment {
                    task: 0,
                    depth: 1,
                    function: "f".into(),
                    name: "x".into(),
                    value: Payload::trusted(r#"{"z": 1.50, "a": 12345678901234567890123}"#),
                }],
            }),
            _ => return None,
        };
        let is_stuck = !draft.after.status.is_terminal() && draft.after.status == Status::Running;
        done.is_ok().then_some(draft).filter(|_| !is_stuck)
    }

    fn step(&mut self, step: Step, at_ms: i64) {
        let Some(draft) = self.draft(step, at_ms) else { return };
        let (transition, _) = draft.finish(self.lease.clone(), false);
        let is_retry = transition.is_retry();
        let after = Execution::clone(&transition.after);
        let mut writes = vec![Write::Transition(Box::new(transition))];
        if is_retry {
            self.lease.epoch += 1;
            writes.push(Write::ClaimOne {
                execution: after.id,
                owner: self.lease.owner.clone(),
                now_ms: at_ms,
                expires_at_ms: NOW_MS * 2,
                dead: Vec::new(),
            });
        }
        for answer in self.store.commit(&writes).unwrap() {
            answer.unwrap();
        }
        self.state = after;
    }

    /// Leaves some results in the inbox, and gives the lease back.
    fn end(self, reports: usize, at_ms: i64) -> ExecutionId {
        let execution = self.state.id;
        let open = self.state.open_calls.values().filter(|call| !call.is_timer());
        let mut writes: Vec<_> = open
            .take(reports)
            .map(|call| Write::Report {
                execution,
                call: call.id(),
                outcome: match call.id() % 2 {
                    0 => Outcome::Completed(Payload::trusted("[0.10]")),
                    _ => Outcome::Failed(Failure::new("OSError", "from outside")),
                },
                now_ms: at_ms + i64::from(call.id()),
            })
            .collect();
        if self.state.status.is_terminal() {
            writes.clear();
        } else {
            let wake_at_ms = self.state.wake_at_ms();
            writes.push(Write::Release { execution, lease: self.lease, wake_at_ms });
        }
        for answer in self.store.commit(&writes).unwrap() {
            answer.unwrap();
        }
        execution
    }
}

fn lived(store: &dyn Store, steps: &[Step], reports: usize) -> ExecutionId {
    let mut life = Life::begin(store);
    for (at_ms, step) in (NOW_MS + 1..).zip(steps) {
        life.step(*step, at_ms);
    }
    life.end(reports, NOW_MS + 1_000)
}

/// Everything that can be read of an execution.
fn seen(store: &dyn Store, id: ExecutionId) -> String {
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    let loaded = store.load(id).unwrap().unwrap();
    assert!(loaded.lease.is_none());
    format!(
        "{:#?}\n{:#?}\n{:#?}\n{:#?}\n{:?}",
        store.execution(id).unwrap(),
        store.calls(id).unwrap(),
        store.journal(id, 0, usize::MAX).unwrap(),
        loaded,
        store.next_due_ms(&Owner::new(""), &[]).unwrap(),
    )
}

fn to_json(portable: &Portable) -> Value {
    let mut bytes = Vec::new();
    portable.write(&mut bytes).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn from_json(json: &Value) -> durable::Result<Portable> {
    Portable::read(json.to_string().as_bytes())
}

fn is_empty(engine: &Engine) -> bool {
    engine.store().list(&ListFilter::default()).unwrap().is_empty()
}

/// Puts a value somewhere into a document.
fn alter(document: &mut Value, path: &[prop::sample::Index], value: Value) {
    let inner = match (path.split_first(), &mut *document) {
        (Some((index, rest)), Value::Object(fields)) if !fields.is_empty() => {
            let at = index.index(fields.len());
            fields.values_mut().nth(at).map(|inner| (inner, rest))
        }
        (Some((index, rest)), Value::Array(items)) if !items.is_empty() => {
            let at = index.index(items.len());
            items.get_mut(at).map(|inner| (inner, rest))
        }
        _ => None,
    };
    match inner {
        Some((inner, rest)) => alter(inner, rest, value),
        None => *document = value,
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0..12_u8, any::<usize>(), 0..4_u8), 0..30)
        .prop_map(|steps| [(0, 0, 2)].into_iter().chain(steps).collect())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happened_it_is_the_same_in_another_database(
        steps in steps(), cut in any::<prop::sample::Index>(), reports in 0..3_usize,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let (here, there) = (memory(), sqlite(directory.path()));
        let id = lived(here.store(), &steps, reports);
        let file = to_json(&Portable::export(&here, id).unwrap());
        let portable = from_json(&file).unwrap();
        prop_assert_eq!(to_json(&portable), file.clone());
        prop_assert_eq!(portable.import(&there).unwrap(), Imported::New);
        prop_assert!(seen(there.store(), id) == seen(here.store(), id));
        prop_assert_eq!(portable.import(&there).unwrap(), Imported::Known);
        // And back, from where it had come to at some time before.
        let back = memory();
        lived(back.store(), &steps[..cut.index(steps.len()) + 1], 0);
        let again = Portable::export(&there, id).unwrap();
        prop_assert!(again.import(&back).is_ok());
        prop_assert!(seen(back.store(), id) == seen(here.store(), id));
    }

    #[test]
    fn a_file_that_was_altered_is_refused_or_harmless(
        steps in steps(), path in prop::collection::vec(any::<prop::sample::Index>(), 6),
        value in prop_oneof![
            Just(json!(null)), Just(json!(-1)), Just(json!(u64::MAX)), Just(json!("x")),
            Just(json!([])), Just(json!({})), Just(json!(2)), Just(json!("[1]")),
        ],
    ) {
        let here = memory();
        let id = lived(here.store(), &steps, 1);
        let mut file = to_json(&Portable::export(&here, id).unwrap());
        alter(&mut file, &path, value);
        let there = memory();
        match from_json(&file).and_then(|portable| portable.import(&there)) {
            Ok(_) => prop_assert_eq!(there.store().check().unwrap(), Vec::<String>::new()),
            Err(Error::Invalid(message)) => {
                prop_assert!(!message.is_empty());
                prop_assert!(is_empty(&there));
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

const BUSY: [Step; 8] =
    [(0, 0, 3), (1, 0, 1), (6, 0, 0), (7, 0, 2), (10, 0, 0), (5, 0, 0), (8, 0, 0), (9, 0, 0)];

#[test]
fn files_that_were_torn_or_made_up_are_refused_and_nothing_is_written() {
    let here = memory();
    let id = lived(here.store(), &BUSY, 1);
    let portable = Portable::export(&here, id).unwrap();
    let mut bytes = Vec::new();
    portable.write(&mut bytes).unwrap();
    let there = memory();
    for end in (0..bytes.len()).step_by(bytes.len() / 50) {
        assert!(matches!(Portable::read(&bytes[..end]), Err(Error::Invalid(_))), "cut at {end}");
    }
    let file = to_json(&portable);
    let altered = |alter: &dyn Fn(&mut Value)| {
        let mut file = file.clone();
        alter(&mut file);
        match from_json(&file).and_then(|portable| portable.import(&there)) {
            Err(Error::Invalid(message)) => message,
            other => panic!("{other:?}"),
        }
    };
    let why = altered(&|file| file["durable_execution"] = json!(2));
    assert!(why.contains("version 2"), "{why}");
    let why = altered(&|file| file["journal"][3]["sequence"] = json!(9));
    assert!(why.contains("event 9"), "{why}");
    let why = altered(&|file| {
        file["journal"].as_array_mut().unwrap().remove(2);
    });
    assert!(why.contains("expected"), "{why}");
    let why = altered(&|file| file["program"]["definition"] = json!("{\"source\":\"2\"}"));
    assert!(why.contains("altered"), "{why}");
    let why = altered(&|file| file["journal"][1]["type"] = json!("STEP_EXPLODED"));
    assert!(why.contains("STEP_EXPLODED"), "{why}");
    let why = altered(&|file| file["more"] = json!(1));
    assert!(why.contains("more"), "{why}");
    altered(&|file| file["created_at_ms"] = json!(i64::MAX));
    altered(&|file| file["inbox"][0]["call"] = json!(99));
    // A retry that opens what nobody asked for.
    altered(&|file| {
        let journal = file["journal"].as_array_mut().unwrap();
        let retry = journal.iter_mut().find(|event| event["type"] == "EXECUTION_RETRIED");
        retry.unwrap()["payload"]["calls"].as_array_mut().unwrap().pop();
    });
    assert!(is_empty(&there));
}

#[test]
fn what_is_there_and_differs_is_left_alone() {
    let (here, there, keyed) = (memory(), memory(), memory());
    let id = lived(here.store(), &BUSY, 0);
    lived(there.store(), &[(0, 0, 3), (1, 1, 1)], 0);
    let portable = Portable::export(&here, id).unwrap();
    let before = seen(there.store(), id);
    let refused = portable.import(&there).unwrap_err();
    assert!(matches!(&refused, Error::Conflict(why) if why.contains("another journal")));
    assert_eq!(seen(there.store(), id), before);
    // Its key belongs to another one there.
    let mut file = to_json(&portable);
    file["id"] = json!(ExecutionId::new(NOW_MS, [8; 10]));
    from_json(&file).unwrap().import(&keyed).unwrap();
    let refused = portable.import(&keyed).unwrap_err();
    assert!(matches!(&refused, Error::Conflict(why) if why.contains("idempotency key")));
    assert_eq!(keyed.store().list(&ListFilter::default()).unwrap().len(), 1);
}

#[test]
fn an_import_that_was_interrupted_is_gone_on_with_and_nobody_else_takes_it_up() {
    let (here, there) = (memory(), memory());
    let id = lived(here.store(), &BUSY, 1);
    lived(there.store(), &BUSY[..2], 0);
    let claim = Write::ClaimOne {
        execution: id,
        owner: Owner::new("durable-import"),
        now_ms: NOW_MS,
        expires_at_ms: NOW_MS * 2,
        dead: Vec::new(),
    };
    there.store().commit(&[claim]).unwrap().remove(0).unwrap();
    let portable = Portable::export(&here, id).unwrap();
    assert_eq!(portable.import(&there).unwrap(), Imported::Continued(6));
    assert_eq!(seen(there.store(), id), seen(here.store(), id));
}

#[test]
fn what_an_interrupted_import_has_left_can_be_removed_and_nothing_else() {
    let (here, there) = (memory(), memory());
    let id = lived(here.store(), &BUSY, 1);
    lived(there.store(), &BUSY[..2], 0);
    assert!(!discard(&there, id).unwrap(), "it is whole");
    let claim = Write::ClaimOne {
        execution: id,
        owner: Owner::new("durable-import"),
        now_ms: NOW_MS,
        expires_at_ms: i64::MAX,
        dead: Vec::new(),
    };
    there.store().commit(&[claim]).unwrap().remove(0).unwrap();
    assert!(matches!(there.delete(id), Err(Error::Conflict(_))));
    assert!(discard(&there, id).unwrap());
    assert!(is_empty(&there));
    let portable = Portable::export(&here, id).unwrap();
    assert_eq!(portable.import(&there).unwrap(), Imported::New);
}

#[test]
fn jobs_and_what_an_operator_asks_for_come_along() {
    let here = memory();
    let mut life = Life::begin(here.store());
    life.step((0, 0, 2), NOW_MS + 1);
    let id = life.state.id;
    let call = *life.state.open_calls.keys().next().unwrap();
    let job_id = "a job".to_owned();
    let lease = life.lease.clone();
    let note = Write::NoteJob { execution: id, lease, call, job_id };
    here.store().commit(&[note]).unwrap().remove(0).unwrap();
    life.end(0, NOW_MS + 1_000);
    let reason = "enough".to_owned();
    let request = Write::Request { execution: id, control: Control::Pause, reason };
    here.store().commit(&[request]).unwrap().remove(0).unwrap();

    let file = to_json(&Portable::export(&here, id).unwrap());
    let directory = tempfile::tempdir().unwrap();
    for there in [memory(), sqlite(directory.path())] {
        assert_eq!(from_json(&file).unwrap().import(&there).unwrap(), Imported::New);
        assert_eq!(seen(there.store(), id), seen(here.store(), id));
        assert_eq!(there.store().call_of_job("a job").unwrap(), Some((id, call)));
        let control = there.store().load(id).unwrap().unwrap().control;
        assert_eq!(control, Some((Control::Pause, "enough".to_owned())));
        assert_eq!(from_json(&file).unwrap().import(&there).unwrap(), Imported::Known);
    }
    for (place, value) in [
        ("/control/request", json!("EXPLODE")),
        ("/jobs/0/call", json!(99)),
        ("/jobs/0/job_id", json!("x".repeat(20_000))),
    ] {
        let mut file = file.clone();
        *file.pointer_mut(place).unwrap() = value;
        let there = memory();
        let refused = from_json(&file).and_then(|portable| portable.import(&there).map(drop));
        assert!(matches!(refused, Err(Error::Invalid(_))), "{place}: {refused:?}");
        assert!(is_empty(&there));
    }
}

#[test]
fn tokens_are_copied_and_so_is_that_they_are_revoked() {
    let (here, there) = (memory(), memory());
    let token = |id: &str| TokenRecord {
        id: id.to_owned(),
        name: "ci".into(),
        role: Role::Operator,
        namespace: Some("acme".into()),
        secret_hash: [7; 32],
        created_at_ms: NOW_MS,
        expires_at_ms: None,
        revoked_at_ms: None,
    };
    let commit = |engine: &Engine, write| {
        engine.store().commit(&[write]).unwrap().remove(0).unwrap();
    };
    for id in ["a", "b"] {
        commit(&here, Write::PutToken(Box::new(token(id))));
    }
    assert_eq!(copy_tokens(&here, &there).unwrap(), 2);
    assert_eq!(copy_tokens(&here, &there).unwrap(), 0);
    commit(&here, Write::RevokeToken { id: "a".into(), now_ms: NOW_MS + 1 });
    assert_eq!(copy_tokens(&here, &there).unwrap(), 1);
    assert_eq!(there.store().tokens().unwrap(), here.store().tokens().unwrap());
}

fn other(scene: &Scene) -> durable::Builder {
    durable::Durable::builder(&format!("sqlite:///{}", scene.path("other.db").display()))
        .isolation(durable::Isolation::Thread)
        .workers(1)
}

#[test]
fn a_running_execution_is_paused_copied_and_resumed_elsewhere() {
    let (scene, calls, gate) = (Scene::new(), Calls::default(), Gate::closed());
    let open = |builder: durable::Builder| {
        let (calls, gate) = (calls.clone(), gate.clone());
        let builder = builder.function_raw("step", move |call| {
            calls.note(&call);
            async move { Ok(serde_json::from_str::<Value>(call.args.as_str())?) }
        });
        let builder = builder.function_raw("slow", move |_| {
            let gate = gate.clone();
            async move {
                gate.pass().await;
                Ok("slow")
            }
        });
        builder.open().unwrap()
    };
    let source = "import random\nseen = [random.random(), await step(1)]\na = await slow()\n\
                  b = await step(seen)\n[a, b == [seen]]";
    let here = open(scene.builder());
    let id = here.start(&Workflow::new(source).tag("x")).unwrap();
    until("it stands at the gate", || {
        here.engine().store().calls(id).unwrap().last().is_some_and(|call| call.name == "slow")
    });
    let there = other(&scene).open_engine().unwrap();
    let mut told = Vec::new();
    copy(here.engine(), &there, &CopyPlan::default(), |copied| told.push(copied)).unwrap();
    assert!(
        matches!(&told[..], [Copied::Refused(_, Error::Conflict(why))] if why.contains("pause")),
        "{told:?}"
    );
    let plan = CopyPlan { pause_source: true, ..CopyPlan::default() };
    for expected in [Imported::New, Imported::Known] {
        let mut told = Vec::new();
        copy(here.engine(), &there, &plan, |copied| told.push(copied)).unwrap();
        assert!(
            matches!(&told[..], [Copied::Done(_, imported)] if *imported == expected),
            "{told:?}"
        );
    }
    drop(there);
    here.close(Duration::ZERO);

    let there = open(other(&scene));
    gate.open_for(10);
    assert_eq!(there.engine().execution(id).unwrap().status, Status::Paused);
    there.engine().resume(id).unwrap();
    assert_eq!(output(there.engine(), id), r#"["slow",true]"#);
    calls.assert_each_ran_once();
    assert!(there.engine().store().check().unwrap().is_empty());
}
