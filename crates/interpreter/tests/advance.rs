//! Programs that start, wait, resume and end, in processes and on threads.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use durable_core::{Advanced, Base, End, Limits, Position, Request, Runner as _, StateToken};
use durable_interpreter::{Isolation, Pool};
use support::*;

fn both(test: impl Fn(&Arc<Pool>)) {
    test(&pool(Isolation::Thread, 1));
    test(&pool(processes(), 2));
}

const PIPELINE: &str = "\
import asyncio
async def one(x):
    y = await f(x)
    return await g(y, scale=2.5)
print('hi', who)
await asyncio.gather(one(1), one(2))
";

#[test]
fn results_are_applied_as_they_come() {
    both(|pool| {
        let program = program(PIPELINE, &["f", "g"], &["who"], Limits::default());
        let mut driver = Driver::new(pool, &program, 1);
        let end = driver.start(r#"{"who": "bob"}"#);
        assert!(matches!(end, End::Suspended { snapshot: Some(_), new_dictionary: Some(_) }));
        assert_eq!(driver.printed, "hi bob\n");
        assert_eq!(driver.names(), ["0:f[1]{}", "1:f[2]{}"]);
        // The second branch goes on although the first has no result yet.
        driver.resume(vec![(1, ok("20"))]);
        assert_eq!(driver.names(), [r#"2:g[20]{"scale":2.5}"#]);
        assert_eq!(driver.calls[0].position, Position { line: 4, column: 18 });
        driver.restore(vec![(0, ok("10"))]);
        assert_eq!(driver.names(), [r#"3:g[10]{"scale":2.5}"#]);
        // A result that changes nothing needs no snapshot.
        let end = driver.resume(vec![(2, ok("\"b\""))]);
        assert!(matches!(end, End::Suspended { snapshot: None, new_dictionary: None }));
        assert_eq!(completed(driver.resume(vec![(3, ok("\"a\""))])), r#"["a","b"]"#);
    });
}

#[test]
fn a_replay_reaches_the_same_calls() {
    both(|pool| {
        let program = program(PIPELINE, &["f", "g"], &["who"], Limits::default());
        let mut driver = Driver::new(pool, &program, 1);
        let mut lists = Vec::new();
        driver.start(r#"{"who": "bob"}"#);
        lists.push(driver.names());
        let groups = [vec![(1, ok("20"))], vec![(0, ok("10"))], vec![(2, ok("5")), (3, ok("6"))]];
        let mut end = None;
        for results in &groups {
            end = Some(driver.restore(results.clone()));
            lists.push(driver.names());
        }
        let mut replay = Driver::new(pool, &program, 2);
        let groups = groups.into_iter().map(group).collect();
        let answer = replay.advance(Driver::start_base(r#"{"who": "bob"}"#), groups);
        let Advanced::Reached(reached) = answer else { panic!("{answer:?}") };
        let replayed: Vec<Vec<String>> =
            reached.calls.iter().map(|calls| calls.iter().map(describe).collect()).collect();
        assert_eq!(replayed, lists);
        assert_eq!(completed(reached.end), completed(end.unwrap()));
    });
}

#[test]
fn a_state_is_live_under_its_token_until_it_is_forgotten() {
    both(|pool| {
        let program = program(PIPELINE, &["f", "g"], &["who"], Limits::default());
        let mut driver = Driver::new(pool, &program, 1);
        driver.start(r#"{"who": "bob"}"#);
        let live = |version| Base::Live(StateToken { epoch: 1, version });
        assert!(matches!(driver.advance(live(77), vec![]), Advanced::NotLive));
        driver.version = 1;
        driver.restore(vec![(1, ok("20"))]);
        driver.pool.forget(driver.execution);
        let version = driver.version;
        assert!(matches!(driver.advance(live(version), vec![]), Advanced::NotLive));
    });
}

#[test]
fn errors_of_calls_are_exceptions_inside() {
    let source = "\
try:
    await f()
except ValueError as e:
    r = [str(e)]
try:
    await f()
except RuntimeError as e:
    r.append(str(e))
await g(r)
";
    both(|pool| {
        let program = program(source, &["f", "g"], &[], Limits::default());
        let mut driver = Driver::new(pool, &program, 1);
        driver.start("{}");
        driver.resume(vec![(0, failed("ValueError", "no price"))]);
        driver.resume(vec![(1, failed("shop.Closed", "at night"))]);
        assert_eq!(driver.names(), [r#"2:g[["no price","shop.Closed: at night"]]{}"#]);
        let failure = failure(driver.resume(vec![(2, failed("shop.Closed", "again"))]));
        assert_eq!(
            (failure.error_type.as_str(), failure.message.as_str()),
            ("shop.Closed", "again")
        );
        assert_eq!(failure.cause_call, Some(2));
        let traceback = failure.traceback.unwrap();
        assert!(traceback.contains("workflow.py\", line 9"), "{traceback}");
        assert!(traceback.contains("await g(r)"), "{traceback}");
    });
}

#[test]
fn sleep_is_a_timer_and_the_clock_is_the_hosts() {
    let source = "\
import asyncio, time
from datetime import datetime, timezone, timedelta
a = time.time()
x = await asyncio.sleep(1.5, 'awake')
b = datetime.now(timezone.utc)
c = datetime.now(timezone(timedelta(hours=2)))
import random
[a, x, b, c, datetime.now(), random.random()]
";
    both(|pool| {
        let program = program(source, &[], &[], Limits::default());
        let mut driver = Driver::new(pool, &program, 1);
        driver.start("{}");
        assert_eq!(driver.calls.len(), 1);
        assert_eq!(driver.calls[0].request, Request::Timer { delay_ms: 1_500 });
        let id = driver.calls[0].id;
        let result = completed(driver.resume(vec![(id, ok("null"))]));
        let expected = r#"[1700000000.0,"awake",{"$datetime":"2023-11-14T22:13:20+00:00"},{"$datetime":"2023-11-15T00:13:20+02:00"},{"$datetime":"2023-11-14T22:13:20"},"#;
        assert!(result.starts_with(expected), "{result}");
        let mut again = Driver::new(pool, &program, 2);
        again.start("{}");
        assert_eq!(completed(again.restore(vec![(id, ok("null"))])), result);
    });
}

#[test]
fn reserved_keywords_are_options_of_the_call() {
    let source = "\
import asyncio
bad = []
for keywords in [{'_retry': 0}, {'_retry': 'x'}, {'_retry': {'max': 1}}, {'_timeout': -1}, {'_timeout': '1'}]:
    try:
        await f(**keywords)
    except (ValueError, TypeError) as e:
        bad.append(f'{type(e).__name__}: {e}')
print('\\n'.join(bad))
await asyncio.gather(
    f(1, k=2, _retry=3, _timeout=1.5),
    f(_retry={'max_attempts': 4, 'jitter': 0}),
    f(_retry=None, _timeout=None),
)
";
    both(|pool| {
        let program = program(source, &["f"], &[], Limits::default());
        let mut driver = Driver::new(pool, &program, 1);
        driver.start("{}");
        let options: Vec<_> = driver
            .calls
            .iter()
            .map(|call| match &call.request {
                Request::Function { args, kwargs, options, .. } => (
                    args.as_str().to_owned(),
                    kwargs.as_str().to_owned(),
                    options.retry.as_ref().map(|retry| retry.max_attempts),
                    options.timeout_ms,
                ),
                Request::Timer { .. } => panic!("no timer"),
            })
            .collect();
        let own = |text: &str| text.to_owned();
        assert_eq!(
            options,
            [
                (own("[1]"), own(r#"{"k":2}"#), Some(3), Some(1_500)),
                (own("[]"), own("{}"), Some(4), None),
                (own("[]"), own("{}"), None, None),
            ]
        );
        let lines: Vec<&str> = driver.printed.lines().collect();
        assert_eq!(lines.len(), 5, "{}", driver.printed);
        assert!(lines[0].starts_with("ValueError: _retry: retry policy: max_attempts is 0"));
        assert_eq!(
            lines[1],
            "TypeError: _retry must be a number of attempts or a dict of its settings, not str"
        );
        assert!(lines[2].starts_with("ValueError: _retry: unknown field `max`"), "{}", lines[2]);
        assert!(lines[3].starts_with("ValueError: _timeout=-1"));
        assert!(lines[4].starts_with("TypeError: _timeout must be a number"));
    });
}

#[test]
fn what_has_no_json_form_is_refused_at_the_call_and_at_the_end() {
    let limits = Limits { max_payload_bytes: 100, ..Limits::default() };
    let source = "\
r = []
for x in [print, lambda: 1, 'a' * 200]:
    try:
        await f(x)
    except (ValueError, TypeError) as e:
        r.append(f'{type(e).__name__}: {e}')
print('\\n'.join(r))
";
    both(|pool| {
        let program = program(source, &["f"], &[], limits.clone());
        let mut driver = Driver::new(pool, &program, 1);
        completed(driver.start("{}"));
        let lines: Vec<&str> = driver.printed.lines().collect();
        assert_eq!(
            lines[0],
            "TypeError: f(): the builtin function 'print' cannot be passed out of the workflow"
        );
        assert!(lines[1].starts_with("TypeError: f(): "), "{}", lines[1]);
        assert!(lines[2].contains("206 bytes"), "{}", lines[2]);
        assert!(lines[2].contains("max_payload_bytes is 100"), "{}", lines[2]);

        let end = failure(once(pool, "len", Limits::default()));
        assert_eq!(end.error_type, "TypeError");
        let end = failure(once(pool, "async def h():\n    pass\nh()", Limits::default()));
        assert!(end.message.contains("never awaited"), "{}", end.message);
        let end = failure(once(pool, "f(1)", Limits::default()));
        assert!(end.message.contains("never awaited"), "{}", end.message);
        let end = failure(once(pool, "x = []\nx.append(x)\nx", Limits::default()));
        assert!(end.message.contains("contains itself"), "{}", end.message);
        let end = failure(once(pool, "'a' * 200", limits.clone()));
        assert_eq!(end.error_type, "ValueError");
    });
}

#[test]
fn unknown_names_are_name_errors() {
    both(|pool| {
        let end = failure(once(pool, "await nobody(1)", Limits::default()));
        assert_eq!(end.error_type, "NameError");
        assert_eq!(completed(once(pool, "h = f\nx = [h]\n1", Limits::default())), "1");
    });
}

#[test]
fn what_the_sandbox_does_not_have_says_what_to_do() {
    both(|pool| {
        let message = |source: &str| {
            let failure = failure(once(pool, source, Limits::default()));
            format!("{}: {}", failure.error_type, failure.message)
        };
        assert!(message("import time\ntime.sleep(1)").contains("await asyncio.sleep"));
        assert!(message("import requests").starts_with("ModuleNotFoundError"));
        assert!(message("open('/etc/passwd')").starts_with("PermissionError"));
        assert!(message("import os\nos.getenv('HOME')").contains("pass the value as an input"));
        assert!(message("import os\nos.urandom(3)").contains("random module"));
    });
}

#[test]
fn output_is_captured_and_cut() {
    both(|pool| {
        let program = program(
            "for i in range(1000): print('line', i)",
            &[],
            &[],
            Limits { max_output_bytes: 40, ..Limits::default() },
        );
        let mut driver = Driver::new(pool, &program, 1);
        completed(driver.start("{}"));
        assert!(driver.printed.starts_with("line 0\nline 1\n"));
        assert!(driver.printed.ends_with("[output cut at max_output_bytes = 40]\n"));
    });
}

#[test]
fn a_timeout_and_a_race_can_be_written_in_the_workflow() {
    let source = "\
import asyncio
async def wait_for(aw, seconds):
    box = []
    async def run():
        box.append(await aw)
        raise StopIteration('done')
    async def timer():
        await asyncio.sleep(seconds)
        raise TimeoutError('timed out')
    try:
        await asyncio.gather(run(), timer())
    except StopIteration:
        return box[0]
r = []
for call in [f('fast'), f('slow')]:
    try:
        r.append(await wait_for(call, 10))
    except TimeoutError as e:
        r.append(str(e))
r.append(await g('after'))
r
";
    both(|pool| {
        let program = program(source, &["f", "g"], &[], Limits::default());
        let mut driver = Driver::new(pool, &program, 1);
        driver.start("{}");
        let timer = |driver: &Driver| {
            let timers = driver.calls.iter().filter(|c| matches!(c.request, Request::Timer { .. }));
            timers.map(|call| call.id).max().unwrap()
        };
        driver.restore(vec![(0, ok("1"))]);
        let second = timer(&driver);
        driver.restore(vec![(second, ok("null"))]);
        let last = driver.calls.last().unwrap().id;
        // A late result of a call that lost the race changes nothing.
        driver.restore(vec![(1, ok("2"))]);
        assert_eq!(completed(driver.restore(vec![(last, ok("3"))])), r#"[1,"timed out",3]"#);
    });
}

#[test]
fn a_wide_fan_out_resumes_one_by_one() {
    let source = "import asyncio\nsum(await asyncio.gather(*[f(i) for i in range(1000)]))";
    both(|pool| {
        let program = program(source, &["f"], &[], Limits::default());
        let mut driver = Driver::new(pool, &program, 1);
        driver.start("{}");
        assert_eq!(driver.calls.len(), 1_000);
        for i in 0..999 {
            let end = driver.resume(vec![(i, ok(&i.to_string()))]);
            assert!(matches!(end, End::Suspended { snapshot: None, .. }));
        }
        assert_eq!(completed(driver.resume(vec![(999, ok("999"))])), "499500");
    });
}

#[test]
fn the_number_of_calls_is_limited() {
    both(|pool| {
        let limits = Limits { max_open_calls: 10, ..Limits::default() };
        let source = "import asyncio\nawait asyncio.gather(*[f(i) for i in range(11)])";
        let end = failure(once(pool, source, limits));
        assert!(end.message.contains("max_open_calls = 10"), "{}", end.message);

        let limits = Limits { max_calls: 2, ..Limits::default() };
        let program = program("while True: await f()", &["f"], &[], limits);
        let mut driver = Driver::new(pool, &program, 1);
        driver.start("{}");
        driver.restore(vec![(0, ok("0"))]);
        let end = failure(driver.restore(vec![(1, ok("0"))]));
        assert!(end.message.contains("max_calls = 2"), "{}", end.message);
    });
}

#[test]
fn inputs_are_globals_and_their_absence_is_clear() {
    both(|pool| {
        let program = program("[a, b]", &[], &["a", "b"], Limits::default());
        let result = Driver::new(pool, &program, 1).start(r#"{"b": {"$tuple": [1]}, "a": "x"}"#);
        assert_eq!(completed(result), r#"["x",{"$tuple":[1]}]"#);
        let missing = failure(Driver::new(pool, &program, 1).start(r#"{"a": 1}"#));
        assert!(missing.message.contains("'b' is missing"));
    });
}

#[test]
fn a_dataclass_comes_back_with_its_fields() {
    let source = "\
from dataclasses import dataclass
@dataclass
class Point:
    x: int
    y: float
p = await f(Point(1, 2.0))
q = await f(p)
try:
    p.missing
except AttributeError as e:
    problem = type(e).__name__
try:
    p.move(1)
except AttributeError as e:
    problem = [problem, type(e).__name__]
[p.x, p.y, p == q, problem, p]
";
    both(|pool| {
        let program = program(source, &["f"], &[], Limits::default());
        let mut driver = Driver::new(pool, &program, 1);
        let point = r#"{"$dataclass":{"name":"Point","fields":{"x":1,"y":2.0}}}"#;
        driver.start("{}");
        assert_eq!(driver.names(), [format!("0:f[{point}]{{}}")]);
        driver.restore(vec![(0, ok(point))]);
        assert_eq!(driver.names(), [format!("1:f[{point}]{{}}")]);
        let result = completed(driver.restore(vec![(1, ok(point))]));
        let expected = format!(r#"[1,2.0,true,["AttributeError","AttributeError"],{point}]"#);
        assert_eq!(result, expected);
    });
}

#[test]
fn a_result_that_cannot_be_read_is_an_exception_at_the_await() {
    let source = "\
r = []
for i in range(3):
    try:
        r.append(await f(i))
    except (ValueError, TypeError, RuntimeError) as e:
        r.append(str(e))
r
";
    both(|pool| {
        let program = program(source, &["f"], &[], Limits::default());
        let mut driver = Driver::new(pool, &program, 1);
        driver.start("{}");
        driver.resume(vec![(0, ok(r#"{"$tuple": 1}"#))]);
        driver.resume(vec![(1, ok(r#"{"$decimal": "x"}"#))]);
        let result = completed(driver.resume(vec![(2, ok(r#"{"$set": [[1]]}"#))]));
        assert!(result.contains("at byte 12: expected an array"), "{result}");
        assert!(result.contains("$decimal is malformed"), "{result}");
        assert!(result.contains("$set is malformed"), "{result}");
    });
}

#[test]
fn a_program_is_checked_by_a_worker() {
    both(|pool| {
        let good = program("await f(1)", &["f"], &[], Limits::default());
        assert_eq!(pool.validate(&good), Ok(()));
        let bad = program("await g(1)", &["f"], &[], Limits::default());
        let refused = pool.validate(&bad).unwrap_err().to_string();
        assert!(refused.starts_with("workflow.py:1:7: function 'g' is called"), "{refused}");
        let limits = Limits { max_source_bytes: 5, ..Limits::default() };
        let long = program("await f(1)", &["f"], &[], limits);
        let refused = pool.validate(&long).unwrap_err().to_string();
        assert!(refused.contains("max_source_bytes is 5"), "{refused}");
    });
}

#[test]
fn a_waiting_program_shows_its_stacks_and_variables() {
    const SOURCE: &str = "\
import asyncio
x = 5
data = {'a': [1, (2, 3)], 'n': float('nan')}
def scale(k):
    return k * x
async def inner(k, name='zoë'):
    local = [k, scale(k)]
    def later():
        return shared + k
    shared = 3
    for i in range(2):
        r = await f(i + k)
        local.append(r)
    return later()
async def main():
    a = await inner(7)
    both = await asyncio.gather(inner(1), inner(2, name=who))
    return both
await main()
";
    both(|pool| {
        let program = program(SOURCE, &["f"], &["who"], Limits::default());
        let driver = Driver::new(pool, &program, 1);
        let show =
            |groups| driver.inspect(Driver::start_base(r#"{"who": "bob"}"#), groups).unwrap();
        let first = show(vec![]);
        let [stack] = &first.stacks[..] else { panic!("{first:?}") };
        let names: Vec<_> =
            stack.iter().map(|frame| (frame.function.as_str(), frame.position.line)).collect();
        assert_eq!(names, [("<module>", 19), ("main", 16), ("inner", 12)]);
        let of = |frame: usize, name: &str| stack[frame].variables[name].as_str().to_owned();
        assert_eq!(of(0, "x"), "5");
        assert_eq!(of(0, "data"), r#"{"a":[1,{"$tuple":[2,3]}],"n":{"$float":"nan"}}"#);
        assert_eq!(of(0, "who"), r#""bob""#);
        assert!(of(0, "scale").contains("$py:repr"), "{}", of(0, "scale"));
        assert_eq!(of(2, "local"), "[7,35]");
        assert_eq!(
            (of(2, "i"), of(2, "k"), of(2, "name")),
            ("0".into(), "7".into(), "\"zoë\"".into())
        );
        assert_eq!(of(2, "shared"), "3");
        assert!(!stack[2].variables.contains_key("r"), "it has no value yet");
        let later = show(vec![group(vec![(0, ok("1"))]), group(vec![(1, ok("2"))])]);
        let inner: Vec<_> = later
            .stacks
            .iter()
            .flatten()
            .filter(|frame| frame.function == "inner")
            .map(|frame| (frame.variables["k"].as_str(), frame.variables["name"].as_str()))
            .collect();
        assert_eq!(inner, [("1", "\"zoë\""), ("2", "\"bob\"")], "{later:?}");
        let ended = group(vec![(2, ok("0")), (3, ok("0"))]);
        let groups = vec![group(vec![(0, ok("1"))]), group(vec![(1, ok("2"))]), ended.clone()];
        let end = group(vec![(4, ok("0")), (5, ok("0"))]);
        let groups = groups.into_iter().chain([end]).collect();
        let refused = driver.inspect(Driver::start_base(r#"{"who": "bob"}"#), groups).unwrap_err();
        assert!(refused.to_string().contains("has ended"), "{refused}");
    });
}

#[test]
fn what_is_shown_of_a_program_is_bounded() {
    const SOURCE: &str = "\
text = 'x' * 60000
async def deep(left):
    own = text
    return await deep(left - 1) if left else await f()
await deep(400)
";
    both(|pool| {
        let program = program(SOURCE, &["f"], &[], Limits::default());
        let seen =
            Driver::new(pool, &program, 1).inspect(Driver::start_base("{}"), vec![]).unwrap();
        let own: Vec<_> =
            seen.stacks[0].iter().filter_map(|frame| frame.variables.get("own")).collect();
        assert_eq!(own.len(), 401);
        let bytes: usize = own.iter().map(|value| value.as_str().len()).sum();
        assert!((15 << 20..17 << 20).contains(&bytes), "{bytes}");
        assert!(own[400].as_str().contains("$py:repr"), "{:?}", own[400]);
    });
}
