"""The thread of a worker whose executor reports by itself."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import select, tuple_
from sqlalchemy.engine import Engine as Database

from ..errors import Conflict, Unavailable
from ..failures import Failure, failure_of
from ..models import Call, CallStatus
from .base import CallRequest, Outcome, ReportingExecutor
from .stored import jobs_of_earlier_workers, rows

if TYPE_CHECKING:
    from .._internal import Engine, Task

__all__ = ["Courier"]

logger = logging.getLogger("durable_monty.executor")

MAX_BATCH = 256
LONGEST_WAIT_S = 0.25
CHECK_EVERY_S = 1.0
MAX_CHECKED = 1000
IN_DOUBT_S = 10.0
FIRST_RETRY_S = 0.05
LONGEST_RETRY_S = 2.0


class Courier:
    """Carries calls from the engine to an executor, many at a time, and its reports back.

    One thread waits for calls. Whoever reports outcomes also submits the calls that follow from
    them, so nothing waits for that thread. When an executor can't take calls now, or the database
    can't be asked about them, that is tried again, at growing distances, and no further calls are
    taken from the engine meanwhile.
    """

    def __init__(self, engine: Engine, executor: ReportingExecutor, database: Database) -> None:
        self._engine = engine
        self._executor = executor
        self._database = database
        self._lock = threading.Lock()
        # A call that is dropped may come again at once: the executor is told one after the other.
        self._turn = threading.RLock()
        self._open: dict[str, tuple[CallRequest, Task]] = {}
        self._dropped: dict[str, tuple[CallRequest, float]] = {}
        self._unsubmitted: deque[Task] = deque()
        self._submitting = 0
        self._is_waiting = False
        self._stopped = threading.Event()
        self._check_due = 0.0
        self._checked = 0
        self._thread = threading.Thread(target=self._body, name="durable-monty-calls", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._executor.attach(self)
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """Waits until the thread has ended. Jobs elsewhere stay with the executor."""
        self._stopped.set()
        self._thread.join(grace_s)
        self._executor.detach()

    def is_settled(self) -> bool:
        """Whether every call was submitted and nothing that needs this process is under way."""
        with self._lock:
            is_idle = self._is_waiting and not self._submitting and not self._unsubmitted
        return is_idle and not self.is_busy() and self._engine.pending_tasks() == 0

    def is_busy(self) -> bool:
        """Whether outcomes are on their way that would be lost with this process."""
        return self._executor.is_busy()

    def running(self) -> int:
        """How many calls have been submitted and have not come to anything."""
        return len(self._open)

    # What the executor reports (`Outcomes`)

    def report(self, outcomes: Mapping[str, Outcome]) -> None:
        """Hands outcomes to the engine, and the calls that it answers with to the executor."""
        following: list[Task] = []
        for job_id, outcome in outcomes.items():
            with self._lock:
                known = self._open.pop(job_id, None)
            if known is None:
                continue
            answer = self._pass_on(*known, outcome)
            if answer is not None:
                following.append(answer)
        if following:
            self._submit(following)

    def submitted(self, job_id: str, name: str) -> None:
        """Stores the name of the job that stands for a call now."""
        with self._lock:
            known = self._open.get(job_id)
        if known is not None:
            self._engine.note_jobs([(known[1], name)])

    def _pass_on(self, call: CallRequest, task: Task, outcome: Outcome) -> Task | None:
        try:
            if outcome.error is None:
                return self._engine.finish(task, outcome.result or "null")
            failure = Failure(*outcome.error)
        except Exception as error:
            who = type(self._executor).__name__
            said = failure_of(error).message
            failure = Failure("RuntimeError", f"{who} reported what can't be stored: {said}")
        kind, message, _ = failure
        logger.info("%s of %s failed: %s: %s", call.job_id, call.function_name, kind, message)
        return self._engine.fail(task, *failure)

    # The thread

    def _body(self) -> None:
        retry_s = FIRST_RETRY_S
        while not self._stopped.is_set():
            try:
                tasks = self._put_off() or self._next_tasks()
                if not tasks or self._submit(tasks):
                    retry_s = FIRST_RETRY_S
                else:
                    self._stopped.wait(retry_s)
                    retry_s = min(LONGEST_RETRY_S, 2 * retry_s)
                if time.monotonic() >= self._check_due:
                    self._check_due = time.monotonic() + CHECK_EVERY_S
                    self._drop_unwanted()
            except Unavailable as error:
                logger.warning("calls that ended are looked for later: %s", error)
            except BaseException:
                # Without this thread nothing would be submitted any more.
                logger.exception("%s failed to let go of calls", type(self._executor).__name__)

    def _put_off(self) -> list[Task]:
        """The calls that could not be submitted before and that are still waited for."""
        tasks = [self._unsubmitted.popleft() for _ in range(len(self._unsubmitted))]
        return [task for task in tasks if not self._engine.is_cancelled(task)]

    def _next_tasks(self) -> list[Task]:
        """The next calls, waiting for the first."""
        began = time.monotonic()
        self._is_waiting = True
        try:
            first = self._engine.next_task(LONGEST_WAIT_S)
        except Unavailable:
            # The engine was closed under the worker: the process is about to end.
            self._stopped.set()
            return []
        self._is_waiting = False
        if first is None:
            # An engine that was detached answers at once.
            early_s = LONGEST_WAIT_S - (time.monotonic() - began)
            self._stopped.wait(max(0.0, min(early_s, 0.01)))
            return []
        tasks = [first]
        while len(tasks) < MAX_BATCH and self._engine.pending_tasks():
            task = self._engine.next_task(0)
            if task is None:
                break
            tasks.append(task)
        return tasks

    def _submit(self, tasks: Sequence[Task]) -> bool:
        """Hands calls to the executor; False when that has to be done later."""
        with self._lock:
            self._submitting += 1
        try:
            with self._turn:
                self._hand_over(self._requests(tasks))
            return True
        except Unavailable as error:
            logger.warning("%d calls wait to be submitted: %s", len(tasks), error)
            self._unsubmitted.extend(tasks)
            return False
        finally:
            with self._lock:
                self._submitting -= 1

    def _hand_over(self, requests: Sequence[tuple[CallRequest, Task]]) -> None:
        with self._lock:
            self._open.update((call.job_id, (call, task)) for call, task in requests)
            for call, _ in requests:
                self._dropped.pop(call.job_id, None)
        try:
            if self._executor.reported_by_name:
                self._note_first(requests)
            names = self._executor.submit_calls([call for call, _ in requests])
            self._engine.note_jobs(
                [
                    (task, name)
                    for (call, task), name in zip(requests, names, strict=True)
                    if name is not None and name != call.submitted_as and call.job_id in self._open
                ]
            )
        except Unavailable:
            with self._lock:
                for call, _ in requests:
                    self._open.pop(call.job_id, None)
            raise
        except BaseException as error:
            failure = failure_of(error)
            who = type(self._executor).__name__
            logger.warning("%s failed with %d calls: %s: %s", who, len(requests), *failure[:2])
            self.report({call.job_id: Outcome(None, failure) for call, _ in requests})

    def _note_first(self, requests: Sequence[tuple[CallRequest, Task]]) -> None:
        """Stores the names of jobs before there are any, and waits for it."""
        fresh = [(task, call.job_id) for call, task in requests if call.submitted_as is None]
        if not fresh:
            return
        *first, (last, name) = fresh
        self._engine.note_jobs(first)
        try:
            # Writes are committed in their order.
            self._engine.note_job(last, name)
        except Conflict:
            pass  # it came to something, or is another worker's now

    def _requests(self, tasks: Sequence[Task]) -> list[tuple[CallRequest, Task]]:
        noted = jobs_of_earlier_workers(self._database, tasks)
        return [
            (
                CallRequest(
                    function_name=task.function,
                    args=task.args,
                    kwargs=task.kwargs,
                    execution_id=task.execution_id,
                    call_id=task.call_id,
                    attempt=task.attempt,
                    timeout_ms=task.timeout_ms,
                    submitted_as=noted.get((task.execution_id, task.call_id, task.attempt)),
                    step=task.step,
                ),
                task,
            )
            for task in tasks
        ]

    def _drop_unwanted(self) -> None:
        """Lets go of calls that this worker does not wait for any more; looks at some at a time."""
        with self._lock:
            count = len(self._open)
            begin = self._checked if self._checked < count else 0
            looked_at = list(itertools.islice(self._open.items(), begin, begin + MAX_CHECKED))
            self._checked = begin + MAX_CHECKED
        unwanted = [job_id for job_id, (_, task) in looked_at if self._engine.is_cancelled(task)]
        for job_id in unwanted:
            with self._turn:
                self._drop(job_id)
        if self._dropped:
            self._cancel_ended()

    def _drop(self, job_id: str) -> None:
        with self._lock:
            known = self._open.get(job_id)
        # It may have come again since it was looked at.
        if known is None or not self._engine.is_cancelled(known[1]):
            return
        with self._lock:
            self._open.pop(job_id, None)
            self._dropped[job_id] = known[0], time.monotonic() + IN_DOUBT_S
        logger.info("%s is not waited for here any more", job_id)
        self._executor.release_call(known[0])

    def _cancel_ended(self) -> None:
        """Stops the jobs of dropped calls that have ended: cancelled, or too late. The others are
        paused, or another worker's now, who goes on with the same jobs."""
        with self._lock:
            dropped = dict(itertools.islice(self._dropped.items(), MAX_BATCH))
        calls = [call for call, _ in dropped.values()]
        of_dropped = tuple_(Call.execution_id, Call.call_id).in_(
            [(call.execution_id, call.call_id) for call in calls]
        )
        unended = select(Call.execution_id, Call.call_id, Call.attempts).where(
            of_dropped, Call.status.in_([CallStatus.PENDING, CallStatus.SUBMITTED])
        )
        still_open = {tuple(row) for row in rows(self._database, unended)}
        for job_id, (call, until) in dropped.items():
            is_open = (call.execution_id, call.call_id, call.attempt) in still_open
            if is_open and time.monotonic() < until:
                continue
            with self._turn:
                with self._lock:
                    is_dropped = self._dropped.pop(job_id, None) is not None
                if is_dropped and not is_open:
                    self._cancel(call)

    def _cancel(self, call: CallRequest) -> None:
        try:
            self._executor.cancel_call(call)
        except Exception:
            logger.debug("%s could not be cancelled", call.job_id, exc_info=True)
