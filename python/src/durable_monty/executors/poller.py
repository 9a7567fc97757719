"""The thread of a worker whose calls run somewhere else."""

from __future__ import annotations

import dataclasses
import heapq
import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.engine import Engine as Database
from sqlalchemy.orm import Session

from ..errors import Unavailable
from ..failures import failure_of, split_error
from ..models import Call, CallStatus
from ..values import decode, decode_object, encode
from .base import Executor, takes_call

if TYPE_CHECKING:
    from .._internal import Engine, Task

__all__ = ["JobPoller"]

logger = logging.getLogger("durable_monty.executor")

REPORTED = "reported:"
"""Begins the note on a call that no job stands for: whoever runs it reports it."""

FIRST_CHECK_S = 0.005
LONGEST_WAIT_S = 0.25


@dataclasses.dataclass(order=True)
class _Job:
    """A submitted call and when to ask about it next."""

    due: float
    job_id: str
    task: Task = dataclasses.field(compare=False)
    interval: float = dataclasses.field(compare=False)


class JobPoller:
    """One thread that submits calls to an executor as they come, and asks about each job: soon at
    first, then at growing distances up to the poll interval."""

    runs_here = False

    def __init__(
        self, engine: Engine, executor: Executor, database: Database, poll_interval: float
    ) -> None:
        self._engine = engine
        self._executor = executor
        self._database = database
        self._longest_interval = poll_interval
        self._first_interval = min(FIRST_CHECK_S, poll_interval)
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

    def running(self) -> int:
        """How many jobs have not ended."""
        return len(self._jobs)

    def _body(self) -> None:
        while not self._is_stopping:
            now = time.monotonic()
            if self._jobs and self._jobs[0].due <= now:
                self._ask(heapq.heappop(self._jobs))
            if self._to_submit:
                self._submit(self._to_submit.popleft())
                continue
            wait_s = self._jobs[0].due - now if self._jobs else LONGEST_WAIT_S
            task = self._next_task(min(wait_s, LONGEST_WAIT_S)) if wait_s > 0 else None
            if task is not None:
                self._submit(task)

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

    def _submit(self, task: Task) -> None:
        try:
            job_id = self._job_of_earlier_worker(task)
            if job_id is None:
                job_id = self._hand_over(task)
                # Without a job to ask about, the note says that the call is out.
                self._engine.note_job(task, job_id or f"{REPORTED}{task.idempotency_key}")
        except Exception as error:
            self._fail(task, error)
            return
        if job_id is not None and not job_id.startswith(REPORTED):
            self._unchecked += 1
            due = time.monotonic() + self._first_interval
            heapq.heappush(self._jobs, _Job(due, job_id, task, self._first_interval))

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

    def _job_of_earlier_worker(self, task: Task) -> str | None:
        """The job that a worker before this one made of the same attempt."""
        noted = select(Call.job_id).where(
            Call.execution_id == task.execution_id,
            Call.call_id == task.call_id,
            Call.attempts == task.attempt,
            Call.status == CallStatus.SUBMITTED,
        )
        with Session(self._database) as session:
            return session.scalars(noted).first()

    def _ask(self, job: _Job) -> None:
        try:
            is_over = self._check(job)
        except Exception as error:
            self._fail(job.task, error)
            is_over = True
        if job.interval == self._first_interval:
            self._unchecked = max(0, self._unchecked - 1)
        if not is_over:
            interval = min(self._longest_interval, job.interval * 2 + 0.001)
            due = time.monotonic() + interval
            heapq.heappush(self._jobs, _Job(due, job.job_id, job.task, interval))

    def _check(self, job: _Job) -> bool:
        """Asks about a job and passes on what it came to; whether it is over."""
        if self._engine.is_cancelled(job.task):
            return True
        answer = self._executor.check_job(job.job_id)
        status = answer["status"]
        if status == "finished":
            self._follow(self._engine.finish(job.task, encode(answer.get("result"))))
            return True
        if status == "failed":
            kind, message, _ = split_error(answer.get("error") or "the job failed")
            name = job.task.function
            logger.info("job %s of %s failed: %s: %s", job.job_id, name, kind, message)
            self._follow(self._engine.fail(job.task, kind, message))
            return True
        if status not in ("queued", "started"):
            raise ValueError(
                f"{type(self._executor).__name__}.check_job returned the status {status!r}, it "
                "must be finished, failed, queued or started"
            )
        return False

    def _fail(self, task: Task, error: Exception) -> None:
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
