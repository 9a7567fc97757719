use durable_core::{FunctionOptions, Language, Limits};

use super::*;

fn checked(source: &str) -> Result<(), String> {
    let functions = ["fetch", "store"].map(|name| (name.to_owned(), FunctionOptions::default()));
    check(&Definition {
        language: Language::Python,
        source: source.to_owned(),
        functions: functions.into(),
        inputs: vec!["url".to_owned()],
        limits: Limits::default(),
    })
}

fn refused(source: &str) -> String {
    checked(source).expect_err(source)
}

#[test]
fn a_problem_names_its_place_and_shows_it() {
    assert_eq!(
        refused("import asyncio\nx = 'ü' + await fetc(url)\n"),
        "workflow.py:2:17: function 'fetc' is called but not declared\n    \
         x = 'ü' + await fetc(url)\n                    ^^^^\n  \
         hint: did you mean 'fetch'? Otherwise add 'fetc' to external_functions"
    );
}

#[test]
fn good_programs_pass() {
    for source in [
        "await fetch(url)",
        "import asyncio\nawait asyncio.gather(fetch(1), *[fetch(i) for i in range(3)])",
        "import asyncio\nasync def one(x):\n    return await fetch(x)\nawait asyncio.gather(one(1), one(2))",
        "f = fetch\nawait f(1)",
        "calls = [fetch(1), fetch(2)]\n[await c for c in calls]",
        "a = fetch(1)\nb = fetch(2)\n[await a, await b]",
        "def later(x):\n    return fetch(x)\nawait later(1)",
        "async def wait_for(call, s):\n    return await call\nawait wait_for(fetch(1), 3)",
        "def fetch2(fetch):\n    fetch(1)\n    return fetch(2) + 1\nfetch2(lambda x: x)",
        "def f():\n    def print(x): return x\n    return print(fetch(1))\nawait f()",
        "class Box:\n    def __init__(self, x):\n        self.x = x\nBox(1).x",
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nP(1)",
        "d = {'a': fetch(1)}\nawait d['a']",
        "match url:\n    case {'k': v, **rest}: print(v, rest)\n    case [a, *b]: print(a, b)",
        "try:\n    await fetch(1)\nexcept ValueError as e:\n    print(e)",
        "exec('def hidden(): pass')\nhidden()",
        "if (n := 3) > 2: print(n)",
        "import asyncio\nasync def main():\n    return await fetch(1)\nasyncio.run(main())",
        "x = await fetch(1) + 1\ny = f'{await fetch(2)}'",
        "with_default = url or fetch(1)\nawait with_default",
        "import math, json, os.path, os\nmath.floor(json.loads('1'))\nos.path.join('a', 'b')",
        "def g(a, /, b, *c, d=1, **e): return a\ng(1, 2)",
        "sorted([3, 1], key=lambda item: -item)",
        "iter([1])\nint('3')\nException('x')\nobject()\nfrozenset()",
        "from asyncio import gather, sleep\nawait gather(sleep(1), fetch(2))",
        "import asyncio as aio\nawait aio.sleep(1)",
    ] {
        assert_eq!(checked(source), Ok(()), "{source}");
    }
}

#[test]
fn unknown_constructs_say_what_to_write() {
    for (source, place, hint) in [
        ("def g():\n    yield 1", "2:5: `yield` is not", "collect the values in a list"),
        ("class A(Exception):\n    pass", "1:8: class inheritance is not", "builtin exception"),
        ("async def f():\n    async with x: pass", "2:16: `async with`", "try/finally"),
        ("async def f():\n    async for i in x: pass", "2:20: `async for`", "returns a list"),
        ("x = {}\ndel x", "2:1: the `del` statement", "pop"),
        ("from math import *", "1:18: `import *`", "import the names"),
        ("import requests", "1:8: the module 'requests'", "declared function"),
        ("import asyncio\nasyncio.create_task(fetch(1))", "2:1: asyncio.create_task", "gather"),
        (
            "import asyncio\nawait asyncio.wait_for(fetch(1), 3)",
            "2:7: asyncio.wait_for",
            "_timeout",
        ),
        ("from asyncio import Queue", "1:21: asyncio.Queue", "batches"),
        ("import asyncio\nasyncio.TaskGroup()", "asyncio.TaskGroup", "gather"),
        (
            "class A:\n    @property\n    def x(self): return 1",
            "2:5: decorators on methods",
            "plain method",
        ),
        ("import time\ntime.sleep(3)", "2:1: time.sleep()", "await asyncio.sleep"),
        ("[i async for i in x]", "1:19: an `async for` comprehension", "returns a list"),
        ("asyncio.run(1)", "1:1: the module 'asyncio' is used but not imported", "import asyncio"),
        ("input('?')", "1:1: function 'input'", "no builtin 'input'"),
        ("def f():\n    return await fetch(1)", "2:12: `await` in a function", "async def"),
        ("from . import x", "1:1: a relative import", "one file"),
    ] {
        let text = refused(source);
        assert!(text.contains(place), "{source}\n{text}");
        assert!(text.contains(hint), "{source}\n{text}");
    }
}

#[test]
fn calls_that_are_never_awaited_are_found() {
    for (source, what) in [
        ("fetch(1)", "1:1: the call of 'fetch' is made, but never awaited"),
        ("x = fetch(1)\n2", "1:5: the call of 'fetch' is assigned to 'x', which is not used"),
        ("async def main(): pass\nmain()", "2:1: the call of 'main' is made"),
        ("import asyncio\nasyncio.sleep(1)", "2:1: the call of 'asyncio.sleep' is made"),
        ("fetch(1) + 1", "used in arithmetic"),
        ("x = -fetch(1)\nx", "used in arithmetic"),
        ("x = 1\nx += fetch(1)", "used in arithmetic"),
        ("x = f'a{fetch(1)}'\nx", "put into a string"),
        ("x = fetch(1)['a']\nx", "subscripted"),
        ("x = fetch(1).a\nx", "asked for its 'a'"),
        ("print(fetch(1))", "passed to print()"),
        ("len(fetch(1))", "passed to len()"),
        ("if fetch(1): pass", "tested"),
        ("x = 1 if not fetch(1) else 2\nx", "tested"),
        ("fetch(1) == 2", "compared"),
        ("for x in fetch(1): pass", "looped over"),
        ("[x for x in fetch(1)]", "looped over"),
    ] {
        let text = refused(source);
        assert!(text.contains(what), "{source}\n{text}");
        assert!(text.contains("hint: write `await "), "{source}\n{text}");
    }
}

#[test]
fn syntax_errors_are_shown_like_everything_else() {
    let text = refused("x = 1\nif x\n    pass\n");
    assert!(text.starts_with("workflow.py:2:5: syntax error: "), "{text}");
    assert!(text.contains("\n    if x\n"), "{text}");
    // What only the compiler knows.
    let text = refused("nonlocal x");
    assert!(text.starts_with("workflow.py:1:"), "{text}");
    let text = refused(&format!("x = {}1{}", "(".repeat(3_000), ")".repeat(3_000)));
    assert!(text.contains("too deeply nested"), "{text}");
}

#[test]
fn a_name_that_nothing_gives_a_value_is_refused_once() {
    let text = refused("for f in files:\n    await fetch(f)\nprint(files)");
    assert!(text.starts_with("workflow.py:1:10: 'files' is read, but"), "{text}");
    assert!(text.contains("pass 'files' as an input"), "{text}");
    assert_eq!(text.matches("is read, but").count(), 1, "{text}");
}

#[test]
fn all_problems_are_shown_up_to_ten() {
    let source: String = (0..15).map(|i| format!("unknown_{i}()\n")).collect();
    let text = refused(&source);
    assert_eq!(text.matches("is called but not declared").count(), 10);
    assert!(text.ends_with("and 5 more"), "{text}");
}

#[test]
fn declarations_must_be_names_of_their_own() {
    let mut definition = Definition {
        language: Language::Python,
        source: "1".to_owned(),
        functions: ["len", "a.b", "x"]
            .map(|name| (name.to_owned(), FunctionOptions::default()))
            .into(),
        inputs: vec!["x".to_owned()],
        limits: Limits::default(),
    };
    let text = check(&definition).unwrap_err();
    assert!(text.contains("'a.b' is not a Python name"), "{text}");
    assert!(text.contains("'len' is declared but has the name of a builtin"), "{text}");
    assert!(text.contains("the input 'x' is declared twice"), "{text}");
    definition.functions.clear();
    assert_eq!(check(&definition), Ok(()));
}
