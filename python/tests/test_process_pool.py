"""ProcessPoolExecutor with real processes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import CATCHING, PATIENCE_S, Serve, wait_for

from durable_monty import (
    FUNCTION_REGISTRY,
    OrchestratorService,
    ProcessPoolExecutor,
    Worker,
    register_function,
)

TASKS = """
import multiprocessing, os, signal, time
from pathlib import Path
from durable_monty import current_call, register_function

HERE = Path(__file__).parent

@register_function("add")
def add(a, b=0):
    return a + b

@register_function("pid")
def pid():
    return os.getpid()

@register_function("meet")
def meet(name, other):
    (HERE / name).touch()
    while not (HERE / other).exists():
        time.sleep(0.01)
    return name

@register_function("price")
def price():
    raise ValueError("no price")

class Mute(Exception):
    def __str__(self):
        raise SystemExit("out")

@register_function("mute")
def mute():
    raise Mute

@register_function("name")
def name(is_raised):
    found = "caf\\udce9.mp4"  # as os.listdir tells it
    if is_raised:
        raise ValueError(found)
    return found

@register_function("die")
def die():
    os.kill(os.getpid(), signal.SIGKILL)

@register_function("die_a_father")
def die_a_father(name):
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    child.start()
    (HERE / name).write_text(str(child.pid))
    die()

@register_function("quit")
def quit():
    os._exit(3)

@register_function("spin")
def spin(name):
    (HERE / name).write_text(str(os.getpid()))
    while True:
        pass

@register_function("context")
async def context():
    call = current_call()
    return [call.idempotency_key, call.attempt]
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "pool_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("pool_tasks")
    yield tmp_path
    sys.modules.pop("pool_tasks", None)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_processes_run_side_by_side(tasks: Path, service: OrchestratorService) -> None:
    code = """
from asyncio import gather
await gather(meet('a', 'b'), meet('b', 'a'), pid(), add((1,), (2,)))
"""
    execution_id = service.start_execution(code, ["meet", "pid", "add"])
    executor = ProcessPoolExecutor(2)
    Worker(service, executor).run(until_complete=True)
    first, second, pid, added = service.get_result(execution_id)
    assert (first, second, added) == ("a", "b", (1, 2))
    assert pid != os.getpid()
    assert executor.get_stats() == {"submitted": 4, "finished": 4, "failed": 0}
    wait_for(lambda: not lives(pid))


def test_a_process_is_used_again(tasks: Path, service: OrchestratorService) -> None:
    execution_id = service.start_execution("[await pid() for _ in range(5)]", ["pid"])
    Worker(service, ProcessPoolExecutor(1)).run(until_complete=True)
    assert len(set(service.get_result(execution_id))) == 1


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        ("price()", "ValueError", "no price"),
        ("name(True)", "ValueError", r"caf\udce9.mp4"),
        (
            "name(False)",
            "TypeError",
            "result holds text that is not Unicode (a lone surrogate, U+DCE9): such text often "
            "comes from os.fsdecode",
        ),
        ("mute()", "Exception", "pool_tasks.Mute: <can't be shown: SystemExit>"),
        ("die()", "RuntimeError", "the process that ran die died: signal 9 (SIGKILL)"),
        ("quit()", "RuntimeError", "the process that ran quit died: exit code 3"),
    ],
)
def test_a_process_that_fails(
    tasks: Path, service: OrchestratorService, serve: Serve, call: str, kind: str, message: str
) -> None:
    function = call.partition("(")[0]
    code = CATCHING.format(call=call, kind=kind)
    ids = [service.start_execution(code, [function]) for _ in range(3)]
    others = [service.start_execution("await add(1, 2)", ["add"]) for _ in range(10)]
    with serve(ProcessPoolExecutor(2)):
        assert [service.result(one, PATIENCE_S) for one in ids] == [message] * 3
        assert [service.result(one, PATIENCE_S) for one in others] == [3] * 10


def test_a_process_that_dies_before_its_children(
    tasks: Path, service: OrchestratorService, serve: Serve
) -> None:
    code = CATCHING.format(call="die_a_father('child')", kind="RuntimeError")
    with serve(ProcessPoolExecutor(1)):
        execution_id = service.start_execution(code, ["die_a_father"])
        said = service.result(execution_id, PATIENCE_S)
    assert said == "the process that ran die_a_father died: signal 9 (SIGKILL)"
    wait_for(lambda: not lives(int((tasks / "child").read_text())))


def test_a_call_that_takes_too_long_is_killed(tasks: Path, service: OrchestratorService) -> None:
    register_function("spin", timeout=1.0)(FUNCTION_REGISTRY["spin"])
    code = CATCHING.format(call="spin('s')", kind="TimeoutError")
    execution_id = service.start_execution(code, ["spin"])
    Worker(service, ProcessPoolExecutor(1)).run(until_complete=True)
    assert service.get_result(execution_id) == "the attempt took longer than its 1000 ms"
    wait_for(lambda: not lives(int((tasks / "s").read_text())))


def test_a_cancelled_call_is_killed(
    tasks: Path, service: OrchestratorService, serve: Serve
) -> None:
    with serve(ProcessPoolExecutor(1)):
        execution_id = service.start_execution("await spin('s')", ["spin"])
        pid = int(wait_for(lambda: (tasks / "s").exists() and (tasks / "s").read_text()))
        service.cancel(execution_id)
        wait_for(lambda: not lives(pid))
        added = service.start_execution("await add(1, 2)", ["add"])
        assert service.result(added, PATIENCE_S) == 3


def test_a_process_knows_its_call(tasks: Path, service: OrchestratorService) -> None:
    execution_id = service.start_execution("await context()", ["context"])
    Worker(service, ProcessPoolExecutor(1)).run(until_complete=True)
    assert service.get_result(execution_id) == [f"{execution_id}:0", 1]


def test_processes_without_a_worker(tasks: Path) -> None:
    executor = ProcessPoolExecutor(1)
    try:
        job_id = executor.submit_call("add", [1], {"b": 2})
        told = wait_for(
            lambda: (status := executor.check_job(job_id))["status"] != "started" and status
        )
        assert told == {"status": "finished", "result": 3}
    finally:
        executor.detach()
