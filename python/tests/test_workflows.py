"""`@workflow` on an `async def`: its source runs in the sandbox and goes on after a crash."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

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
