//! What only the SQLite store promises: its file.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::{path::Path, sync::Arc, thread};

use durable_core::{
    Draft, End, Error, Event, Execution, Failure, Lease, NewCall, Outcome, Owner, Payload, Reached,
    Snapshot, Status, UnixMs,
};
use durable_store::{
    ListFilter, SqliteOptions, SqliteStore, Store, Synchronous, Write, Written,
    schema::{self, Migrated, SCHEMA_VERSION},
};
use rusqlite::Connection;
use support::{NOW_MS, create, function, id, program, timer};
use tempfile::TempDir;

/// An execution under a lease of "one".
struct Work {
    state: Execution,
    lease: Lease,
    at_ms: UnixMs,
}

impl Work {
    fn new(number: u8) -> Self {
        let lease = Lease { owner: Owner::new("one"), epoch: 1 };
        Self { state: Execution::scheduled(id(number)), lease, at_ms: NOW_MS }
    }

    fn start(&mut self, calls: Vec<NewCall>, snapshot: Option<&[u8]>) -> Write {
        let snapshot = snapshot.map(|bytes| Snapshot(bytes.into()));
        let end = End::Suspended { snapshot, new_dictionary: None };
        self.transition(|draft| {
            draft.push(Event::ExecutionStarted { seed: 1 }).unwrap();
            let reached = Reached { calls: vec![calls], printed: String::new(), end };
            draft.take_reached(reached).unwrap();
        })
    }

    /// Closes every open function call and ends; timers are left to be cancelled.
    fn complete(&mut self) -> Write {
        self.transition(|draft| {
            let open: Vec<_> = draft.after.open_calls.values().cloned().collect();
            for call in open.iter().filter(|call| !call.is_timer()) {
                let outcome = Outcome::Completed(Payload::null());
                draft.close_call(call.id(), call.attempt, outcome).unwrap();
            }
            draft.push(Event::ExecutionCompleted { output: Payload::null() }).unwrap();
        })
    }

    fn transition(&mut self, fill: impl FnOnce(&mut Draft)) -> Write {
        let mut draft = Draft::new(self.state.clone(), self.at_ms);
        fill(&mut draft);
        let (transition, _) = draft.finish(self.lease.clone(), false);
        self.state = Execution::clone(&transition.after);
        self.at_ms += 10;
        Write::Transition(Box::new(transition))
    }
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn open(path: &Path) -> SqliteStore {
    let options = SqliteOptions { synchronous: Synchronous::Off, ..SqliteOptions::default() };
    SqliteStore::open(path, options).unwrap()
}

fn sql(path: &Path, script: &str) {
    Connection::open(path).unwrap().execute_batch(script).unwrap();
}

fn count(path: &Path, table: &str) -> i64 {
    let connection = Connection::open(path).unwrap();
    connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

fn done(store: &SqliteStore, write: Write) {
    store.commit(&[write]).unwrap().remove(0).unwrap();
}

/// A store with one execution that waits for these two calls.
fn with_calls(path: &Path) -> (SqliteStore, Work) {
    let store = open(path);
    done(&store, Write::PutProgram(program()));
    let mut work = Work::new(1);
    done(&store, create(1, true));
    done(&store, work.start(vec![function(1), function(2), timer(3, 5_000)], Some(b"snapshot")));
    (store, work)
}

#[test]
fn a_new_file_is_created_and_opened_again() {
    let directory = directory();
    let path = directory.path().join("new.db");
    assert_eq!(schema::migrate(&path).unwrap(), Migrated { from: 0, to: SCHEMA_VERSION });
    let current = Migrated { from: SCHEMA_VERSION, to: SCHEMA_VERSION };
    assert_eq!(schema::migrate(&path).unwrap(), current);
    let (store, work) = with_calls(&path);
    drop(store);
    assert_eq!(schema::migrate(&path).unwrap(), current);
    let loaded = open(&path).load(id(1)).unwrap().unwrap();
    assert_eq!(loaded.execution, work.state);
    assert_eq!(loaded.snapshot.unwrap().1, 4);
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let directory = directory();
    let path = directory.path().join("newer.db");
    drop(open(&path));
    sql(&path, "PRAGMA user_version = 4711");
    let Err(Error::Invalid(message)) = SqliteStore::open(&path, SqliteOptions::default()) else {
        panic!("opened a newer schema");
    };
    assert!(message.contains("4711") && message.contains(&SCHEMA_VERSION.to_string()), "{message}");
    assert!(message.contains("upgrade"), "{message}");
}

#[test]
fn files_of_others_are_refused_and_left_alone() {
    let directory = directory();
    let refused = |name: &str, prepare: &dyn Fn(&Path), expected: &str| {
        let path = directory.path().join(name);
        prepare(&path);
        let before = std::fs::read(&path).unwrap();
        let Err(Error::Invalid(message)) = SqliteStore::open(&path, SqliteOptions::default())
        else {
            panic!("{name}: opened somebody else's file");
        };
        assert!(message.contains(expected), "{name}: {message}");
        assert_eq!(std::fs::read(&path).unwrap(), before, "{name}: it was written to");
    };
    refused(
        "text.db",
        &|path| std::fs::write(path, "not a database, far from it".repeat(99)).unwrap(),
        "no SQLite database",
    );
    refused("app.db", &|path| sql(path, "PRAGMA application_id = 77; CREATE TABLE t (a)"), "77");
    refused("versioned.db", &|path| sql(path, "PRAGMA user_version = 3; CREATE TABLE t (a)"), "3");
    refused("same_name.db", &|path| sql(path, "CREATE TABLE executions (id, code)"), "executions");
    refused("calls.db", &|path| sql(path, "CREATE TABLE calls (id, execution_id)"), "calls");
}

#[test]
fn an_application_may_share_its_file() {
    let directory = directory();
    let path = directory.path().join("shared.db");
    sql(&path, "CREATE TABLE customers (id, name); INSERT INTO customers VALUES (1, 'Ada')");
    drop(with_calls(&path));
    assert_eq!(count(&path, "customers"), 1);
    assert_eq!(count(&path, "executions"), 1);
}

#[test]
fn a_path_that_can_not_be_opened_says_so() {
    let directory = directory();
    let path = directory.path().join("missing").join("new.db");
    let error = SqliteStore::open(&path, SqliteOptions::default()).unwrap_err();
    assert!(
        matches!(&error, Error::Unavailable(message) if message.contains("missing")),
        "{error:?}"
    );
    let error = SqliteStore::open(Path::new(":memory:"), SqliteOptions::default()).unwrap_err();
    assert!(matches!(error, Error::Invalid(_)));
}

#[test]
fn many_may_open_a_new_file_at_once() {
    let directory = directory();
    for round in 0..5 {
        let path = Arc::new(directory.path().join(format!("{round}.db")));
        let openers: Vec<_> = (1..=6)
            .map(|number| {
                let path = path.clone();
                thread::spawn(move || {
                    let store = open(&path);
                    done(&store, Write::PutProgram(program()));
                    done(&store, create(number, false));
                })
            })
            .collect();
        for opener in openers {
            opener.join().unwrap();
        }
        let store = open(&path);
        assert_eq!(store.list(&ListFilter::default()).unwrap().len(), 6);
        assert!(store.check().unwrap().is_empty());
    }
}

#[test]
fn a_call_closed_by_sql_stands_in_the_inbox() {
    let directory = directory();
    let path = directory.path().join("orm.db");
    let (store, _) = with_calls(&path);
    let token = store.change_token().unwrap();
    sql(&path, "UPDATE execution_steps SET status = 'FAILED', error = 'no luck' WHERE call_id = 2");
    assert_ne!(store.change_token().unwrap(), token);
    sql(&path, "UPDATE execution_steps SET status = 'SUCCESS', completed_at = 5 WHERE call_id = 1");
    let one = Owner::new("one");
    assert_eq!(store.inboxes(&one).unwrap(), [id(1)]);
    let loaded = store.load(id(1)).unwrap().unwrap();
    let failed = Outcome::Failed(Failure::new("RuntimeError", "no luck"));
    assert_eq!(loaded.inbox, [(2, failed), (1, Outcome::Completed(Payload::null()))]);
    // A late report is refused as ever.
    let outcome = Outcome::Completed(Payload::null());
    let report = Write::Report { execution: id(1), call: 1, outcome, now_ms: NOW_MS };
    assert!(matches!(store.commit(&[report]).unwrap()[0], Err(Error::Conflict(_))));
}

#[test]
fn a_result_taken_back_by_sql_does_not_wake_for_ever() {
    let directory = directory();
    let path = directory.path().join("orm.db");
    let (store, work) = with_calls(&path);
    done(&store, Write::Release { execution: id(1), lease: work.lease, wake_at_ms: None });
    sql(&path, "UPDATE execution_steps SET status = 'FAILED' WHERE call_id = 1");
    sql(&path, "UPDATE execution_steps SET status = 'PENDING' WHERE call_id = 1");
    assert!(!store.check().unwrap().is_empty());
    let one = Owner::new("one");
    assert_eq!(store.next_due_ms(&one, &[]).unwrap(), Some(i64::MIN));
    let claim = Write::ClaimOne {
        execution: id(1),
        owner: one.clone(),
        now_ms: NOW_MS,
        expires_at_ms: NOW_MS + 1,
        dead: Vec::new(),
    };
    let answer = store.commit(&[claim]).unwrap().remove(0).unwrap();
    assert!(matches!(&answer, Written::Claimed(claimed) if claimed[0].inbox.is_empty()));
    assert!(store.inboxes(&one).unwrap().is_empty());
    assert!(store.check().unwrap().is_empty());
}

#[test]
fn deleting_by_sql_removes_the_children() {
    let directory = directory();
    let path = directory.path().join("orm.db");
    let (store, _) = with_calls(&path);
    sql(&path, "DELETE FROM executions");
    for table in ["execution_steps", "execution_events", "execution_state", "execution_locks"] {
        assert_eq!(count(&path, table), 0, "{table}");
    }
    assert!(store.check().unwrap().is_empty());
}

#[test]
fn the_rows_are_those_that_people_query() {
    let directory = directory();
    let path = directory.path().join("rows.db");
    let (store, mut work) = with_calls(&path);
    done(&store, work.complete());
    let connection = Connection::open(&path).unwrap();
    let text = |sql: &str| -> String { connection.query_row(sql, [], |row| row.get(0)).unwrap() };
    assert_eq!(
        text(
            "SELECT group_concat(step_name || ' ' || status || ' ' || retry_count) FROM (SELECT * FROM execution_steps ORDER BY step_order)"
        ),
        "a SUCCESS 0,a SUCCESS 0,asyncio.sleep CANCELLED 0"
    );
    assert_eq!(
        text(
            "SELECT group_concat(event_type, ' ') FROM (SELECT * FROM execution_events ORDER BY timestamp, id)"
        ),
        "EXECUTION_STARTED STEP_STARTED STEP_STARTED TIMER_STARTED STEP_COMPLETED STEP_COMPLETED EXECUTION_COMPLETED"
    );
    assert_eq!(text("SELECT CAST(current_step AS TEXT) FROM execution_state"), "2");
    assert_eq!(text("SELECT status || (completed_at - started_at) FROM executions"), "SUCCESS10");
    assert_eq!(count(&path, "execution_locks"), 0);
    assert_eq!(count(&path, "calls"), 2);
    assert_eq!(text("SELECT resume_group_id FROM calls LIMIT 1"), format!("{}:1", id(1)));
}

#[test]
fn a_snapshot_that_is_gone_or_damaged_is_none() {
    let directory = directory();
    let path = directory.path().join("cache.db");
    let (store, work) = with_calls(&path);
    for damage in [
        "UPDATE execution_state SET state_snapshot = 'text'",
        "UPDATE execution_state SET state_snapshot = x'00', position = 99",
        "UPDATE execution_state SET position = -1",
        "UPDATE execution_state SET state_snapshot = NULL",
        "DELETE FROM execution_state",
    ] {
        sql(&path, damage);
        let loaded = store.load(id(1)).unwrap().unwrap();
        assert!(loaded.snapshot.is_none(), "{damage}");
        assert_eq!(loaded.tail.len(), 4, "{damage}");
        assert_eq!(loaded.execution, work.state, "{damage}");
    }
}

#[test]
fn one_damaged_execution_does_not_stop_the_others() {
    let directory = directory();
    let path = directory.path().join("damaged.db");
    let store = open(&path);
    done(&store, Write::PutProgram(program()));
    for number in 1..=3 {
        done(&store, create(number, false));
    }
    sql(&path, &format!("UPDATE executions SET control = 'DANCE' WHERE id = '{}'", id(2)));
    let claim = |name: &str| {
        let claim = Write::Claim {
            owner: Owner::new(name),
            now_ms: NOW_MS,
            expires_at_ms: NOW_MS + 1_000,
            dead: Vec::new(),
            queues: Vec::new(),
            limit: 10,
        };
        match store.commit(&[claim]).unwrap().remove(0).unwrap() {
            Written::Claimed(claimed) => claimed.len(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(claim("one"), 2);
    // It is not tried again and again.
    assert_eq!(claim("one"), 0);
    assert!(matches!(store.load(id(2)), Err(Error::Corrupt(_))));
    assert!(store.check().unwrap().iter().any(|finding| finding.contains(&id(2).to_string())));
}

#[test]
fn check_finds_what_is_wrong() {
    let finds = |damage: &str, expected: &str| {
        let directory = directory();
        let path = directory.path().join("check.db");
        let (store, _) = with_calls(&path);
        assert!(store.check().unwrap().is_empty());
        sql(&path, damage);
        let findings = store.check().unwrap();
        assert!(
            findings.iter().any(|finding| finding.contains(expected)),
            "{damage}: {findings:?}"
        );
    };
    finds("DELETE FROM execution_events WHERE sequence = 2", "the journal holds 3 events");
    finds(
        "UPDATE execution_events SET event_payload = '{}' WHERE sequence = 2",
        "'call' is missing",
    );
    finds(
        "UPDATE executions SET closed_calls = 1",
        "calls closed is 0 by the journal, 1 in the rows",
    );
    finds(
        "UPDATE execution_steps SET args = '[]' WHERE call_id = 1; UPDATE executions SET version = 9",
        "version is 1 by the journal",
    );
    finds("UPDATE executions SET inbox = 3", "its inbox holds 0 calls");
    finds("DELETE FROM execution_locks", "stranded");
    finds(
        "INSERT INTO execution_locks VALUES ('gone', 'x', 0, 0, 1)",
        "execution_locks holds rows of execution gone",
    );
}

#[test]
fn own_commits_do_not_change_the_token_and_others_do() {
    let directory = directory();
    let path = directory.path().join("token.db");
    let (first, second) = (open(&path), open(&path));
    let token = first.change_token().unwrap();
    done(&first, Write::PutProgram(program()));
    done(&first, create(1, false));
    assert_eq!(first.change_token().unwrap(), token);
    done(&second, create(2, false));
    let changed = first.change_token().unwrap();
    assert_ne!(changed, token);
    done(&first, create(3, false));
    assert_eq!(first.change_token().unwrap(), changed);
}

#[test]
fn two_engines_never_lease_one_execution() {
    let directory = directory();
    let path = directory.path().join("two.db");
    let store = open(&path);
    done(&store, Write::PutProgram(program()));
    for number in 1..=60 {
        done(&store, create(number, false));
    }
    let engines: Vec<_> = ["one", "two", "three"]
        .map(|name| {
            let path = path.clone();
            thread::spawn(move || {
                let store = open(&path);
                let mut mine = Vec::new();
                loop {
                    let claim = Write::Claim {
                        owner: Owner::new(name),
                        now_ms: NOW_MS,
                        expires_at_ms: NOW_MS + 1_000,
                        dead: Vec::new(),
                        queues: Vec::new(),
                        limit: 3,
                    };
                    let answer = store.commit(&[claim]).unwrap().remove(0).unwrap();
                    let Written::Claimed(claimed) = answer else { panic!("{answer:?}") };
                    if claimed.is_empty() {
                        return mine;
                    }
                    mine.extend(claimed.into_iter().map(|loaded| loaded.execution.id));
                }
            })
        })
        .into_iter()
        .collect();
    let mut all: Vec<_> = engines.into_iter().flat_map(|engine| engine.join().unwrap()).collect();
    all.sort();
    assert_eq!(all, (1..=60).map(id).collect::<Vec<_>>());
}

#[test]
fn a_locked_database_is_unavailable_and_loses_nothing() {
    let directory = directory();
    let path = directory.path().join("locked.db");
    drop(with_calls(&path));
    let options = SqliteOptions { busy_timeout: std::time::Duration::ZERO, ..Default::default() };
    let store = SqliteStore::open(&path, options).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let answer = store.commit(&[create(2, false)]);
    assert!(matches!(answer, Err(Error::Unavailable(_))), "{answer:?}");
    // Reading goes on beside a writer.
    assert_eq!(store.execution(id(1)).unwrap().unwrap().status, Status::Waiting);
    other.execute_batch("ROLLBACK").unwrap();
    done(&store, create(2, false));
}
