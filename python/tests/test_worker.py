"""Promises of the worker and the local executor."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S, Serve
from sqlalchemy import text

from durable_monty import (
    CallContext,
    Conflict,
    ExecutionFailed,
    LocalExecutor,
    OrchestratorService,
    RetryPolicy,
    Worker,
    current_call,
    register_function,
)

WIDE = "from asyncio import gather\nawait gather(*[f(i) for i in range(n)])"


def run(
    service: OrchestratorService, code: str, *functions: str | Callable[..., Any], **inputs: Any
) -> Any:
    execution_id = service.start_execution(code, functions, inputs)
    Worker(service).run(until_complete=True)
    return service.get_result(execution_id)


def test_once_and_until_complete_exclude_each_other(service: OrchestratorService) -> None:
    with pytest.raises(ValueError, match="not both"):
        Worker(service).run(once=True, until_complete=True)
    with pytest.raises(ValueError, match="poll_interval"):
        Worker(service, LocalExecutor(), poll_interval=-1)


def test_no_external_call_at_all(service: OrchestratorService) -> None:
    assert run(service, "x = 20\nx * 2 + 2") == 42


def test_once_does_what_is_due(service: OrchestratorService) -> None:
    register_function("f")(lambda i: i + 1)
    quick = service.start_execution("await f(1)", ["f"])
    slow = service.start_execution("import asyncio\nawait asyncio.sleep(3600)\n1")
    outside = service.start_execution("await f(await f(1))", ["f"])
    Worker(service).run(once=True)
    assert service.get_result(quick) == 2
    assert service.get_result(outside) == 3
    assert service.get_execution(slow)["status"] == "waiting"


def test_functions_run_side_by_side(service: OrchestratorService) -> None:
    parties = 32
    barrier = threading.Barrier(parties, timeout=PATIENCE_S)

    @register_function("f")
    def meet(i: int) -> int:
        barrier.wait()
        return i

    assert run(service, WIDE, "f", n=parties) == list(range(parties))


def test_no_more_functions_at_once_than_workers(service: OrchestratorService) -> None:
    running = 0
    most = 0
    lock = threading.Lock()
    barrier = threading.Barrier(3, timeout=PATIENCE_S)

    @register_function("f")
    def count(i: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        barrier.wait()
        with lock:
            running -= 1
        return i

    execution_id = service.start_execution(WIDE, ["f"], {"n": 30})
    Worker(service, LocalExecutor(max_workers=3)).run(until_complete=True)
    assert service.get_result(execution_id) == list(range(30))
    assert most == 3
    with pytest.raises(ValueError):
        LocalExecutor(max_workers=0)


def test_a_quick_function_is_not_held_up_by_blocking_ones(
    service: OrchestratorService, serve: Serve
) -> None:
    release = threading.Event()

    @register_function("f")
    def block(i: int) -> int:
        assert release.wait(PATIENCE_S)
        return i

    register_function("quick")(lambda: "done")
    with serve():
        blocked = service.start_execution(WIDE, ["f"], {"n": 8})
        for _ in range(20):
            quick = service.start_execution("await quick()", ["quick"])
            assert service.result(quick, PATIENCE_S) == "done"
        release.set()
        assert service.result(blocked, PATIENCE_S) == list(range(8))


def test_async_functions_share_one_loop(service: OrchestratorService) -> None:
    loops = set()
    waiting = 0
    everybody = asyncio.Event()

    @register_function("f")
    async def meet(i: int) -> int:
        nonlocal waiting
        loops.add(asyncio.get_running_loop())
        waiting += 1
        if waiting == 100:
            everybody.set()
        await asyncio.wait_for(everybody.wait(), PATIENCE_S)
        return i

    assert run(service, WIDE, "f", n=100) == list(range(100))
    assert len(loops) == 1


def test_sync_and_async_mixed(service: OrchestratorService) -> None:
    register_function("double")(lambda i: 2 * i)

    @register_function("f")
    async def later(i: int) -> int:
        await asyncio.sleep(0)
        return i

    code = """
from asyncio import gather
async def one(i):
    return await double(await f(i))
await gather(*[one(i) for i in range(200)])
"""
    assert run(service, code, "f", "double") == [2 * i for i in range(200)]


def test_a_wide_gather_is_quick(service: OrchestratorService) -> None:
    register_function("f")(lambda i: i)
    began = time.monotonic()
    assert run(service, WIDE, "f", n=1000) == list(range(1000))
    assert time.monotonic() - began < PATIENCE_S


def test_results_are_applied_as_they_arrive(service: OrchestratorService, serve: Serve) -> None:
    # b's second step must not wait for a's first.
    b_is_through = threading.Event()

    @register_function("first")
    def first(name: str) -> str:
        if name == "a":
            assert b_is_through.wait(PATIENCE_S)
        return name

    @register_function("second")
    def second(name: str) -> str:
        if name == "b":
            b_is_through.set()
        return name

    code = """
from asyncio import gather
async def pipeline(name):
    return await second(await first(name))
await gather(pipeline("a"), pipeline("b"))
"""
    assert run(service, code, "first", "second") == ["a", "b"]


def test_exceptions_reach_the_workflow(service: OrchestratorService) -> None:
    @register_function("f")
    def fail(kind: str) -> None:
        if kind == "json":
            json.loads("{")
        if kind == "exit":
            sys.exit("out")
        raise {"key": KeyError, "os": OSError, "value": ValueError}[kind](f"no {kind}")

    code = """
async def caught(kind):
    try:
        await f(kind)
    except KeyError as e:
        return "KeyError", str(e)
    except OSError as e:
        return "OSError", str(e)
    except ValueError as e:
        return "ValueError", str(e)
    except Exception as e:
        return "Exception", str(e)
[await caught(kind) for kind in kinds]
"""
    key, os_, value, json_, exit_ = run(
        service, code, "f", kinds=["key", "os", "value", "json", "exit"]
    )
    assert key[0] == "KeyError"
    assert "no key" in key[1]
    assert os_ == ("OSError", "no os")
    assert value == ("ValueError", "no value")
    assert json_[0] == "ValueError"
    assert "json.decoder.JSONDecodeError" in json_[1]
    assert exit_[0] == "Exception"
    assert "out" in exit_[1]


def test_exceptions_of_async_functions_reach_the_workflow(service: OrchestratorService) -> None:
    @register_function("f")
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    assert (
        run(service, "try:\n    await f()\nexcept ValueError as e:\n    r = str(e)\nr", "f") == "no"
    )


class Mute(Exception):
    def __str__(self) -> str:
        raise SystemExit("out")


def test_whatever_is_raised_or_returned_ends_the_call(
    service: OrchestratorService, serve: Serve
) -> None:
    cases: dict[str, tuple[Any, str]] = {
        "surrogate": (ValueError("no caf\udce9.mp4"), r"no caf\udce9.mp4"),
        "mute": (Mute(), "<can't be shown: SystemExit>"),
        "cancelled": (asyncio.CancelledError(), "CancelledError"),
        "text": ("caf\udce9.mp4", "result holds text that is not Unicode"),
        "key": ({"caf\udce9.mp4": 1}, "result holds text that is not Unicode"),
    }

    @register_function("f")
    def f(kind: str) -> Any:
        came_to = cases[kind][0]
        if isinstance(came_to, BaseException):
            raise came_to
        return came_to

    @register_function("g")
    async def g(kind: str) -> Any:
        return f(kind)

    with serve():
        for function in ("f", "g"):
            for kind, (_, message) in cases.items():
                code = f"r = await {function}('{kind}')"
                code = f"try:\n    {code}\nexcept Exception as e:\n    r = str(e)\nr"
                execution_id = service.start_execution(code, [function])
                assert message in service.result(execution_id, PATIENCE_S)


def test_an_unregistered_function_fails_its_call_only(service: OrchestratorService) -> None:
    with pytest.warns(UserWarning, match="not registered"):
        lost = service.start_execution("await nowhere()", ["nowhere"])
    register_function("f")(lambda: 1)
    fine = service.start_execution("await f()", ["f"])
    Worker(service).run(until_complete=True)
    assert service.get_result(fine) == 1
    with pytest.raises(ExecutionFailed, match="Invalid function path 'nowhere'"):
        service.get_result(lost)


def test_a_result_without_a_json_form_fails_the_call(service: OrchestratorService) -> None:
    register_function("f")(lambda: {"lock": threading.Lock()})
    code = "try:\n    r = await f()\nexcept TypeError as e:\n    r = str(e)\nr"
    assert run(service, code, "f").startswith("result['lock'] is a _thread.lock, ")


def test_callables_and_dotted_paths(service: OrchestratorService) -> None:
    code = "(await join('a', 'b'), await dirname('a/b'))"
    assert run(service, code, "os.path.join", os.path.dirname) == ("a/b", "a")


def test_kwargs_are_kept(service: OrchestratorService) -> None:
    register_function("f")(lambda *args, **kwargs: [args, kwargs])
    assert run(service, "await f(1, b=(2,), c={'d': 3})", "f") == [(1,), {"b": (2,), "c": {"d": 3}}]


def test_retries_with_the_same_idempotency_key(service: OrchestratorService) -> None:
    seen: list[CallContext | None] = []

    @register_function("f", retry=RetryPolicy(3, initial_interval=0.01))
    def flaky() -> int:
        seen.append(current_call())
        if len(seen) < 3:
            raise OSError("busy")
        return len(seen)

    execution_id = service.start_execution("await f()", ["f"])
    Worker(service).run(until_complete=True)
    assert service.get_result(execution_id) == 3
    assert [call.attempt for call in seen if call] == [1, 2, 3]
    [key] = {call.idempotency_key for call in seen if call}
    assert key == f"{execution_id}:{seen[0].call_id if seen[0] else None}"
    assert {call.execution_id for call in seen if call} == {execution_id}
    assert current_call() is None


def test_retries_end(service: OrchestratorService) -> None:
    tries = []

    @register_function("f", retry=RetryPolicy(2, initial_interval=0.01))
    def broken() -> None:
        tries.append(1)
        raise OSError("broken")

    with pytest.raises(ExecutionFailed, match="OSError: broken"):
        run(service, "await f()", "f")
    assert len(tries) == 2


def test_timeouts(service: OrchestratorService, serve: Serve) -> None:
    release = threading.Event()

    @register_function("f", timeout=0.05)
    def stuck() -> None:
        call = current_call()
        assert call is not None
        assert call.deadline is not None
        assert 0 < call.deadline - time.time() <= 0.05
        release.wait(PATIENCE_S)

    code = "try:\n    await f()\nexcept TimeoutError:\n    r = 'late'\nr"
    with serve():
        execution_id = service.start_execution(code, ["f"])
        try:
            assert service.result(execution_id, PATIENCE_S) == "late"
        finally:
            release.set()


class Endless:
    """An `async def` function that ends when it is cancelled only."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.running = 0
        self.ended = threading.Event()

    async def __call__(self) -> None:
        self.running += 1
        self.begun.release()
        try:
            await asyncio.Event().wait()
        finally:
            self.running -= 1
            self.ended.set()


def test_a_coroutine_ends_with_its_time(service: OrchestratorService) -> None:
    endless = Endless()

    @register_function("f", timeout=0.1, retry=RetryPolicy(3, initial_interval=0.01))
    async def f() -> None:
        await endless()

    code = "try:\n    await f()\nexcept TimeoutError as e:\n    r = str(e)\nr"
    assert run(service, code, "f") == "the attempt took longer than its 100 ms"
    assert endless.running == 0
    assert endless.begun.acquire(blocking=False)


def test_a_coroutine_is_cancelled_with_its_execution(
    service: OrchestratorService, serve: Serve
) -> None:
    endless = Endless()

    @register_function("f")
    async def f() -> None:
        await endless()

    with serve():
        execution_id = service.start_execution("await f()", ["f"])
        assert endless.begun.acquire(timeout=PATIENCE_S)
        service.cancel(execution_id)
        assert endless.ended.wait(PATIENCE_S)


def test_a_coroutine_is_cancelled_when_the_worker_stops_and_runs_again(
    service: OrchestratorService, serve: Serve
) -> None:
    endless = Endless()
    attempts: list[int] = []

    @register_function("f")
    async def f() -> str:
        call = current_call()
        assert call is not None
        attempts.append(call.attempt)
        if len(attempts) == 1:
            await endless()
        return "done"

    with serve(grace=0.0):
        execution_id = service.start_execution("await f()", ["f"])
        assert endless.begun.acquire(timeout=PATIENCE_S)
    assert endless.running == 0
    with serve():
        assert service.result(execution_id, PATIENCE_S) == "done"
    assert attempts == [1, 1]


def test_durable_timers(service: OrchestratorService) -> None:
    assert run(service, "import asyncio\nawait asyncio.sleep(0.05)\n'woke'") == "woke"


def test_stop_from_another_thread_is_prompt(service: OrchestratorService) -> None:
    worker = Worker(service, LocalExecutor(), poll_interval=3600)
    thread = threading.Thread(target=worker.run)
    thread.start()
    execution_id = service.start_execution("1")
    assert service.result(execution_id, PATIENCE_S) == 1
    began = time.monotonic()
    worker.stop()
    assert time.monotonic() - began < 0.5
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert time.monotonic() - began < 2


def test_a_worker_runs_again_after_it_was_stopped(service: OrchestratorService) -> None:
    worker = Worker(service)
    for _ in range(3):
        execution_id = service.start_execution("1")
        worker.run(until_complete=True)
        assert service.get_result(execution_id) == 1


def test_one_run_at_a_time(service: OrchestratorService, serve: Serve) -> None:
    with serve() as worker:
        service.result(service.start_execution("1"), PATIENCE_S)
        with pytest.raises(RuntimeError, match="running already"):
            worker.run()


def test_two_workers_share_the_work(service: OrchestratorService, serve: Serve) -> None:
    runs: list[str] = []
    register_function("f")(lambda i: runs.append(f"{i}") or i)
    with serve(), serve():
        ids = service.start_executions("await f(i)", ["f"], [{"i": i} for i in range(100)])
        assert [service.result(i, PATIENCE_S) for i in ids] == list(range(100))
    assert sorted(runs) == sorted(str(i) for i in range(100))


def test_stopping_one_of_two_workers(service: OrchestratorService, serve: Serve) -> None:
    register_function("f")(lambda: 1)
    with serve():
        with serve():
            service.result(service.start_execution("await f()", ["f"]), PATIENCE_S)
        assert service.result(service.start_execution("await f()", ["f"]), PATIENCE_S) == 1


def test_stats(service: OrchestratorService) -> None:
    register_function("f")(lambda: 1)

    @register_function("g")
    def fail() -> None:
        raise ValueError

    @register_function("h")
    async def later() -> int:
        return 1

    executor = LocalExecutor()
    assert executor.get_stats() == {"executed": 0, "failed": 0}
    code = "await f()\nawait h()\ntry:\n    await g()\nexcept ValueError:\n    pass"
    service.start_execution(code, ["f", "g", "h"])
    Worker(service, executor).run(until_complete=True)
    assert executor.get_stats() == {"executed": 3, "failed": 1}


def test_the_local_executor_alone() -> None:
    release = threading.Event()

    @register_function("add")
    def add(a: int, b: int) -> int:
        assert release.wait(PATIENCE_S)
        return a + b

    @register_function("later")
    async def later(x: int) -> int:
        return x

    executor = LocalExecutor()
    job = executor.submit_call("add", [1], {"b": 2})
    assert executor.check_job(job)["status"] in ("queued", "started")
    release.set()
    assert ended(executor, job) == {"status": "finished", "result": 3}
    assert ended(executor, executor.submit_call("later", [5])) == {
        "status": "finished",
        "result": 5,
    }
    failed = ended(executor, executor.submit_call("nowhere", []))
    assert failed["status"] == "failed"
    assert "Invalid function path" in failed["error"]
    assert executor.check_job("nobody")["status"] == "failed"
    assert executor.get_stats() == {"executed": 3, "failed": 1}


def ended(executor: LocalExecutor, job: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while (answer := executor.check_job(job))["status"] in ("queued", "started"):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return answer


def test_the_lifecycle_is_logged(
    service: OrchestratorService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "durable_monty")

    @register_function("f")
    def fail() -> None:
        raise ValueError("no")

    service.start_execution("await f()", ["f"])
    Worker(service).run(until_complete=True)
    assert "worker started (LocalExecutor)" in caplog.messages
    assert "worker stopped" in caplog.messages
    assert any("failed in attempt 1: ValueError: no" in message for message in caplog.messages)


PROGRAM = """
import signal, sys, threading
# Whoever runs the tests in the background may have it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from durable_monty import OrchestratorService, Worker, init_db, register_function

@register_function("f")
def f(i):
    with open(sys.argv[2], "a") as log:
        print(i, file=log)
    if i == 3 and sys.argv[3] == "block":
        print("blocked", flush=True)
        threading.Event().wait(60)
    return i

service = OrchestratorService(init_db(sys.argv[1]))
if not service.list():
    service.start_execution("[await f(i) for i in range(6)]", ["f"])
Worker(service, grace=0.2).run(until_complete=True)
print(service.get_result(service.list()[0]["execution_id"]))
"""


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_ends_in_the_middle_is_continued(
    tmp_path: Path, url: str, signal_number: signal.Signals
) -> None:
    script, log = tmp_path / "program.py", tmp_path / "log"
    script.write_text(textwrap.dedent(PROGRAM))
    command = [sys.executable, str(script), url, str(log)]
    with subprocess.Popen([*command, "block"], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "blocked\n"
        first.send_signal(signal_number)
        first.wait(PATIENCE_S)
    second = subprocess.run(
        [*command, "go"], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert second.stdout == "[0, 1, 2, 3, 4, 5]\n"
    # Each ran once, but the one that was cut off.
    assert log.read_text().split() == ["0", "1", "2", "3", "3", "4", "5"]


def test_exit_with_a_worker_in_a_daemon_thread(url: str) -> None:
    program = f"""
import threading
from durable_monty import OrchestratorService, Worker, init_db, register_function
register_function("f")(lambda: 1)
service = OrchestratorService(init_db({url!r}))
threading.Thread(target=Worker(service).run, daemon=True).start()
print(service.result(service.start_execution("await f()", ["f"])))
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "1\n", "")


def test_a_worker_takes_its_queues_and_stands_on_the_list(
    service: OrchestratorService, serve: Serve
) -> None:
    register_function("f")(lambda i: i + 1)
    gpu = service.start_execution(
        "await f(1)", ["f"], queue="gpu", tags=["blue", "big"], namespace="acme"
    )
    other = service.start_execution("await f(2)", ["f"])
    with serve(queues=["gpu"], concurrency=3) as worker:
        assert service.result(gpu, timeout=PATIENCE_S) == 2
        with service.engine.connect() as connection:
            listed = connection.execute(text("SELECT queues, functions, concurrency FROM workers"))
            queues, functions, concurrency = listed.one()
        assert (json.loads(queues), concurrency) == (["gpu"], 3)
        assert "f" in json.loads(functions)
        assert worker.executor.get_stats()["executed"] == 1
        with pytest.raises(Conflict, match="another worker"):
            Worker(service).run(once=True)
    with service.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM workers")) == 0
        row = connection.execute(
            text("SELECT queue, tags, namespace FROM executions WHERE id = :id"), {"id": gpu}
        ).one()
    assert (row.queue, json.loads(row.tags), row.namespace) == ("gpu", ["blue", "big"], "acme")
    assert service.get_execution(other)["status"] == "scheduled"
    # What other queues hold is no reason to wait.
    Worker(service, queues="gpu").run(until_complete=True)
    Worker(service).run(until_complete=True)
    assert service.get_result(other) == 3
    with pytest.raises(ValueError, match="at least 1"):
        Worker(service, concurrency=0)
