//! Programs of all shapes end the same whether their snapshots are kept or lost at every restart.
#![allow(clippy::unwrap_used)]

mod support;

use std::{fmt::Write as _, sync::Arc, time::Duration};

use durable::{
    CallRequest, Engine, ExecutionId, Failure, Outcome, Payload, PullQueue, Status, Workflow,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::*;

/// The shape of a program.
#[derive(Debug, Clone)]
enum Shape {
    Call,
    Sleep,
    Failing(Box<Shape>),
    Sequence(Vec<Shape>),
    Gather(Vec<Shape>),
    Loop(u8, Box<Shape>),
}

fn shapes() -> impl Strategy<Value = Shape> {
    let leaf = prop_oneof![4 => Just(Shape::Call), 1 => Just(Shape::Sleep)];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let boxed = inner.clone().prop_map(Box::new);
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(Shape::Sequence),
            prop::collection::vec(inner, 2..4).prop_map(Shape::Gather),
            boxed.clone().prop_map(Shape::Failing),
            (1..4_u8, boxed).prop_map(|(times, shape)| Shape::Loop(times, shape)),
        ]
    })
}

/// What every program has. A probe sends what the program sees of chance and time to the outside,
/// and keeps it: when the state is rebuilt wrongly, what was kept is not what was sent.
const PRELUDE: &str = "
import asyncio, random
from datetime import datetime
seen = []
async def probe(tag):
    value = [tag, random.random(), datetime.now().isoformat()]
    back = await echo(value)
    seen.append(value)
    return back[0]
";

/// Writes a shape down as functions; gives the name of the last.
fn write(shape: &Shape, source: &mut String, next: &mut usize) -> String {
    let mut inner = |shape: &Shape, next: &mut usize| write(shape, source, next);
    let body = match shape {
        Shape::Call => format!("return await probe('p{next}')"),
        Shape::Sleep => "await asyncio.sleep(0.001)\n    return 'slept'".to_owned(),
        Shape::Failing(shape) => {
            let name = inner(shape, next);
            format!(
                "try:\n        await fail('f{next}')\n    except ValueError as e:\n        \
                 return [str(e), await {name}()]"
            )
        }
        Shape::Sequence(shapes) => {
            let calls: Vec<_> =
                shapes.iter().map(|shape| format!("await {}()", inner(shape, next))).collect();
            format!("return [{}]", calls.join(", "))
        }
        Shape::Gather(shapes) => {
            let calls: Vec<_> =
                shapes.iter().map(|shape| format!("{}()", inner(shape, next))).collect();
            format!("return await asyncio.gather({})", calls.join(", "))
        }
        Shape::Loop(times, shape) => {
            let name = inner(shape, next);
            format!(
                "out = []\n    for i in range({times}):\n        out.append(await {name}())\n    \
                 return out"
            )
        }
    };
    let name = format!("n{next}");
    *next += 1;
    let _ = writeln!(source, "async def {name}():\n    {body}");
    name
}

fn program(shape: &Shape) -> String {
    let mut source = PRELUDE.to_owned();
    let name = write(shape, &mut source, &mut 0);
    source + &format!("result = await {name}()\n[result, seen]\n")
}

fn open(scene: &Scene) -> (Engine, Arc<PullQueue>) {
    let engine = scene.builder().open_engine().unwrap();
    let queue = Arc::new(PullQueue::default());
    engine.attach(queue.clone()).unwrap();
    (engine, queue)
}

fn answer(call: &CallRequest) -> Outcome {
    let args = call.args.to_value().unwrap();
    if call.function == "fail" {
        return Outcome::Failed(Failure::new("ValueError", args[0].as_str().unwrap()));
    }
    Outcome::Completed(Payload::from_value(&args[0]))
}

/// Runs a program and restarts the engine where `restarts` says so, call by call.
fn run(source: &str, restarts: &[bool], keeps_snapshots: bool) -> (Value, Vec<Value>) {
    let scene = Scene::new();
    let (mut engine, mut queue) = open(&scene);
    let workflow = Workflow::new(source).declare("echo").declare("fail");
    let id = engine.start(workflow.to_start(&[])).unwrap();
    let mut answered = 0;
    let record = loop {
        if let Some(call) = queue.next(Duration::from_millis(1)) {
            queue.report(&call, answer(&call));
            let restart = restarts.get(answered).copied().unwrap_or(false);
            answered += 1;
            if restart {
                engine.detach(Duration::ZERO);
                drop(engine);
                if !keeps_snapshots {
                    scene.sql().execute("DELETE FROM execution_state", []).unwrap();
                }
                (engine, queue) = open(&scene);
            }
        }
        if let Some(record) = engine.wait(id, Some(Duration::ZERO)).unwrap() {
            break record;
        }
        let status = engine.execution(id).unwrap().status;
        assert_ne!(status, Status::Paused, "{:?}\n{source}", engine.execution(id).unwrap().failure);
    };
    assert_eq!(record.status, Status::Completed, "{:?}\n{source}", record.failure);
    let value = record.output.unwrap().to_value().unwrap();
    let [result, seen] = serde_json::from_value::<[Value; 2]>(value).unwrap();
    kept_what_was_sent(&engine, id, &seen, source);
    (result, asked_for(&engine, id))
}

fn sorted(mut values: Vec<Value>) -> Vec<Value> {
    values.sort_by_key(Value::to_string);
    values
}

fn kept_what_was_sent(engine: &Engine, id: ExecutionId, seen: &Value, source: &str) {
    let probes = calls(engine, id).into_iter().filter(|call| call.name == "echo");
    let sent = probes.map(|call| call.args.to_value().unwrap()[0].clone()).collect();
    assert_eq!(sorted(seen.as_array().unwrap().clone()), sorted(sent), "{source}");
}

/// Each call by name and tag, without what chance and time add.
fn asked_for(engine: &Engine, id: ExecutionId) -> Vec<Value> {
    let described = calls(engine, id).into_iter().map(|call| {
        let args = call.args.to_value().unwrap();
        let tag = if call.name == "echo" { &args[0][0] } else { &args[0] };
        json!([call.name, tag, call.position.line, call.position.column])
    });
    sorted(described.collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..Default::default() })]

    #[test]
    fn programs_end_the_same_whether_snapshots_are_kept_or_lost(
        shape in shapes(),
        restarts in prop::collection::vec(prop::bool::weighted(0.4), 24),
    ) {
        let source = program(&shape);
        let undisturbed = run(&source, &[], true);
        prop_assert_eq!(&run(&source, &restarts, true), &undisturbed, "kept\n{}", source);
        prop_assert_eq!(&run(&source, &restarts, false), &undisturbed, "lost\n{}", source);
    }
}
