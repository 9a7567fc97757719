//! Where functions come from, what they are given, and what happens when their process dies.

use crate::support::Desk;

fn run(desk: &Desk, module: &str) -> crate::support::Ended {
    desk.durable(&["run", "workflow.py", "--functions", module])
}

#[test]
fn values_come_back_as_they_were() {
    let workflow = "
import datetime
values = [
    None, True, 1, 1.0, 2**70, -(2**63), float('inf'), 'text', b'bytes', (1, (2,)), {1, 2},
    frozenset({3}), {'a': 1}, {1: 'a', (2, 3): 'b'}, {'$int': 'x'}, {'$other': 1}, [[]], {},
    datetime.date(2026, 1, 31), datetime.timedelta(days=-1, microseconds=5),
    datetime.datetime(2026, 1, 31, 12, 0, 0, 5), ...,
]
back = await echo(values)
[(type(one).__name__, one) for one, two in zip(values, back) if one != two]
";
    let desk =
        Desk::new(&[("workflow.py", workflow), ("functions.py", "def echo(x):\n    return x\n")]);
    let ended = run(&desk, "functions.py");
    assert_eq!((ended.code, ended.out.as_str()), (0, "[]\n"), "{ended:?}");
}

#[test]
fn a_result_without_a_json_form_fails_the_call_by_name() {
    let desk = Desk::new(&[
        ("workflow.py", "await bad()"),
        ("functions.py", "def bad():\n    return {'a': [object()]}\n"),
    ]);
    let ended = run(&desk, "functions.py");
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("TypeError: result['a'][0] is a object"), "{ended:?}");
}

#[test]
fn public_functions_of_a_dotted_module_are_declared() {
    let module = "
from os.path import join

def add(a, b):
    return _helper(a) + b

async def twice(x):
    return 2 * x

def _helper(a):
    return a
";
    let desk = Desk::new(&[("workflow.py", "await twice(await add(1, b=2))")]);
    std::fs::create_dir(desk.path("package")).unwrap();
    desk.write("package/__init__.py", "");
    desk.write("package/tasks.py", module);
    let ended = run(&desk, "package.tasks");
    assert_eq!((ended.code, ended.out.as_str()), (0, "6\n"), "{ended:?}");

    for source in ["await _helper(1)", "await join('a')"] {
        desk.write("workflow.py", source);
        assert_eq!(run(&desk, "package.tasks").code, 2, "{source}");
    }
}

#[test]
fn a_function_that_nobody_mentions_does_not_change_the_program() {
    let desk = Desk::new(&[("workflow.py", "await a()"), ("functions.py", "def a(): return 1\n")]);
    assert_eq!(run(&desk, "functions.py").code, 0);
    desk.write("functions.py", "def a(): return 1\ndef b(): return 2\n");
    assert_eq!(run(&desk, "functions.py").code, 0);
    let listed = desk.list();
    assert_eq!(listed[0]["program"], listed[1]["program"]);
}

#[test]
fn a_module_that_cannot_be_imported_is_refused_with_its_traceback() {
    let desk = Desk::new(&[("workflow.py", "1"), ("functions.py", "def a():\n    pass\n1 / 0\n")]);
    let ended = run(&desk, "functions.py");
    assert_eq!(ended.code, 2, "{ended:?}");
    for part in ["functions.py\", line 3", "1 / 0", "ZeroDivisionError"] {
        assert!(ended.err.contains(part), "{part}: {ended:?}");
    }
    for module in ["none.py", "no.such.module"] {
        let ended = run(&desk, module);
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(ended.err.contains(module.split('.').next().unwrap()), "{ended:?}");
    }
    let ended =
        desk.durable(&["run", "workflow.py", "--functions", "functions.py", "--python", "/none"]);
    assert_eq!(ended.code, 4, "{ended:?}");
}

#[test]
fn a_call_knows_who_asked() {
    let desk = Desk::new(&[
        ("workflow.py", "await key()"),
        (
            "functions.py",
            "from durable_monty import current_call, register_function\n\
             @register_function('key')\n\
             def f():\n    call = current_call()\n    return [call.idempotency_key, call.attempt]\n",
        ),
    ]);
    let ended = run(&desk, "functions.py");
    assert_eq!(ended.out, format!("[\"{}:0\",1]\n", desk.newest()), "{ended:?}");
}

#[test]
fn failed_attempts_are_made_again_as_the_module_says() {
    let functions = "
from durable_monty import RetryPolicy, current_call, register_function

@register_function('flaky', retry=RetryPolicy(max_attempts=3, initial_interval=0.01))
def flaky():
    if current_call().attempt < 3:
        raise OSError('not yet')
    return current_call().attempt
";
    let desk = Desk::new(&[("workflow.py", "await flaky()"), ("functions.py", functions)]);
    let ended = run(&desk, "functions.py");
    assert_eq!((ended.code, ended.out.as_str()), (0, "3\n"), "{ended:?}");
}

#[test]
fn calls_are_run_again_when_their_process_dies() {
    let functions = "
import os

def log(line):
    with open('log', 'a') as file:
        file.write(line + '\\n')

def dies_once():
    first = not os.path.exists('log')
    log('once')
    if first:
        os._exit(3)
    return 'alive'

def dies():
    log('dies')
    os._exit(3)
";
    let desk = Desk::new(&[("workflow.py", "await dies_once()"), ("functions.py", functions)]);
    let ended = run(&desk, "functions.py");
    assert_eq!((ended.code, ended.out.as_str()), (0, "\"alive\"\n"), "{ended:?}");
    assert_eq!(desk.read("log"), "once\nonce\n");

    desk.write(
        "workflow.py",
        "try:\n    await dies()\nexcept RuntimeError as e:\n    r = str(e)\nr",
    );
    let ended = run(&desk, "functions.py");
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.contains("dies()") && ended.out.contains("exit status: 3"), "{ended:?}");
    assert_eq!(desk.read("log"), "once\nonce\ndies\ndies\ndies\n");
}

#[test]
fn functions_cannot_disturb_the_streams() {
    let functions = "
import os

def noisy():
    print('printed')
    os.system('echo shouted; cat')
    os.write(1, b'written\\n')
    try:
        input()
    except EOFError:
        return 'no input'
";
    let desk = Desk::new(&[("workflow.py", "await noisy()"), ("functions.py", functions)]);
    let ended = run(&desk, "functions.py");
    assert_eq!((ended.code, ended.out.as_str()), (0, "\"no input\"\n"), "{ended:?}");
    for line in ["printed\n", "shouted\n", "written\n"] {
        assert!(ended.err.contains(line), "{line}: {ended:?}");
    }
}

#[test]
fn blocking_functions_run_side_by_side() {
    // Each waits until the other has begun.
    let functions = "
import threading

both = threading.Barrier(2, timeout=60)

def meet(n):
    return both.wait() >= 0

async def pause():
    return True
";
    let workflow = "from asyncio import gather\nawait gather(meet(1), pause(), meet(2))";
    let desk = Desk::new(&[("workflow.py", workflow), ("functions.py", functions)]);
    let ended = run(&desk, "functions.py");
    assert_eq!((ended.code, ended.out.as_str()), (0, "[true,true,true]\n"), "{ended:?}");
}
