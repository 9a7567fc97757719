"""rq workers that are made for calls.

`rq worker -w durable_monty.executors.rq_worker.Worker my-queue`, or plain `rq worker my-queue` with
that class in RQ_WORKER_CLASS. They read JSON and nothing else, and have imported what jobs need,
the modules listed in DURABLE_FUNCTIONS included, before they fork a process for each job.
`SimpleWorker` runs jobs without forking: many times quicker for small functions.
"""

from __future__ import annotations

from typing import Any

import rq
from rq.serializers import JSONSerializer

from ..functions import import_listed
from . import rq_job

__all__ = ["SimpleWorker", "Worker"]

assert rq_job  # imported for the jobs


class Worker(rq.Worker):
    """Forks a process for each job, with everything imported."""

    def __init__(self, *args: Any, **options: Any) -> None:
        import_listed()
        super().__init__(*args, **{**options, "serializer": JSONSerializer})


class SimpleWorker(rq.SimpleWorker):
    """Runs jobs in its own process."""

    def __init__(self, *args: Any, **options: Any) -> None:
        import_listed()
        super().__init__(*args, **{**options, "serializer": JSONSerializer})
