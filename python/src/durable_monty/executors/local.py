"""Runs calls in this process."""

from __future__ import annotations

import inspect
import itertools
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ..functions import get_function
from .base import Executor, JobStatus
from .lane import AsyncLane

__all__ = ["LocalExecutor"]

DEFAULT_MAX_WORKERS = 32


class LocalExecutor(Executor):
    """Runs calls in this process, truly in parallel: functions on threads, `async def` functions
    on one event loop.

    At most `max_workers` functions run at once (32 unless told otherwise); `async def` functions
    are not counted. Threads are started when they are needed.

    A worker does not go through `submit_call`: its threads take calls from the engine themselves.
    `submit_call` and `check_job` are there for use without a worker, and for subclasses.
    """

    def __init__(self, max_workers: int | None = None) -> None:
        if max_workers is not None and max_workers < 1:
            raise ValueError(f"max_workers is {max_workers}, it must be at least 1")
        self.max_workers = max_workers or DEFAULT_MAX_WORKERS
        self.lane = AsyncLane()
        self._lock = threading.Lock()
        self._tallies: list[Tally] = []
        self._jobs: dict[str, Future[Any]] = {}
        self._job_numbers = itertools.count(1)
        self._threads: ThreadPoolExecutor | None = None
        self._own_tally = self.new_tally()
        self.async_tally = self.new_tally()

    def submit_call(
        self, function_name: str, args: list[Any], kwargs: dict[str, Any] | None = None
    ) -> str:
        """Runs a function in the background and returns the name of the job."""
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.max_workers, "durable-monty-job")
        job_id = f"local-{next(self._job_numbers)}"
        self._jobs[job_id] = self._threads.submit(self._run, function_name, args, kwargs)
        return job_id

    def check_job(self, job_id: str) -> JobStatus:
        """What became of a job. One that has ended is told about once, then forgotten."""
        job = self._jobs.get(job_id)
        if job is None:
            return {"status": "failed", "error": f"KeyError: no job {job_id} in this process"}
        if not job.done():
            return {"status": "started" if job.running() else "queued"}
        del self._jobs[job_id]
        error = job.exception()
        if error is None:
            return {"status": "finished", "result": job.result()}
        return {"status": "failed", "error": f"{type(error).__name__}: {error}"}

    def get_stats(self) -> dict[str, Any]:
        """How many calls were executed and how many of them failed."""
        with self._lock:
            executed = sum(tally.executed for tally in self._tallies)
            failed = sum(tally.failed for tally in self._tallies)
        return {"executed": executed, "failed": failed}

    def new_tally(self) -> Tally:
        """Counters for one more thread."""
        tally = Tally()
        with self._lock:
            self._tallies.append(tally)
        return tally

    def fold_tally(self, tally: Tally) -> None:
        """Takes the counters of a thread that ends."""
        with self._lock:
            self._tallies.remove(tally)
            self._own_tally.executed += tally.executed
            self._own_tally.failed += tally.failed

    def _run(self, function_name: str, args: list[Any], kwargs: dict[str, Any] | None) -> Any:
        is_done = False
        try:
            result = get_function(function_name)(*args, **(kwargs or {}))
            if inspect.iscoroutine(result):
                result = self.lane.run(result)
            is_done = True
            return result
        finally:
            with self._lock:
                self._own_tally.executed += 1
                self._own_tally.failed += not is_done


class Tally:
    """Counters of one thread, so that counting needs no lock."""

    __slots__ = ("executed", "failed")

    def __init__(self) -> None:
        self.executed = 0
        self.failed = 0
