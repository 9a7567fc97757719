//! Variables of a waiting program are given other values, and the program goes on with those: from
//! the live state, from a snapshot, and when all of it is replayed.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use durable_core::{
    Advanced, Assignment, Base, Definition, End, FunctionOptions, Group, Language, Limits, Outcome,
    Payload, Program, StateToken,
};
use durable_interpreter::{Isolation, Pool};
use serde_json::{Value, json};
use support::*;

/// `task.depth.function.name=JSON`
fn set(assignments: &[&str]) -> Group {
    let assignment = |text: &&str| {
        let (place, value) = text.split_once('=').unwrap();
        let [task, depth, function, name] = place.split('.').collect::<Vec<_>>()[..] else {
            panic!("{text}")
        };
        Assignment {
            task: task.parse().unwrap(),
            depth: depth.parse().unwrap(),
            function: function.to_owned(),
            name: name.to_owned(),
            value: Payload::trusted(value),
        }
    };
    Group { variables: assignments.iter().map(assignment).collect(), ..Group::default() }
}

fn results(results: &[(u32, &str)]) -> Group {
    group(results.iter().map(|(call, result)| (*call, ok(result))).collect())
}

/// Gives the groups one after the other, always to the live state or always to the last snapshot,
/// and then all of them at once to the start.
fn run_all_ways(pool: &Arc<Pool>, program: &Arc<Program>, groups: &[Group]) -> String {
    let start = || Driver::start_base("{}");
    let one_by_one = |is_live: bool, number| {
        let mut driver = Driver::new(pool, program, number);
        let answer = driver.advance(start(), Vec::new());
        let mut end = driver.reached(answer);
        let mut since = Vec::new();
        for group in groups {
            let live = Base::Live(StateToken { epoch: 1, version: driver.version });
            since.push(group.clone());
            let answer = match is_live {
                true => driver.advance(live, vec![group.clone()]),
                false => {
                    driver.advance(driver.base(driver.snapshot.clone().unwrap()), since.clone())
                }
            };
            end = driver.reached(answer);
            if matches!(end, End::Suspended { snapshot: Some(_), .. }) {
                since.clear();
            }
        }
        completed(end)
    };
    let mut replayed = Driver::new(pool, program, 3);
    let answer = replayed.advance(start(), groups.to_vec());
    let replayed = completed(replayed.reached(answer));
    assert_eq!(one_by_one(true, 1), replayed, "live");
    assert_eq!(one_by_one(false, 2), replayed, "from snapshots");
    replayed
}

fn both(test: impl Fn(&Arc<Pool>)) {
    for isolation in [Isolation::Thread, processes()] {
        test(&pool(isolation, 1));
    }
}

/// A program that waits for call 0 and then is given results of this and of the calls after.
fn goes_on(source: &str, assignments: &[&str], later: &[&str]) -> String {
    let mut outputs = Vec::new();
    for isolation in [Isolation::Thread, processes()] {
        let program = program(source, &["f", "g"], &[], Limits::default());
        let mut groups = vec![set(assignments)];
        groups.extend((0..).zip(later).map(|(call, result)| results(&[(call, result)])));
        outputs.push(run_all_ways(&pool(isolation, 1), &program, &groups));
    }
    assert_eq!(outputs[0], outputs[1]);
    outputs.remove(0)
}

#[test]
fn a_variable_of_the_module_takes_values_of_every_kind() {
    for value in [
        "5",
        "-9223372036854775808",
        r#"{"$int":"123456789012345678901234567890"}"#,
        "1.5",
        r#"{"$float":"inf"}"#,
        "null",
        "true",
        r#""""#,
        r#""z""#,
        r#""never seen before, ž""#,
        "[]",
        r#"[1,[2,"x"],{"z":1,"a":[2]}]"#,
        r#"{"z":1,"a":{"b":null}}"#,
        r#"{"$tuple":[1,{"$set":[2]}]}"#,
        r#"{"$dict":[[1,"one"]]}"#,
        r#"{"$bytes":"aGk="}"#,
        r#"{"$datetime":"2026-01-31T12:00:00+02:00"}"#,
        r#"{"$dataclass":{"name":"Point","fields":{"x":1}}}"#,
    ] {
        let source = "total = 1\nr = await f(total)\nkept = total\n[kept, total, r]";
        let output = goes_on(source, &[&format!("0.0.<module>.total={value}")], &["7"]);
        assert_eq!(output, format!("[{value},{value},7]"));
    }
}

#[test]
fn what_else_refers_to_the_old_value_keeps_it() {
    let source = "\
items = [1, [2, 3]]
alias = items
inner = items[1]
table = {'items': items}
await f()
alias.append(4)
inner.append(5)
await f()
items.append(6)
[items, alias, inner, table, alias is table['items'], [0] * 3]
";
    let output = goes_on(source, &[r#"0.0.<module>.items=["new"]"#], &["0", "0"]);
    assert_eq!(output, r#"[["new",6],[1,[2,3,5],4],[2,3,5],{"items":[1,[2,3,5],4]},true,[0,0,0]]"#);
}

#[test]
fn a_value_in_a_cycle_is_let_go_of() {
    let source = "\
ring = [1]
ring.append(ring)
pair = [ring]
await f()
made = [[n] for n in range(200000)]
[ring, len(pair[0]), pair[0][1] is pair[0], len(made)]
";
    assert_eq!(goes_on(source, &["0.0.<module>.ring=[]"], &["0"]), "[[],2,true,200000]");
}

#[test]
fn variables_are_set_again_and_many_at_once() {
    let source = "\
a, b, c = [1], 'b', {'c': 1}
await f()
[a, b, c]
";
    let program = program(source, &["f"], &[], Limits::default());
    both(|pool| {
        let groups = [
            set(&["0.0.<module>.a=[2]", "0.0.<module>.c=null", r#"0.0.<module>.b=["x"]"#]),
            set(&[r#"0.0.<module>.a={"a":[3]}"#, "0.0.<module>.b=[[4]]"]),
            set(&["0.0.<module>.a=[5,[6]]"]),
            results(&[(0, "0")]),
        ];
        assert_eq!(run_all_ways(pool, &program, &groups), r#"[[5,[6]],[[4]],null]"#);
    });
}

#[test]
fn variables_of_functions_and_of_what_called_them_are_set() {
    let source = "\
async def inner(k, rest):
    local = [k]
    r = await f(k)
    return [k, rest, local, r]
async def outer():
    k = 'outer'
    return [await inner(1, ('a', 'b')), k]
k = 'module'
[await outer(), k]
";
    let output = goes_on(
        source,
        &["0.2.inner.k=10", "0.2.inner.rest=[]", r#"0.1.outer.k="O""#, r#"0.0.<module>.k={"m":1}"#],
        &["7"],
    );
    assert_eq!(output, r#"[[[10,[],[1],7],"O"],{"m":1}]"#);
}

#[test]
fn variables_that_functions_inside_share_are_set_for_all_of_them() {
    let source = "\
async def counter(start, step):
    shared = [start]
    def add(n):
        nonlocal start
        start += n * step
        shared.append(start)
        return start
    before = add(1)
    r = await f()
    return [add(1), add(1), start, shared, before, r, step]
await counter(100, 10)
";
    let output = goes_on(source, &["0.1.counter.start=0"], &["null"]);
    assert_eq!(output, "[10,20,20,[100,110,10,20],110,null,10]");
    let output = goes_on(
        source,
        &["0.1.counter.shared=[]", "0.1.counter.step=1000", "0.1.counter.start=5"],
        &["1"],
    );
    assert_eq!(output, "[1005,2005,2005,[1005,2005],110,1,1000]");
}

#[test]
fn variables_of_one_of_several_tasks_are_set() {
    let source = "\
import asyncio
async def one(name, items):
    first = await f(name)
    items.append(first)
    second = await f(name)
    return [name, items, second]
shared = []
both = await asyncio.gather(one('a', shared), one('b', shared))
[both, shared]
";
    let program = program(source, &["f"], &[], Limits::default());
    both(|pool| {
        let driver = Driver::new(pool, &program, 9);
        let seen = driver.inspect(Driver::start_base("{}"), vec![]).unwrap();
        let names: Vec<_> = seen.stacks.iter().map(|stack| stack[0].function.as_str()).collect();
        assert_eq!(names, ["<module>", "one", "one"]);
        let groups = [
            set(&["2.0.one.items=[0]", r#"1.0.one.name="A""#]),
            results(&[(1, "11")]),
            results(&[(0, "10")]),
            // Now they have run in another order.
            set(&[r#"2.0.one.name="B""#]),
            results(&[(2, "20"), (3, "21")]),
        ];
        let output = run_all_ways(pool, &program, &groups);
        assert_eq!(output, r#"[[["A",[10],21],["B",[0,11],20]],[10]]"#);
    });
}

#[test]
fn what_is_set_is_seen() {
    let source = "\
async def scale(x):
    def later():
        return x
    await f(x)
    return later()
total = [1]
await scale(total)
";
    let program = program(source, &["f"], &["who"], Limits::default());
    both(|pool| {
        let driver = Driver::new(pool, &program, 1);
        let change = set(&[
            "0.0.<module>.total=5",
            r#"0.0.<module>.who=["ann"]"#,
            r#"0.1.scale.x={"z":1,"a":2}"#,
        ]);
        let base = Driver::start_base(r#"{"who": "bob"}"#);
        let seen = driver.inspect(base, vec![change]).unwrap();
        let of = |frame: usize, name: &str| seen.stacks[0][frame].variables[name].as_str();
        assert_eq!((of(0, "total"), of(0, "who")), ("5", r#"["ann"]"#));
        assert_eq!(of(1, "x"), r#"{"z":1,"a":2}"#);
    });
}

#[test]
fn a_parameter_that_functions_inside_share_shows_what_it_is_now() {
    let source = "\
async def counter(n):
    def add():
        nonlocal n
        n += 1
    add()
    await f()
await counter(1)
";
    let program = program(source, &["f"], &[], Limits::default());
    both(|pool| {
        let driver = Driver::new(pool, &program, 1);
        let seen = driver.inspect(Driver::start_base("{}"), vec![]).unwrap();
        assert_eq!(seen.stacks[0][1].variables["n"].as_str(), "2");
    });
}

#[test]
fn the_memory_of_an_old_value_is_free_again() {
    let source = "\
data = 'x' * 24_000_000
await f()
more = 'y' * 24_000_000
[len(data), len(more)]
";
    let limits = Limits { max_memory_bytes: 40_000_000, ..Limits::default() };
    let program = program(source, &["f"], &[], limits);
    let pool = pool(processes(), 1);
    let run = |groups: Vec<Group>, number| {
        let mut driver = Driver::new(&pool, &program, number);
        let answer = driver.advance(Driver::start_base("{}"), groups);
        driver.reached(answer)
    };
    assert_eq!(failure(run(vec![results(&[(0, "0")])], 1)).error_type, "MemoryError");
    let change = set(&[r#"0.0.<module>.data="""#]);
    assert_eq!(completed(run(vec![change, results(&[(0, "0")])], 2)), "[0,24000000]");
}

#[test]
fn limits_hold_after_variables_were_set() {
    let source = "n = 1\nawait f()\nwhile n:\n    pass\n";
    let limits = Limits { max_advance_ms: 200, ..Limits::default() };
    let program = program(source, &["f"], &[], limits);
    both(|pool| {
        let mut driver = Driver::new(pool, &program, 1);
        let groups = vec![set(&["0.0.<module>.n=2"]), results(&[(0, "0")])];
        let answer = driver.advance(Driver::start_base("{}"), groups);
        assert_eq!(failure(driver.reached(answer)).error_type, "TimeLimitExceeded");
    });
}

#[test]
fn what_can_not_be_set_is_told_and_the_program_is_none_the_worse() {
    let program = program("total = 1\nawait f()\ntotal", &["f"], &[], Limits::default());
    both(|pool| {
        for (change, why) in [
            (set(&["0.0.<module>.totl=5"]), "no variable 0.0.totl"),
            (set(&["0.0.main.total=5"]), "main has no variable"),
            (set(&["1.0.<module>.total=5"]), "no variable 1.0.total"),
            (set(&["0.7.<module>.total=5"]), "no variable 0.7.total"),
            (set(&["0.0.<module>.total=5", "0.0.<module>.total=6"]), "no variable 0.0.total"),
            (set(&[r#"0.0.<module>.total={"$int":5}"#]), "the value of total can't be read"),
        ] {
            let mut driver = Driver::new(pool, &program, 1);
            let lost = driver.advance(Driver::start_base("{}"), vec![change.clone()]);
            assert!(matches!(&lost, Advanced::Lost(reason) if reason.contains(why)), "{lost:?}");
            let refused = driver.inspect(Driver::start_base("{}"), vec![change]).unwrap_err();
            assert!(refused.to_string().contains(why), "{refused}");
            let end = driver.advance(Driver::start_base("{}"), vec![results(&[(0, "0")])]);
            assert_eq!(completed(driver.reached(end)), "1");
        }
    });
}

fn session() -> Arc<Program> {
    Arc::new(Program::new(Definition {
        language: Language::Session,
        source: String::new(),
        functions: [("f".to_owned(), FunctionOptions::default())].into(),
        inputs: Vec::new(),
        limits: Limits::default(),
    }))
}

fn fed(call: u32, code: &str) -> Group {
    let fed = Payload::from_value(&json!({ "code": code }));
    group(vec![(call, Outcome::Completed(fed))])
}

#[test]
fn variables_of_a_session_are_set_between_feeds_and_in_one() {
    let program = session();
    both(|pool| {
        let groups = [
            fed(0, "total = [1]\ndef double():\n    return total + total\nname = 'a'"),
            set(&["0.0.<module>.total=[2]"]),
            fed(1, "kept = total\nr = await f(1)\n[double(), kept, name, r]"),
            set(&[r#"0.0.<module>.total=[3,"x"]"#, r#"0.0.<module>.name="b""#]),
            results(&[(2, "7")]),
        ];
        let start = || Driver::start_base("{}");
        let mut replayed = Driver::new(pool, &program, 1);
        let answer = replayed.advance(start(), groups.to_vec());
        replayed.reached(answer);
        let mut cold = Driver::new(pool, &program, 2);
        let answer = cold.advance(start(), Vec::new());
        cold.reached(answer);
        let mut since = Vec::new();
        for group in groups {
            since.push(group);
            let base = cold.base(cold.snapshot.clone().unwrap());
            let answer = cold.advance(base, since.clone());
            if matches!(cold.reached(answer), End::Suspended { snapshot: Some(_), .. }) {
                since.clear();
            }
        }
        for driver in [&replayed, &cold] {
            let last = driver.calls.last().unwrap();
            let durable_core::Request::Function { args, .. } = &last.request else { panic!() };
            let came: Value = serde_json::from_str(args.as_str()).unwrap();
            assert_eq!(came[0]["output"], json!([[3, "x", 3, "x"], [2], "b", 7]), "{came}");
        }
    });
}
