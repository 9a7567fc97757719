//! `durable run`: what it prints where, and how it exits.

use crate::support::{Desk, example};

const ADD: &str = "def add(a, b):\n    return a + b\n";

#[test]
fn a_gather_of_calls_gives_its_output_on_standard_output() {
    let desk = Desk::new(&[
        ("sum.py", "from asyncio import gather\nr = await gather(add(1, 2), add(3, 4))\nsum(r)\n"),
        ("functions.py", ADD),
    ]);
    let ended = desk.durable(&["run", "sum.py", "--functions", "functions.py"]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "10\n"), "{ended:?}");
    // Standard error is no terminal here: plain lines, no control characters.
    assert!(ended.err.contains("completed: 2/2 calls"), "{ended:?}");
    assert!(!ended.err.contains(['\u{1b}', '\r']), "{ended:?}");
    assert!(!ended.err.contains("warning") && !ended.err.contains("WARN"), "{ended:?}");
}

#[test]
fn the_video_example_runs() {
    let desk = Desk::new(&[]);
    let (file, functions) = (example("video.py"), example("video_functions.py"));
    let ended = desk.durable(&[
        "run",
        file.to_str().unwrap(),
        "--functions",
        functions.to_str().unwrap(),
        "--input",
        r#"input_files=["ep1.mp4", "ep2.mp4", "ep3.mp4"]"#,
    ]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let output: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(output["videos"][2], "ep3.mp4@1080p");
    assert_eq!(output["thumbnails"][0], "ep1.mp4@1080p.jpg");
    assert!(ended.err.contains("packing 3 videos"), "{ended:?}");
    let shown = desk.show(&desk.newest());
    assert_eq!(shown["workflow"], "video");
    assert_eq!(shown["calls"].as_array().unwrap().len(), 7);
}

#[test]
fn a_failing_workflow_tells_where_and_why() {
    let desk = Desk::new(&[
        ("shop.py", "order = 7\nawait price(order)\n"),
        ("functions.py", "def price(order):\n    raise KeyError(f'no price for {order}')\n"),
    ]);
    let ended = desk.durable(&["run", "shop.py", "--functions", "functions.py"]);
    assert_eq!((ended.code, ended.out.as_str()), (1, ""), "{ended:?}");
    for part in ["line 2, in <module>", "await price(order)", "~~~~", "KeyError", "no price for 7"]
    {
        assert!(ended.err.contains(part), "{part}: {ended:?}");
    }
    // The call's own traceback, without a frame of whatever ran it.
    assert!(ended.err.contains("functions.py\", line 2, in price"), "{ended:?}");
    assert!(!ended.err.contains("<durable"), "{ended:?}");
}

#[test]
fn a_workflow_can_catch_what_a_function_raises() {
    let source = "try:\n    await f()\nexcept KeyError as error:\n    r = error.args[0]\nr\n";
    let desk = Desk::new(&[
        ("catch.py", source),
        ("functions.py", "def f():\n    raise KeyError('gone')\n"),
    ]);
    let ended = desk.durable(&["run", "catch.py", "--functions", "functions.py"]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "\"gone\"\n"), "{ended:?}");
}

#[test]
fn an_invalid_program_is_refused_with_a_caret() {
    let desk = Desk::new(&[("typo.py", "x = 1\nawait ad(x, 2)\n"), ("functions.py", ADD)]);
    let ended = desk.durable(&["run", "typo.py", "--functions", "functions.py"]);
    assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{ended:?}");
    for part in [".py:2:7:", "await ad(x, 2)", "^^", "hint:"] {
        assert!(ended.err.contains(part), "{part}: {ended:?}");
    }
    assert!(desk.list().is_empty());
}

#[test]
fn inputs_are_json_or_strings_and_override_the_file() {
    let desk = Desk::new(&[
        ("echo.py", "[a, b, c, d]\n"),
        ("inputs.json", r#"{"a": 1, "b": {"x": [1.0, null]}}"#),
    ]);
    let ended = desk.durable(&[
        "run",
        "echo.py",
        "--inputs",
        "inputs.json",
        "--input",
        "a=2",
        "--input",
        "c=plain text",
        "--input",
        "d=\"3\"",
    ]);
    let expected = "[2,{\"x\":[1.0,null]},\"plain text\",\"3\"]\n";
    assert_eq!((ended.code, ended.out.as_str()), (0, expected), "{ended:?}");

    desk.write("inputs.json", "[1]");
    for (arguments, part) in [
        (["run", "echo.py", "--inputs", "inputs.json"], "JSON object"),
        (["run", "echo.py", "--inputs", "none.json"], "can't read none.json"),
        (["run", "echo.py", "--input", "a"], "expected NAME=VALUE"),
    ] {
        let ended = desk.durable(&arguments);
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(ended.err.contains(part), "{part}: {ended:?}");
    }
    let ended = desk.durable(&["run", "echo.py", "--input", "a=1"]);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.err.contains("pass 'b' as an input"), "{ended:?}");
}

#[test]
fn a_key_makes_two_runs_one() {
    let desk = Desk::new(&[("one.py", "print('hello')\n41 + 1\n")]);
    let runs = [(); 2].map(|()| desk.durable(&["run", "one.py", "--key", "k", "--name", "only"]));
    assert!(runs[0].err.contains("hello"), "{runs:?}");
    for ended in &runs {
        assert_eq!((ended.code, ended.out.as_str()), (0, "42\n"), "{ended:?}");
    }
    let listed = desk.list();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0]["workflow"], &listed[0]["idempotency_key"]),
        (&"only".into(), &"k".into())
    );
}

#[test]
fn threads_and_memory_will_do_for_trusted_code() {
    let desk = Desk::new(&[("sum.py", "await add(1, 2)"), ("functions.py", ADD)]);
    let ended = desk.durable(&[
        "run",
        "sum.py",
        "--functions",
        "functions.py",
        "--isolation",
        "thread",
        "--db",
        "memory:",
    ]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "3\n"), "{ended:?}");
    assert!(!desk.path("durable.db").exists());
}

#[test]
fn help_documents_the_exit_codes() {
    let ended = Desk::new(&[]).durable(&["--help"]);
    assert_eq!(ended.code, 0);
    for part in ["Exit codes:", "130", "DURABLE_DB"] {
        assert!(ended.out.contains(part), "{part}: {ended:?}");
    }
    assert_eq!(Desk::new(&[]).durable(&["nonsense"]).code, 2);
}
