//! Sealing anew what is stored: afterwards the old key is needed by nobody.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use durable_core::{Error, Outcome, Owner, Payload};
use durable_store::{
    KeyRing, MysqlOptions, MysqlStore, PayloadChange, PayloadTable, PostgresOptions, PostgresStore,
    Rekeying, SealedStore, SqliteOptions, SqliteStore, Store, StoredPayload, Synchronous, Write,
};
use support::{
    NOW_MS, id, mysql, postgres, program,
    secrets::{ONE, OTHER_ONE, TWO, commit, secrets},
};

/// One database behind many keys.
struct Database(Arc<dyn Store>);

impl Database {
    fn with(&self, keys: &str) -> SealedStore {
        let ring = (!keys.is_empty()).then(|| KeyRing::parse(keys).unwrap());
        SealedStore::new(self.0.clone(), ring.unwrap_or_default())
    }

    fn payloads(&self, table: PayloadTable) -> Vec<String> {
        let rows = self.0.payloads(table, &(String::new(), 0), 1_000).unwrap();
        let payloads = rows.into_iter().flat_map(|row| row.payloads).flatten();
        payloads
            .map(|payload| match payload {
                StoredPayload::Text(text) => text,
                StoredPayload::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            })
            .collect()
    }
}

fn seen(store: &dyn Store, number: u8) -> String {
    let id = id(number);
    format!(
        "{:?} {:?} {:?} {:?}",
        store.execution(id).unwrap(),
        store.calls(id).unwrap(),
        store.journal(id, 0, 99).unwrap(),
        store.load(id).unwrap(),
    )
}

fn on_every_store(test: impl Fn(Database)) {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteOptions { synchronous: Synchronous::Off, ..SqliteOptions::default() };
    let path = directory.path().join("rekey.db");
    test(Database(Arc::new(SqliteStore::open(&path, options).unwrap())));
    if let Some(server) = postgres::server() {
        let options = PostgresOptions::parse(&server.new_database()).unwrap();
        test(Database(Arc::new(PostgresStore::open(&options).unwrap())));
    }
    if let Some(server) = mysql::server() {
        let options = MysqlOptions::parse(&server.new_database()).unwrap();
        test(Database(Arc::new(MysqlStore::open(&options).unwrap())));
    }
}

#[test]
fn after_it_the_old_key_is_needed_by_nobody() {
    on_every_store(|database| {
        let both = format!("{TWO},{ONE}");
        for (number, keys) in (1..).zip(["", ONE, both.as_str()]) {
            let store = database.with(keys);
            secrets(&store, number);
            let outcome = Outcome::Completed(Payload::trusted(r#""hidden report""#));
            commit(
                &store,
                Write::Report { execution: id(number), call: 3, outcome, now_ms: NOW_MS },
            );
        }
        let store = database.with(&both);
        let before: Vec<_> = (1..=3).map(|number| seen(&store, number)).collect();

        // Counting changes nothing.
        let stored = || PayloadTable::ALL.iter().map(|table| database.payloads(*table)).collect();
        let as_stored: Vec<Vec<String>> = stored();
        let counted = store.rekey(false, |_| {}).unwrap();
        assert_eq!(stored(), as_stored);
        assert!(!counted.is_settled);
        // An input, three times two arguments, two results and two texts of a failure, a line that
        // was printed, two variables, a snapshot; and the dictionary, which the first has stored.
        let expected = BTreeMap::from([(String::new(), 16), ("one".to_owned(), 15)]);
        assert_eq!((counted.renewed, counted.refused), (expected.clone(), 0));

        let rekeyed = store.rekey(true, |_| {}).unwrap();
        assert_eq!(rekeyed.renewed, expected);
        assert!(rekeyed.is_settled);
        assert!(!stored().concat().iter().any(|payload| payload.contains("hidden")));

        let store = database.with(TWO);
        let after: Vec<_> = (1..=3).map(|number| seen(&store, number)).collect();
        assert_eq!(after, before);
        let dictionary = store.program(program().id()).unwrap().unwrap().dictionary.unwrap();
        assert_eq!(&dictionary[..], b"hidden dictionary");
        let again = store.rekey(true, |_| {}).unwrap();
        assert!(again.renewed.is_empty() && again.is_settled && again.rows == rekeyed.rows);
        assert_eq!(store.check().unwrap(), Vec::<String>::new());
    });
}

#[test]
fn what_can_not_be_opened_is_told_and_left() {
    on_every_store(|database| {
        secrets(&database.with(""), 2);
        secrets(&database.with(ONE), 1);
        let told = Mutex::new(Vec::new());
        let tell = |rekeying: Rekeying<'_>| {
            if let Rekeying::Refused(error) = rekeying {
                told.lock().unwrap().push(error);
            }
        };
        let rekeyed = database.with(&format!("{TWO},{OTHER_ONE}")).rekey(true, tell).unwrap();
        assert!(!rekeyed.is_settled && rekeyed.refused > 0);
        let told = told.into_inner().unwrap();
        assert_eq!(told.len() as u64, rekeyed.refused);
        assert!(told.iter().all(|error| matches!(error, Error::Corrupt(_))), "{told:?}");
        // The other one is sealed, and this one as it was.
        assert!(database.with(TWO).load(id(2)).unwrap().is_some());
        assert!(database.with(ONE).load(id(1)).unwrap().is_some());
        assert!(matches!(database.with("").rekey(true, |_| {}), Err(Error::Invalid(_))));
    });
}

#[test]
fn who_holds_an_execution_goes_on_and_loses_nothing() {
    on_every_store(|database| {
        let both = format!("{TWO},{ONE}");
        let store = database.with(&both);
        secrets(&database.with(ONE), 1);
        let claim = Write::ClaimOne {
            execution: id(1),
            owner: Owner::new("two"),
            now_ms: NOW_MS + 10,
            expires_at_ms: NOW_MS + 1_000,
            dead: Vec::new(),
        };
        commit(&store, claim);
        // A page is read, the holder writes, the page is written.
        let table = PayloadTable::Calls;
        let rows = database.0.payloads(table, &(id(1).to_string(), 2), 1).unwrap();
        let stale = StoredPayload::Text("null".to_owned());
        let (at, result) = (table.columns().position(|name| name == "result").unwrap(), "\"new\"");
        assert_eq!((rows[0].number, &rows[0].payloads[at]), (3, &None));
        let outcome = Outcome::Completed(Payload::trusted(result));
        commit(&store, Write::Report { execution: id(1), call: 3, outcome, now_ms: NOW_MS });
        let change = |from: StoredPayload| {
            let (row, to) = ((id(1).to_string(), 3), StoredPayload::Text("0".into()));
            [PayloadChange { row, column: at, from, to }]
        };
        database.0.replace_payloads(table, &change(stale)).unwrap();
        assert!(store.rekey(true, |_| {}).unwrap().is_settled);

        let store = database.with(TWO);
        let loaded = store.load(id(1)).unwrap().unwrap();
        assert_eq!(loaded.lease.unwrap().owner, Owner::new("two"));
        assert_eq!(loaded.inbox, [(3, Outcome::Completed(Payload::trusted(result)))]);
    });
}
