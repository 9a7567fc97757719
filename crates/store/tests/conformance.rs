//! Every store does what the trait promises.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use durable_store::{MemoryStore, SqliteOptions, SqliteStore, Synchronous, conformance};

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

fn open(path: &Path) -> SqliteStore {
    // What survives a power loss is not what is checked here.
    let options = SqliteOptions { synchronous: Synchronous::Off, ..SqliteOptions::default() };
    SqliteStore::open(path, options).unwrap()
}
