"""The workloads W1 to W5 and W7 through the Python API: one JSON line each, in the format of the
Rust benches.

W1: one workflow, 1,000 steps in a row. W2: 1,000 workflows, each 3 parallel steps and then 1.
W3: one workflow, 1,000 parallel steps. W4: start to result of a one-step workflow.
W5: 10,000 suspended workflows. W7: 1,000 step workflows, each with the two agents of
examples/agents_app, one after the other. SQLite with synchronous=FULL, interpreter in worker
processes.

Environment: ONLY=W1,W4  REPEATS=3  SCALE=1  BENCH_DIR=target/bench
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from durable_monty import (
    LocalExecutor,
    OrchestratorService,
    Step,
    StepWorkflow,
    Worker,
    init_db,
    register_agent,
    register_function,
)

SCALE = float(os.environ.get("SCALE", "1"))
REPEATS = int(os.environ.get("REPEATS", "3"))
ONLY = set(filter(None, os.environ.get("ONLY", "").split(",")))
DIRECTORY = Path(os.environ.get("BENCH_DIR", "target/bench"))
PEER = "durable-monty python process"

SEQUENCE = """
async def main():
    s = 0
    for i in range(n):
        s += await step(i)
    return s
await main()
"""
FAN = """
import asyncio
async def main():
    rs = await asyncio.gather(step(0), step(1), step(2))
    return await step(rs[0])
await main()
"""
WIDE = """
import asyncio
async def main():
    rs = await asyncio.gather(*[step(i) for i in range(n)])
    return sum(rs)
await main()
"""
ONE = "await step(1)"
SUSPENDED = """
import asyncio
await asyncio.sleep(86400)
await step(1)
"""
TEXT = (
    "Durable workflows keep their state in a database. When the process that runs one is killed, "
    "another goes on at the step it was in. Questions go to ada@example.org, or to "
    "https://example.org/docs. The next release is planned for 2026-12-24."
)
GIVEN = {"text": "{{ inputs.text }}"}
AGENTS = StepWorkflow(
    "summarize_and_extract",
    [Step("summarize", "summarize", GIVEN), Step("extract_entities", "entity", GIVEN)],
)

register_agent("summarize", "durable_monty.agents.SummarizeAgent")
register_agent("entity", "durable_monty.agents.EntityAgent")


@register_function("step")
def step(i: int) -> int:
    return i + 1


def scaled(n: int) -> int:
    return max(1, int(n * SCALE))


def emit(workload: str, **fields: object) -> None:
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in fields.items()}
    print(json.dumps({"peer": PEER, "workload": workload, **rounded}), flush=True)


@contextmanager
def running() -> Iterator[tuple[OrchestratorService, Path]]:
    """A service on a database of its own, with a worker that runs beside it."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=DIRECTORY.resolve()) as directory:
        service = OrchestratorService(init_db(f"sqlite:///{directory}/bench.db"))
        worker = Worker(service, LocalExecutor())
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            # Workers start, pages are mapped: that is not what is measured.
            assert result(service, service.start_execution(ONE, ["step"])) == 2
            yield service, Path(directory)
        finally:
            worker.stop()
            thread.join()


def result(service: OrchestratorService, execution_id: str) -> Any:
    return service.result(execution_id, 600)


def timed(run: Callable[[OrchestratorService], None]) -> list[float]:
    seconds = []
    for _ in range(REPEATS):
        with running() as (service, _):
            begun = time.perf_counter()
            run(service)
            seconds.append(time.perf_counter() - begun)
    return seconds


def one_with_n(code: str, n: int) -> Callable[[OrchestratorService], None]:
    def run(service: OrchestratorService) -> None:
        execution_id = service.start_execution(code, ["step"], inputs={"n": n})
        assert result(service, execution_id) == n * (n + 1) // 2

    return run


def sequence() -> None:
    n = scaled(1000)
    runs = timed(one_with_n(SEQUENCE, n))
    s = statistics.median(runs)
    emit("W1", n=n, seconds=s, steps_per_s=n / s, step_ms=1e3 * s / n, runs=runs)


def fan() -> None:
    n = scaled(1000)

    def run(service: OrchestratorService) -> None:
        for execution_id in service.start_executions(FAN, ["step"], [{}] * n):
            assert result(service, execution_id) == 2

    runs = timed(run)
    s = statistics.median(runs)
    emit("W2", n=n, seconds=s, workflows_per_s=n / s, steps_per_s=4 * n / s, runs=runs)


def wide() -> None:
    n = scaled(1000)
    runs = timed(one_with_n(WIDE, n))
    s = statistics.median(runs)
    emit("W3", n=n, seconds=s, steps_per_s=n / s, runs=runs)


def latency() -> None:
    n = scaled(100)
    p50s, p99s = [], []
    for _ in range(REPEATS):
        samples = []
        with running() as (service, _):
            for _ in range(n):
                begun = time.perf_counter()
                assert result(service, service.start_execution(ONE, ["step"])) == 2
                samples.append(1e3 * (time.perf_counter() - begun))
        samples.sort()
        p50s.append(samples[len(samples) // 2])
        p99s.append(samples[int(0.99 * (len(samples) - 1))])
    p50, p99 = statistics.median(p50s), statistics.median(p99s)
    emit("W4", n=n * REPEATS, p50_ms=p50, p99_ms=p99, p50_runs=p50s)


def suspended() -> None:
    n = scaled(10_000)
    with running() as (service, directory):
        before_mib, before_bytes = resident_mib(), disk_bytes(service, directory)
        begun = time.perf_counter()
        for at in range(0, n, 500):
            service.start_executions(SUSPENDED, ["step"], [{}] * min(500, n - at))
        start_s = time.perf_counter() - begun
        while service.list("scheduled", limit=1):
            time.sleep(0.005)
        cpu_s = time.process_time()
        time.sleep(5)
        emit(
            "W5",
            n=n,
            rss_before_mib=before_mib,
            rss_mib=resident_mib(),
            db_bytes_per_wf=(disk_bytes(service, directory) - before_bytes) / n,
            start_s=start_s,
            idle_cpu_s_in_5_s=time.process_time() - cpu_s,
        )


def agents() -> None:
    n = scaled(1000)

    def run(service: OrchestratorService) -> None:
        for execution_id in service.start_workflows(AGENTS, [{"text": TEXT}] * n):
            output = result(service, execution_id)
            assert output["extract_entities"]["emails"] == ["ada@example.org"]

    runs = timed(run)
    s = statistics.median(runs)
    emit("W7", n=n, seconds=s, workflows_per_s=n / s, runs=runs)


def resident_mib() -> float:
    """Resident memory of this process and its interpreter workers."""
    pids = [os.getpid()]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                pids.append(int(entry.name))
    kib = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                kib += int(line.split()[1])
    return kib / 1024


def disk_bytes(service: OrchestratorService, directory: Path) -> int:
    """Bytes of the database; its log, which has a fixed size, is first written into it."""
    with service.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return sum(file.stat().st_size for file in directory.iterdir())


if __name__ == "__main__":
    for name, workload in [
        ("W1", sequence),
        ("W2", fan),
        ("W3", wide),
        ("W4", latency),
        ("W5", suspended),
        ("W7", agents),
    ]:
        if not ONLY or name in ONLY:
            workload()
