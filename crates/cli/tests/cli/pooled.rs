//! Workers on Postgres behind PgBouncer in transaction mode, where every transaction may get
//! another session.

use std::collections::BTreeMap;

use durable::{Status, Workflow};

use crate::{
    database::Database,
    support::{COUNTED, Desk, until},
};

const EXECUTIONS: usize = 200;
const CALLS: usize = 4;
/// The sessions that `scripts/services` allows PgBouncer for one database.
const SESSIONS: i64 = 4;

const WORKFLOW: &str = "
from asyncio import gather, sleep
n = sum(await gather(step(n), step(n), step(n)))
await sleep(0.3)
await step(n)
";

#[test]
fn workers_behind_pgbouncer_lose_nothing_also_when_one_is_killed() {
    let Some(database) = Database::behind_pgbouncer() else { return };
    let desk = Desk::new(&[("functions.py", COUNTED)]);
    let worker = || {
        let more = ["--functions", "functions.py", "--concurrency", "16"];
        desk.begin(&[&["worker", "--db", database.url()][..], &more].concat())
    };
    let attempts = || std::fs::read_to_string(desk.path("keys")).unwrap_or_default();
    let engine = database.engine();
    let killed = worker();
    let _others = [worker(), worker()];
    let start = |n| Workflow::new(WORKFLOW).declare("step").input("n", n).unwrap().to_start(&[]);
    let ids = engine.start_many((0..EXECUTIONS).map(start).collect()).unwrap();
    until("the workers get on", || attempts().lines().count() >= EXECUTIONS * CALLS / 3);
    killed.kill();
    until("everything is over", || engine.is_idle().unwrap());
    for (n, id) in ids.iter().enumerate() {
        let record = engine.execution(*id).unwrap();
        assert_eq!(record.status, Status::Completed, "{record:?}");
        assert_eq!(record.output.unwrap().as_str(), (3 * (n + 1) + 1).to_string());
    }
    assert_eq!(engine.store().check().unwrap(), Vec::<String>::new());
    let mut keys: BTreeMap<_, u32> = BTreeMap::new();
    for key in attempts().lines() {
        *keys.entry(key.to_owned()).or_default() += 1;
    }
    assert_eq!(keys.len(), EXECUTIONS * CALLS);
    // What the killed worker had not stored is run once more.
    assert_eq!(keys.values().filter(|count| **count > 2).count(), 0, "{keys:?}");
    // Three processes and this engine had no more sessions than that.
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()";
    assert!((1..=SESSIONS).contains(&database.ask(sql).unwrap()));
}
