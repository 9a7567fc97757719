//! Workers that are killed in the middle, on databases that crash under them.

use std::{path::Path, process::Command};

use durable::{Durable, Engine, ExecutionId, Isolation, Status, Workflow};

use crate::support::{COUNTED, Desk, Running, until};

const WORKFLOW: &str = "
from asyncio import gather
await step(sum(await gather(step(n), step(n), step(n))))
";

/// The calls of one execution.
const CALLS: usize = 4;
const EXECUTIONS: usize = 2_000;
/// How many workers are killed, one after the other while the executions run.
const KILLS: usize = 12;

/// A server of one test alone, which crashes it.
struct Server<'a> {
    name: &'static str,
    desk: &'a Desk,
}

impl<'a> Server<'a> {
    /// `None` where there is none to start.
    fn start(name: &'static str, variable: &str, desk: &'a Desk) -> Option<Self> {
        if std::env::var_os(variable).is_none() && std::env::var_os("CI").is_none() {
            eprintln!("skipped: {variable} is not set; see `scripts/services`");
            return None;
        }
        let server = Self { name, desk };
        server.services(&["up", name]);
        Some(server)
    }

    fn url(&self) -> String {
        let told = self.services(&["env"]);
        let (_, url) = told.trim().split_once('=').unwrap();
        url.trim_matches('\'').to_owned()
    }

    fn crash(&self) {
        self.services(&["restart", self.name]);
    }

    fn services(&self, words: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/services");
        let state = self.desk.path("services");
        let output = Command::new(script).arg("--state").arg(state).args(words).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        self.services(&["down"]);
    }
}

fn worker(desk: &Desk, url: &str) -> Running {
    desk.begin(&["worker", "--db", url, "--functions", "functions.py", "--concurrency", "16"])
}

fn attempts(desk: &Desk) -> usize {
    let keys = std::fs::read(desk.path("keys")).unwrap_or_default();
    keys.iter().filter(|byte| **byte == b'\n').count()
}

fn start_all(engine: &Engine) -> Vec<ExecutionId> {
    let start = |n| Workflow::new(WORKFLOW).declare("step").input("n", n).unwrap().to_start(&[]);
    engine.start_many((0..EXECUTIONS).map(start).collect()).unwrap()
}

/// Runs the executions on workers of which one after the other is killed, on a database that is
/// crashed now and then.
fn survive(desk: &Desk, url: &str, workers: usize, crash: impl Fn()) {
    let open = || {
        let engine = Durable::builder(url).isolation(Isolation::Thread).workers(1);
        engine.open_engine().unwrap()
    };
    let engine = open();
    let ids = start_all(&engine);
    let mut running: Vec<_> = (0..workers).map(|_| worker(desk, url)).collect();
    for kill in 1..=KILLS {
        let progress = kill * EXECUTIONS * CALLS / (KILLS + 2);
        until("the workers get on", || attempts(desk) >= progress);
        running.remove(0).kill();
        running.push(worker(desk, url));
        if kill % (KILLS / 2 - 1) == 0 {
            crash();
        }
    }
    until("everything is over", || engine.is_idle().unwrap_or(false));
    for (n, id) in ids.iter().enumerate() {
        let record = engine.execution(*id).unwrap();
        assert_eq!(record.status, Status::Completed, "{record:?}");
        assert_eq!(record.output.unwrap().as_str(), (3 * (n + 1) + 1).to_string());
        let calls = engine.store().calls(*id).unwrap();
        assert_eq!(calls.len(), CALLS);
    }
    // Every journal is folded: no result is in it twice.
    assert_eq!(engine.store().check().unwrap(), Vec::<String>::new());
    let text = desk.read("keys");
    let keys: std::collections::BTreeSet<_> = text.lines().collect();
    assert_eq!(keys.len(), EXECUTIONS * CALLS);
}

fn desk() -> Desk {
    Desk::new(&[("functions.py", COUNTED)])
}

#[test]
fn two_workers_on_sqlite_that_are_killed_lose_nothing() {
    let desk = desk();
    let url = format!("sqlite:///{}", desk.path("durable.db").display());
    survive(&desk, &url, 2, || {});
}

#[test]
fn four_workers_on_postgres_that_are_killed_lose_nothing() {
    let desk = desk();
    if let Some(server) = Server::start("postgres", "DURABLE_TEST_POSTGRES", &desk) {
        survive(&desk, &server.url(), 4, || server.crash());
    }
}

#[test]
fn four_workers_on_mariadb_that_are_killed_lose_nothing() {
    let desk = desk();
    if let Some(server) = Server::start("mysql", "DURABLE_TEST_MYSQL", &desk) {
        survive(&desk, &server.url(), 4, || server.crash());
    }
}
