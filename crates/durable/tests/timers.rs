//! `asyncio.sleep` is durable, and never ends early.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::mpsc;

use durable::{
    CallStatus, Config, Durable, Engine, ExecutionId, FunctionError, Recorded, Status, Workflow,
    wire,
};
use support::*;

fn open(scene: &Scene) -> Durable {
    scene
        .builder()
        .function("echo", |(x,): (i64,)| async move { Ok::<_, FunctionError>(x) })
        .open()
        .unwrap()
}

fn close(durable: Durable) {
    durable.close(PATIENCE);
}

/// Every timer of a journal: when it was due and when it fired.
fn fired(engine: &Engine, id: ExecutionId) -> Vec<(i64, i64)> {
    let journal = journal(engine, id);
    let fired_at = |call: u32| {
        let of_call = |recorded: &&Recorded| {
            let wire = wire::encode(&recorded.event);
            wire.event_type == "TIMER_FIRED" && wire.payload["call"] == call
        };
        journal.iter().find(of_call).map(|recorded| recorded.at_ms)
    };
    let timers = calls(engine, id).into_iter().filter(|call| call.is_timer);
    timers.map(|timer| (timer.due_at_ms.unwrap(), fired_at(timer.id).unwrap())).collect()
}

#[test]
fn a_sleep_never_ends_early() {
    let scene = Scene::new();
    let durable = open(&scene);
    let source = "
import asyncio
from datetime import datetime
async def nap(seconds):
    before = datetime.now()
    await asyncio.sleep(seconds)
    return (datetime.now() - before).total_seconds() >= seconds
[await nap(0.02), await asyncio.gather(*[nap(i / 100) for i in range(8)])]
";
    let ids: Vec<_> = (0..10).map(|_| durable.start(&Workflow::new(source)).unwrap()).collect();
    for id in ids {
        let naps = "[true,[true,true,true,true,true,true,true,true]]";
        assert_eq!(output(durable.engine(), id).replace(' ', ""), naps);
        let timers = fired(durable.engine(), id);
        assert_eq!(timers.len(), 9);
        for (timer, (due_ms, fired_ms)) in calls(durable.engine(), id).iter().zip(timers) {
            assert!(fired_ms >= due_ms, "fired at {fired_ms}, due at {due_ms}");
            assert!(due_ms >= timer.created_at_ms);
        }
    }
}

#[test]
fn a_sleep_goes_on_after_the_engine_was_closed_and_opened_again() {
    let scene = Scene::new();
    let durable = open(&scene);
    let source = "import asyncio\nawait asyncio.sleep(0.3)\nawait echo(7)";
    let id = durable.start(&Workflow::new(source)).unwrap();
    reaches(durable.engine(), id, Status::Waiting);
    let due_ms = calls(durable.engine(), id)[0].due_at_ms;
    close(durable);
    let durable = open(&scene);
    assert_eq!(output(durable.engine(), id), "7");
    assert_eq!(calls(durable.engine(), id)[0].due_at_ms, due_ms, "it was not begun again");
    let timers = fired(durable.engine(), id);
    assert!(timers[0].1 >= timers[0].0, "{timers:?}");
}

/// Moves a timer's or a retry's time into the past, as if nothing had run for long.
fn become_due(scene: &Scene, id: ExecutionId) {
    let sql = scene.sql();
    for (statement, what) in [
        ("UPDATE execution_steps SET due_at = 1 WHERE execution_id = ?1 AND due_at > 0", "step"),
        ("UPDATE executions SET wake_at = 1 WHERE id = ?1 AND wake_at > 0", "execution"),
    ] {
        assert_eq!(sql.execute(statement, [id.to_string()]).unwrap(), 1, "{what}");
    }
}

#[test]
fn a_sleep_that_became_due_while_nothing_ran_ends_as_soon_as_an_engine_is_there() {
    let scene = Scene::new();
    let durable = open(&scene);
    let source = "import asyncio\nawait asyncio.sleep(86_400)\nawait echo(7)";
    let id = durable.start(&Workflow::new(source)).unwrap();
    reaches(durable.engine(), id, Status::Waiting);
    close(durable);
    become_due(&scene, id);
    let durable = open(&scene);
    assert_eq!(output(durable.engine(), id), "7");
}

#[test]
fn an_execution_that_sleeps_for_long_is_held_by_nobody() {
    let scene = Scene::new();
    let durable = open(&scene);
    let source = "import asyncio\nawait asyncio.sleep(86_400)";
    let ids: Vec<_> = (0..20).map(|_| durable.start(&Workflow::new(source)).unwrap()).collect();
    until("nothing is held", || durable.engine().held() == 0);
    assert_eq!(scene.count("SELECT count(*) FROM execution_locks"), 0);
    let waking = "SELECT count(*) FROM executions WHERE wake_at > created_at + 86000000";
    assert_eq!(scene.count(waking), 20);
    for id in ids {
        assert_eq!(durable.engine().execution(id).unwrap().status, Status::Waiting);
        assert_eq!(calls(durable.engine(), id)[0].status, CallStatus::Pending);
    }
}

#[test]
fn a_short_sleep_that_was_given_back_is_taken_up_in_time() {
    let scene = Scene::new();
    // Everything is further off than this, so every sleep is given back to the store.
    let config = Config { hold_ms: 0, sweep_ms: 10, ..Config::default() };
    let durable = scene.builder().config(config).open().unwrap();
    let source = "import asyncio\nfor i in range(5):\n    await asyncio.sleep(0.02)\ni";
    let id = durable.start(&Workflow::new(source)).unwrap();
    assert_eq!(output(durable.engine(), id), "4");
    for (due_ms, fired_ms) in fired(durable.engine(), id) {
        assert!(fired_ms >= due_ms);
    }
}

#[test]
fn a_timer_fires_while_a_call_of_the_same_execution_runs() {
    let scene = Scene::new();
    let gate = Gate::closed();
    let (sender, woken) = mpsc::channel();
    let inner = gate.clone();
    let durable = scene
        .builder()
        .function("slow", move |_none: [(); 0]| {
            let gate = inner.clone();
            async move {
                gate.pass().await;
                Ok::<_, FunctionError>("slow")
            }
        })
        .function("after_sleep", move |_none: [(); 0]| {
            let told = sender.send(()).is_ok();
            async move { Ok::<_, FunctionError>(told) }
        })
        .open()
        .unwrap();
    let source = "
import asyncio
async def sleeper():
    await asyncio.sleep(0.01)
    return await after_sleep()
await asyncio.gather(slow(), sleeper())
";
    let id = durable.start(&Workflow::new(source)).unwrap();
    woken.recv_timeout(PATIENCE).unwrap();
    gate.open_for(1);
    assert_eq!(output(durable.engine(), id).replace(' ', ""), r#"["slow",true]"#);
}
