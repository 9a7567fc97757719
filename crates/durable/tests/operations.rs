//! What operators and other processes do to executions.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use durable::{
    CallRecord, CallRequest, CallStatus, Config, Durable, Engine, Error, ExecutionId, Outcome,
    Payload, PullQueue, Status, Workflow,
};
use support::*;

/// Functions that tell when they run, and wait at a gate; and a quick one.
struct Stage {
    scene: Scene,
    calls: Calls,
    gate: Gate,
    started: mpsc::Sender<CallRequest>,
    starts: mpsc::Receiver<CallRequest>,
    stopped: mpsc::Sender<u32>,
    stops: mpsc::Receiver<u32>,
}

/// Tells when it is dropped before it was let off.
struct Alarm {
    call: u32,
    sender: Option<mpsc::Sender<u32>>,
}

impl Alarm {
    fn let_off(&mut self) {
        self.sender = None;
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            // The test may be over.
            let _ = sender.send(self.call);
        }
    }
}

impl Stage {
    fn new() -> Self {
        let (started, starts) = mpsc::channel();
        let (stopped, stops) = mpsc::channel();
        let (scene, calls, gate) = (Scene::new(), Calls::default(), Gate::closed());
        Self { scene, calls, gate, started, starts, stopped, stops }
    }

    fn open(&self) -> Durable {
        self.open_with(Config::default())
    }

    fn open_with(&self, config: Config) -> Durable {
        let (started, stopped) = (self.started.clone(), self.stopped.clone());
        let (calls, gate, quick) = (self.calls.clone(), self.gate.clone(), self.calls.clone());
        self.scene
            .builder()
            .config(config)
            .function_raw("slow", move |call| {
                let gate = gate.clone();
                calls.note(&call);
                let mut alarm = Alarm { call: call.call, sender: Some(stopped.clone()) };
                let _ = started.send(call.clone());
                async move {
                    gate.pass().await;
                    alarm.let_off();
                    Ok(first(&call)?)
                }
            })
            .function_raw("quick", move |call| {
                quick.note(&call);
                async move { Ok(first(&call)?) }
            })
            .open()
            .unwrap()
    }

    /// An engine that runs no calls.
    fn other(&self) -> Engine {
        self.scene.builder().open_engine().unwrap()
    }

    /// Waits until a call of `slow` runs.
    fn running(&self) -> CallRequest {
        self.starts.recv_timeout(PATIENCE).unwrap()
    }
}

fn first(call: &CallRequest) -> serde_json::Result<serde_json::Value> {
    let mut args: Vec<serde_json::Value> = serde_json::from_str(call.args.as_str())?;
    Ok(args.swap_remove(0))
}

fn workflow(source: &str) -> Workflow {
    Workflow::new(source).declare("slow").declare("quick")
}

fn returned(json: &str) -> Outcome {
    Outcome::Completed(Payload::parse(json, 1_000).unwrap())
}

fn is_conflict<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::Conflict(_))), "{result:?}");
}

#[test]
fn a_cancelled_execution_tells_its_running_call_and_starts_no_other() {
    let stage = Stage::new();
    let durable = stage.open();
    let engine = durable.engine();
    let id = durable.start(&workflow("await slow(1)\nawait quick(2)")).unwrap();
    let call = stage.running();
    engine.cancel(id, "ordered twice").unwrap();
    let record = ended(engine, id);
    assert_eq!(record.status, Status::Cancelled);
    assert_eq!(record.failure.unwrap().message, "ordered twice");
    assert_eq!(stage.stops.recv_timeout(PATIENCE).unwrap(), call.call);
    let expected = ["EXECUTION_STARTED", "STEP_STARTED", "EXECUTION_CANCELLED"];
    assert_eq!(events(engine, id), expected);
    assert_eq!(calls(engine, id)[0].status, CallStatus::Cancelled);
    assert_eq!(stage.calls.keys().len(), 1);
    is_conflict(engine.cancel(id, "again"));
    is_conflict(engine.pause(id, "again"));
    is_conflict(engine.complete_call(id, call.call, returned("1")));
    assert_eq!(events(engine, id), expected);
    assert_eq!(engine.held(), 0);
}

#[test]
fn another_engine_can_cancel_what_this_one_runs() {
    let stage = Stage::new();
    let durable = stage.open();
    let id = durable.start(&workflow("await slow(1)\nawait quick(2)")).unwrap();
    stage.running();
    let other = stage.other();
    other.cancel(id, "from outside").unwrap();
    assert_eq!(ended(&other, id).status, Status::Cancelled);
    assert_eq!(ended(durable.engine(), id).status, Status::Cancelled);
    stage.stops.recv_timeout(PATIENCE).unwrap();
    assert_eq!(stage.calls.keys().len(), 1);
}

#[test]
fn a_scheduled_execution_can_be_cancelled_where_no_executor_is_attached() {
    let stage = Stage::new();
    let engine = stage.other();
    let id = engine.start(workflow("await quick(1)").to_start(&[])).unwrap();
    assert_eq!(engine.execution(id).unwrap().status, Status::Scheduled);
    engine.cancel(id, "not wanted").unwrap();
    assert_eq!(engine.execution(id).unwrap().status, Status::Cancelled);
    let durable = stage.open();
    let next = durable.start(&workflow("await quick(2)")).unwrap();
    output(durable.engine(), next);
    assert_eq!(stage.calls.keys(), [format!("{next}:0")]);
}

#[test]
fn what_nobody_knows_is_not_found() {
    let stage = Stage::new();
    let engine = stage.other();
    let id = ExecutionId::new(1, [1; 10]);
    for result in [
        engine.cancel(id, ""),
        engine.pause(id, ""),
        engine.resume(id),
        engine.advance(id),
        engine.delete(id),
        engine.complete_call(id, 0, returned("1")),
        engine.wait(id, None).map(drop),
    ] {
        assert!(matches!(result, Err(Error::NotFound(_))), "{result:?}");
    }
}

#[test]
fn results_that_arrive_while_an_execution_is_paused_are_kept_and_used() {
    let stage = Stage::new();
    let durable = stage.open();
    let engine = durable.engine();
    let id = durable.start(&workflow("[await slow(1), await quick(2)]")).unwrap();
    stage.running();
    engine.pause(id, "maintenance").unwrap();
    let record = engine.execution(id).unwrap();
    assert_eq!(record.status, Status::Paused);
    assert_eq!(record.failure.unwrap().message, "maintenance");
    let paused = events(engine, id);
    stage.gate.open_for(1);
    until("the result is stored", || calls(engine, id)[0].status == CallStatus::Completed);
    assert_eq!(engine.execution(id).unwrap().status, Status::Paused);
    assert_eq!(events(engine, id), paused, "nothing is advanced");
    engine.resume(id).unwrap();
    assert_eq!(output(engine, id).replace(' ', ""), "[1,2]");
    stage.calls.assert_each_ran_once();
    let events = events(engine, id);
    assert_eq!(events[2..4], ["EXECUTION_PAUSED", "EXECUTION_RESUMED"]);
    is_conflict(engine.resume(id));
}

#[test]
fn a_paused_execution_stays_paused_when_engines_come_and_go() {
    let stage = Stage::new();
    let durable = stage.open();
    let id = durable.start(&workflow("[await slow(1), await quick(2)]")).unwrap();
    stage.running();
    durable.engine().pause(id, "").unwrap();
    durable.close(Duration::ZERO);
    let durable = stage.open();
    let other = durable.start(&workflow("await quick(3)")).unwrap();
    output(durable.engine(), other);
    assert_eq!(durable.engine().execution(id).unwrap().status, Status::Paused);
    assert!(stage.starts.try_recv().is_err(), "its call does not run");
    stage.gate.open_for(1);
    durable.engine().resume(id).unwrap();
    assert_eq!(output(durable.engine(), id).replace(' ', ""), "[1,2]");
}

const TABLES: [&str; 4] =
    ["execution_steps", "execution_events", "execution_state", "execution_locks"];

#[test]
fn delete_removes_every_row_of_an_execution_and_no_other() {
    let stage = Stage::new();
    let durable = stage.open();
    let engine = durable.engine();
    let source = "import asyncio\nawait asyncio.sleep(0)\nprint('x')\nawait quick(1)";
    let ids = [0, 1].map(|_| durable.start(&workflow(source)).unwrap());
    for id in ids {
        output(engine, id);
    }
    let rows = |id: ExecutionId, table| {
        stage.scene.count(&format!("SELECT count(*) FROM {table} WHERE execution_id = '{id}'"))
    };
    let before = TABLES.map(|table| rows(ids[0], table));
    assert!(before[..3].iter().all(|&count| count > 0), "{before:?}");
    engine.delete(ids[0]).unwrap();
    assert_eq!(TABLES.map(|table| rows(ids[0], table)), [0; 4]);
    assert_eq!(TABLES.map(|table| rows(ids[1], table)), before);
    assert_eq!(stage.scene.count("SELECT count(*) FROM executions"), 1);
    assert!(matches!(engine.execution(ids[0]), Err(Error::NotFound(_))));
    assert!(matches!(engine.delete(ids[0]), Err(Error::NotFound(_))));
}

#[test]
fn what_another_engine_runs_cannot_be_deleted_and_what_this_one_runs_is_stopped() {
    let stage = Stage::new();
    let durable = stage.open();
    let id = durable.start(&workflow("await slow(1)")).unwrap();
    stage.running();
    is_conflict(stage.other().delete(id));
    durable.engine().delete(id).unwrap();
    stage.stops.recv_timeout(PATIENCE).unwrap();
    assert_eq!(durable.engine().held(), 0);
    for table in TABLES {
        assert_eq!(stage.scene.count(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
    }
}

#[test]
fn another_engine_completes_a_call_and_what_comes_after_that_changes_nothing() {
    let stage = Stage::new();
    let durable = stage.open();
    let engine = durable.engine();
    let id = durable.start(&workflow("[await slow(1), await slow(2)]")).unwrap();
    let call = stage.running();
    let other = stage.other();
    other.complete_call(id, call.call, returned("\"from outside\"")).unwrap();
    is_conflict(other.complete_call(id, call.call, returned("\"again\"")));
    let second = stage.running();
    let before = journal(engine, id);
    is_conflict(engine.complete_call(id, call.call, returned("\"late\"")));
    is_conflict(other.complete_call(id, call.call, returned("\"late\"")));
    assert_eq!(journal(engine, id), before);
    // Only one of the two calls that wait at the gate is still wanted.
    engine.complete_call(id, second.call, returned("\"here\"")).unwrap();
    assert_eq!(output(engine, id).replace(' ', ""), r#"["fromoutside","here"]"#);
    let ended = journal(engine, id);
    is_conflict(engine.complete_call(id, second.call, returned("\"late\"")));
    stage.gate.open_for(2);
    durable.close(PATIENCE);
    assert_eq!(journal(&other, id), ended);
}

#[test]
fn a_call_completed_from_outside_with_a_failure_raises_in_the_workflow() {
    let stage = Stage::new();
    let durable = stage.open();
    let source = "try:\n    await slow(1)\nexcept ValueError as e:\n    r = str(e)\nr";
    let id = durable.start(&workflow(source)).unwrap();
    let call = stage.running();
    let failure = Outcome::Failed(durable::Failure::new("ValueError", "refused outside"));
    stage.other().complete_call(id, call.call, failure).unwrap();
    assert_eq!(output(durable.engine(), id), r#""refused outside""#);
}

#[test]
fn starts_with_one_key_are_one_execution() {
    let stage = Stage::new();
    let durable = stage.open();
    let keyed = workflow("await quick(1)").idempotency_key("order 7");
    let ids: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> =
            (0..8).map(|_| scope.spawn(|| durable.start(&keyed).unwrap())).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(output(durable.engine(), ids[0]), "1");
    // Also after its end, and for another program.
    let other = workflow("await quick(2)").idempotency_key("order 7");
    assert_eq!(durable.start(&other).unwrap(), ids[0]);
    assert_eq!(stage.scene.count("SELECT count(*) FROM executions"), 1);
    stage.calls.assert_each_ran_once();
    assert_ne!(durable.start(&keyed.idempotency_key("order 8")).unwrap(), ids[0]);
}

#[test]
fn close_lets_running_calls_finish_and_gives_every_lease_back() {
    let stage = Stage::new();
    let durable = stage.open();
    let source = "[await slow(1), await quick(2)]";
    let ids: Vec<_> = (0..5).map(|_| durable.start(&workflow(source)).unwrap()).collect();
    for _ in &ids {
        stage.running();
    }
    let (sender, closing) = mpsc::channel();
    let closed = std::thread::spawn(move || {
        sender.send(()).unwrap();
        durable.close(PATIENCE);
    });
    closing.recv().unwrap();
    stage.gate.open_for(5);
    closed.join().unwrap();
    assert_eq!(stage.scene.count("SELECT count(*) FROM execution_locks"), 0);
    let other = stage.other();
    for id in &ids {
        assert_eq!(calls(&other, *id)[0].status, CallStatus::Completed);
    }
    let durable = stage.open();
    for id in ids {
        assert_eq!(output(durable.engine(), id).replace(' ', ""), "[1,2]");
    }
    stage.calls.assert_each_ran_once();
}

#[test]
fn without_an_executor_an_execution_is_advanced_by_hand() {
    let stage = Stage::new();
    let engine = stage.other();
    let source = "
from asyncio import gather
a, b = await gather(slow(1), slow(2))
await quick(a + b)
";
    let id = engine.start(workflow(source).to_start(&[])).unwrap();
    let status = || engine.execution(id).unwrap().status;
    assert_eq!(status(), Status::Scheduled);
    engine.advance(id).unwrap();
    assert_eq!(status(), Status::Waiting);
    let open = calls(&engine, id);
    assert_eq!(open.iter().map(|call| call.status).collect::<Vec<_>>(), [CallStatus::Pending; 2]);
    engine.complete_call(id, open[0].id, returned("20")).unwrap();
    engine.advance(id).unwrap();
    assert_eq!(calls(&engine, id).len(), 2, "nothing new is asked for yet");
    // With nothing new it stays where it is.
    engine.advance(id).unwrap();
    engine.complete_call(id, open[1].id, returned("22")).unwrap();
    engine.advance(id).unwrap();
    let last = calls(&engine, id).pop().unwrap();
    assert_eq!((last.name.as_str(), last.args.as_str()), ("quick", "[42]"));
    assert_eq!(status(), Status::Waiting);
    engine.complete_call(id, last.id, returned("\"done\"")).unwrap();
    engine.advance(id).unwrap();
    assert_eq!(output(&engine, id), "\"done\"");
    is_conflict(engine.advance(id));
    assert_eq!(engine.held(), 0);
}

#[test]
fn a_pipeline_does_not_wait_for_the_step_of_another() {
    let stage = Stage::new();
    let durable = stage.open();
    let source = "
from asyncio import gather
async def a():
    return await slow('first of a')
async def b():
    await quick('first of b')
    return await slow('second of b')
await gather(a(), b())
";
    let id = durable.start(&workflow(source)).unwrap();
    let mut seen = [stage.running(), stage.running()].map(|call| first(&call).unwrap());
    seen.sort_by_key(ToString::to_string);
    // Both run at the same time: neither has been let through.
    assert_eq!(seen, ["first of a", "second of b"]);
    stage.gate.open_for(2);
    output(durable.engine(), id);
}

#[test]
fn a_fan_out_whose_results_arrive_one_by_one_writes_two_snapshots() {
    let scene = Scene::new();
    let engine = scene.builder().open_engine().unwrap();
    let sql = scene.sql();
    sql.execute_batch(
        "CREATE TABLE snapshots (position INTEGER);
         CREATE TRIGGER first AFTER INSERT ON execution_state
             BEGIN INSERT INTO snapshots VALUES (NEW.position); END;
         CREATE TRIGGER further AFTER UPDATE OF state_snapshot ON execution_state
             BEGIN INSERT INTO snapshots VALUES (NEW.position); END;",
    )
    .unwrap();
    let queue = Arc::new(PullQueue::default());
    engine.attach(queue.clone()).unwrap();
    let source = "
from asyncio import gather
results = await gather(*[work(i) for i in range(50)])
await work(sum(results))
";
    let id = engine.start(Workflow::new(source).declare("work").to_start(&[])).unwrap();
    let calls: Vec<_> = (0..50).map(|_| queue.next(PATIENCE).unwrap()).collect();
    let transitions = || engine.execution(id).unwrap().version;
    for (index, call) in calls.iter().enumerate() {
        queue.report(call, returned("1"));
        until("it is committed", || transitions() == index as u64 + 2);
    }
    let last = queue.next(PATIENCE).unwrap();
    assert_eq!(last.args.as_str(), "[50]");
    queue.report(&last, returned("50"));
    assert_eq!(output(&engine, id), "50");
    assert_eq!(transitions(), 52);
    assert_eq!(scene.count("SELECT count(*) FROM snapshots"), 2);
}

#[test]
fn what_is_asked_of_an_execution_meets_the_engine_that_takes_it_up() {
    let stage = Stage::new();
    let durable = stage.open();
    let engine = durable.engine();
    let ids: Vec<_> = (0..200)
        .map(|number| {
            // What has a key is not taken by the one that starts it, but found in the store.
            let keyed = workflow("[await quick(1), await quick(2)]");
            let id = durable.start(&keyed.idempotency_key(&number.to_string())).unwrap();
            match engine.advance(id) {
                Ok(()) | Err(Error::Conflict(_)) => id,
                Err(error) => panic!("{error}"),
            }
        })
        .collect();
    for id in ids {
        assert_eq!(output(engine, id).replace(' ', ""), "[1,2]");
    }
    stage.calls.assert_each_ran_once();
    for number in 0..200 {
        let keyed = workflow("await slow(1)").idempotency_key(&format!("slow {number}"));
        let id = durable.start(&keyed).unwrap();
        engine.cancel(id, "not wanted").unwrap();
        assert_eq!(engine.execution(id).unwrap().status, Status::Cancelled);
    }
}

#[test]
fn a_result_from_outside_is_used_though_the_call_has_ended_here_meanwhile() {
    let stage = Stage::new();
    let durable =
        stage.open_with(Config { poll_ms: 60_000, sweep_ms: 60_000, ..Config::default() });
    let id = durable.start(&workflow("await slow(1)")).unwrap();
    let call = stage.running();
    stage.other().complete_call(id, call.call, returned("\"outside\"")).unwrap();
    stage.gate.open_for(1);
    assert_eq!(output(durable.engine(), id), "\"outside\"");
}

#[test]
fn a_call_that_is_completed_from_here_runs_no_longer() {
    let stage = Stage::new();
    let durable = stage.open();
    let engine = durable.engine();
    let source = "import asyncio\nawait slow(1)\nawait asyncio.sleep(86400)";
    let id = durable.start(&workflow(source)).unwrap();
    let call = stage.running();
    engine.complete_call(id, call.call, returned("1")).unwrap();
    assert_eq!(stage.stops.recv_timeout(PATIENCE).unwrap(), call.call);
    until("it is given back while it sleeps", || engine.held() == 0);
}

#[test]
fn a_call_of_a_paused_execution_can_be_completed_while_it_runs() {
    let stage = Stage::new();
    let durable = stage.open();
    let engine = durable.engine();
    let id = durable.start(&workflow("[await slow(1), await quick(2)]")).unwrap();
    let call = stage.running();
    engine.pause(id, "maintenance").unwrap();
    engine.complete_call(id, call.call, returned("7")).unwrap();
    assert_eq!(calls(engine, id)[0].status, CallStatus::Completed);
    assert_eq!(engine.execution(id).unwrap().status, Status::Paused);
    assert_eq!(stage.stops.recv_timeout(PATIENCE).unwrap(), call.call);
    engine.resume(id).unwrap();
    assert_eq!(output(engine, id).replace(' ', ""), "[7,2]");
}

#[test]
fn what_returned_during_a_pause_is_not_run_again_beside_what_still_runs() {
    let stage = Stage::new();
    let durable = stage.open();
    let engine = durable.engine();
    let source = "from asyncio import gather\nawait gather(slow(1), slow(2))";
    let id = durable.start(&workflow(source)).unwrap();
    for _ in 0..2 {
        stage.running();
    }
    engine.pause(id, "maintenance").unwrap();
    stage.gate.open_for(1);
    let has_ended = |call: &CallRecord| call.status == CallStatus::Completed;
    until("one result is stored", || calls(engine, id).iter().any(has_ended));
    engine.resume(id).unwrap();
    reaches(engine, id, Status::Waiting);
    stage.gate.open_for(1);
    assert_eq!(output(engine, id).replace(' ', ""), "[1,2]");
    stage.calls.assert_each_ran_once();
}

#[test]
fn a_lease_that_could_not_be_given_back_is_given_back_later() {
    let stage = Stage::new();
    let durable = stage.open_with(Config {
        lease_ms: 300,
        max_failed_commits: 1,
        retry_commit_ms: 1,
        ..Config::default()
    });
    let engine = durable.engine();
    let id = durable.start(&workflow("[await slow(1), await quick(2)]")).unwrap();
    stage.running();
    let refuse = "CREATE TRIGGER refuse BEFORE DELETE ON execution_locks \
                  BEGIN SELECT RAISE(ABORT, 'the disk is full'); END";
    stage.scene.sql().execute_batch(refuse).unwrap();
    engine.pause(id, "maintenance").unwrap();
    stage.gate.open_for(1);
    until("the engine has given it up", || engine.held() == 0);
    assert_eq!(stage.scene.count("SELECT count(*) FROM execution_locks"), 1);
    stage.scene.sql().execute_batch("DROP TRIGGER refuse").unwrap();
    until("nobody holds it", || stage.scene.count("SELECT count(*) FROM execution_locks") == 0);
    engine.resume(id).unwrap();
    assert_eq!(output(engine, id).replace(' ', ""), "[1,2]");
    stage.calls.assert_each_ran_once();
}
