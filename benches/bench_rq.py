"""Calls a second through two real rq workers: rq alone, and a workflow's calls through RQExecutor.
One JSON line each, the median of REPEATS runs that take turns.

rq forks a process for each job, with `-w rq.worker.SimpleWorker` it does not. Both are measured,
with the worker classes of durable_monty.executors.rq_worker for both peers and with rq's own.
Needs a Redis: DURABLE_TEST_REDIS, or `scripts/services run .venv/bin/python benches/bench_rq.py`.

Environment: REPEATS=3  CALLS=500  BENCH_DIR=target/bench
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import redis
import rq
from rq.serializers import JSONSerializer

from durable_monty import OrchestratorService, RQExecutor, Worker, init_db

REPEATS = int(os.environ.get("REPEATS", "3"))
CALLS = int(os.environ.get("CALLS", "500"))
DIRECTORY = Path(os.environ.get("BENCH_DIR", "target/bench"))
URL = os.environ.get("DURABLE_TEST_REDIS", "redis://localhost:6379/0")
WORKERS = 2

OURS = "durable_monty.executors.rq_worker"
KINDS = {
    "rq worker -S json": [],
    "rq worker -w Worker": ["-w", f"{OURS}.Worker"],
    "rq worker -S json -w rq.SimpleWorker": ["-w", "rq.worker.SimpleWorker"],
    "rq worker -w SimpleWorker": ["-w", f"{OURS}.SimpleWorker"],
}

TASKS = """
from durable_monty import register_function

@register_function("step")
def step(i):
    return i + 1
"""

WIDE = "from asyncio import gather\nsum(await gather(*[step(i) for i in range(n)]))"


@contextlib.contextmanager
def workers(directory: Path, options: list[str]) -> Iterator[rq.Queue]:
    """A queue, and two rq workers that have shown that they work."""
    name = f"bench-{uuid.uuid4()}"
    queue = rq.Queue(name, connection=redis.Redis.from_url(URL), serializer=JSONSerializer)
    command = [sys.executable, "-m", "rq.cli", "worker", "-S", "json", *options]
    environment = {**os.environ, "PYTHONPATH": str(directory)}
    environment["DURABLE_FUNCTIONS"] = "bench_tasks"
    processes = [
        subprocess.Popen([*command, "--url", URL, "--quiet", name], env=environment)
        for _ in range(WORKERS)
    ]
    try:
        while len(rq.Worker.all(queue=queue)) < WORKERS:
            time.sleep(0.01)
        queue.enqueue_many([rq.Queue.prepare_data("bench_tasks.step", [0]) for _ in range(4)])
        while queue.finished_job_registry.get_job_count(cleanup=False) < 4:
            time.sleep(0.01)
        yield queue
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
        queue.delete()


def alone(queue: rq.Queue, directory: Path) -> float:
    """Calls a second of rq itself: enqueued in one go, until the last has finished."""
    before = queue.finished_job_registry.get_job_count(cleanup=False)
    began = time.perf_counter()
    queue.enqueue_many([rq.Queue.prepare_data("bench_tasks.step", [i]) for i in range(CALLS)])
    while queue.finished_job_registry.get_job_count(cleanup=False) < before + CALLS:
        time.sleep(0.005)
    return CALLS / (time.perf_counter() - began)


def through_us(queue: rq.Queue, directory: Path) -> float:
    """Calls a second of a workflow that makes all of them at once, until it has its result."""
    service = OrchestratorService(init_db(f"sqlite:///{directory}/{uuid.uuid4()}.db"))
    worker = Worker(service, RQExecutor(queue.connection, queue.name))
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        service.result(service.start_execution(WIDE, ["step"], {"n": 1}), 60)
        began = time.perf_counter()
        execution_id = service.start_execution(WIDE, ["step"], {"n": CALLS})
        assert service.result(execution_id, 120) == CALLS * (CALLS + 1) // 2
        return CALLS / (time.perf_counter() - began)
    finally:
        worker.stop()
        thread.join()


def main() -> None:
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    measured: dict[str, Callable[[rq.Queue, Path], float]] = {
        "rq alone": alone,
        "durable-monty RQExecutor": through_us,
    }
    with tempfile.TemporaryDirectory(dir=DIRECTORY.resolve()) as name:
        directory = Path(name)
        (directory / "bench_tasks.py").write_text(TASKS)
        sys.path.insert(0, name)
        __import__("bench_tasks")
        for kind, options in KINDS.items():
            rates: dict[str, list[float]] = {peer: [] for peer in measured}
            with workers(directory, options) as queue:
                for _ in range(REPEATS):
                    for peer, measure in measured.items():
                        rates[peer].append(measure(queue, directory))
            for peer, found in rates.items():
                line = {"peer": peer, "workload": kind, "workers": WORKERS, "calls": CALLS}
                print(json.dumps({**line, "calls_per_s": round(statistics.median(found), 1)}))


if __name__ == "__main__":
    main()
