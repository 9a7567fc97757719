"""Trusted Python: code that arrives in chunks runs statement by statement, and goes on after a
crash."""

from __future__ import annotations

import ast
import asyncio
import gc
import linecache
import random
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streaming_support import Calls, run, whole

from durable_monty import (
    Conflict,
    StreamingExecutionError,
    StreamingPythonExecutor,
)
from durable_monty.checkpoints import (
    DurabilityConfig,
    open_manager,
)
from durable_monty.streaming.splitter import StatementSplitter

# Chunks and statements

SOURCE = '''
# a comment
import json
n = 1; m = 2
text = f"""{n}
if n:
{{}} {m!r:>{n}}
""" + "it's" \\
    + '"'
if n == 3:
    found = "if"
# between

elif n == 2:
    found = "elif"
else:
    found = "else"
try:
    1 / 0
except ZeroDivisionError: caught = True
finally:
    last = True
def twice(f):
    return f
@twice
# here
@twice
def f(
    a=(1,
2),
):
    """of
f"""
    return a
for i in range(2): pass
else: looped = True
match n:
    case 1: matched = True
while False: pass
d = {"a": [1, ")"], "b": (
2)}
'''


def split(source: str, cut: Any) -> list[str]:
    splitter = StatementSplitter()
    statements, at = [], 0
    while at < len(source):
        end = at + cut()
        statements += splitter.feed(source[at:end])
        at = end
    return [statement.text for statement in statements + splitter.finish()]


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_chunks_make_no_difference(random: random.Random) -> None:
    whole = split(SOURCE, lambda: len(SOURCE))
    assert split(SOURCE, lambda: random.randint(1, 9)) == whole
    assert "".join(whole) == SOURCE
    bodies = [ast.parse(text).body for text in whole]
    statements = [ast.dump(one) for body in bodies for one in body]
    assert statements == [ast.dump(one) for one in ast.parse(SOURCE).body]
    # Only what shares a line is one.
    assert [len(body) for body in bodies] == [1, 2, *([1] * (len(bodies) - 2))]


@pytest.mark.parametrize("path", sorted(Path(ast.__file__).parent.glob("[a-d]*.py")))
def test_files_of_the_standard_library_are_split_where_the_parser_does(path: Path) -> None:
    source = path.read_text("utf-8")
    statements = split(source, lambda: 997)
    dumped = [ast.dump(one) for text in statements for one in ast.parse(text).body]
    assert dumped == [ast.dump(one) for one in ast.parse(source).body]


def test_errors_show_the_line_whatever_stands_in_the_text_above_it() -> None:
    async def body() -> None:
        executor = StreamingPythonExecutor()
        with pytest.raises(StreamingExecutionError) as caught:
            await executor.add_chunk('def f():\n    """\f\u2028"""\n    return 1 / 0\nf()\n')
        assert ", response 1>:3:" in str(caught.value)
        assert str(caught.value).splitlines()[1].strip() == "return 1 / 0"

    run(body())


def test_a_statement_runs_as_soon_as_nothing_can_follow_that_is_part_of_it() -> None:
    async def body() -> None:
        executor = StreamingPythonExecutor()
        names = executor.namespace
        await executor.add_chunk("x = 1")
        assert "x" not in names
        await executor.add_chunk("0\n")
        assert names["x"] == 10
        await executor.add_chunk("if x > 10:\n    y = 1\n\n# more?\n")
        await executor.add_chunk("else:\n    y = 2\n")
        assert "y" not in names
        await executor.add_chunk("z")
        assert "y" not in names
        await executor.add_chunk(" = 3\n")
        assert (names["y"], names["z"]) == (2, 3)
        await executor.add_chunk('t = """\nz = 4\n')
        assert names["z"] == 3
        await executor.add_chunk('"""\nclass A:\n    a = 1\n')
        assert names["t"] == "\nz = 4\n"
        assert "A" not in names
        assert (await executor.finalize()).statements == 5
        assert names["A"].a == 1

    run(body())


def test_names_stay_from_statement_to_statement_and_response_to_response() -> None:
    async def body() -> None:
        executor = StreamingPythonExecutor(namespace={"n": 2})
        await executor.add_chunk(
            "import asyncio\nasync def later(x):\n    await asyncio.sleep(0)\n    return x * n\n"
            "y = await later(20)\nprint('y', y)\nzs = [await later(i) for i in range(3)]\n"
            "async with asyncio.Lock():\n    w = len(zs)\ny + w\n"
        )
        first = await executor.finalize()
        assert (first.output, first.printed, first.response) == (43, "y 40\n", 1)
        await executor.add_chunk("y += 1\ny")
        second = await executor.finalize()
        assert (second.output, second.printed, second.response) == (41, "", 2)
        assert second.executed_code == "y += 1\ny\n"

    run(body())


def test_dataclasses_know_their_module_under_a_future_import() -> None:
    async def body() -> None:
        executor = StreamingPythonExecutor()
        await executor.add_chunk(
            "from __future__ import annotations\nfrom dataclasses import dataclass\n"
            "from typing import get_type_hints\n"
            "@dataclass\nclass P:\n    x: int\n    next: P | None = None\nget_type_hints(P)['x']"
        )
        assert (await executor.finalize()).output is int

    run(body())


# Errors


def test_an_error_names_the_line_and_shows_it_with_a_caret() -> None:
    async def body() -> None:
        executor = StreamingPythonExecutor()
        await executor.add_chunk("def share(n):\n    return 12 // n\n\n")
        with pytest.raises(StreamingExecutionError) as caught:
            await executor.add_chunk("x = 1\nshare(x - 1)\ny = 1\n")
        error = caught.value
        place, line, caret = str(error).splitlines()
        # Python 3.10 knows no columns.
        column = 12 if sys.version_info >= (3, 11) else 5
        assert place.endswith(f", response 1>:2:{column}: ZeroDivisionError: {executor.error}")
        assert (line, caret) == ("        return 12 // n", " " * (column + 3) + "^")
        assert isinstance(error.original_error, ZeroDivisionError)
        assert error.executed_code == "def share(n):\n    return 12 // n\n\nx = 1\n"
        assert error.traceback is not None
        assert "line 5, in <module>\n    share(x - 1)" in error.traceback
        assert "streaming/" not in error.traceback
        # What else comes of this response is dropped.
        await executor.add_chunk("z = 1\n")
        result = await executor.finalize()
        assert result.error is error
        assert not {"y", "z"} & executor.namespace.keys()
        await executor.add_chunk("y = x\n")
        assert (await executor.finalize()).error is None
        assert not executor.has_error

    run(body())


@pytest.mark.parametrize(
    ("code", "message", "shown"),
    [
        ("x = 1\ny = = 2\n", ":2:5: SyntaxError: ", "y = = 2"),
        ("x = 1\nreturn 2\n", ":2:1: SyntaxError: ", "return 2"),
        ("x = 1\n  y = 2\nz = 3\n", ":2:", "y = 2"),
        ("x = 1\ny = 2\\\n", "SyntaxError", ""),
        ("x = (1,\n", ":1:5: SyntaxError: ", "x = (1,"),
        ("x = '\0'\n", "null byte", ""),
        ("x = " + "(" * 5000 + ")" * 5000 + "\n", "Error", ""),
    ],
)
def test_what_can_not_be_parsed_is_an_error(code: str, message: str, shown: str) -> None:
    async def body() -> None:
        executor = StreamingPythonExecutor()
        with pytest.raises(StreamingExecutionError) as caught:
            await whole(executor, code)
        assert message in str(caught.value)
        assert shown in str(caught.value)
        assert (await executor.finalize()).error is caught.value

    run(body())


def test_everything_is_bounded() -> None:
    async def body() -> None:
        executor = StreamingPythonExecutor(
            max_response_chars=100, max_statements=3, max_printed_chars=10
        )
        with pytest.raises(StreamingExecutionError, match="max_response_chars"):
            await executor.add_chunk("x = 1\n" + "#" * 100)
        await executor.finalize()
        with pytest.raises(StreamingExecutionError, match="max_statements"):
            await executor.add_chunk("a = 1\nb = 1\nc = 1\nd = 1\n")
        await executor.finalize()
        assert "d" not in executor.namespace
        await executor.add_chunk("print('x' * 8)\nprint('y' * 8)\n")
        assert (await executor.finalize()).printed == "xxxxxxxx\ny… (more was printed)\n"

    run(body())


def test_one_at_a_time() -> None:
    async def body() -> None:
        gate = asyncio.Event()
        executor = StreamingPythonExecutor(namespace={"gate": gate})
        first = asyncio.ensure_future(executor.add_chunk("await gate.wait()\n"))
        await asyncio.sleep(0)
        for other in (executor.add_chunk("x = 1\n"), executor.finalize(), executor.checkpoint()):
            with pytest.raises(Conflict, match="while add_chunk runs"):
                await other
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        with pytest.raises(Conflict, match="statement 1 was interrupted"):
            await executor.add_chunk("x = 1\n")

    run(body())


def test_nothing_is_left_of_an_executor_that_is_gone() -> None:
    async def body() -> None:
        executor = StreamingPythonExecutor()
        await executor.add_chunk("def f():\n    pass\n\n")
        await executor.finalize()
        module, file = executor.namespace["__name__"], executor.namespace["f"].__code__.co_filename
        assert module in sys.modules
        assert file in linecache.cache
        del executor
        gc.collect()
        assert module not in sys.modules
        assert file not in linecache.cache

    run(body())


def test_an_executor_that_its_namespace_refers_to_ends_when_it_is_closed() -> None:
    class Agent:
        executor: StreamingPythonExecutor

    async def body() -> None:
        agent = Agent()
        agent.executor = StreamingPythonExecutor(namespace={"agent": agent})
        await agent.executor.add_chunk("x = agent.executor.response\n")
        agent.executor.close()
        gone = weakref.ref(agent)
        del agent
        gc.collect()
        assert gone() is None

    run(body())


@pytest.mark.parametrize(
    "options", [{"every": "never"}, {"on_unsaved": "ignore"}, {"namespace": {"__name__": 1}}]
)
def test_options_that_are_not_known_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|no name"):
        StreamingPythonExecutor(**options)


def test_disabled_durability_costs_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("durable_monty.streaming.executor.pack_namespace", None)

    async def body() -> None:
        manager = open_manager("order-7", DurabilityConfig.load())
        executor = await StreamingPythonExecutor.resume(manager, Calls().names())
        await executor.add_chunk("x = [await call(1)]\nx.append(lambda: 1)\nlen(x)")
        assert (await executor.finalize()).output == 2
        assert executor.resumed is None

    run(body())
    assert list(tmp_path.iterdir()) == []
