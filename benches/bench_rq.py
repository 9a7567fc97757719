"""Calls a second through two real rq workers: rq alone, and a workflow's calls through RQExecutor.
One JSON line each, the median of REPEATS runs that take turns.

rq forks a process for each job, with `-w rq.worker.SimpleWorker` it does not. Both are measured,
with the worker classes of durable_monty.executors.rq_worker for both peers and with rq's own.
Beside the rate stands what a call costs in CPU time, which other load on the machine changes less:
in the rq workers (their jobs' processes included), in Redis, and in this process, which enqueues
and, for durable-monty, is the worker, its engine and its database.
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
from typing import NamedTuple

import redis
import rq
from rq.serializers import JSONSerializer

from durable_monty import OrchestratorService, RQExecutor, Worker, init_db

REPEATS = int(os.environ.get("REPEATS", "3"))
CALLS = int(os.environ.get("CALLS", "500"))
DIRECTORY = Path(os.environ.get("BENCH_DIR", "target/bench"))
URL = os.environ.get("DURABLE_TEST_REDIS", "redis://localhost:6379/0")
WORKERS = 2
PATIENCE_S = 30

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
def workers(directory: Path, options: list[str]) -> Iterator[tuple[rq.Queue, list[int]]]:
    """A queue, and the processes of two rq workers that have shown that they work."""
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
        until(lambda: len(rq.Worker.all(queue=queue)) == WORKERS, processes)
        queue.enqueue_many([rq.Queue.prepare_data("bench_tasks.step", [0]) for _ in range(4)])
        until(lambda: finished(queue) >= 4, processes)
        yield queue, [process.pid for process in processes]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
        queue.delete()


def finished(queue: rq.Queue) -> int:
    """How many jobs of a queue rq has ended."""
    return int(queue.finished_job_registry.get_job_count(cleanup=False))


def until(condition: Callable[[], bool], processes: list[subprocess.Popen[bytes]]) -> None:
    """Waits for something that rq workers have to do."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > give_up or any(one.poll() is not None for one in processes):
            raise SystemExit("the rq workers don't work: is durable_monty installed for them?")
        time.sleep(0.01)


class Cost(NamedTuple):
    """Calls a second, and the CPU time of one call."""

    rate: float
    workers_ms: float
    redis_ms: float
    here_ms: float


def used(pids: list[int], connection: redis.Redis) -> tuple[float, float, float]:
    """Seconds of CPU time: of processes and those they forked, of Redis, and of this process."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    info = connection.info("cpu")
    there = info["used_cpu_sys"] + info["used_cpu_user"]
    return ticks / os.sysconf("SC_CLK_TCK"), there, time.process_time()


def alone(queue: rq.Queue, directory: Path) -> float:
    """Calls a second of rq itself: enqueued in one go, until the last has finished."""
    before = finished(queue)
    began = time.perf_counter()
    queue.enqueue_many([rq.Queue.prepare_data("bench_tasks.step", [i]) for i in range(CALLS)])
    while finished(queue) < before + CALLS:
        time.sleep(0.02)
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


def described(cost: Cost) -> dict[str, float]:
    """A cost as it is printed."""
    return {
        "calls_per_s": round(cost.rate, 1),
        "rq_workers_cpu_ms": round(cost.workers_ms, 2),
        "redis_cpu_ms": round(cost.redis_ms, 2),
        "here_cpu_ms": round(cost.here_ms, 2),
    }


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
            costs: dict[str, list[Cost]] = {peer: [] for peer in measured}
            with workers(directory, options) as (queue, pids):
                for _ in range(REPEATS):
                    for peer, measure in measured.items():
                        before = used(pids, queue.connection)
                        rate = measure(queue, directory)
                        after = used(pids, queue.connection)
                        spent = [
                            1000 * (now - then) / CALLS
                            for now, then in zip(after, before, strict=True)
                        ]
                        costs[peer].append(Cost(rate, *spent))
            for peer, found in costs.items():
                line = {"peer": peer, "workload": kind, "workers": WORKERS, "calls": CALLS}
                middle = Cost(*map(statistics.median, zip(*found, strict=True)))
                print(json.dumps({**line, **described(middle)}), flush=True)


if __name__ == "__main__":
    main()
