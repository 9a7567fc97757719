"""`@workflow` on an `async def`: its source runs in the sandbox and goes on after a crash."""

from __future__ import annotations

import asyncio
import importlib
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Serve

from durable_monty import OrchestratorService, init_db, playbook, register_function, workflow

HERE = "a text, and no function"


def double(n: int) -> int:
    return 2 * n


def fail(n: int) -> int:
    raise ValueError(f"no {n}")


@workflow
async def inner(n: int) -> int:
    return await double(n) + 1


@playbook
async def outer(items: list[int], start: int = 0, *, label: str = "sum") -> dict[str, int]:
    # A comment stays where it is.
    total = start
    for item in items:
        total += await inner(item)
    both = await asyncio.gather(inner(1), double(2))
    try:
        await fail(3)
    except ValueError as error:
        label = f"{label}, {error}"
    return {label: total, "both": sum(both)}


def test_a_workflow_runs_as_an_ordinary_execution(
    service: OrchestratorService, serve: Serve
) -> None:
    execution_id = outer.start(service, [1, 2], label="all")
    with serve():
        assert service.result(execution_id, timeout=30) == {"all, no 3": 8, "both": 7}
    (listed,) = service.list()
    assert listed["workflow_id"] == "outer"


def test_a_workflow_called_is_the_function() -> None:
    @workflow(name="named")
    async def plain(n: int) -> int:
        """What it does."""
        return n + 1

    assert asyncio.run(plain(1)) == 2
    assert plain.__doc__ == "What it does."
    assert repr(plain) == "<workflow named>"


def test_a_registered_function_is_called_by_its_name(
    service: OrchestratorService, serve: Serve
) -> None:
    register_function("add")(lambda a, b: a + b)

    @workflow(functions=["add"])
    async def adding(n: int) -> int:
        return await add(n, 1)  # type: ignore[name-defined]  # noqa: F821

    with serve():
        assert service.result(adding.start(service, 4), timeout=30) == 5


def test_what_can_not_be_a_workflow_is_refused(service: OrchestratorService) -> None:
    with pytest.raises(TypeError, match="is no async def"):
        workflow(double)  # type: ignore[arg-type, type-var]
    around = 3

    @workflow
    async def closing() -> int:
        return around

    @workflow
    async def variable(*items: int) -> int:
        return len(items)

    @workflow
    async def reading() -> str:
        return HERE

    with pytest.raises(ValueError, match="uses around of the function around it"):
        closing.start(service)
    with pytest.raises(ValueError, match=r"the parameter \*items"):
        variable.start(service)
    with pytest.raises(ValueError, match="the global HERE, which is a str"):
        reading.start(service)
    with pytest.raises(TypeError, match="missing a required argument"):
        outer.start(service)  # type: ignore[call-arg]


# What the workflows below have beside them in their module, under names that they use themselves.
items = [1, 2]
result = None
label = "of the module"
LIMIT = 5
PAUSE = timedelta(seconds=1)


def hash(text: str) -> str:  # noqa: A001
    return f"#{text}"


@dataclass
class Item:
    n: int


@workflow
async def total(items: list[int], found: Item | None = None, *, most: int = LIMIT * 2) -> int:
    result: Item = found
    for item in items:
        result = await double(item)
    return min(result, most)


@workflow
async def nested(n: int) -> list[int]:
    def twice(double: int) -> int:
        return 2 * double

    async def later(label: int, add: Any = lambda items: items + 1) -> int:
        return add(await double(label))

    return [twice(n), await later(n), *[10 * items for items in range(2)]]


@workflow
async def deep(n: int) -> list[int]:
    async def later(item: int) -> int:
        return await double(item)

    return [await later(item) for item in range(n)]


@workflow
async def titled(
    # Defaults over several lines, with letters that are more than a byte.
    a: str = "é" + label,
    b: int = (LIMIT + 1),
    *,
    c: str = "ü",
    d: list[int] = [LIMIT, *items],  # noqa: B006
) -> list[Any]:
    return [a, b, c, d]


@workflow
async def titles() -> list[Any]:
    return await titled(c="c")


def test_a_name_of_the_functions_own_is_no_global(
    service: OrchestratorService, serve: Serve
) -> None:
    started = [total.start(service, items), nested.start(service, 4), deep.start(service, 3)]
    with serve():
        assert [service.result(one, timeout=30) for one in started] == [
            4,
            [8, 9, 0, 10],
            [0, 2, 4],
        ]


def test_a_default_has_the_value_that_it_has_in_the_module(
    service: OrchestratorService, serve: Serve
) -> None:
    started = [titles.start(service), total.start(service, [7]), titled.start(service, b=7)]
    with serve():
        assert [service.result(one, timeout=30) for one in started] == [
            ["éof the module", 6, "c", [5, 1, 2]],
            10,
            ["éof the module", 7, "ü", [5, 1, 2]],
        ]


def test_names_that_the_program_would_not_have_are_refused(
    service: OrchestratorService, serve: Serve
) -> None:
    @workflow
    async def hashing(text: str) -> str:
        return await hash(text)

    @workflow
    async def finding(found: Item = Item(LIMIT)) -> int:  # noqa: B008
        return found.n

    @workflow
    async def waiting(pause: timedelta = PAUSE) -> float:
        return pause.total_seconds()

    @workflow
    async def reading() -> int:
        return sum(LIMIT for _ in items)

    with pytest.raises(ValueError, match="'hash' is declared but has the name of a builtin"):
        hashing.start(service, "a")
    with pytest.raises(ValueError, match="a default of the workflow finding uses the global Item"):
        finding.start(service)
    with pytest.raises(ValueError, match="a default of the workflow waiting uses the global PAUSE"):
        waiting.start(service)
    with pytest.raises(ValueError, match="the workflow reading uses the global LIMIT, which is a"):
        reading.start(service)


TRIPLING = """
from durable_monty import workflow

def double(n):
    return 3 * n

@workflow
async def tripled(n):
    return await double(n)
"""
CLASHING = """
from durable_monty import workflow
from tripling import tripled

def double(n):
    return 2 * n

@workflow
async def both(n):
    return await double(n) + await tripled(n)

@workflow
async def given(double):
    return await tripled(double)

@workflow
async def itself(itself):
    return itself
"""


def test_two_things_with_one_name_are_refused(
    service: OrchestratorService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tripling.py").write_text(TRIPLING)
    (tmp_path / "clashing.py").write_text(CLASHING)
    monkeypatch.syspath_prepend(tmp_path)
    clashing = importlib.import_module("clashing")
    double = r"the function (clashing|tripling)\.double"
    with pytest.raises(ValueError, match=f"{double} and, in the workflow tripled, {double}"):
        clashing.both.start(service, 1)
    with pytest.raises(ValueError, match=r"parameter double, .* has the function tripling\.double"):
        clashing.given.start(service, 1)
    with pytest.raises(ValueError, match=r"has the workflow clashing\.itself of this name"):
        clashing.itself.start(service, 1)


TASKS = """
import sys, time

def note(word, n):
    with open(sys.path[0] + "/noted", "a") as file:
        file.write(f"{word} {n}\\n")

def step(n):
    note("begun", n)
    time.sleep(0.005)
    note("done", n)
    return n
"""
APP = """
import sys
from durable_monty import OrchestratorService, Worker, init_db, workflow
from tasks import step

@workflow
async def count(most):
    total = 0
    for n in range(most):
        total += await step(n)
    return total

service = OrchestratorService(init_db(sys.argv[1]))
if len(sys.argv) > 2:
    print(count.start(service, int(sys.argv[2])))
else:
    Worker(service).run(until_complete=True)
"""


def test_a_killed_workflow_goes_on_at_its_await(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "app.py").write_text(APP)
    url = f"sqlite:///{tmp_path}/app.db"
    command = [sys.executable, str(tmp_path / "app.py"), url]
    steps = 120
    started = subprocess.run(
        [*command, str(steps)], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    noted = tmp_path / "noted"
    noted.touch()
    moments = random.Random(7)
    kills = 0
    for _ in range(8):
        reached = noted.read_text().count("done")
        with subprocess.Popen(command, cwd=tmp_path) as worker:
            deadline = time.monotonic() + 30
            more = moments.randint(1, 12)
            while noted.read_text().count("done") < reached + more and worker.poll() is None:
                assert time.monotonic() < deadline, "it does not go on"
            if worker.poll() is None:
                worker.send_signal(signal.SIGKILL)
                kills += 1
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    service = OrchestratorService(init_db(url))
    assert service.get_result(started.stdout.strip()) == sum(range(steps))
    done = Counter(line for line in noted.read_text().splitlines() if line.startswith("done"))
    assert len(done) == steps
    # A step whose end was not stored when the process died is the only one that is done again.
    assert sum(done.values()) - steps <= kills
