//! Every store does what the trait promises.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use durable_store::{
    MemoryStore, MysqlOptions, MysqlStore, PostgresOptions, PostgresStore, SqliteOptions,
    SqliteStore, Synchronous, conformance,
};
use support::{mysql, postgres};

#[test]
fn memory() {
    conformance::run(&|| Box::new(MemoryStore::new()));
}

#[test]
fn sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let count = AtomicU32::new(0);
    conformance::run(&|| {
        let name = format!("{}.db", count.fetch_add(1, Ordering::Relaxed));
        Box::new(open(&directory.path().join(name)))
    });
}

#[test]
fn postgres() {
    let Some(server) = postgres::server() else { return };
    conformance::run(&|| {
        let options = PostgresOptions::parse(&server.new_database()).unwrap();
        Box::new(PostgresStore::open(&options).unwrap())
    });
}

#[test]
fn postgres_without_prepared_statements() {
    let Some(server) = postgres::server() else { return };
    conformance::run(&|| {
        let url = format!("{}&prepare=false", server.new_database());
        Box::new(PostgresStore::open(&PostgresOptions::parse(&url).unwrap()).unwrap())
    });
}

#[test]
fn postgres_behind_pgbouncer() {
    let Some(pooler) = postgres::pooler() else { return };
    conformance::run(&|| {
        let options = PostgresOptions::parse(&pooler.new_whole_database()).unwrap();
        Box::new(PostgresStore::open(&options).unwrap())
    });
}

#[test]
fn mysql() {
    let Some(server) = mysql::server() else { return };
    conformance::run(&|| {
        let options = MysqlOptions::parse(&server.new_database()).unwrap();
        Box::new(MysqlStore::open(&options).unwrap())
    });
}

fn open(path: &Path) -> SqliteStore {
    // What survives a power loss is not what is checked here.
    let options = SqliteOptions { synchronous: Synchronous::Off, ..SqliteOptions::default() };
    SqliteStore::open(path, options).unwrap()
}
