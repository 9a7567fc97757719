"""CeleryExecutor with a real Redis and real Celery workers."""

from __future__ import annotations

import base64
import importlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celery
import pytest
import redis
from conftest import PATIENCE_S, OwnRedis, Serve, service_url, wait_for
from queue_support import FAILURES, Crew, assert_failures, kill_tree, taken_over

from durable_monty import (
    FUNCTION_REGISTRY,
    CallFailed,
    CeleryExecutor,
    ExecutionFailed,
    OrchestratorService,
    Unavailable,
    register_function,
)
from durable_monty.executors.base import KeptOutcomes, new_request

INCLUDE = ["durable_monty.executors.celery_task"]

APP = f"""
import os, time
from celery import Celery

app = Celery("tests", broker=os.environ["REDIS"], backend=os.environ["REDIS"], include={INCLUDE})
app.conf.worker_prefetch_multiplier = 1

if "DIE" in os.environ:
    from celery.signals import task_prerun

    @task_prerun.connect
    def die(**_):
        time.sleep(0.5)  # in which Celery could acknowledge the task
        os.kill(os.getpid(), 9)
"""

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
        file.write(f"{name} {current_call().idempotency_key}\\n")
    return name

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
    while not (HERE / f"{name}.go").exists():
        time.sleep(0.01)
    return name

@register_function("die_once")
def die_once(name):
    told(name)
    if (HERE / "told").read_text().count(f"{name} ") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return name

@register_function("second_time")
def second_time(name):
    told(name)
    if len((HERE / "told").read_text().splitlines()) == 1:
        raise ValueError("not yet")
    return name

@register_function("die")
def die():
    told("die")
    os.kill(os.getpid(), signal.SIGKILL)

@register_function("slow")
def slow():
    time.sleep(600)
"""


class Farm(Crew):
    """A Redis, a queue of this test's own, and the Celery workers that it starts."""

    @property
    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def app(self, **settings: Any) -> celery.Celery:
        app = celery.Celery("tests", broker=self.url, backend=self.url, set_as_current=False)
        app.conf.update(settings)
        return app

    def executor(self, **options: Any) -> CeleryExecutor:
        return CeleryExecutor(self.app(), self.queue, **options)

    def start_worker(self, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        """Starts a worker with one process, if the options don't say otherwise."""
        command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "-Q", self.queue]
        name = f"worker-{uuid.uuid4()}@test"
        with (self.directory / "celery.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "-n", name, "-l", "INFO", *(options or ["-c", "1"])],
                env={**os.environ, "REDIS": self.url, **environment},
                cwd=self.directory,
                stdout=log,
                stderr=log,
            )
        self.workers.append(process)
        return process


@pytest.fixture
def farm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Farm]:
    (tmp_path / "celery_app.py").write_text(APP)
    (tmp_path / "celery_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    farm = Farm(service_url("DURABLE_TEST_REDIS"), tmp_path)
    sys.modules.pop("celery_tasks", None)
    importlib.import_module("celery_tasks")
    try:
        yield farm
    finally:
        farm.kill()
        sys.modules.pop("celery_tasks", None)


@pytest.fixture
def own_farm(farm: Farm, own_redis: OwnRedis) -> Farm:
    """The same with a Redis of its own."""
    farm.url = own_redis.url
    return farm


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads"])
def test_a_fan_out(farm: Farm, service: OrchestratorService, serve: Serve, pool: str) -> None:
    farm.start_worker("--pool", pool, "-c", "2")
    code = "from asyncio import gather\nawait gather(*[add(i, b=1) for i in range(40)])"
    execution_id = service.start_execution(code, ["add"])
    with serve(farm.executor()):
        assert service.result(execution_id, 2 * PATIENCE_S) == [i + 1 for i in range(40)]


def test_failures_keep_their_type(farm: Farm, service: OrchestratorService, serve: Serve) -> None:
    farm.start_worker()
    with pytest.warns(UserWarning, match="not registered"):
        execution_id = service.start_execution(FAILURES, ["fail", "unjson", "nowhere"])
    with serve(farm.executor()):
        seen = service.result(execution_id, 2 * PATIENCE_S)
    assert_failures(seen, "celery_tasks")


def test_a_failure_shows_where_it_was_raised(
    farm: Farm, service: OrchestratorService, serve: Serve
) -> None:
    farm.start_worker()
    execution_id = service.start_execution("await fail('os')", ["fail"])
    with serve(farm.executor()), pytest.raises(ExecutionFailed) as failed:
        service.result(execution_id, 2 * PATIENCE_S)
    assert isinstance(failed.value.__cause__, CallFailed)
    assert "celery_tasks.py" in (failed.value.__cause__.function_traceback or "")


def test_a_name_known_to_the_celery_worker_only(
    farm: Farm, service: OrchestratorService, serve: Serve
) -> None:
    del FUNCTION_REGISTRY["add"]
    farm.start_worker(DURABLE_FUNCTIONS="celery_tasks")
    with pytest.warns(UserWarning, match="not registered"):
        execution_id = service.start_execution("await add(1, 2)", ["add"])
    with serve(farm.executor()):
        assert service.result(execution_id, 2 * PATIENCE_S) == 3


def test_a_dotted_path_and_a_coroutine(
    farm: Farm, service: OrchestratorService, serve: Serve
) -> None:
    farm.start_worker()
    execution_id = service.start_execution("await later(5)", ["celery_tasks.later"])
    with serve(farm.executor()):
        assert service.result(execution_id, 2 * PATIENCE_S) == 5


def test_without_a_worker(farm: Farm) -> None:
    farm.start_worker()
    executor = farm.executor()
    job_id = executor.submit_call("add", [1, 2])
    assert wait_for(lambda: finished(executor.check_job(job_id)))["result"] == 3
    executor.detach()


def finished(status: Any) -> Any:
    return status["status"] == "finished" and status


def test_everything_in_redis_is_json(
    own_farm: Farm, service: OrchestratorService, serve: Serve
) -> None:
    """What waits, what runs, and what has ended, also badly. The app's own tasks are pickled."""
    farm = own_farm
    code = """
from asyncio import gather
async def quietly(call):
    try:
        return await call
    except Exception:
        return 'failed'
await gather(*[quietly(call) for call in [hold('x'), fail('os'), die_once('y'), told((1,))]])
"""
    execution_id = service.start_execution(code, ["hold", "fail", "die_once", "told"])
    executor = CeleryExecutor(farm.app(task_serializer="pickle"), farm.queue)
    with serve(executor):
        wait_for(lambda: farm.redis.llen(farm.queue) == 4)
        for message in farm.redis.lrange(farm.queue, 0, -1):
            json.loads(base64.b64decode(json.loads(message)["body"]))
        assert_json(farm.redis)
        farm.start_worker("-c", "2")
        wait_for(lambda: len(farm.told()) > 1)
        assert_json(farm.redis)
        farm.let_go("x")
        ended = service.result(execution_id, 4 * PATIENCE_S)
        assert ended == ["x", "failed", "y", (1,)]
    meta = json.loads(farm.redis.get(f"celery-task-meta-{execution_id}-0-1"))
    assert meta["status"] == "SUCCESS"
    assert_json(farm.redis)


def assert_json(connection: redis.Redis) -> None:
    for key in connection.scan_iter():
        match connection.type(key):
            case b"string":
                values = [connection.get(key)]
            case b"list":
                values = connection.lrange(key, 0, -1)
            case b"hash":
                values = connection.hvals(key)
            case _:
                continue  # Celery's names of queues
        for value in values:
            if value is not None:  # it may just have gone
                json.loads(value)


def test_a_timeout_frees_the_celery_worker(
    farm: Farm, service: OrchestratorService, serve: Serve
) -> None:
    register_function("slow", timeout=1)(FUNCTION_REGISTRY["slow"])
    farm.start_worker()
    code = """
await add(0)  # so that there is a worker before the time begins
try:
    await slow()
except TimeoutError as e:
    r = 'late'
[r, await add(1, 1)]
"""
    execution_id = service.start_execution(code, ["slow", "add"])
    with serve(farm.executor()):
        assert service.result(execution_id, 2 * PATIENCE_S) == ["late", 2]


def test_what_was_cancelled_is_not_begun(
    farm: Farm, service: OrchestratorService, serve: Serve
) -> None:
    with serve(farm.executor()):
        execution_id = service.start_execution("await told('x')", ["told"])
        wait_for(lambda: farm.redis.llen(farm.queue) == 1)
        service.cancel(execution_id)
        wait_for(lambda: farm.redis.exists(f"celery-task-meta-{execution_id}-0-1"))
        farm.start_worker()
        after = service.start_execution("await told('y')", ["told"])
        assert service.result(after, PATIENCE_S) == "y"
    assert farm.told() == [f"y {after}:0"]


def test_a_failed_execution_is_retried(
    farm: Farm, service: OrchestratorService, serve: Serve
) -> None:
    """The call is made again, though Redis still has the outcome of the same attempt."""
    farm.start_worker()
    with serve(farm.executor()):
        execution_id = service.start_execution("await second_time('y')", ["second_time"])
        assert service.wait(execution_id, 2 * PATIENCE_S)["status"] == "failed"
        service.retry(execution_id)
        assert service.result(execution_id, 2 * PATIENCE_S) == "y"
    assert farm.told() == [f"y {execution_id}:0"] * 2


def test_the_process_of_a_task_is_killed(
    farm: Farm, service: OrchestratorService, serve: Serve
) -> None:
    """It is noticed long before the task is silent for too long."""
    farm.start_worker()
    execution_id = service.start_execution("await die_once('x')", ["die_once"])
    with serve(farm.executor(lost_after=600.0)):
        assert service.result(execution_id, 2 * PATIENCE_S) == "x"
    assert farm.told() == [f"x {execution_id}:0"] * 2


def test_a_call_that_kills_every_process_fails(
    farm: Farm, service: OrchestratorService, serve: Serve
) -> None:
    farm.start_worker()
    code = "try:\n    await die()\nexcept RuntimeError as e:\n    r = str(e)\nr"
    execution_id = service.start_execution(code, ["die"])
    with serve(farm.executor()):
        assert "died" in service.result(execution_id, 2 * PATIENCE_S)
    assert farm.told() == [f"die {execution_id}:0"] * 4


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_celery_worker_is_killed(
    farm: Farm, service: OrchestratorService, serve: Serve, pool: str
) -> None:
    first = farm.start_worker("--pool", pool, "-c", "1")
    with serve(farm.executor(lost_after=2.0)):
        execution_id = service.start_execution("await hold('x')", ["hold"])
        wait_for(farm.told)
        kill_tree(first)
        farm.let_go("x")
        farm.start_worker()
        assert service.result(execution_id, 2 * PATIENCE_S) == "x"
    assert farm.told() == [f"x {execution_id}:0"] * 2


def test_a_celery_worker_is_killed_before_it_has_begun(
    own_farm: Farm, service: OrchestratorService, serve: Serve
) -> None:
    """The broker still has the task, and delivers it again: here sooner than after an hour."""
    farm = own_farm
    first = farm.start_worker("--pool", "threads", "-c", "1", DIE="1")
    with serve(farm.executor()):
        execution_id = service.start_execution("await told('x')", ["told"])
        first.wait(2 * PATIENCE_S)
        [kept] = farm.redis.hvals("unacked")
        farm.redis.rpush(farm.queue, json.dumps(json.loads(kept)[0]))
        farm.start_worker()
        assert service.result(execution_id, 2 * PATIENCE_S) == "x"
    assert farm.told() == [f"x {execution_id}:0"]


def test_what_runs_or_waits_for_long_is_left_alone(
    farm: Farm, service: OrchestratorService, serve: Serve
) -> None:
    """For longer than it takes to be lost."""
    farm.start_worker()
    with serve(farm.executor(lost_after=2.0)):
        running = service.start_execution("await hold('x')", ["hold"])
        wait_for(farm.told)
        waiting = service.start_execution("await told('y')", ["told"])
        wait_for(lambda: farm.redis.llen(farm.queue) == 1)
        shown: set[bytes | None] = set()
        key = f"celery-task-meta-{running}-0-1"
        wait_for(lambda: shown.add(farm.redis.get(key)) or len(shown) > 12, "signs of life")
        assert farm.redis.llen(farm.queue) == 1, "neither was submitted again"
        farm.let_go("x")
        assert service.result(running, PATIENCE_S) == "x"
        assert service.result(waiting, PATIENCE_S) == "y"
    assert farm.told() == [f"x {running}:0", f"y {waiting}:0"]


def test_what_is_delivered_again_is_not_run_again(
    farm: Farm, service: OrchestratorService, serve: Serve
) -> None:
    """While it runs, and when it has ended: what Redis does with what takes an hour."""
    executor = farm.executor()
    with serve(executor):
        execution_id = service.start_execution("await hold('x')", ["hold"])
        wait_for(lambda: farm.redis.llen(farm.queue) == 1)
        [message] = farm.redis.lrange(farm.queue, 0, -1)
        farm.start_worker("-c", "2")
        wait_for(farm.told)
        deliver_again(farm, message)
        farm.let_go("x")
        assert service.result(execution_id, PATIENCE_S) == "x"
        deliver_again(farm, message)
    assert farm.told() == [f"x {execution_id}:0"]


def deliver_again(farm: Farm, message: bytes) -> None:
    """Delivers a message, and waits until a process is done with it: it has said so in the log."""
    log = farm.directory / "celery.log"
    before = log.read_text().count(" ignored")
    farm.redis.lpush(farm.queue, message)
    wait_for(lambda: log.read_text().count(" ignored") > before, log.read_text())


DURABLE = """
import sys
from celery import Celery
from durable_monty import CeleryExecutor, OrchestratorService, Worker, init_db
url, queue, redis_url = sys.argv[1:]
executor = CeleryExecutor(Celery("tests", broker=redis_url, backend=redis_url), queue)
Worker(OrchestratorService(init_db(url)), executor).run(until_complete=True)
"""


def test_another_worker_takes_over(
    farm: Farm, url: str, service: OrchestratorService, serve: Serve
) -> None:
    """It finds what waits, what runs, and what has ended meanwhile."""
    code = "from asyncio import gather\nawait gather(told('a'), hold('x'), told('b'), told('c'))"
    execution_id = service.start_execution(code, ["told", "hold"])
    command = [sys.executable, "-c", DURABLE, url, farm.queue, farm.url]
    with subprocess.Popen(command) as first:
        try:
            farm.start_worker(DURABLE_FUNCTIONS="celery_tasks")
            wait_for(lambda: len(farm.told()) == 2)
        finally:
            first.kill()
    with serve(farm.executor()):
        wait_for(lambda: taken_over(service))
        farm.let_go("x")
        assert service.result(execution_id, 2 * PATIENCE_S) == ["a", "x", "b", "c"]
        # One process takes all in their order.
        after = service.start_execution("await add(1, 2)", ["add"])
        assert service.result(after, PATIENCE_S) == 3
    assert sorted(line[0] for line in farm.told()) == ["a", "b", "c", "x"], "each ran once"
    assert " ignored" not in (farm.directory / "celery.log").read_text(), "each was sent once"


def test_redis_is_flushed_in_the_middle(
    own_farm: Farm, service: OrchestratorService, serve: Serve
) -> None:
    """What waits is submitted again, what runs is not."""
    farm = own_farm
    farm.start_worker()
    code = """
from asyncio import gather
await gather(hold('x'), *[told(f'b{i}') for i in range(20)])
"""
    with serve(farm.executor(lost_after=4.0)):
        execution_id = service.start_execution(code, ["told", "hold"])
        wait_for(farm.told)
        wait_for(lambda: len(farm.redis.keys("*-queued")) == 21)
        farm.redis.flushall()
        wait_for(lambda: farm.redis.llen(farm.queue) >= 19, "submitted again")
        farm.let_go("x")
        names = ["x", *[f"b{i}" for i in range(20)]]
        assert service.result(execution_id, 2 * PATIENCE_S) == names
    keys = [f"{name} {execution_id}:{number}" for number, name in enumerate(names)]
    assert sorted(farm.told()) == sorted(keys), "each ran once"


def test_redis_is_restarted_in_the_middle(
    own_farm: Farm, own_redis: OwnRedis, service: OrchestratorService, serve: Serve
) -> None:
    farm = own_farm
    farm.start_worker()
    with serve(farm.executor(lost_after=2.0)):
        execution_id = service.start_execution("await hold('x')", ["hold"])
        wait_for(farm.told)
        own_redis.restart()
        farm.let_go("x")
        assert service.result(execution_id, 4 * PATIENCE_S) == "x"
        after = service.start_execution("await add(1, 2)", ["add"])
        assert service.result(after, 2 * PATIENCE_S) == 3


NOWHERE = "redis://127.0.0.1:1/0"


@pytest.mark.parametrize("away", ["broker_url", "result_backend"])
def test_celery_is_away(farm: Farm, away: str) -> None:
    executor = CeleryExecutor(farm.app(**{away: NOWHERE}), farm.queue)
    executor.attach(KeptOutcomes())
    with pytest.raises(Unavailable):
        executor.submit_calls([new_request("add", [1, 2], None)])
    executor.detach()


def test_calls_wait_for_celery(farm: Farm, service: OrchestratorService, serve: Serve) -> None:
    executor = CeleryExecutor(farm.app(broker_url=NOWHERE), farm.queue)
    with serve(executor):
        execution_id = service.start_execution("await add(1, 2)", ["add"])
        with pytest.raises(TimeoutError):
            service.result(execution_id, 0.5)
        executor.app = farm.app()
        farm.start_worker()
        assert service.result(execution_id, 2 * PATIENCE_S) == 3


def test_a_celery_worker_that_does_not_know_the_task(
    farm: Farm, service: OrchestratorService, serve: Serve
) -> None:
    (farm.directory / "celery_app.py").write_text(APP.replace(str(INCLUDE), "[]"))
    farm.start_worker()
    code = "try:\n    await add(1, 2)\nexcept RuntimeError as e:\n    r = str(e)\nr"
    execution_id = service.start_execution(code, ["add"])
    with serve(farm.executor()):
        assert INCLUDE[0] in service.result(execution_id, 2 * PATIENCE_S)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"result_backend": None}, "result_backend"),
        ({"result_backend": "rpc://"}, "result_backend"),
        ({"result_serializer": "pickle"}, "result_serializer"),
        ({"accept_content": ["pickle"]}, "json"),
    ],
)
def test_apps_that_can_not_work_are_refused(settings: dict[str, Any], said: str) -> None:
    app = celery.Celery("tests", broker=NOWHERE, set_as_current=False)
    app.conf.update({"result_backend": NOWHERE, **settings})
    with pytest.raises(ValueError, match=said):
        CeleryExecutor(app)


def test_other_result_backends(farm: Farm, service: OrchestratorService, serve: Serve) -> None:
    """One without a way to ask for many results at once."""
    database = f"db+sqlite:///{farm.directory}/results.db"
    backend = APP.replace('backend=os.environ["REDIS"]', f'backend="{database}"')
    (farm.directory / "celery_app.py").write_text(backend)
    farm.start_worker()
    code = "from asyncio import gather\nawait gather(*[add(i, b=1) for i in range(5)])"
    execution_id = service.start_execution(code, ["add"])
    executor = CeleryExecutor(farm.app(result_backend=database), farm.queue)
    with serve(executor):
        assert service.result(execution_id, 2 * PATIENCE_S) == [1, 2, 3, 4, 5]


def test_celery_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "durable_monty.executors.celery"
    monkeypatch.delitem(sys.modules, module, raising=False)
    with monkeypatch.context() as old:
        old.setattr(celery, "VERSION", (5, 3, 6))
        with pytest.raises(ImportError, match=r"durable-monty\[celery\]"):
            importlib.import_module(module)
    monkeypatch.setitem(sys.modules, "celery", None)
    with pytest.raises(ImportError, match=r"durable-monty\[celery\]"):
        importlib.import_module(module)
