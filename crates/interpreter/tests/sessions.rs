//! Sessions: code comes piece by piece, and it makes no difference where a session was stored,
//! loaded or replayed in between.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use durable_core::{
    Advanced, Definition, End, FunctionOptions, Group, Language, Limits, NewCall, Outcome, Payload,
    Program, Reached, Request, Runner as _,
};
use durable_interpreter::{Isolation, Pool};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::*;

fn session_program(inputs: &[&str], limits: Limits) -> Arc<Program> {
    let functions = ["f", "g"].map(|name| (name.to_owned(), FunctionOptions::default()));
    Arc::new(Program::new(Definition {
        language: Language::Session,
        source: String::new(),
        functions: functions.into(),
        inputs: inputs.iter().map(|name| (*name).to_owned()).collect(),
        limits,
    }))
}

/// One session, and all it was told.
struct Driven {
    driver: Driver,
    /// Whether every advance starts from the last snapshot.
    is_cold: bool,
    groups: Vec<Group>,
    /// The groups after the last snapshot.
    since: Vec<Group>,
    asked: Vec<NewCall>,
    inputs: &'static str,
}

impl Driven {
    fn open(pool: &Arc<Pool>, is_cold: bool) -> Self {
        Self::open_with(pool, is_cold, &[], "{}", Limits::default())
    }

    fn open_with(
        pool: &Arc<Pool>,
        is_cold: bool,
        names: &[&str],
        inputs: &'static str,
        limits: Limits,
    ) -> Self {
        let mut driver = Driver::new(pool, &session_program(names, limits), u8::from(is_cold) + 1);
        let end = driver.start(inputs);
        assert!(matches!(end, End::Suspended { snapshot: Some(_), .. }), "{end:?}");
        let asked = driver.calls.clone();
        Self { driver, is_cold, groups: Vec::new(), since: Vec::new(), asked, inputs }
    }

    fn tell(&mut self, results: Vec<(u32, Outcome)>) -> End {
        self.groups.push(group(results.clone()));
        let end = if self.is_cold {
            self.since.push(group(results));
            let base = self.driver.base(self.driver.snapshot.clone().unwrap());
            let answer = self.driver.advance(base, self.since.clone());
            self.driver.reached(answer)
        } else {
            self.driver.resume(results)
        };
        if matches!(end, End::Suspended { snapshot: Some(_), .. }) {
            self.since.clear();
        }
        self.asked.extend(self.driver.calls.clone());
        end
    }

    /// The open feed, which is the last call asked for.
    fn feed_call(&self) -> u32 {
        let last = self.asked.last().unwrap();
        assert!(last.request.is_feed(), "{last:?}");
        last.id
    }

    /// Feeds code and answers its calls, each alone, with their own arguments.
    fn feed(&mut self, code: &str) -> Value {
        let fed = json!({ "code": code, "response": "model text" });
        self.feed_result(Outcome::Completed(Payload::from_value(&fed)))
    }

    fn feed_result(&mut self, outcome: Outcome) -> Value {
        let call = self.feed_call();
        let mut before = self.asked.len();
        let mut end = self.tell(vec![(call, outcome)]);
        let mut open: Vec<NewCall> = Vec::new();
        loop {
            assert!(matches!(end, End::Suspended { .. }), "{end:?}");
            open.extend(self.asked[before..].iter().cloned());
            before = self.asked.len();
            if open.iter().any(|call| call.request.is_feed()) {
                return self.last();
            }
            // The newest first, so that results come in another order than they were asked for.
            let call = open.pop().unwrap();
            end = self.tell(vec![(call.id, answer(&call))]);
        }
    }

    /// What the last feed came to.
    fn last(&self) -> Value {
        match &self.asked.last().unwrap().request {
            Request::Function { args, .. } => {
                serde_json::from_str::<Value>(args.as_str()).unwrap()[0].take()
            }
            request => panic!("{request:?}"),
        }
    }

    fn close(mut self) -> String {
        let call = self.feed_call();
        completed(self.tell(vec![(call, ok("null"))]))
    }

    /// What a replay of all that was told asks for.
    fn replayed(&self) -> Vec<NewCall> {
        let mut driver = Driver::new(&self.driver.pool, &self.driver.program, 77);
        let answer = driver.advance(Driver::start_base(self.inputs), self.groups.clone());
        let Advanced::Reached(Reached { calls, .. }) = answer else { panic!("{answer:?}") };
        calls.into_iter().flatten().collect()
    }
}

/// `f` gives its argument back, `g` fails with it; timers fire.
fn answer(call: &NewCall) -> Outcome {
    match &call.request {
        Request::Timer { .. } => ok("null"),
        Request::Function { name, args, .. } => {
            let argument: Value = serde_json::from_str(args.as_str()).unwrap();
            if name == "g" {
                return failed("KeyError", argument[0].as_str().unwrap_or("g failed"));
            }
            ok(&argument[0].to_string())
        }
    }
}

/// Whether two lists of calls are the same to a replay.
fn are_same(one: &[NewCall], other: &[NewCall]) -> bool {
    let same = |(one, other): (&NewCall, &NewCall)| {
        one.id == other.id && one.position == other.position && one.request.is_same(&other.request)
    };
    one.len() == other.len() && one.iter().zip(other).all(same)
}

fn threads() -> Arc<Pool> {
    pool(Isolation::Thread, 1)
}

#[test]
fn names_keep_their_values_from_feed_to_feed() {
    for isolation in [Isolation::Thread, processes()] {
        let pool = pool(isolation, 1);
        for is_cold in [false, true] {
            let mut session =
                Driven::open_with(&pool, is_cold, &["base"], r#"{"base":40}"#, Limits::default());
            assert_eq!(session.last(), Value::Null);
            assert_eq!(
                session.feed("x = await f(base)\nprint('got', x)"),
                json!({ "output": null, "printed": "got 40\n", "error": null })
            );
            session.feed("def add(a):\n    return a + x");
            assert_eq!(session.feed("add(2)")["output"], 42);
            assert_eq!(
                session.feed("async def twice(v):\n    return await f(v) + await f(v)\n")["error"],
                Value::Null
            );
            assert_eq!(session.feed("await twice(x)")["output"], 80);
            assert_eq!(session.feed("")["output"], Value::Null);
            assert_eq!(session.feed("[x, base]")["output"], json!([40, 40]));
            assert_eq!(session.close(), "7");
        }
    }
}

#[test]
fn an_error_ends_the_feed_and_names_it() {
    let mut session = Driven::open(&threads(), true);
    session.feed("y = 1\ndef bad():\n    return 1 / 0\n");
    let came = session.feed("y = 2\nprint('before')\nbad()");
    assert_eq!(came["printed"], "before\n");
    let error = &came["error"];
    assert_eq!(
        (error["type"].as_str(), error["message"].as_str()),
        (Some("ZeroDivisionError"), Some("division by zero"))
    );
    let traceback = error["traceback"].as_str().unwrap();
    assert!(traceback.contains("\"feed 2\", line 3"), "{traceback}");
    assert!(traceback.contains("\"feed 1\", line 3, in bad"), "{traceback}");
    // What it had set stays, and the session goes on.
    assert_eq!(session.feed("y")["output"], 2);
    let syntax = session.feed("x = = 1");
    assert_eq!(syntax["error"]["type"], "SyntaxError");
    assert!(syntax["error"]["traceback"].as_str().unwrap().contains("feed 4"), "{syntax}");
    let nested = "(".repeat(5_000) + &")".repeat(5_000);
    assert_eq!(session.feed(&nested)["error"]["type"], "SyntaxError");
    let failing = session.feed("await g('gone')");
    assert_eq!(failing["error"]["type"], "KeyError");
    assert!(failing["error"]["call"].is_u64());
    let undefined = session.feed("nobody()");
    assert!(undefined["error"]["traceback"].as_str().unwrap().contains("feed 7"), "{undefined}");
    assert_eq!(session.feed_result(ok("{}"))["error"]["type"], "ValueError");
    assert_eq!(session.feed_result(failed("OSError", "no model"))["error"]["message"], "no model");
    assert_eq!(session.feed("y + 1")["output"], 3);
    assert_eq!(session.replayed(), session.asked);
}

#[test]
fn a_call_that_its_feed_did_not_await_is_not_mixed_up_with_others() {
    for is_cold in [false, true] {
        let mut session = Driven::open(&threads(), is_cold);
        session.feed_result(ok(r#"{"code":"t = f('early')"}"#));
        let early = session.asked.iter().find(|call| !call.request.is_feed()).unwrap().clone();
        let feed = session.feed_call();
        session.tell(vec![(feed, ok(r#"{"code":"u = f('late')\nawait u"}"#))]);
        let late = session.asked.last().unwrap().clone();
        assert!(late.id > feed && feed > early.id);
        session.tell(vec![(early.id, answer(&early))]);
        session.tell(vec![(late.id, answer(&late))]);
        assert_eq!(session.last()["output"], "late");
        // Told while the session is idle, together with the next feed, and again.
        let feed = session.feed_call();
        session.tell(vec![(early.id, answer(&early))]);
        session.tell(vec![(early.id, answer(&early)), (feed, ok(r#"{"code":"await t"}"#))]);
        let error = &session.last()["error"];
        assert!(error["message"].as_str().unwrap().starts_with("deadlock"), "{error}");
        assert!(error["traceback"].as_str().unwrap().contains("feed 3"), "{error}");
        assert_eq!(session.feed("1 + 1")["output"], 2);
    }
}

#[test]
fn values_without_a_json_form_are_shown() {
    let mut session = Driven::open(&threads(), true);
    session.feed("def double(x):\n    return 2 * x\n");
    let shown = session.feed("double");
    assert_eq!(shown["output"], Value::Null);
    assert!(shown["repr"].as_str().unwrap().contains("double"), "{shown}");
    assert!(session.feed("[double]")["repr"].as_str().unwrap().contains("function"));
    assert_eq!(session.feed("l = []\nl.append(l)\nl")["error"]["type"], "ValueError");
    assert_eq!(session.feed("(1, 2.5)")["output"], json!({ "$tuple": [1, 2.5] }));
}

#[test]
fn output_of_a_feed_is_kept_over_its_awaits_and_cut() {
    let limits = Limits { max_output_bytes: 10, ..Limits::default() };
    let mut session = Driven::open_with(&threads(), true, &[], "{}", limits);
    let came = session.feed("print('one')\nawait f(1)\nprint('two')\nawait f(2)\nprint('three')");
    let printed = came["printed"].as_str().unwrap();
    assert!(printed.starts_with("one\ntwo\nth\n[output cut"), "{printed}");
    assert_eq!(session.feed("print('four')")["printed"], "four\n");
}

#[test]
fn a_broken_limit_ends_the_session() {
    let limits = Limits { max_advance_ms: 50, max_source_bytes: 100, ..Limits::default() };
    let mut session = Driven::open_with(&threads(), false, &[], "{}", limits);
    let long = format!("x = '{}'", "a".repeat(100));
    let error = &session.feed(&long)["error"];
    assert!(error["message"].as_str().unwrap().contains("max_source_bytes"), "{error}");
    let feed = session.feed_call();
    let end = session.tell(vec![(feed, ok(r#"{"code":"while True:\n    pass"}"#))]);
    assert_eq!(failure(end).error_type, "TimeLimitExceeded");
}

#[test]
fn what_a_session_may_not_be_is_refused() {
    let pool = threads();
    assert!(pool.validate(&session_program(&["x"], Limits::default())).is_ok());
    let with_source = Definition {
        source: "x = 1".to_owned(),
        ..session_program(&[], Limits::default()).definition().clone()
    };
    let error = pool.validate(&Program::new(with_source)).unwrap_err().to_string();
    assert!(error.contains("no source"), "{error}");
    for language in [Language::Python, Language::Session] {
        let functions = [("__feed__".to_owned(), FunctionOptions::default())];
        let reserved = Definition {
            language,
            source: String::new(),
            functions: functions.into(),
            inputs: Vec::new(),
            limits: Limits::default(),
        };
        let error = pool.validate(&Program::new(reserved)).unwrap_err().to_string();
        assert!(error.contains("'__feed__'"), "{error}");
    }
}

/// Pieces of code that build on what others may have set.
fn piece() -> impl Strategy<Value = String> {
    let number = 0..5_i32;
    prop_oneof![
        number.clone().prop_map(|n| format!("x = {n}\nseen = [x]")),
        number.clone().prop_map(|n| format!("x = await f({n})\nprint('x', x)\nx")),
        Just("a, b = await gather(f(1), f('two'))\n(a, b)".to_owned()),
        Just("import asyncio\nfrom asyncio import gather, sleep".to_owned()),
        Just("total = 0\nfor i in range(3):\n    total += await f(i)\ntotal".to_owned()),
        Just("try:\n    await g('no')\nexcept KeyError as e:\n    kept = str(e)\nkept".to_owned()),
        Just("await g('uncaught')".to_owned()),
        Just("async def helper(v):\n    await sleep(1)\n    return [v, await f(v)]".to_owned()),
        Just("await gather(helper(1), helper(2), f(3))".to_owned()),
        Just("seen.append(x)\nlen(seen)".to_owned()),
        Just("import random\nrandom.random()".to_owned()),
        Just("class Box:\n    def __init__(self, v):\n        self.v = v\nbox = Box(1)".to_owned()),
        Just("box.v += 1\nprint(box)\nbox.v".to_owned()),
        Just("print({'b', 'a', 'c'}, helper, f)\nhelper".to_owned()),
        Just("f('never awaited')\n1".to_owned()),
        Just("not python".to_owned()),
        Just("import datetime\nstr(datetime.datetime.now())".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn storing_and_loading_at_every_suspension_changes_nothing(
        pieces in prop::collection::vec(piece(), 1..10),
    ) {
        let pool = threads();
        let mut live = Driven::open(&pool, false);
        let mut cold = Driven::open(&pool, true);
        for piece in &pieces {
            live.feed(piece);
            cold.feed(piece);
        }
        prop_assert!(are_same(&live.asked, &cold.asked), "{:#?}\n{:#?}", live.asked, cold.asked);
        let ids: Vec<u32> = live.asked.iter().map(|call| call.id).collect();
        prop_assert!(ids.is_sorted_by(|one, next| one < next), "{:?}", ids);
        prop_assert!(are_same(&live.asked, &live.replayed()));
        prop_assert_eq!(live.close(), pieces.len().to_string());
    }
}
