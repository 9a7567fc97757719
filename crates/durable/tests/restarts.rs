//! An execution whose engine is closed and opened again, over and over.
#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::BTreeSet, time::Duration};

use durable::{CallStatus, Config, Durable, Workflow};
use support::*;

const ROUNDS: usize = 20;

const SOURCE: &str = "
from asyncio import gather
total = 0
for i in range(rounds):
    a, b = await gather(step(i), step(i * 10))
    total += a + b
total
";

/// A call of `step` waits for its turn at the gate.
fn open(scene: &Scene, calls: &Calls, gate: &Gate) -> Durable {
    let (calls, gate) = (calls.clone(), gate.clone());
    // A dropped engine lives in this process, so only its leases tell that it is gone.
    let config = Config { lease_ms: 150, sweep_ms: 20, ..Config::default() };
    scene
        .builder()
        .config(config)
        .function_raw("step", move |call| {
            let (calls, gate) = (calls.clone(), gate.clone());
            async move {
                gate.pass().await;
                calls.note(&call);
                let (n,): (i64,) = serde_json::from_str(call.args.as_str())?;
                Ok(n + 1)
            }
        })
        .open()
        .unwrap()
}

fn completes_over_restarts(mut end: impl FnMut(Durable)) {
    let (scene, calls) = (Scene::new(), Calls::default());
    let workflow = Workflow::new(SOURCE).input("rounds", ROUNDS).unwrap();
    let mut durable = open(&scene, &calls, &Gate::closed());
    let id = durable.start(&workflow).unwrap();
    for round in 1..=ROUNDS {
        end(durable);
        let gate = Gate::closed();
        durable = open(&scene, &calls, &gate);
        gate.open_for(2);
        let completed = || {
            let all = support::calls(durable.engine(), id);
            all.iter().filter(|call| call.status == CallStatus::Completed).count()
        };
        until("this round is over", || completed() == 2 * round);
    }
    let expected: usize = (0..ROUNDS).map(|i| i + 1 + i * 10 + 1).sum();
    assert_eq!(output(durable.engine(), id), expected.to_string());
    calls.assert_each_ran_once();
    assert_eq!(calls.keys().into_iter().collect::<BTreeSet<_>>().len(), 2 * ROUNDS);
    assert_eq!(durable.engine().store().check().unwrap(), Vec::<String>::new());
}

#[test]
fn an_execution_completes_over_twenty_closings_and_no_completed_call_runs_again() {
    completes_over_restarts(|durable| durable.close(Duration::ZERO));
}

#[test]
fn an_execution_completes_over_twenty_crashes_and_no_completed_call_runs_again() {
    completes_over_restarts(drop);
}
