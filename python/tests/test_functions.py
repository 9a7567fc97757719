"""The registry, import by path, declarations."""

from __future__ import annotations

import asyncio
import contextvars
import json
import os.path
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from durable_monty import (
    FUNCTION_REGISTRY,
    InvalidWorkflow,
    RetryPolicy,
    execute_function,
    get_function,
    register_function,
    webhooks,
)
from durable_monty.executors.base import Executor, takes_call
from durable_monty.failures import failure_of, split_error
from durable_monty.functions import declare_functions


def add(a: int, b: int) -> int:
    return a + b


def test_a_registered_function_stays_callable() -> None:
    decorated = register_function("plus")(add)
    assert decorated is add
    assert FUNCTION_REGISTRY["plus"] is add
    assert get_function("plus")(1, 2) == 3


def test_the_registry_can_be_assigned_to() -> None:
    FUNCTION_REGISTRY["plus"] = add
    assert execute_function("plus", [1], {"b": 2}) == 3


def test_dotted_paths_are_imported() -> None:
    assert execute_function("os.path.join", ["a", "b"]) == os.path.join("a", "b")
    assert get_function("json.JSONDecoder.decode") is json.JSONDecoder.decode


def test_async_functions_are_run_to_their_result() -> None:
    @register_function("later")
    async def later(x: int) -> int:
        return x + 1

    assert execute_function("later", [1]) == 2


def test_async_functions_are_run_where_a_loop_runs_already() -> None:
    word = contextvars.ContextVar("word", default="none")

    @register_function("heard")
    async def heard(x: int) -> list[Any]:
        await asyncio.sleep(0)
        return [word.get(), x]

    @register_function("refused")
    async def refused() -> None:
        raise KeyError("k")

    def answered(call: dict[str, Any]) -> Any:
        body = json.dumps(call)
        return webhooks.answer({webhooks.SIGNATURE_HEADER: webhooks.sign(body, "s")}, body, "s")

    async def handler() -> list[Any]:
        word.set("mine")
        with pytest.raises(KeyError, match="k"):
            execute_function("refused", [])
        status, content = answered({"function": "refused"})
        assert (status, content["error"]["type"]) == (200, "KeyError")
        return [execute_function("heard", [1]), answered({"function": "heard", "args": [2]})]

    assert asyncio.run(handler()) == [["mine", 1], (200, {"result": ["mine", 2]})]


def test_unknown_functions_are_key_errors() -> None:
    with pytest.raises(KeyError, match="Invalid function path 'nowhere'"):
        get_function("nowhere")
    for path in ("no_such_module.f", "os.no_such_function", "os.path.no.such", "os.name"):
        with pytest.raises(KeyError, match=f"Could not import function '{path}'"):
            get_function(path)


def declared(*entries: Any) -> Any:
    return json.loads(declare_functions(entries)[0])


def test_declaring_by_name_path_and_function() -> None:
    register_function("plus")(add)
    assert declared("plus") == {"plus": {}}
    assert declared(add) == {"plus": {}}
    assert declared("os.path.join") == {"join": {"target": "os.path.join"}}
    assert declared(os.path.join) == {"join": {"target": f"{os.path.__name__}.join"}}


def test_declaring_with_options() -> None:
    policy = RetryPolicy(5, 0.5, non_retryable=(KeyError, "app.NoPrice"))
    register_function("plus", retry=policy, timeout=1.5)(add)
    options = declared("plus")["plus"]
    assert options["timeout_ms"] == 1500
    assert options["retry"] == {
        "max_attempts": 5,
        "initial_interval_ms": 500,
        "backoff_coefficient": 2.0,
        "max_interval_ms": 100_000,
        "jitter": 0.1,
        "non_retryable": ["KeyError", "app.NoPrice"],
    }


def test_an_unregistered_name_warns() -> None:
    with pytest.warns(UserWarning, match="not registered in this process: elsewhere"):
        assert declared("elsewhere") == {"elsewhere": {}}


def test_entries_that_cannot_work_are_refused() -> None:
    for entry in (3, "not a name", ""):
        with pytest.raises(InvalidWorkflow):
            declared(entry)
    with pytest.raises(InvalidWorkflow, match="can't be imported by name"):
        declared(lambda: 1)
    with pytest.raises(InvalidWorkflow, match="two of the external functions are called 'join'"):
        declared("os.path.join", "shlex.join")
    with pytest.raises(InvalidWorkflow, match="must be a list"):
        declare_functions("add")


@pytest.mark.parametrize(
    "options",
    [{"max_attempts": 0}, {"backoff": 0.5}, {"jitter": 2}, {"initial_interval": -1}],
)
def test_retry_policies_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        RetryPolicy(**options)
    with pytest.raises(ValueError):
        register_function("x", timeout=0)


def test_a_scripts_own_functions_get_an_importable_path(tmp_path: Path) -> None:
    script = tmp_path / "tasks.py"
    script.write_text(
        textwrap.dedent(
            """
            import json
            from durable_monty.functions import declare_functions, get_function

            print("ran")

            def add(a, b):
                return a + b

            if __name__ == "__main__":
                options = json.loads(declare_functions([add])[0])
                print(options["add"]["target"])
                assert get_function("tasks.add") is add
            """
        )
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["ran", "tasks.add"]


class _Executor(Executor):
    def submit_call(self, *call: Any) -> str | None:
        return None


class ByName(Executor):
    def submit_call(self, function_name: str, args: Any, kwargs: Any) -> str:  # type: ignore[override]
        return function_name


class ByCall(Executor):
    def submit_call(self, call: Any) -> None:  # type: ignore[override]
        return None


class ByCallWithMore(Executor):
    def submit_call(self, call: Any, queue: str = "default") -> None:  # type: ignore[override]
        return None


def test_executors_are_told_apart_by_their_signature() -> None:
    assert not takes_call(_Executor())
    assert not takes_call(ByName())
    assert takes_call(ByCall())
    assert takes_call(ByCallWithMore())


def raised(error: BaseException) -> tuple[str, str, str]:
    try:
        raise error
    except BaseException as caught:
        return failure_of(caught)


def test_failures_keep_type_message_and_traceback() -> None:
    class NoPrice(Exception):
        pass

    assert raised(ValueError("no"))[:2] == ("ValueError", "no")
    assert raised(KeyError("k"))[:2] == ("KeyError", "k")
    kind, message, _ = raised(NoPrice("x"))
    assert kind.endswith("NoPrice")
    assert message == "x"
    kind, message, _ = raised(json.JSONDecodeError("bad", "", 0))
    assert (kind, message.startswith("json.decoder.JSONDecodeError: bad")) == ("ValueError", True)


def test_failures_can_be_stored_whatever_their_text() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise SystemExit(1)

    kind, message, shown = raised(ValueError("no caf\udce9.mp4"))
    assert (kind, message) == ("ValueError", r"no caf\udce9.mp4")
    assert shown.endswith("ValueError: no caf\\udce9.mp4\n")
    kind, message, shown = raised(Mute("x"))
    assert kind.endswith("Mute")
    assert message == "<can't be shown: SystemExit>"
    assert raised(KeyError(Mute("x")))[:2] == ("KeyError", message)
    assert split_error("KeyError: \udce9")[:2] == ("KeyError", r"\udce9")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ValueError: no price", ("ValueError", "no price")),
        ("Traceback (most recent call last):\n  …\nKeyError: 'k'", ("KeyError", "'k'")),
        ("out of memory", ("RuntimeError", "out of memory")),
        ("app.Odd: x", ("RuntimeError", "app.Odd: x")),
    ],
)
def test_errors_told_as_text(text: str, parts: tuple[str, str]) -> None:
    assert split_error(text)[:2] == parts
