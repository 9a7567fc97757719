//! What a call costs a server does not grow with what it holds: every row is found by its key, also
//! while the server has never counted its rows.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use durable_core::{
    CallId, Draft, End, Event, Execution, Lease, Outcome, Owner, Payload, Reached, Snapshot,
};
use durable_store::{PostgresOptions, PostgresStore, Store, Write};
use support::{NOW_MS, block_on, create, function, id, postgres, program};

const CALLS: CallId = 1_200;
/// Rows that may be read by way of an index, and without one, for each call. It takes 10, and 42
/// while a transaction elsewhere on the server keeps it from forgetting the versions of rows that
/// were replaced; who reads the calls that there are reads 600 for each.
const MOST_READ: i64 = 100;

/// One execution of many calls, `width` of them side by side, each time in a commit of its own.
fn run_calls(store: &dyn Store, width: CallId) {
    store.commit(&[Write::PutProgram(program()), create(1, true)]).unwrap();
    let mut state = Execution::scheduled(id(1));
    for first in (1..=CALLS).step_by(width as usize) {
        let mut draft = Draft::new(state, NOW_MS + i64::from(first));
        if first == 1 {
            draft.push(Event::ExecutionStarted { seed: 7 }).unwrap();
        }
        for call in first.saturating_sub(width).max(1)..first {
            draft.close_call(call, 1, Outcome::Completed(Payload::null())).unwrap();
        }
        let snapshot = Some(Snapshot([1, 2, 3].as_slice().into()));
        let end = End::Suspended { snapshot, new_dictionary: None };
        let calls = vec![(first..first + width).map(function).collect()];
        draft.take_reached(Reached { calls, printed: String::new(), end }).unwrap();
        state = draft.after.clone();
        state.version += 1;
        let lease = Lease { owner: Owner::new("one"), epoch: 1 };
        let write = Write::Transition(Box::new(draft.finish(lease, false).0));
        store.commit(&[write]).unwrap().remove(0).unwrap();
    }
}

/// Rows of executions and calls that were read, once the server says that all were written.
async fn rows_read(url: &str) -> i64 {
    const READ: &str = "
        SELECT sum(n_tup_ins) FILTER (WHERE relname = 'execution_steps')::bigint,
               (sum(seq_tup_read + idx_tup_fetch) + (
                   SELECT sum(idx_tup_read) FROM pg_stat_user_indexes
                   WHERE schemaname = current_schema()))::bigint
        FROM pg_stat_user_tables WHERE schemaname = current_schema()";
    let client = support::postgres::connect(url).await;
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let row = client.query_one(READ, &[]).await.unwrap();
        if row.get::<_, Option<i64>>(0) == Some(i64::from(CALLS)) {
            return row.get(1);
        }
        assert!(Instant::now() < until, "the server does not tell what was written");
        // It tells when a session ends, or once a second.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_call_reads_as_many_rows_of_postgres_in_a_long_execution_as_in_a_short_one() {
    let Some(server) = postgres::server() else { return };
    for width in [1, 3] {
        let url = server.new_database();
        let store = PostgresStore::open(&PostgresOptions::parse(&url).unwrap()).unwrap();
        run_calls(&store, width);
        drop(store);
        let (read, most) = (block_on(rows_read(&url)), MOST_READ * i64::from(CALLS));
        assert!(read <= most, "{read} rows were read for {CALLS} calls, {width} at a time");
    }
}
