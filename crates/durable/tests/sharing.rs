//! Several worker processes on one database: a SQLite file, a Postgres server, a MySQL server.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::{Child, Command, Stdio},
};

use durable::{Engine, ExecutionId, Status, Workflow};
use support::*;

const GATHER_3_THEN_1: &str = "
from asyncio import gather
results = await gather(*[work(n) for n in range(3)])
await work(sum(results))
";

/// A process that works on a scene's database until it is dropped.
struct Worker(Child);

impl Worker {
    fn start(scene: &Scene, env: &[(&str, &str)]) -> Self {
        let mut command = Command::new(example("worker"));
        command.arg(scene.url()).arg(scene.path("calls.log")).stdin(Stdio::piped());
        command.envs(env.iter().copied());
        Self(command.spawn().unwrap())
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Lets it end by itself.
    fn close(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It is gone already when all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A line of the workers' log: what, process, call.
fn log(scene: &Scene, what: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(scene.path("calls.log")).unwrap_or_default();
    // The last line may be under way.
    let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
    let mut found = Vec::new();
    for line in complete.lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let [kind, process, key] = fields[..] else { panic!("torn line {line:?}") };
        if kind == what {
            found.push((process.to_owned(), key.to_owned()));
        }
    }
    found
}

/// An engine that starts and watches, and runs nothing.
fn start(scene: &Scene, count: usize) -> (Engine, Vec<ExecutionId>) {
    let engine = scene.builder().open_engine().unwrap();
    let workflow = Workflow::new(GATHER_3_THEN_1).declare("work");
    let starts = (0..count).map(|_| workflow.to_start(&[])).collect();
    let ids = engine.start_many(starts).unwrap();
    (engine, ids)
}

fn two_processes_share_the_work_and_run_every_call_exactly_once(scene: &Scene) {
    let (engine, ids) = start(scene, 200);
    let hold = scene.path("hold");
    let env = [("HOLD", hold.to_str().unwrap()), ("MAX_ACTIVE", "120")];
    let workers = [Worker::start(scene, &env), Worker::start(scene, &env)];
    // Nobody can hold all 200, so both of them have some before the first call returns.
    until("both work", || {
        let processes: BTreeSet<_> =
            log(scene, "runs").into_iter().map(|(process, _)| process).collect();
        processes.len() == 2
    });
    fs::write(&hold, "").unwrap();
    for id in &ids {
        assert_eq!(output(&engine, *id), "3");
    }
    let mut runs = BTreeMap::new();
    for (_, key) in log(scene, "runs") {
        *runs.entry(key).or_insert(0) += 1;
    }
    assert_eq!(runs.len(), 800);
    assert!(runs.values().all(|&count| count == 1), "a call ran again");
    for worker in workers {
        worker.close();
    }
    assert_eq!(scene.count("SELECT count(*) FROM execution_locks"), 0);
    assert_eq!(engine.store().check().unwrap(), Vec::<String>::new());
}

fn what_a_killed_process_held_is_taken_over_without_waiting_for_its_leases(scene: &Scene) {
    let (engine, ids) = start(scene, 20);
    let never = scene.path("never");
    // Its leases would last for a day.
    let env = [("HOLD", never.to_str().unwrap()), ("LEASE_MS", "86400000")];
    let first = Worker::start(scene, &env);
    until("all calls hang", || log(scene, "runs").len() == 60);
    let held = scene.count("SELECT count(*) FROM execution_locks");
    assert_eq!(held, 20);
    first.kill();
    assert_eq!(scene.count("SELECT count(*) FROM execution_locks"), 20, "it gave nothing back");
    let second = Worker::start(scene, &[("LEASE_MS", "86400000")]);
    for id in &ids {
        assert_eq!(output(&engine, *id), "3");
    }
    // The calls of the killed one ran again, everything else once.
    assert_eq!(log(scene, "runs").len(), 60 + 80);
    second.close();
}

fn a_living_process_takes_over_from_a_killed_one_beside_it(scene: &Scene) {
    let (engine, ids) = start(scene, 20);
    let hold = scene.path("hold");
    let hold = [("HOLD", hold.to_str().unwrap()), ("LEASE_MS", "86400000"), ("MAX_ACTIVE", "12")];
    let workers = [Worker::start(scene, &hold), Worker::start(scene, &hold)];
    until("all calls hang", || log(scene, "runs").len() == 60);
    let [victim, survivor] = workers;
    victim.kill();
    fs::write(scene.path("hold"), "").unwrap();
    for id in &ids {
        assert_eq!(output(&engine, *id), "3");
    }
    survivor.close();
}

fn a_process_that_was_stopped_past_its_lease_changes_nothing_when_it_comes_back(scene: &Scene) {
    let (engine, ids) = start(scene, 10);
    let hold = scene.path("hold");
    let env = [("HOLD", hold.to_str().unwrap()), ("LEASE_MS", "300")];
    let sleeper = Worker::start(scene, &env);
    until("all calls hang", || log(scene, "runs").len() == 30);
    signal(&sleeper.0, "STOP");
    let other = Worker::start(scene, &[("LEASE_MS", "300")]);
    let records: Vec<_> = ids.iter().map(|id| ended(&engine, *id)).collect();
    assert!(records.iter().all(|record| record.status == Status::Completed));
    let journals: Vec<_> = ids.iter().map(|id| journal(&engine, *id)).collect();
    other.close();
    fs::write(&hold, "").unwrap();
    signal(&sleeper.0, "CONT");
    // Some of its calls return late, others are aborted when it finds its leases lost; when it has
    // done something else after that and has ended, it has dealt with all of them.
    let later = engine.start(Workflow::new("await work(7)").declare("work").to_start(&[])).unwrap();
    assert_eq!(output(&engine, later), "7");
    sleeper.close();
    for ((id, record), events) in ids.iter().zip(records).zip(journals) {
        assert_eq!(engine.execution(*id).unwrap(), record);
        assert_eq!(journal(&engine, *id), events);
    }
    assert_eq!(engine.store().check().unwrap(), Vec::<String>::new());
}

/// Each of these on each store.
macro_rules! on_each_store {
    ($($check:ident),+ $(,)?) => {
        mod sqlite {
            $(#[test]
            fn $check() {
                super::$check(&super::Scene::new());
            })+
        }

        mod postgres {
            $(#[test]
            fn $check() {
                if let Some(scene) = super::Scene::on_postgres() {
                    super::$check(&scene);
                }
            })+
        }

        mod mysql {
            $(#[test]
            fn $check() {
                if let Some(scene) = super::Scene::on_mysql() {
                    super::$check(&scene);
                }
            })+
        }
    };
}

on_each_store!(
    two_processes_share_the_work_and_run_every_call_exactly_once,
    what_a_killed_process_held_is_taken_over_without_waiting_for_its_leases,
    a_living_process_takes_over_from_a_killed_one_beside_it,
    a_process_that_was_stopped_past_its_lease_changes_nothing_when_it_comes_back,
);
