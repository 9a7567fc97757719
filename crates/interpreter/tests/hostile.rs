//! Programs that try to take the engine down: each fails alone, with a reason, and the next
//! program runs.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use durable_core::{Advanced, End, Limits, Runner as _};
use durable_interpreter::{Isolation, Pool, PoolConfig, SnapshotKey, WorkerCommand};
use support::*;

fn limits() -> Limits {
    Limits { max_advance_ms: 200, max_memory_bytes: 64 << 20, ..Limits::default() }
}

/// Runs a hostile program, then a harmless one on the same pool.
fn contained(pool: &Arc<Pool>, source: &str) -> (String, String) {
    let end = failure(once(pool, source, limits()));
    assert_eq!(completed(once(pool, "1 + 1", limits())), "2");
    (end.error_type, end.message)
}

#[test]
fn an_endless_loop_meets_the_time_limit() {
    for isolation in [Isolation::Thread, processes()] {
        let pool = pool(isolation, 1);
        for source in ["while True: pass", "import time\nwhile True: time.time()"] {
            let (error_type, message) = contained(&pool, source);
            assert_eq!(error_type, "TimeLimitExceeded");
            assert!(message.contains("max_advance_ms = 200"), "{message}");
        }
    }
}

#[test]
fn an_operation_that_ignores_the_interpreters_clock_is_killed() {
    let pool = pool(processes(), 1);
    let (error_type, message) = contained(&pool, "x = 7**99999\nwhile True: x = x*x");
    // Whichever limit it meets first.
    let is_limit = error_type == "TimeLimitExceeded" || error_type == "MemoryError";
    assert!(is_limit, "{error_type}: {message}");
    let (error_type, _) = contained(&pool, "import math\nmath.isqrt(7 ** 9999999)");
    assert_eq!(error_type, "TimeLimitExceeded");
}

#[test]
fn memory_is_limited() {
    let pool = pool(processes(), 1);
    let limits = Limits { max_advance_ms: 20_000, ..limits() };
    for source in [
        "'a' * 10**12",
        "x = []\nwhile True: x.append('abc' * 1000)",
        "x = [0]\nwhile True: x = x + x",
        "b'a' * (1 << 40)",
    ] {
        let end = failure(once(&pool, source, limits.clone()));
        assert_eq!(end.error_type, "MemoryError", "{source}: {end}");
        assert!(end.message.contains("max_memory_bytes = 67108864"), "{source}: {end}");
        assert_eq!(completed(once(&pool, "1 + 1", limits.clone())), "2");
    }
}

#[test]
fn a_native_stack_overflow_kills_one_worker_only() {
    let pool = pool(processes(), 1);
    let limits = Limits { max_advance_ms: 20_000, max_memory_bytes: 4 << 30, ..Limits::default() };
    let source = "exec('x = 1' + '+1'*2000000)";
    let end = failure(once(&pool, source, limits));
    assert_eq!(end.error_type, "RecursionError", "{end:?}");
    assert!(end.message.contains("nested too deeply"), "{}", end.message);
    assert_eq!(completed(once(&pool, "1 + 1", Limits::default())), "2");
}

#[test]
fn recursion_is_an_exception_inside() {
    let pool = pool(processes(), 1);
    let (error_type, _) = contained(&pool, "def r(): return r()\nr()");
    assert_eq!(error_type, "RecursionError");
}

#[test]
fn source_that_overflows_the_compiler_is_refused() {
    let pool = pool(processes(), 1);
    let source = format!("x = 1{}", "+1".repeat(500_000));
    let program = program(&source, &[], &[], Limits::default());
    let refused = pool.validate(&program).unwrap_err().to_string();
    assert!(refused.contains("nested too deeply") || refused.contains("too"), "{refused}");
    assert_eq!(completed(once(&pool, "1 + 1", limits())), "2");
}

#[test]
fn others_go_on_while_one_hangs() {
    let pool = pool(processes(), 2);
    let hanging = program("import math\nmath.isqrt(7 ** 9999999)", &[], &[], limits());
    let driver = Driver::new(&pool, &hanging, 1);
    let (sender, receiver) = mpsc::channel();
    let request = driver.request(Driver::start_base("{}"), vec![]);
    pool.advance(request, Box::new(move |answer| sender.send(answer).unwrap()));
    for _ in 0..100 {
        assert_eq!(completed(once(&pool, "1 + 1", limits())), "2");
    }
    let Advanced::Reached(reached) = receiver.recv().unwrap() else { panic!("it was stopped") };
    assert_eq!(failure(reached.end).error_type, "TimeLimitExceeded");
}

fn kill(id: u32) {
    let id = rustix::process::Pid::from_raw(id as i32).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
}

/// Waits until the pool has exactly this many workers, none of them among `dead`.
fn wait_for_workers(pool: &Pool, count: usize, dead: &[u32]) -> Vec<u32> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let ids = pool.worker_process_ids();
        if ids.len() == count && ids.iter().all(|id| !dead.contains(id)) {
            return ids;
        }
        assert!(Instant::now() < deadline, "workers: {ids:?}, dead: {dead:?}");
        std::thread::yield_now();
    }
}

#[test]
fn killing_idle_workers_harms_nobody() {
    let pool = pool(processes(), 2);
    let program = program("await f()\n7", &["f"], &[], limits());
    let mut driver = Driver::new(&pool, &program, 1);
    driver.start("{}");
    let first = wait_for_workers(&pool, 2, &[]);
    first.iter().copied().for_each(kill);
    wait_for_workers(&pool, 2, &first);
    // What was live is gone, which is no error.
    let base = durable_core::Base::Live(durable_core::StateToken { epoch: 1, version: 1 });
    assert!(matches!(driver.advance(base, vec![]), Advanced::NotLive));
    assert_eq!(completed(driver.restore(vec![(0, ok("1"))])), "7");
}

#[test]
fn killing_a_busy_worker_once_harms_nobody() {
    let pool = pool(processes(), 1);
    let limits = Limits { max_advance_ms: 60_000, ..Limits::default() };
    let source = "x = 0\nfor i in range(3_000_000): x += 1\nx";
    let program = program(source, &[], &[], limits);
    let worker = wait_for_workers(&pool, 1, &[]);
    let (sender, receiver) = mpsc::channel();
    for number in 0..3 {
        let driver = Driver::new(&pool, &program, number);
        let request = driver.request(Driver::start_base("{}"), vec![]);
        let sender = sender.clone();
        pool.advance(request, Box::new(move |answer| sender.send(answer).unwrap()));
    }
    worker.iter().copied().for_each(kill);
    for _ in 0..3 {
        let answer = receiver.recv_timeout(Duration::from_secs(60)).unwrap();
        let Advanced::Reached(reached) = answer else { panic!("{answer:?}") };
        assert_eq!(completed(reached.end), "3000000");
    }
}

#[test]
fn a_closed_pool_answers_what_it_leaves_undone() {
    let pool = pool(processes(), 1);
    let program = program("while True: pass", &[], &[], Limits::default());
    let (sender, receiver) = mpsc::channel();
    for number in 0..20 {
        let driver = Driver::new(&pool, &program, number);
        let request = driver.request(Driver::start_base("{}"), vec![]);
        let sender = sender.clone();
        pool.advance(request, Box::new(move |answer| sender.send(answer).unwrap()));
    }
    let ids = wait_for_workers(&pool, 1, &[]);
    let started = Instant::now();
    drop(pool);
    assert!(started.elapsed() < Duration::from_secs(2));
    for _ in 0..20 {
        assert!(matches!(receiver.recv().unwrap(), Advanced::Lost(_)));
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::path::Path::new(&format!("/proc/{}", ids[0])).exists() {
        assert!(Instant::now() < deadline, "the worker lives on");
        std::thread::yield_now();
    }
}

#[test]
fn workers_that_cannot_start_are_an_answer_not_a_hang() {
    for program_path in ["/nonexistent/worker", "/bin/true"] {
        let isolation = Isolation::Process(WorkerCommand::new(program_path));
        let config = PoolConfig { workers: 1, ..PoolConfig::new(isolation, SnapshotKey::new(KEY)) };
        let pool = Arc::new(Pool::new(config).unwrap());
        let program = program("1", &[], &[], Limits::default());
        let answer = Driver::new(&pool, &program, 1).advance(Driver::start_base("{}"), vec![]);
        assert!(matches!(answer, Advanced::Lost(_)), "{answer:?}");
        assert!(pool.validate(&program).is_err());
    }
}

#[test]
fn large_requests_and_replies_do_not_block_each_other() {
    let pool = pool(processes(), 1);
    let program = program("await f(x)\nlen(x)", &["f"], &["x"], Limits::default());
    let (sender, receiver) = mpsc::channel();
    let input = format!(r#"{{"x": "{}"}}"#, "a".repeat(2_000_000));
    for number in 0..8 {
        let driver = Driver::new(&pool, &program, number);
        let request = driver.request(Driver::start_base(&input), vec![]);
        let sender = sender.clone();
        pool.advance(request, Box::new(move |answer| sender.send(answer).unwrap()));
    }
    for _ in 0..8 {
        let answer = receiver.recv_timeout(Duration::from_secs(30)).unwrap();
        let Advanced::Reached(reached) = answer else { panic!("{answer:?}") };
        assert!(matches!(reached.end, End::Suspended { .. }));
    }
}

#[test]
fn every_request_is_answered_while_workers_die() {
    let pool = pool(processes(), 2);
    let program = program("x = await f()\nx", &["f"], &[], Limits::default());
    let (sender, receiver) = mpsc::channel();
    let total = 300;
    let mut answered = 0;
    for number in 0..total {
        let driver = Driver::new(&pool, &program, (number % 250) as u8);
        let request = driver.request(Driver::start_base("{}"), vec![]);
        let sender = sender.clone();
        pool.advance(request, Box::new(move |answer| sender.send(answer).unwrap()));
        if number % 30 == 0
            && let Some(&id) = pool.worker_process_ids().first()
        {
            // It may have died meanwhile, which is as good.
            if let Some(id) = rustix::process::Pid::from_raw(id as i32) {
                let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
            }
        }
    }
    drop(sender);
    while let Ok(answer) = receiver.recv_timeout(Duration::from_secs(60)) {
        assert!(matches!(answer, Advanced::Reached(_) | Advanced::Lost(_)), "{answer:?}");
        answered += 1;
    }
    assert_eq!(answered, total);
    assert_eq!(completed(once(&pool, "1 + 1", Limits::default())), "2");
}
