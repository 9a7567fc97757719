//! Workers on machines whose clocks are hours apart: nothing is taken from one that lives, timers
//! fire when they are due, and what a dead one held goes on.

use std::{
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use durable::{Engine, ExecutionId, Status, Workflow};

use crate::{
    database::{Database, engine, given},
    support::{Desk, GATED, GATED_WORKFLOW, Running, until},
};

const HOUR_MS: i64 = 3_600_000;
const LEASE_MS: i64 = 15_000;
const SLEEP_MS: i64 = 1_500;
/// How late a timer may be on a loaded machine: far less than the clocks are apart.
const LATE_MS: i64 = 20_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// Longer than a lease is kept for a timer: it is given back, and whoever claims it goes on.
const SLEEPER: &str = "
from asyncio import sleep
a = await step(1)
await sleep(1.5)
a + await step(2)
";

/// A way to run programs whose clock is wrong.
struct Shift {
    library: String,
}

impl Shift {
    fn found() -> Option<Self> {
        given("DURABLE_TEST_FAKETIME").map(|library| Self { library })
    }

    fn apply<'a>(&self, command: &'a mut Command, by: &str) -> &'a mut Command {
        let steady = ("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command.envs([("LD_PRELOAD", self.library.as_str()), ("FAKETIME", by), steady])
    }

    fn worker(&self, desk: &Desk, database: &Database, by: &str) -> Running {
        // Its name may begin with a minus.
        let name = format!("--name={by}");
        let arguments = ["worker", "--db", database.url(), "--functions", "functions.py", &name];
        Running::start(self.apply(&mut desk.command(&arguments), by))
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

fn gates(desk: &Desk) -> usize {
    desk.read("log").lines().filter(|line| *line == "gate").count()
}

/// Runs sleepers to their ends and looks at the instants that were stored.
fn assert_timers_fire_in_time(engine: &Engine, count: usize) {
    let (began, began_ms) = (Instant::now(), now_ms());
    let start = || Workflow::new(SLEEPER).declare("step").to_start(&[]);
    let ids = engine.start_many((0..count).map(|_| start()).collect()).unwrap();
    for id in ids {
        let record = engine.wait(id, Some(PATIENCE)).unwrap().unwrap();
        assert!(began.elapsed() >= Duration::from_millis(SLEEP_MS as u64));
        assert_eq!(record.status, Status::Completed, "{record:?}");
        assert_eq!(record.output.unwrap().as_str(), "3");
        let calls = engine.store().calls(id).unwrap();
        let timer = calls.iter().find(|call| call.is_timer).unwrap();
        let (due_ms, fired_ms) = (timer.due_at_ms.unwrap(), timer.completed_at_ms.unwrap());
        assert!((0..LATE_MS).contains(&(due_ms - SLEEP_MS - began_ms)), "{timer:?}");
        assert!((0..LATE_MS).contains(&(fired_ms - due_ms)), "{timer:?}");
        assert!((0..LATE_MS).contains(&(record.completed_at_ms.unwrap() - fired_ms)));
    }
}

fn start_gated(engine: &Engine) -> ExecutionId {
    let workflow = Workflow::new(GATED_WORKFLOW).declare("step").declare("gate");
    engine.start(workflow.to_start(&[])).unwrap()
}

/// One worker holds an execution; another whose clock is elsewhere comes, and outlives it.
/// `lease_left` asks the database how long the lease still lasts.
fn skewed(database: &Database, first: &str, second: &str, lease_left: &str) {
    let Some(shift) = Shift::found() else { return };
    let desk = Desk::gated();
    desk.write("functions.py", GATED);
    let engine = database.engine();
    let held = start_gated(&engine);
    let one = shift.worker(&desk, database, first);
    desk.wait_at_gate();
    let left_ms = database.ask(lease_left).unwrap();
    assert!((1..=LEASE_MS).contains(&left_ms), "a lease of {left_ms} ms");

    let two = shift.worker(&desk, database, second);
    until("both are there", || engine.store().workers().unwrap().len() == 2);
    assert_timers_fire_in_time(&engine, 20);
    for worker in engine.store().workers().unwrap() {
        assert!((now_ms() - worker.seen_at_ms).abs() < LATE_MS, "{worker:?}");
    }
    assert_eq!(engine.execution(held).unwrap().status, Status::Waiting);
    assert_eq!(gates(&desk), 1, "it was taken from a worker that lives");

    one.kill();
    // The next attempt stands there.
    desk.wait_at_gate();
    assert_timers_fire_in_time(&engine, 5);
    let open = desk.open_gate();
    let record = engine.wait(held, Some(PATIENCE)).unwrap().unwrap();
    drop(open);
    assert_eq!(record.status, Status::Completed, "{record:?}");
    assert_eq!(gates(&desk), 2);
    assert_eq!(engine.store().check().unwrap(), Vec::<String>::new());
    drop(two);
}

#[test]
fn a_shifted_clock_is_what_the_program_sees() {
    // Or the other tests here would show nothing.
    let Some(shift) = Shift::found() else { return };
    let desk = Desk::gated();
    let url = format!("sqlite:///{}", desk.path("durable.db").display());
    let arguments = ["start", "gated.py", "--functions", "functions.py", "--db", &url];
    let output = shift.apply(&mut desk.command(&arguments), "+1h").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let id = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    let created_at_ms = engine(&url).execution(id).unwrap().created_at_ms;
    assert!((created_at_ms - HOUR_MS - now_ms()).abs() < LATE_MS, "{created_at_ms}");
}

const POSTGRES_LEASE: &str = "
    SELECT (extract(epoch FROM max(expires_at) - clock_timestamp()) * 1000)::bigint
    FROM execution_locks";
const MYSQL_LEASE: &str = "
    SELECT CAST(MAX(expires_at) - UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) FROM execution_locks";

#[test]
fn on_postgres_a_worker_ahead_takes_nothing_from_one_behind() {
    if let Some(database) = Database::on_postgres() {
        skewed(&database, "-1h", "+1h", POSTGRES_LEASE);
    }
}

#[test]
fn on_postgres_a_worker_ahead_keeps_nothing_longer() {
    if let Some(database) = Database::on_postgres() {
        skewed(&database, "+1h", "-1h", POSTGRES_LEASE);
    }
}

#[test]
fn on_mysql_clocks_need_not_agree() {
    if let Some(database) = Database::on_mysql() {
        skewed(&database, "-1h", "+1h", MYSQL_LEASE);
    }
}
