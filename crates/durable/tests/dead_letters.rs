//! Failed executions that go on from where they failed.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use durable::{CallStatus, Durable, Engine, Error, ExecutionId, FunctionError, Status, Workflow};
use support::*;

/// With `step`, which returns its argument, and `fragile`, which fails until it is mended.
struct Shop {
    scene: Scene,
    calls: Calls,
    mended: Arc<AtomicBool>,
    gate: Gate,
}

impl Shop {
    fn new() -> Self {
        let (scene, calls, mended) = (Scene::new(), Calls::default(), Arc::default());
        Self { scene, calls, mended, gate: Gate::closed() }
    }

    fn open(&self) -> Durable {
        let (steps, fragile, slow) = (self.calls.clone(), self.calls.clone(), self.calls.clone());
        let (mended, gate) = (self.mended.clone(), self.gate.clone());
        self.scene
            .builder()
            .function_raw("step", move |call| {
                steps.note(&call);
                async move { Ok(serde_json::from_str::<serde_json::Value>(call.args.as_str())?) }
            })
            .function_raw("fragile", move |call| {
                fragile.note(&call);
                let mended = mended.load(Ordering::Relaxed);
                async move {
                    if !mended {
                        return Err(FunctionError::new("OSError", "broken"));
                    }
                    Ok(call.attempt)
                }
            })
            .function_raw("slow", move |call| {
                slow.note(&call);
                let gate = gate.clone();
                async move {
                    gate.pass().await;
                    Ok("slow")
                }
            })
            .open()
            .unwrap()
    }

    fn mend(&self) {
        self.mended.store(true, Ordering::Relaxed);
    }

    /// How often each call ran, by its number.
    fn runs(&self) -> Vec<usize> {
        self.calls.counts().into_values().collect()
    }
}

fn fails(engine: &Engine, id: ExecutionId) -> String {
    let record = ended(engine, id);
    assert_eq!(record.status, Status::Failed);
    assert!(engine.store().check().unwrap().is_empty());
    record.failure.unwrap().message
}

fn is_conflict(result: Result<(), Error>, with: &str) {
    match result {
        Err(Error::Conflict(message)) => assert!(message.contains(with), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_call_that_failed_is_made_again_and_no_other() {
    let shop = Shop::new();
    let durable = shop.open();
    let engine = durable.engine();
    let policy = durable::RetryPolicy {
        max_attempts: 2,
        initial_interval_ms: 1,
        ..durable::RetryPolicy::default()
    };
    let workflow = Workflow::new("[await step(1), await fragile(), await step(2)]");
    let id = durable.start(&workflow.retry("fragile", policy)).unwrap();
    assert_eq!(fails(engine, id), "broken");
    assert_eq!(shop.runs(), [1, 2]);
    // Still broken: it fails again, after as many attempts as at first.
    engine.retry(id).unwrap();
    assert_eq!(fails(engine, id), "broken");
    assert_eq!(shop.runs(), [1, 4]);
    shop.mend();
    engine.retry(id).unwrap();
    assert_eq!(output(engine, id), "[[1],1,[2]]");
    assert_eq!(shop.runs(), [1, 5, 1]);
    let events = events(engine, id);
    assert_eq!(events.iter().filter(|event| *event == "EXECUTION_RETRIED").count(), 2);
    assert_eq!(events.iter().filter(|event| *event == "EXECUTION_FAILED").count(), 2);
    assert!(engine.store().check().unwrap().is_empty());
    let record = engine.execution(id).unwrap();
    assert!(record.failure.is_none() && record.completed_at_ms.is_some());
}

#[test]
fn what_the_end_had_cancelled_is_open_again() {
    let shop = Shop::new();
    let durable = shop.open();
    let engine = durable.engine();
    let source = "
import asyncio
await asyncio.gather(slow(), fragile(), asyncio.sleep(0.2), step(1))
";
    let id = durable.start(&Workflow::new(source)).unwrap();
    assert_eq!(fails(engine, id), "broken");
    let slow = &calls(engine, id)[0];
    assert_eq!(slow.status, CallStatus::Cancelled);
    shop.mend();
    shop.gate.open_for(10);
    engine.retry(id).unwrap();
    assert_eq!(output(engine, id), r#"["slow",1,null,[1]]"#);
    assert!(engine.store().check().unwrap().is_empty());
}

#[test]
fn the_rebuilt_state_is_the_same_after_a_retry() {
    let shop = Shop::new();
    let source = "
import asyncio, random
from datetime import datetime
async def one(n):
    first = await step(n)
    seen.append([random.random(), datetime.now().isoformat()])
    return [first, await step(n)]
seen = []
a = await step([random.random(), datetime.now().isoformat()])
async def two():
    await fragile()
    return await step(9)
got = await asyncio.gather(one(1), two(), one(2))
sent = await step(list(seen))
await slow()
[a[0][0] != None, got, sent == [seen]]
";
    let id = {
        let durable = shop.open();
        let id = durable.start(&Workflow::new(source)).unwrap();
        assert_eq!(fails(durable.engine(), id), "broken");
        shop.mend();
        durable.engine().retry(id).unwrap();
        until("it stands at the gate", || {
            let calls = calls(durable.engine(), id);
            calls.last().is_some_and(|call| call.name == "slow")
        });
        durable.close(Duration::ZERO);
        id
    };
    // Another engine, without a snapshot: the state comes from the journal alone.
    shop.scene.sql().execute("DELETE FROM execution_state", []).unwrap();
    shop.gate.open_for(10);
    let durable = shop.open();
    assert_eq!(output(durable.engine(), id), "[true,[[[1],[1]],[9],[[2],[2]]],true]");
}

#[test]
fn a_program_that_failed_by_itself_is_advanced_again() {
    let shop = Shop::new();
    let durable = shop.open();
    let engine = durable.engine();
    // It fails at once, and with another seed maybe not.
    let source = "
import random
if random.random() < 0.5:
    raise ValueError('bad luck')
await step(1)
";
    let id = durable.start(&Workflow::new(source)).unwrap();
    while ended(engine, id).status == Status::Failed {
        assert!(shop.runs().is_empty());
        engine.retry(id).unwrap();
    }
    assert_eq!(output(engine, id), "[1]");

    let id = durable.start(&Workflow::new("x = await step(5)\nraise ValueError(str(x))")).unwrap();
    for _ in 0..2 {
        assert_eq!(fails(engine, id), "[5]");
        engine.retry(id).unwrap();
    }
    assert_eq!(fails(engine, id), "[5]");
    assert_eq!(shop.runs(), [1, 1]);
}

#[test]
fn only_what_failed_is_retried() {
    let shop = Shop::new();
    let durable = shop.open();
    let engine = durable.engine();
    let id = durable.start(&Workflow::new("await step(1)")).unwrap();
    output(engine, id);
    is_conflict(engine.retry(id), "is completed");
    let id = durable.start(&Workflow::new("await slow()")).unwrap();
    is_conflict(engine.retry(id), "only one that failed");
    engine.pause(id, "").unwrap();
    is_conflict(engine.retry(id), "resume it");
    engine.cancel(id, "").unwrap();
    ended(engine, id);
    is_conflict(engine.retry(id), "is cancelled");
    engine.delete(id).unwrap();
    assert!(matches!(engine.retry(id), Err(Error::NotFound(_))));

    // A failure that the program caught is its own affair: it is kept, and raised again.
    let source = "
try:
    await fragile()
except OSError as error:
    kept = error
await step(1)
raise kept
";
    let id = durable.start(&Workflow::new(source)).unwrap();
    assert_eq!(fails(engine, id), "broken");
    shop.mend();
    engine.retry(id).unwrap();
    assert_eq!(fails(engine, id), "broken");
}
