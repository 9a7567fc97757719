//! A Postgres server that crashes under two workers, one of which is killed, too.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use durable::{Status, Workflow};
use support::*;

/// A Postgres server of the test's own: it crashes it.
struct Server {
    state: PathBuf,
}

impl Server {
    /// `None` where there is no Postgres to start.
    fn start(state: &Path) -> Option<Self> {
        std::env::var_os("DURABLE_TEST_POSTGRES").or_else(|| std::env::var_os("CI"))?;
        let server = Self { state: state.to_owned() };
        server.services(&["up", "postgres"]);
        Some(server)
    }

    fn services(&self, words: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/services");
        let output = Command::new(script).arg("--state").arg(&self.state).args(words).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn url(&self) -> String {
        let env = self.services(&["env"]);
        let (_, url) = env.trim().split_once('=').unwrap();
        url.trim_matches('\'').to_owned()
    }

    fn crash(&self) {
        self.services(&["restart", "postgres"]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.services(&["down"]);
    }
}

fn worker(scene: &Scene) -> Child {
    let mut command = Command::new(example("worker"));
    command.arg(scene.url()).arg(scene.path("calls.log")).stdin(Stdio::piped());
    command.env("LEASE_MS", "3000").spawn().unwrap()
}

#[test]
fn everything_completes_when_the_server_crashes_twice_and_a_worker_is_killed() {
    let state = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(state.path()) else {
        eprintln!("skipped: DURABLE_TEST_POSTGRES is not set; see `scripts/services`");
        return;
    };
    let scene = Scene::at(server.url());
    let engine = scene.builder().open_engine().unwrap();
    let source = "
from asyncio import gather
results = await gather(*[work(n) for n in range(3)])
await work(sum(results))
";
    let workflow = Workflow::new(source).declare("work");
    let starts = (0..300).map(|_| workflow.to_start(&[])).collect();
    let ids = engine.start_many(starts).unwrap();
    let mut workers = [worker(&scene), worker(&scene)];
    let completed = || scene.count("SELECT count(*) FROM executions WHERE status = 'SUCCESS'");
    until("some complete", || completed() > 20);
    server.crash();
    until("more complete", || completed() > 100);
    workers[0].kill().unwrap();
    workers[0].wait().unwrap();
    workers[0] = worker(&scene);
    server.crash();
    for id in &ids {
        let record = ended(&engine, *id);
        assert_eq!(record.status, Status::Completed, "{:?}", record.failure);
        assert_eq!(record.output.unwrap().as_str(), "3");
    }
    for mut worker in workers {
        drop(worker.stdin.take());
        assert!(worker.wait().unwrap().success());
    }
    assert_eq!(scene.count("SELECT count(*) FROM execution_locks"), 0);
    assert_eq!(engine.store().check().unwrap(), Vec::<String>::new());
}
