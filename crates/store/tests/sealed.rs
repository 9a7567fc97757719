//! Sealed payloads: the promises of every store hold, nothing readable is left in the file, and
//! keys can be changed.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use durable_core::{Error, Outcome, Owner, Payload, Snapshot, Status};
use durable_store::{
    Control, ListFilter, Loaded, MemoryStore, MysqlOptions, MysqlStore, PostgresOptions,
    PostgresStore, SqliteOptions, SqliteStore, Store, Synchronous, Write, Written, conformance,
};
use support::{
    NOW_MS, id, mysql, postgres, program,
    secrets::{ONE, OTHER_ONE, TWO, commit, sealed, secrets},
};

fn sqlite(path: &Path) -> SqliteStore {
    let options = SqliteOptions { synchronous: Synchronous::Off, ..SqliteOptions::default() };
    SqliteStore::open(path, options).unwrap()
}

#[test]
fn memory_keeps_its_promises_sealed() {
    conformance::run(&|| Box::new(sealed(MemoryStore::new(), ONE)));
}

#[test]
fn sqlite_keeps_its_promises_sealed() {
    let directory = tempfile::tempdir().unwrap();
    let count = AtomicU32::new(0);
    conformance::run(&|| {
        let name = format!("{}.db", count.fetch_add(1, Ordering::Relaxed));
        Box::new(sealed(sqlite(&directory.path().join(name)), ONE))
    });
}

#[test]
fn postgres_keeps_its_promises_sealed() {
    let Some(server) = postgres::server() else { return };
    conformance::run(&|| {
        let options = PostgresOptions::parse(&server.new_database()).unwrap();
        Box::new(sealed(PostgresStore::open(&options).unwrap(), ONE))
    });
}

#[test]
fn mysql_keeps_its_promises_sealed() {
    let Some(server) = mysql::server() else { return };
    conformance::run(&|| {
        let options = MysqlOptions::parse(&server.new_database()).unwrap();
        Box::new(sealed(MysqlStore::open(&options).unwrap(), ONE))
    });
}

fn claim(store: &dyn Store) -> Vec<Loaded> {
    let claim = Write::Claim {
        owner: Owner::new("two"),
        now_ms: NOW_MS + 10,
        expires_at_ms: NOW_MS + 1_000,
        dead: Vec::new(),
        queues: Vec::new(),
        limit: 9,
    };
    match commit(store, claim) {
        Written::Claimed(claimed) => claimed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_readable_is_left_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sealed.db");
    let store = sealed(sqlite(&path), ONE);
    secrets(&store, 1);
    let outcome = Outcome::Completed(Payload::trusted(r#""hidden report""#));
    commit(&store, Write::Report { execution: id(1), call: 3, outcome, now_ms: NOW_MS });
    let loaded = store.load(id(1)).unwrap().unwrap();
    assert_eq!(loaded.snapshot.unwrap().0, Snapshot(b"hidden snapshot"[..].into()));
    let stored = store.program(program().id()).unwrap().unwrap();
    assert_eq!(&stored.dictionary.unwrap()[..], b"hidden dictionary");
    drop(store);
    let mut bytes = Vec::new();
    for file in std::fs::read_dir(directory.path()).unwrap() {
        bytes.extend(std::fs::read(file.unwrap().path()).unwrap());
    }
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(!holds("hidden"));
    // What is searched by is still there.
    assert!(holds("ValueError") && holds("WAITING") && holds("await a(1)"));
}

#[test]
fn keys_are_exchanged_one_after_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    // Before there were keys, under the first, under the second.
    let both = format!("{TWO},{ONE}");
    let mut seen = Vec::new();
    for (number, ring) in (1..).zip(["", ONE, &both]) {
        let store = sealed(sqlite(&path), ring);
        secrets(&store, number);
        seen.push(store.journal(id(number), 0, 99).unwrap());
    }
    let store = sealed(sqlite(&path), &both);
    for (number, journal) in (1..).zip(&seen) {
        assert_eq!(store.journal(id(number), 0, 99).unwrap(), *journal);
        assert!(store.load(id(number)).unwrap().is_some());
    }
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    // Without the first key only what it sealed is out of reach.
    let store = sealed(sqlite(&path), TWO);
    assert!(store.journal(id(1), 0, 99).is_ok() && store.journal(id(3), 0, 99).is_ok());
    match store.journal(id(2), 0, 99) {
        Err(Error::Unavailable(why)) => assert!(why.contains("'one'"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.list(&ListFilter::default()).unwrap().len(), 3);
}

#[test]
fn without_its_key_an_execution_is_parked_and_with_it_it_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("parked.db");
    secrets(&sealed(sqlite(&path), ONE), 1);
    let plain = sqlite(&path);
    for keys in [TWO, OTHER_ONE, ""] {
        assert!(claim(&sealed(sqlite(&path), keys)).is_empty());
        let record = plain.execution(id(1)).unwrap().unwrap();
        assert_eq!((record.status, record.locked_by), (Status::Paused, None));
        assert!(record.failure.unwrap().message.contains("'one'"));
        // An operator lets it go on.
        let (control, reason) = (Control::Resume, String::new());
        commit(&plain, Write::Request { execution: id(1), control, reason });
    }
    let claimed = claim(&sealed(sqlite(&path), ONE));
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].inputs.as_str(), r#"{"x": "hidden input"}"#);
}

#[test]
fn sealed_payloads_can_not_be_moved_or_altered() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("moved.db");
    let store = sealed(sqlite(&path), ONE);
    secrets(&store, 1);
    secrets(&store, 2);
    let sql = rusqlite::Connection::open(&path).unwrap();
    let one = id(1).to_string();
    for change in [
        "args = kwargs".to_owned(),
        format!(
            "args = (SELECT args FROM execution_steps
                     WHERE call_id = 1 AND execution_id <> '{one}')"
        ),
        r#"args = replace(args, '"data":"', '"data":"AAAA')"#.to_owned(),
    ] {
        let change = format!("UPDATE execution_steps SET {change} WHERE execution_id = '{one}'");
        let before = "CREATE TEMP TABLE kept AS SELECT id, args FROM execution_steps";
        let undo = "UPDATE execution_steps SET args = (SELECT args FROM kept
                    WHERE kept.id = execution_steps.id); DROP TABLE kept";
        sql.execute_batch(before).unwrap();
        assert_eq!(sql.execute(&change, []).unwrap(), 3);
        assert!(matches!(store.calls(id(1)), Err(Error::Corrupt(_))), "{change}");
        assert!(store.calls(id(2)).is_ok());
        sql.execute_batch(undo).unwrap();
        assert!(store.calls(id(1)).is_ok());
    }
}
