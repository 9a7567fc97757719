//! Snapshots that can't be used are refused with a reason, never run.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use durable_core::{Advanced, Base, Dictionary, Limits, Snapshot};
use durable_interpreter::{Isolation, Pool, PoolConfig, SnapshotKey};
use support::*;

const SOURCE: &str = "x = await f(1)\ny = await f(x)\ny";

fn suspended(pool: &Arc<Pool>, number: u8) -> Driver {
    let program = program(SOURCE, &["f"], &[], Limits::default());
    let mut driver = Driver::new(pool, &program, number);
    driver.start("{}");
    driver
}

fn refused(driver: &mut Driver, snapshot: Snapshot) -> String {
    let base = driver.base(snapshot);
    match driver.advance(base, vec![group(vec![(0, ok("2"))])]) {
        Advanced::BadSnapshot(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn tampered_torn_and_foreign_snapshots_are_refused() {
    for isolation in [Isolation::Thread, processes()] {
        let pool = pool(isolation, 1);
        let mut driver = suspended(&pool, 1);
        let good = driver.snapshot.clone().unwrap();
        for at in (0..good.0.len()).step_by(7) {
            let mut bytes = good.0.to_vec();
            bytes[at] ^= 0x40;
            refused(&mut driver, Snapshot(bytes.into()));
            refused(&mut driver, Snapshot(good.0[..at].into()));
        }
        let mut version = good.0.to_vec();
        version[4] = 99;
        assert!(refused(&mut driver, Snapshot(version.into())).contains("format 99"));
        // Of another place in the journal.
        driver.snapshot_version += 1;
        assert!(refused(&mut driver, good.clone()).contains("another place"));
        driver.snapshot_version -= 1;
        // Of another execution of the same program.
        let other = suspended(&pool, 2);
        assert!(refused(&mut driver, other.snapshot.unwrap()).contains("another execution"));
        assert!(matches!(driver.restore(vec![(0, ok("2"))]), durable_core::End::Suspended { .. }));
    }
}

#[test]
fn another_key_or_dictionary_opens_nothing() {
    let pool = pool(processes(), 1);
    let mut driver = suspended(&pool, 1);
    let good = driver.snapshot.clone().unwrap();
    let config = PoolConfig::new(processes(), SnapshotKey::new([8; 32]));
    driver.pool = Arc::new(Pool::new(config).unwrap());
    refused(&mut driver, good.clone());

    driver.pool = pool;
    let own = driver.dictionary.replace(Dictionary::from(&b"no dictionary"[..]));
    assert!(refused(&mut driver, good.clone()).contains("dictionary"));
    let other = program("await f(7)", &["f"], &[], Limits::default());
    let mut foreign = Driver::new(&driver.pool, &other, 3);
    foreign.start("{}");
    driver.dictionary = foreign.dictionary;
    assert!(refused(&mut driver, good).contains("dictionary"));
    driver.dictionary = own;
    driver.restore(vec![(0, ok("2"))]);
    assert_eq!(driver.names(), ["1:f[2]{}"]);
}

#[test]
fn snapshots_survive_the_pool() {
    let mut driver = suspended(&pool(processes(), 1), 1);
    assert!(driver.snapshot.as_ref().unwrap().0.len() < 200, "{:?}", driver.snapshot);
    driver.pool = pool(Isolation::Thread, 1);
    driver.restore(vec![(0, ok("2"))]);
    driver.pool = pool(processes(), 1);
    assert_eq!(completed(driver.restore(vec![(1, ok("3"))])), "3");
}

#[test]
fn executions_that_start_together_agree_on_one_dictionary() {
    let pool = pool(processes(), 2);
    let first = suspended(&pool, 1);
    let second = suspended(&pool, 2);
    assert_eq!(first.dictionary, second.dictionary);
}

#[test]
fn a_state_that_is_too_large_fails_the_program() {
    let pool = pool(processes(), 1);
    let limits = Limits { max_snapshot_bytes: 5_000, ..Limits::default() };
    let source = "import random\nx = [random.random() for i in range(40000)]\nawait f()\nlen(x)";
    let end = failure(once(&pool, source, limits));
    assert_eq!(end.error_type, "SnapshotTooLarge");
    assert!(end.message.contains("max_snapshot_bytes is 5000"), "{}", end.message);
}

#[test]
fn live_states_make_room_for_newer_ones() {
    let config = PoolConfig {
        workers: 1,
        live_per_worker: 2,
        ..PoolConfig::new(processes(), SnapshotKey::new(KEY))
    };
    let pool = Arc::new(Pool::new(config).unwrap());
    let mut drivers: Vec<Driver> = (1..=3).map(|number| suspended(&pool, number)).collect();
    let live = |driver: &mut Driver| {
        let base = Base::Live(durable_core::StateToken { epoch: 1, version: 1 });
        driver.advance(base, vec![group(vec![(0, ok("2"))])])
    };
    assert!(matches!(live(&mut drivers[0]), Advanced::NotLive));
    assert!(matches!(live(&mut drivers[1]), Advanced::Reached(_)));
    assert!(matches!(live(&mut drivers[2]), Advanced::Reached(_)));
}

#[test]
fn what_others_hold_live_does_not_count_against_a_program() {
    let pool = pool(processes(), 1);
    let limits = Limits { max_memory_bytes: 48 << 20, ..Limits::default() };
    let source = "x = ['a' * 1000 + str(i) for i in range(30000)]\nawait f()\nlen(x)";
    let program = program(source, &["f"], &[], limits);
    let mut drivers: Vec<Driver> =
        (1..=4).map(|number| Driver::new(&pool, &program, number)).collect();
    for driver in &mut drivers {
        assert!(matches!(driver.start("{}"), durable_core::End::Suspended { .. }));
    }
    for driver in &mut drivers {
        assert_eq!(completed(driver.restore(vec![(0, ok("1"))])), "30000");
    }
}
