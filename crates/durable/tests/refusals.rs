//! What `start` refuses, and that nothing is stored then.
#![allow(clippy::unwrap_used)]

mod support;

use durable::{
    Definition, Durable, Error, FunctionError, Language, Limits, Payload, Program, Start, Workflow,
};
use support::*;

fn open(scene: &Scene) -> Durable {
    scene
        .builder()
        .function("fetch", |(x,): (i64,)| async move { Ok::<_, FunctionError>(x) })
        .open()
        .unwrap()
}

fn nothing_is_stored(scene: &Scene) {
    for table in
        ["programs", "executions", "execution_steps", "execution_events", "execution_state"]
    {
        assert_eq!(scene.count(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
    }
}

/// The message that a workflow is refused with.
fn refused(workflow: &Workflow) -> String {
    let scene = Scene::new();
    let durable = open(&scene);
    match durable.start(workflow) {
        Err(Error::Invalid(message)) => {
            nothing_is_stored(&scene);
            message.into_owned()
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_syntax_error_is_refused_with_line_column_and_caret() {
    let message = refused(&Workflow::new("x = 1\ny = (x +\n"));
    assert!(message.contains(":2:") || message.contains(":3:"), "{message}");
    assert!(message.lines().any(|line| line.trim().starts_with('^')), "{message}");
    let message = refused(&Workflow::new("x = 1\nif x\n    y = 2\n"));
    assert!(message.contains(":2:5"), "{message}");
    assert!(message.contains("    if x\n") && message.contains('^'), "{message}");
}

#[test]
fn python_that_the_sandbox_does_not_know_is_refused_with_its_place_and_a_hint() {
    for (source, place, what) in [
        ("def g():\n    yield 1\ng()", "2:5", "yield"),
        ("class A(ValueError):\n    pass", "1:8", "class inheritance"),
        ("async def f():\n    async with x: pass\nawait f()", "2:16", "async with"),
        ("async def f():\n    async for i in x: pass\nawait f()", "2:20", "async for"),
        ("import asyncio\nawait asyncio.wait_for(fetch(1), 3)", "2:7", "asyncio.wait_for"),
        ("import requests", "1:8", "requests"),
        ("import time\ntime.sleep(3)", "2:1", "time.sleep"),
    ] {
        let message = refused(&Workflow::new(source));
        assert!(message.contains(place) && message.contains(what), "{source}: {message}");
        assert!(message.contains('^') && message.contains("hint: "), "{source}: {message}");
    }
}

#[test]
fn a_function_that_is_not_declared_is_refused() {
    let message = refused(&Workflow::new("await fetch(1)\nawait fetsh(2)"));
    assert!(message.contains("2:7") && message.contains("'fetsh'"), "{message}");
    assert!(message.contains("did you mean 'fetch'?"), "{message}");
}

#[test]
fn a_call_that_is_never_awaited_is_refused() {
    for source in ["fetch(1)\n2", "x = fetch(1) + 1", "if fetch(1):\n    pass"] {
        let message = refused(&Workflow::new(source));
        assert!(message.contains("never awaited"), "{source}: {message}");
        assert!(message.contains("await fetch("), "{source}: {message}");
    }
}

#[test]
fn every_problem_is_told_at_once() {
    let message = refused(&Workflow::new("import requests\nfetch(1)\nawait fetsh(1)"));
    for part in ["1:8", "2:1", "3:7"] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

/// A start whose inputs are not those that its program declares.
fn start_with(declared: &[&str], inputs: &str) -> Start {
    let definition = Definition {
        language: Language::Python,
        source: "1".into(),
        functions: Default::default(),
        inputs: declared.iter().map(|&name| name.to_owned()).collect(),
        limits: Limits { max_payload_bytes: 100, ..Limits::default() },
    };
    Start { inputs: Payload::trusted(inputs), ..Start::new(definition) }
}

#[test]
fn inputs_that_are_missing_unknown_too_large_or_no_object_are_refused() {
    let large = format!("{{\"x\": \"{}\"}}", "a".repeat(200));
    for (declared, inputs, what) in [
        (&["x", "y"][..], r#"{"x": 1}"#, "'y' is missing"),
        (&["x"], r#"{"x": 1, "z": 2}"#, "'z' is not among"),
        (&[], r#"{"z": 2}"#, "'z' is not among"),
        (&["x"], "[1]", "no JSON object"),
        (&["x"], r#"{"x": "#, "no JSON object"),
        (&["x"], &large, "max_payload_bytes is 100"),
    ] {
        let scene = Scene::new();
        let durable = open(&scene);
        let refused = durable.engine().start(start_with(declared, inputs));
        let Err(Error::Invalid(message)) = refused else { panic!("{inputs}: {refused:?}") };
        assert!(message.contains(what), "{inputs}: {message}");
        nothing_is_stored(&scene);
    }
}

#[test]
fn source_that_is_too_long_is_refused() {
    let limits = Limits { max_source_bytes: 50, ..Limits::default() };
    let message = refused(&Workflow::new(&"# long\n".repeat(20)).limits(limits));
    assert!(
        message.contains("140 bytes") && message.contains("max_source_bytes is 50"),
        "{message}"
    );
}

#[test]
fn one_invalid_start_among_many_stores_none_of_them() {
    let scene = Scene::new();
    let durable = open(&scene);
    let names = ["fetch".to_owned()];
    let good = Workflow::new("await fetch(1)").to_start(&names);
    let bad = Workflow::new("await fetsh(1)").to_start(&names);
    let refused = durable.engine().start_many(vec![good.clone(), bad, good]);
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    assert_eq!(scene.count("SELECT count(*) FROM executions"), 0);
}

#[test]
fn validate_says_the_same_and_stores_nothing() {
    let scene = Scene::new();
    let durable = open(&scene);
    let bad = Workflow::new("await fetsh(1)").to_start(&["fetch".to_owned()]).program;
    let told = durable.engine().validate(&bad).unwrap_err();
    assert_eq!(durable.start(&Workflow::new("await fetsh(1)")).unwrap_err(), told);
    let good = Program::new(start_with(&[], "{}").program.definition().clone());
    durable.engine().validate(&good).unwrap();
    nothing_is_stored(&scene);
}
