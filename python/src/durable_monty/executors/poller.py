"""The thread of a worker whose calls run somewhere else."""

from __future__ import annotations

import dataclasses
import heapq
import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Engine as Database

from ..errors import Unavailable
from ..failures import failure_of, split_error
from ..models import Call, CallStatus
from ..values import decode, decode_object, encode
from .base import Executor, takes_call
from .stored import jobs_of_earlier_workers

if TYPE_CHECKING:
    from .._internal import Engine, Task

__all__ = ["JobPoller"]

logger = logging.getLogger("durable_monty.executor")

REPORTED = "reported:"
"""Begins the note on a call that no job stands for: whoever runs it reports it."""

FIRST_CHECK_S = 0.005
LONGEST_WAIT_S = 0.25
FIRST_RETRY_S = 0.05
LONGEST_RETRY_S = 2.0


@dataclasses.dataclass(order=True)
class _Job:
    """A call, and when to submit it, or to ask about the job that was made of it."""

    due: float
    task: Task = dataclasses.field(compare=False)
    wait_s: float = dataclasses.field(compare=False)
    job_id: str | None = dataclasses.field(compare=False, default=None)
    is_unchecked: bool = dataclasses.field(compare=False, default=True)
    """Whether it was not submitted and asked about yet."""


class JobPoller:
    """One thread that submits calls to an executor as they come, and asks about each job: soon at
    first, then at growing distances up to the poll interval.

    When the executor or the database can't be reached, that is tried again, call by call.
    """

    def __init__(
        self, engine: Engine, executor: Executor, database: Database, poll_interval: float
    ) -> None:
        self._engine = engine
        self._executor = executor
        self._database = database
        self._longest_wait_s = poll_interval
        self._first_wait_s = min(FIRST_CHECK_S, poll_interval)
        self._takes_call = takes_call(executor)
        self._to_submit: deque[Task] = deque()
        self._jobs: list[_Job] = []
        self._unchecked = 0
        self._is_waiting = False
        self._is_stopping = False
        self._thread = threading.Thread(target=self._body, name="durable-monty-jobs", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """Waits until the thread has ended. Jobs stay with the executor: whoever takes the
        executions over asks about them."""
        self._is_stopping = True
        self._thread.join(grace_s)

    def is_settled(self) -> bool:
        """Whether every call was submitted and every job asked about at least once."""
        return self._is_waiting and self._unchecked == 0 and self._engine.pending_tasks() == 0

    def is_busy(self) -> bool:
        """Whether outcomes would be lost with this process: never, jobs are asked about again."""
        return False

    def running(self) -> int:
        """How many jobs have not ended."""
        return len(self._jobs)

    def _body(self) -> None:
        while not self._is_stopping:
            now = time.monotonic()
            if self._jobs and self._jobs[0].due <= now:
                self._see_to(heapq.heappop(self._jobs))
            if self._to_submit:
                self._begin(self._to_submit.popleft())
                continue
            wait_s = self._jobs[0].due - now if self._jobs else LONGEST_WAIT_S
            task = self._next_task(min(wait_s, LONGEST_WAIT_S)) if wait_s > 0 else None
            if task is not None:
                self._begin(task)

    def _next_task(self, wait_s: float) -> Task | None:
        began = time.monotonic()
        self._is_waiting = True
        try:
            task = self._engine.next_task(wait_s)
        except Unavailable:
            # The engine was closed under the worker: the process is about to end.
            self._is_stopping = True
            return None
        self._is_waiting = False
        if task is None and not self._is_stopping:
            # An engine that was detached answers at once.
            early_s = wait_s - (time.monotonic() - began)
            time.sleep(max(0.0, min(early_s, 0.01)))
        return task

    def _begin(self, task: Task) -> None:
        self._unchecked += 1
        self._see_to(_Job(0, task, self._first_wait_s))

    def _see_to(self, job: _Job) -> None:
        is_submitted = job.job_id is not None
        wait_s: float | None = None
        try:
            if not self._engine.is_cancelled(job.task):
                wait_s = self._check(job) if is_submitted else self._submit(job)
        except Unavailable as error:
            wait_s = min(LONGEST_RETRY_S, max(FIRST_RETRY_S, 2 * job.wait_s))
            level = logging.WARNING if wait_s < LONGEST_RETRY_S else logging.DEBUG
            logger.log(level, "%s is tried again: %s", type(self._executor).__name__, error)
        except BaseException as error:
            self._fail(job.task, error)
        if job.is_unchecked and (is_submitted or wait_s is None):
            job.is_unchecked = False
            self._unchecked -= 1
        if wait_s is not None:
            job.wait_s, job.due = wait_s, time.monotonic() + wait_s
            heapq.heappush(self._jobs, job)

    def _submit(self, job: _Job) -> float | None:
        """Has a job made of a call. How long to wait before it is asked about; None when somebody
        reports it."""
        task = job.task
        noted = jobs_of_earlier_workers(self._database, [task])
        job_id = noted.get((task.execution_id, task.call_id, task.attempt))
        if job_id is None:
            job_id = self._hand_over(task)
            try:
                # Without a job to ask about, the note says that the call is out.
                self._engine.note_job(task, job_id or f"{REPORTED}{task.idempotency_key}")
            except Unavailable as error:
                # It is out, noted or not: only a worker after this one submits it again.
                logger.warning("the job %s could not be noted: %s", job_id, error)
        if job_id is None or job_id.startswith(REPORTED):
            return None
        job.job_id = job_id
        return self._first_wait_s

    def _hand_over(self, task: Task) -> str | None:
        if not self._takes_call:
            args, kwargs = decode(task.args), decode_object(task.kwargs)
            return self._job_id(self._executor.submit_call(task.function, args, kwargs))
        call = Call(
            execution_id=task.execution_id,
            call_id=task.call_id,
            step_name=task.function,
            function_name=task.function,
            args=task.args,
            kwargs=task.kwargs,
            attempts=task.attempt,
            status=CallStatus.PENDING,
        )
        return self._job_id(self._executor.submit_call(call)) or call.job_id

    def _job_id(self, job_id: Any) -> str | None:
        if job_id is None or isinstance(job_id, str):
            return job_id
        raise TypeError(
            f"{type(self._executor).__name__}.submit_call returned a {type(job_id).__name__}, "
            "it must return the job's name as text"
        )

    def _check(self, job: _Job) -> float | None:
        """Asks about a job and passes on what it came to. How long to wait before it is asked about
        again; None when it is over."""
        assert job.job_id is not None
        answer = self._executor.check_job(job.job_id)
        status = answer["status"]
        if status == "finished":
            self._follow(self._engine.finish(job.task, encode(answer.get("result"))))
            return None
        if status == "failed":
            kind, message, _ = split_error(answer.get("error") or "the job failed")
            name = job.task.function
            logger.info("job %s of %s failed: %s: %s", job.job_id, name, kind, message)
            self._follow(self._engine.fail(job.task, kind, message))
            return None
        if status not in ("queued", "started"):
            raise ValueError(
                f"{type(self._executor).__name__}.check_job returned the status {status!r}, it "
                "must be finished, failed, queued or started"
            )
        return min(self._longest_wait_s, job.wait_s * 2 + 0.001)

    def _fail(self, task: Task, error: BaseException) -> None:
        kind, message, shown = failure_of(error)
        logger.warning(
            "%s failed with call %s of %s (%s): %s: %s",
            type(self._executor).__name__,
            task.call_id,
            task.execution_id,
            task.function,
            kind,
            message,
        )
        self._follow(self._engine.fail(task, kind, message, shown))

    def _follow(self, task: Task | None) -> None:
        # A report is answered with the next call, if there is one.
        if task is not None:
            self._to_submit.append(task)
