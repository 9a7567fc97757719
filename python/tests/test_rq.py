"""RQExecutor with a real Redis and real `rq worker` processes."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import PATIENCE_S, OwnRedis, Serve, service_url, wait_for
from queue_support import FAILURES, Crew, assert_failures, kill_tree, taken_over

from durable_monty import OrchestratorService, RQExecutor, Worker
from durable_monty.executors.rq_job import alive_key, outcome_key

TASKS = """
import os, signal, time
from pathlib import Path
from durable_monty import current_call, register_function

HERE = Path(__file__).parent

@register_function("add")
def add(a, b=0):
    return a + b

@register_function("told")
def told(name):
    # One line for each time that it runs.
    with open(HERE / "told", "a") as file:
        file.write(f"{name}\\n")
    return name

@register_function("context")
def context():
    call = current_call()
    return [call.idempotency_key, call.attempt, call.deadline is not None]

class NoPrice(ValueError):
    pass

@register_function("fail")
def fail(kind):
    raise {"value": ValueError, "price": NoPrice, "os": OSError}[kind]("no " + kind)

@register_function("unjson")
def unjson():
    return object()

async def later(x):
    return x

@register_function("hold")
def hold(name):
    told(name)
    (HERE / f"{name}.pid").write_text(str(os.getppid()))
    while not (HERE / f"{name}.go").exists():
        time.sleep(0.01)
    return name

@register_function("die_once")
def die_once(name):
    told(name)
    if (HERE / "told").read_text().splitlines().count(name) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return name

@register_function("second_time")
def second_time(name):
    told(name)
    if (HERE / "told").read_text().splitlines().count(name) == 1:
        raise ValueError("not yet")
    return name

@register_function("die")
def die():
    told("die")
    os.kill(os.getpid(), signal.SIGKILL)

@register_function("slow")
def slow():
    time.sleep(PATIENCE_S := 60)
"""

GATHER = "from asyncio import gather\nawait gather(*[{call} for i in range(n)])"


class Rq(Crew):
    """A Redis, a queue of this test's own, and the rq workers that it starts."""

    @property
    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def executor(self, **options: Any) -> RQExecutor:
        return RQExecutor(redis.Redis.from_url(self.url), self.queue, **options)

    def start_worker(self, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "rq.cli", "worker", *(options or ("-S", "json"))]
        with (self.directory / "rq.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "--url", self.url, "--quiet", self.queue],
                env={**os.environ, "PYTHONPATH": str(self.directory), **environment},
                cwd=self.directory,
                stderr=log,
            )
        self.workers.append(process)
        return process


@contextlib.contextmanager
def working(url: str, directory: Path) -> Iterator[Rq]:
    (directory / "rq_tasks.py").write_text(TASKS)
    rq = Rq(url, directory)
    try:
        yield rq
    finally:
        rq.kill()


@pytest.fixture
def rq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rq]:
    monkeypatch.syspath_prepend(str(tmp_path))
    with working(service_url("DURABLE_TEST_REDIS"), tmp_path) as rq:
        sys.modules.pop("rq_tasks", None)
        importlib.import_module("rq_tasks")
        yield rq
        sys.modules.pop("rq_tasks", None)


@pytest.fixture
def own_rq(rq: Rq, own_redis: OwnRedis) -> Rq:
    """The same with a Redis of its own, which a test may flush and restart."""
    rq.url = own_redis.url
    return rq


def test_a_fan_out(rq: Rq, service: OrchestratorService) -> None:
    rq.start_worker()
    rq.start_worker()
    code = GATHER.format(call="add(i, b=1)")
    execution_id = service.start_execution(code, ["add"], {"n": 40})
    executor = rq.executor()
    Worker(service, executor).run(until_complete=True)
    assert service.get_result(execution_id) == [i + 1 for i in range(40)]
    wait_for(lambda: executor.get_stats()["finished"] == 40)
    assert executor.get_stats() == {"queued": 0, "failed": 0, "finished": 40}


def test_jobs_are_json(rq: Rq, service: OrchestratorService) -> None:
    import zlib

    execution_id = service.start_execution("await add((1, 2), b=(3,))", ["add"])
    executor = rq.executor()
    Worker(service, executor).run(once=True)
    [call] = service.get_pending_calls(execution_id)
    assert call["status"] == "submitted"
    job_id = f"{execution_id}-{call['call_id']}-1"
    data = json.loads(zlib.decompress(rq.redis.hget(f"rq:job:{job_id}", "data")))
    assert data[0] == "durable_monty.executors.rq_job.run"
    assert executor.check_job(job_id) == {"status": "queued"}
    with service.engine.connect() as connection:
        noted = connection.exec_driver_sql("SELECT job_id FROM execution_steps").scalar()
    assert noted == job_id
    rq.start_worker()
    Worker(service, executor).run(until_complete=True)
    assert service.get_result(execution_id) == (1, 2, 3)


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        (("-S", "json", "-w", "rq.worker.SimpleWorker"), {}),
        (("-w", "durable_monty.executors.rq_worker.Worker"), {"DURABLE_FUNCTIONS": "rq_tasks"}),
        (("-w", "durable_monty.executors.rq_worker.SimpleWorker"), {}),
        (("-P", "."), {"RQ_WORKER_CLASS": "durable_monty.executors.rq_worker.Worker"}),
        (("-P", "."), {}),
    ],
)
def test_ways_to_start_rq_workers(
    rq: Rq, service: OrchestratorService, options: tuple[str, ...], environment: dict[str, str]
) -> None:
    """The last one expects pickle: it is told by us how to read the job."""
    rq.start_worker(*options, **environment)
    code = """
try:
    await fail('value')
except ValueError as e:
    r = str(e)
(r, await add(1, 2))
"""
    execution_id = service.start_execution(code, ["add", "fail"])
    Worker(service, rq.executor()).run(until_complete=True)
    assert service.get_result(execution_id) == ("no value", 3)


def test_failures_keep_their_type(rq: Rq, service: OrchestratorService) -> None:
    rq.start_worker()
    with pytest.warns(UserWarning, match="not registered"):
        execution_id = service.start_execution(FAILURES, ["fail", "unjson", "nowhere"])
    executor = rq.executor()
    Worker(service, executor).run(until_complete=True)
    seen = service.get_result(execution_id)
    assert_failures(seen, "rq_tasks")
    wait_for(lambda: executor.get_stats()["failed"] == 5)


def test_the_function_knows_its_call(rq: Rq, service: OrchestratorService) -> None:
    from durable_monty import FUNCTION_REGISTRY, register_function

    register_function("context", timeout=60)(FUNCTION_REGISTRY["context"])
    rq.start_worker()
    execution_id = service.start_execution("await context()", ["context"])
    Worker(service, rq.executor()).run(until_complete=True)
    assert service.get_result(execution_id) == [f"{execution_id}:0", 1, True]


def test_a_dotted_path_and_a_coroutine(rq: Rq, service: OrchestratorService) -> None:
    rq.start_worker()
    execution_id = service.start_execution("await later(5)", ["rq_tasks.later"])
    Worker(service, rq.executor()).run(until_complete=True)
    assert service.get_result(execution_id) == 5


def test_without_a_worker(rq: Rq) -> None:
    executor = rq.executor()
    done, failed = executor.submit_call("add", [1, 2]), executor.submit_call("fail", ["value"])
    assert executor.check_job(done) == {"status": "queued"}
    assert executor.get_stats()["queued"] == 2
    rq.start_worker()
    wait_for(lambda: executor.check_job(done)["status"] == "finished")
    assert executor.check_job(done) == {"status": "finished", "result": 3}
    wait_for(lambda: executor.check_job(failed)["status"] == "failed")
    assert executor.check_job(failed) == {"status": "failed", "error": "ValueError: no value"}
    assert executor.check_job("x")["error"] == "LookupError: Redis has no job x"


def test_a_timeout_stops_the_function(rq: Rq, service: OrchestratorService) -> None:
    from durable_monty import FUNCTION_REGISTRY, register_function

    register_function("slow", timeout=1)(FUNCTION_REGISTRY["slow"])
    rq.start_worker()
    code = "try:\n    await slow()\nexcept TimeoutError as e:\n    r = 'late'\n[r, await add(1, 1)]"
    execution_id = service.start_execution(code, ["slow", "add"])
    Worker(service, rq.executor()).run(until_complete=True)
    assert service.get_result(execution_id) == ["late", 2], "the rq worker is free again"


def test_cancelling_takes_jobs_out_of_the_queue(
    rq: Rq, service: OrchestratorService, serve: Serve
) -> None:
    executor = rq.executor()
    with serve(executor):
        execution_id = service.start_execution("await add(1, 2)", ["add"])
        wait_for(lambda: executor.get_stats()["queued"] == 1)
        service.cancel(execution_id)
        wait_for(lambda: executor.get_stats()["queued"] == 0)


def test_pausing_leaves_jobs_alone(rq: Rq, service: OrchestratorService, serve: Serve) -> None:
    rq.start_worker()
    with serve(rq.executor()):
        execution_id = service.start_execution("await hold('x')", ["hold"])
        wait_for((rq.directory / "x.pid").exists)
        service.pause(execution_id)
        wait_for(lambda: service.get_execution(execution_id)["status"] == "paused")
        service.resume(execution_id)
        rq.let_go("x")
        assert service.result(execution_id, PATIENCE_S) == "x"
    assert rq.told() == ["x"]


def test_a_failed_execution_is_retried(rq: Rq, service: OrchestratorService, serve: Serve) -> None:
    """The call is made again, though Redis still has the outcome of the same attempt."""
    rq.start_worker()
    rq.start_worker()
    with serve(rq.executor()):
        code = "from asyncio import gather\nawait gather(hold('x'), second_time('y'))"
        execution_id = service.start_execution(code, ["hold", "second_time"])
        assert service.wait(execution_id, 4 * PATIENCE_S)["status"] == "failed"
        service.retry(execution_id)
        rq.let_go("x")
        assert service.result(execution_id, 4 * PATIENCE_S) == ["x", "y"]
    assert rq.told().count("y") == 2


def test_cancelling_stops_a_job_that_runs(
    rq: Rq, service: OrchestratorService, serve: Serve
) -> None:
    rq.start_worker()
    with serve(rq.executor()):
        execution_id = service.start_execution("await hold('x')", ["hold"])
        wait_for((rq.directory / "x.pid").exists)
        service.cancel(execution_id)
        # Its process is stopped, so that the only rq worker is free again.
        after = service.start_execution("await add(1, 2)", ["add"])
        assert service.result(after, PATIENCE_S) == 3


def test_the_process_that_runs_a_job_is_killed(rq: Rq, service: OrchestratorService) -> None:
    rq.start_worker()
    execution_id = service.start_execution("await die_once('x')", ["die_once"])
    Worker(service, rq.executor()).run(until_complete=True)
    assert service.get_result(execution_id) == "x"
    assert rq.told() == ["x", "x"]


def test_a_call_that_kills_every_process_fails(rq: Rq, service: OrchestratorService) -> None:
    rq.start_worker()
    code = "try:\n    await die()\nexcept RuntimeError as e:\n    r = str(e)\nr"
    execution_id = service.start_execution(code, ["die"])
    Worker(service, rq.executor()).run(until_complete=True)
    assert "signal 9" in service.get_result(execution_id)
    assert rq.told() == ["die"] * 4


def test_an_rq_worker_is_killed_in_mid_job(
    rq: Rq, service: OrchestratorService, serve: Serve
) -> None:
    """Both the worker and the process that it forked for the job."""
    first = rq.start_worker()
    with serve(rq.executor(lost_after=1.0)):
        execution_id = service.start_execution("await hold('x')", ["hold"])
        wait_for((rq.directory / "x.pid").exists)
        horse = rq.redis.hget(f"rq:worker:{worker_name(rq)}", "current_job")
        assert horse is not None
        kill_tree(first)
        rq.let_go("x")
        rq.start_worker()
        assert service.result(execution_id, PATIENCE_S) == "x"
    assert rq.told() == ["x", "x"]


@pytest.mark.parametrize("options", [(), ("-w", "durable_monty.executors.rq_worker.SimpleWorker")])
def test_a_killed_rq_worker_is_noticed_before_its_jobs_are_silent_for_long(
    rq: Rq, service: OrchestratorService, serve: Serve, options: tuple[str, ...]
) -> None:
    first = rq.start_worker(*options)
    with serve(rq.executor(lost_after=12.0)):
        execution_id = service.start_execution("await hold('x')", ["hold"])
        wait_for((rq.directory / "x.pid").exists)
        kill_tree(first)
        killed = time.monotonic()
        rq.let_go("x")
        rq.start_worker()
        assert service.result(execution_id, PATIENCE_S) == "x"
    assert time.monotonic() - killed < 12, "a third of it, and a moment"


def test_a_job_survives_the_rq_worker_that_forked_it(
    rq: Rq, service: OrchestratorService, serve: Serve
) -> None:
    """It shows its life, so it is not made again."""
    first = rq.start_worker()
    with serve(rq.executor(lost_after=1.0)):
        execution_id = service.start_execution("await hold('x')", ["hold"])
        wait_for((rq.directory / "x.pid").exists)
        first.kill()
        first.wait()
        key = alive_key(f"{execution_id}-0-1")
        shown: set[bytes | None] = set()
        wait_for(lambda: shown.add(rq.redis.get(key)) or len(shown) > 10, "signs of life")
        rq.let_go("x")
        assert service.result(execution_id, PATIENCE_S) == "x"
    assert rq.told() == ["x"]


def test_a_worker_that_expects_pickle_is_told_how_to_read(
    rq: Rq, service: OrchestratorService
) -> None:
    """The call counts as what it came to, though rq counts the job as failed."""
    rq.start_worker("-P", ".")
    execution_id = service.start_execution("await add(1, 2)", ["add"])
    executor = rq.executor()
    Worker(service, executor).run(until_complete=True)
    assert service.get_result(execution_id) == 3
    wait_for(lambda: executor.get_stats()["failed"] == 1)
    assert "start it with `rq worker -S json" in (rq.directory / "rq.log").read_text()


def worker_name(rq: Rq) -> str:
    [key] = rq.redis.smembers(f"rq:workers:{rq.queue}")
    return str(key.decode().removeprefix("rq:worker:"))


DURABLE = """
import sys, redis
from durable_monty import OrchestratorService, RQExecutor, Worker, init_db
url, queue, redis_url = sys.argv[1:]
service = OrchestratorService(init_db(url))
Worker(service, RQExecutor(redis.Redis.from_url(redis_url), queue)).run(until_complete=True)
"""


def test_the_durable_worker_is_killed(rq: Rq, tmp_path: Path) -> None:
    """Jobs that finish while nobody listens are not run again. The rq worker is told itself where
    the functions are."""
    from durable_monty import init_db

    url = f"sqlite:///{tmp_path}/durable.db"
    service = OrchestratorService(init_db(url))
    code = """
from asyncio import gather
await gather(*[told(f'a{i}') for i in range(20)], hold('x'), *[told(f'b{i}') for i in range(20)])
"""
    execution_id = service.start_execution(code, ["told", "hold"])
    command = [sys.executable, "-c", DURABLE, url, rq.queue, rq.url]
    with subprocess.Popen(command) as first:
        rq.start_worker(DURABLE_FUNCTIONS="rq_tasks")
        try:
            wait_for((rq.directory / "x.pid").exists)
        finally:
            first.kill()
    rq.let_go("x")
    last = f"{execution_id}-40-1"
    wait_for(lambda: rq.redis.exists(outcome_key(last)))
    subprocess.run(command, check=True, timeout=PATIENCE_S)
    expected = [f"a{i}" for i in range(20)], ["x"], [f"b{i}" for i in range(20)]
    assert service.get_result(execution_id) == [name for names in expected for name in names]
    assert sorted(rq.told()) == sorted(service.get_result(execution_id)), "each ran once"


def test_a_worker_that_lost_its_lease_changes_nothing(rq: Rq, tmp_path: Path) -> None:
    """Stopped past its lease, and continued when another worker waits for the same job."""
    from durable_monty import init_db

    url = f"sqlite:///{tmp_path}/durable.db"
    service = OrchestratorService(init_db(url))
    execution_id = service.start_execution("await hold('x')", ["hold"])
    command = [sys.executable, "-c", DURABLE, url, rq.queue, rq.url]
    with subprocess.Popen(command) as first:
        try:
            rq.start_worker(DURABLE_FUNCTIONS="rq_tasks")
            wait_for((rq.directory / "x.pid").exists)
            first.send_signal(signal.SIGSTOP)
            second = Worker(service, rq.executor())
            thread = threading.Thread(target=second.run, kwargs={"until_complete": True})
            thread.start()
            try:
                wait_for(lambda: taken_over(service))
                first.send_signal(signal.SIGCONT)
                rq.let_go("x")
                assert service.result(execution_id, PATIENCE_S) == "x"
            finally:
                second.stop()
                thread.join()
        finally:
            first.kill()
    assert rq.told() == ["x"]


def test_redis_is_flushed_in_the_middle(
    own_rq: Rq, service: OrchestratorService, serve: Serve
) -> None:
    rq = own_rq
    rq.start_worker("-w", "rq.worker.SimpleWorker", "-S", "json")
    code = """
from asyncio import gather
first = await gather(*[told(f'a{i}') for i in range(100)])
[first, await gather(hold('x'), *[told(f'b{i}') for i in range(100)])]
"""
    with serve(rq.executor(lost_after=1.0)):
        execution_id = service.start_execution(code, ["told", "hold"])
        wait_for((rq.directory / "x.pid").exists)
        wait_for(lambda: rq.redis.llen(f"rq:queue:{rq.queue}") == 100)
        rq.redis.flushall()
        rq.let_go("x")
        result = service.result(execution_id, 4 * PATIENCE_S)
    assert result == [[f"a{i}" for i in range(100)], ["x", *[f"b{i}" for i in range(100)]]]
    assert len([name for name in rq.told() if name.startswith("a")]) == 100


def test_redis_is_restarted_in_the_middle(
    own_rq: Rq, own_redis: OwnRedis, service: OrchestratorService, serve: Serve
) -> None:
    rq = own_rq
    rq.start_worker("-w", "rq.worker.SimpleWorker", "-S", "json")
    with serve(rq.executor(lost_after=1.0)):
        code = GATHER.format(call="told(f'{i}')").replace("gather(*", "gather(hold('x'), *")
        execution_id = service.start_execution(code, ["told", "hold"], {"n": 50})
        wait_for((rq.directory / "x.pid").exists)
        own_redis.restart()
        rq.let_go("x")
        after = service.start_execution("await add(1, 2)", ["add"])
        assert service.result(execution_id, 4 * PATIENCE_S) == ["x", *map(str, range(50))]
        assert service.result(after, PATIENCE_S) == 3


def test_redis_is_away_at_first(
    own_rq: Rq, service: OrchestratorService, serve: Serve, tmp_path: Path
) -> None:
    """Calls wait for Redis, they don't fail."""
    unused = redis.Redis.from_url("redis://127.0.0.1:1/0")
    executor = RQExecutor(unused, own_rq.queue)
    with serve(executor):
        execution_id = service.start_execution("await add(1, 2)", ["add"])
        with pytest.raises(TimeoutError):
            service.result(execution_id, 0.5)
        executor.redis.connection_pool = own_rq.redis.connection_pool
        own_rq.start_worker()
        assert service.result(execution_id, PATIENCE_S) == 3


def test_a_connection_that_decodes_is_refused(rq: Rq) -> None:
    with pytest.raises(ValueError, match="decode_responses"):
        RQExecutor(redis.Redis.from_url(rq.url, decode_responses=True))
