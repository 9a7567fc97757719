"""rq workers that are made for calls.

`rq worker -w durable_monty.executors.rq_worker.Worker my-queue`, or plain `rq worker my-queue` with
that class in RQ_WORKER_CLASS. They read JSON and nothing else, and have imported what jobs need,
the modules listed in DURABLE_FUNCTIONS included, before they fork a process for each job.
`SimpleWorker` runs jobs without forking: many times quicker for small functions.

What rq's own workers tell Redis several times a job, though it has not changed, these tell once.
"""

from __future__ import annotations

import time
from typing import Any

import rq
from redis.client import Pipeline
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker

from ..functions import import_listed
from . import rq_job

__all__ = ["SimpleWorker", "Worker"]

assert rq_job  # imported for the jobs

FRESH_S = 1.0
"""For how long a worker takes what it told or heard as still so."""


class _Terse(BaseWorker):
    """Leaves out round trips that say nothing new."""

    _told_life_at = float("-inf")
    _lives_until = float("-inf")
    _told_state: str | None = None
    _asked_at = float("-inf")

    def __init__(self, *args: Any, **options: Any) -> None:
        import_listed()
        super().__init__(*args, **{**options, "serializer": JSONSerializer})

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Says that the worker lives, unless it has just said so, and for as long."""
        now = time.monotonic()
        # As long as when it waits: a shorter time while a job runs would have to be told twice.
        timeout = max(timeout or 0, self.worker_ttl + 60)
        until = now + timeout
        is_fresh = now - self._told_life_at < FRESH_S and until - self._lives_until < FRESH_S
        if pipeline is None and is_fresh:
            return
        super().heartbeat(timeout, pipeline)
        self._told_life_at, self._lives_until = now, until

    def set_state(self, state: str, pipeline: Pipeline | None = None) -> None:
        """Says what the worker does, when that is something else than before."""
        if pipeline is None and state == self._told_state:
            return
        super().set_state(state, pipeline)
        self._told_state = state

    def check_for_suspension(self, burst: bool) -> None:
        """Asks once a second whether workers were suspended."""
        now = time.monotonic()
        if now - self._asked_at >= FRESH_S:
            super().check_for_suspension(burst)
            self._asked_at = time.monotonic()


class Worker(_Terse, rq.Worker):
    """Forks a process for each job, with everything imported."""


class SimpleWorker(_Terse, rq.SimpleWorker):
    """Runs jobs in its own process."""
