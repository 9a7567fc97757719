//! One bad execution beside a hundred good ones, with programs in worker processes: the good
//! ones complete, and the bad one fails alone, with a reason that a person can act on.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;

use durable::{Durable, Failure, FunctionError, Limits, Status, Workflow};
use support::*;

const GOOD: usize = 100;

fn open(scene: &Scene) -> Durable {
    scene
        .builder()
        .isolation(processes())
        .workers(2)
        .function("add", |(a, b): (i64, i64)| async move { Ok::<_, FunctionError>(a + b) })
        .function("no_json", |(x,): (i64,)| async move {
            // Keys of objects are strings.
            Ok::<_, FunctionError>(HashMap::from([(vec![x], x)]))
        })
        .function("panics", |(x,): (i64,)| async move {
            assert!(x < 0, "cannot work with {x}");
            Ok::<_, FunctionError>(x)
        })
        .function(
            "large",
            |(size,): (usize,)| async move { Ok::<_, FunctionError>("a".repeat(size)) },
        )
        .open()
        .unwrap()
}

/// Runs a bad workflow in the midst of good ones, and gives the reason of its failure.
fn beside_good_ones(bad: &Workflow) -> Failure {
    let scene = Scene::new();
    let durable = open(&scene);
    let engine = durable.engine();
    let good = Workflow::new("await add(await add(1, 2), base)");
    let mut good_ones = Vec::new();
    let mut bad_one = None;
    for base in 0..GOOD {
        good_ones.push((base, durable.start(&good.clone().input("base", base).unwrap()).unwrap()));
        if base == GOOD / 3 {
            bad_one = Some(durable.start(bad).unwrap());
        }
    }
    for (base, id) in good_ones {
        assert_eq!(output(engine, id), (base + 3).to_string());
    }
    let record = ended(engine, bad_one.unwrap());
    assert_eq!(record.status, Status::Failed, "{record:?}");
    assert_eq!(engine.store().check().unwrap(), Vec::<String>::new());
    let failure = record.failure.unwrap();
    // Whatever it was that went wrong, the pool runs what comes next.
    let next = durable.start(&good.input("base", 0).unwrap()).unwrap();
    assert_eq!(output(engine, next), "3");
    failure
}

fn small() -> Limits {
    Limits { max_advance_ms: 300, max_memory_bytes: 64 << 20, ..Limits::default() }
}

/// Time is no matter here, even on a busy machine.
fn slow() -> Limits {
    Limits { max_advance_ms: 20_000, ..small() }
}

#[test]
fn an_endless_loop_fails_alone_at_the_start_and_after_a_call() {
    for source in ["while True: pass", "x = await add(1, 2)\nwhile True: x += 1"] {
        let failure = beside_good_ones(&Workflow::new(source).limits(small()));
        assert_eq!(failure.error_type, "TimeLimitExceeded");
        assert!(failure.message.contains("max_advance_ms = 300"), "{failure}");
        assert!(failure.message.contains("endless loop"), "{failure}");
    }
}

#[test]
fn a_string_that_fits_into_no_memory_fails_alone() {
    for source in ["'a' * 10**12", "x = await add(1, 2)\n'a' * 10**12"] {
        let failure = beside_good_ones(&Workflow::new(source).limits(slow()));
        assert_eq!(failure.error_type, "MemoryError");
        assert!(failure.message.contains("max_memory_bytes = 67108864"), "{failure}");
    }
}

/// Which of its limits a program meets first is the machine's business.
fn names_a_limit(failure: &Failure) {
    let phrases = ["max_advance_ms", "max_memory_bytes", "nested too deeply"];
    assert!(phrases.iter().any(|phrase| failure.message.contains(phrase)), "{failure:?}");
}

#[test]
fn code_that_overflows_the_native_stack_fails_alone() {
    let limits = Limits { max_memory_bytes: 4 << 30, ..slow() };
    let source = "exec('x = 1' + '+1'*2000000)";
    let failure = beside_good_ones(&Workflow::new(source).limits(limits));
    names_a_limit(&failure);
    let failure = beside_good_ones(&Workflow::new(source).limits(small()));
    names_a_limit(&failure);
}

#[test]
fn an_operation_that_heeds_no_clock_fails_alone() {
    let source = "x = 7**99999\nwhile True: x = x*x";
    let failure = beside_good_ones(&Workflow::new(source).limits(small()));
    names_a_limit(&failure);
}

#[test]
fn deep_recursion_fails_alone() {
    let source = "def r(n):\n    return r(n + 1)\nr(await add(0, 0))";
    let failure = beside_good_ones(&Workflow::new(source).limits(slow()));
    assert_eq!(failure.error_type, "RecursionError");
    let traceback = failure.traceback.unwrap();
    assert!(traceback.contains("return r(n + 1)"), "{traceback}");
}

#[test]
fn an_exception_when_it_goes_on_fails_alone_with_the_traceback() {
    let source = "x = await add(1, 2)\nx.no_such_thing()";
    let failure = beside_good_ones(&Workflow::new(source));
    assert_eq!(failure.error_type, "AttributeError");
    assert!(failure.message.contains("no_such_thing"), "{failure}");
    let traceback = failure.traceback.unwrap();
    assert!(traceback.contains("line 2") && traceback.contains("x.no_such_thing()"), "{traceback}");
}

#[test]
fn a_function_whose_result_is_not_json_fails_its_execution_alone() {
    let failure = beside_good_ones(&Workflow::new("await no_json(1)"));
    assert_eq!(failure.error_type, "TypeError");
    assert!(failure.message.contains("the result is not JSON"), "{failure}");
    assert_eq!(failure.cause_call, Some(0));
}

#[test]
fn a_function_that_panics_fails_its_execution_alone() {
    let failure = beside_good_ones(&Workflow::new("await panics(7)"));
    assert_eq!(failure.error_type, "RuntimeError");
    assert!(failure.message.contains("cannot work with 7"), "{failure}");
    assert_eq!(failure.cause_call, Some(0));
}

#[test]
fn more_open_calls_than_the_limit_fail_alone() {
    let source = "
from asyncio import gather
await gather(*[add(i, i) for i in range(1000)])
";
    let limits = Limits { max_open_calls: 100, ..Limits::default() };
    let failure = beside_good_ones(&Workflow::new(source).limits(limits));
    assert_eq!(failure.error_type, "CallLimitExceeded");
    assert!(failure.message.contains("max_open_calls = 100"), "{failure}");
}

#[test]
fn more_calls_than_the_limit_fail_alone() {
    let limits = Limits { max_calls: 20, ..Limits::default() };
    let failure = beside_good_ones(&Workflow::new("while await add(1, 1): pass").limits(limits));
    assert_eq!(failure.error_type, "CallLimitExceeded");
    assert!(failure.message.contains("max_calls = 20"), "{failure}");
}

#[test]
fn payloads_over_the_limit_fail_alone() {
    let limits = Limits { max_payload_bytes: 1_000, ..Limits::default() };
    for source in ["'a' * 2_000", "await large(2_000)", "await add('a' * 2_000, 1)"] {
        let failure = beside_good_ones(&Workflow::new(source).limits(limits.clone()));
        assert!(failure.message.contains("max_payload_bytes"), "{source}: {failure}");
        assert!(failure.message.contains("1000") || failure.message.contains("1,000"), "{failure}");
    }
}
