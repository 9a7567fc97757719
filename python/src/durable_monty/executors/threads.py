"""What executors share whose calls each occupy a thread here while they run somewhere else."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..errors import Unavailable
from ..failures import failure_of
from .base import CallRequest, Outcome, Outcomes, ReportingExecutor

__all__ = ["Again", "ThreadedExecutor"]

logger = logging.getLogger("durable_monty.executor")

DEFAULT_MAX_CONCURRENCY = 32
FIRST_RETRY_S = 0.2
LONGEST_RETRY_S = 30.0


class Again(NamedTuple):
    """What `perform` returns when it is to be called again unless the call has come to something
    by then."""

    after_s: float


class ThreadedExecutor(ReportingExecutor):
    """Performs each call on a thread, at most `max_concurrency` at once.

    A subclass says in `perform` how. When that raises Unavailable the call is performed again, at
    growing distances, until it comes to something or nobody waits for it.
    """

    def __init__(self, max_concurrency: int = DEFAULT_MAX_CONCURRENCY) -> None:
        if max_concurrency < 1:
            raise ValueError(f"max_concurrency is {max_concurrency}, it must be at least 1")
        super().__init__()
        self.max_concurrency = max_concurrency
        self._state = threading.Lock()
        self._wanted: set[str] = set()
        self._reporting = 0
        self._outcomes: Outcomes | None = None
        self._threads: _Threads | None = None
        self._counts = {"submitted": 0, "finished": 0, "failed": 0}

    @abstractmethod
    def perform(self, call: CallRequest) -> Outcome | Again:
        """Has a call run, and waits for its outcome.

        Raises Unavailable when that is not possible now. Any other exception fails the call.
        """

    def attach(self, outcomes: Outcomes) -> None:
        """Gets ready to start threads."""
        self._outcomes = outcomes
        name = f"durable-monty-{type(self).__name__}"
        self._threads = _Threads(self._try, self.max_concurrency, name)

    def detach(self) -> None:
        """Begins nothing any more. What runs elsewhere goes on."""
        with self._state:
            threads, self._threads, self._outcomes = self._threads, None, None
            self._wanted.clear()
        if threads is not None:
            threads.close()

    def is_busy(self) -> bool:
        """Whether a call is performed, or about to be, whose outcome is waited for."""
        threads = self._threads
        under_way = [] if threads is None else threads.under_way()
        with self._state:
            return self._reporting > 0 or any(call.job_id in self._wanted for call in under_way)

    def submit_calls(self, calls: Sequence[CallRequest]) -> Sequence[str | None]:
        """Queues calls for the threads."""
        with self._state:
            self._counts["submitted"] += len(calls)
            self._wanted.update(call.job_id for call in calls)
            threads = self._threads
        if threads is not None:
            for call in calls:
                threads.put(call)
        return [self.name_of(call) for call in calls]

    def name_of(self, call: CallRequest) -> str | None:
        """The name of a call's job; None when there is nothing that operators could find."""
        return None

    def release_call(self, call: CallRequest) -> None:
        """Does not perform it again."""
        with self._state:
            self._wanted.discard(call.job_id)

    def get_stats(self) -> dict[str, int]:
        """How many calls were submitted, finished and failed."""
        with self._state:
            return dict(self._counts)

    def named(self, call: CallRequest, name: str) -> None:
        """Tells by what name operators, and workers after this one, find the job of a call."""
        outcomes = self._outcomes
        if outcomes is not None:
            outcomes.submitted(call.job_id, name)

    def is_wanted(self, call: CallRequest) -> bool:
        """Whether the outcome of a call is waited for here."""
        with self._state:
            return call.job_id in self._wanted

    def _try(self, call: CallRequest, tries: int) -> None:
        if not self.is_wanted(call):
            return
        try:
            outcome = self.perform(call)
        except Unavailable as error:
            if self.is_wanted(call):
                wait_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(tries, 20))
                logger.warning("%s is tried again in %.1f s: %s", call.job_id, wait_s, error)
                self._perform_later(call, wait_s, tries + 1)
            return
        except BaseException as error:
            outcome = Outcome(None, failure_of(error))
        if isinstance(outcome, Again):
            self._perform_later(call, outcome.after_s, 0)
        else:
            self._report(call, outcome)

    def _report(self, call: CallRequest, outcome: Outcome) -> None:
        with self._state:
            outcomes = self._outcomes
            if outcomes is None or call.job_id not in self._wanted:
                return
            self._wanted.discard(call.job_id)
            self._reporting += 1
            self._counts["failed" if outcome.error else "finished"] += 1
        try:
            outcomes.report({call.job_id: outcome})
        finally:
            with self._state:
                self._reporting -= 1

    def _perform_later(self, call: CallRequest, wait_s: float, tries: int) -> None:
        threads = self._threads
        if threads is not None and self.is_wanted(call):
            threads.put(call, tries, wait_s)


class _Due(NamedTuple):
    at: float
    number: int
    call: CallRequest
    tries: int


class _Threads:
    """Threads that perform calls when they are due, at most `limit`, started when a call finds
    none that is free. The process doesn't wait for them when it ends."""

    def __init__(self, perform: Callable[[CallRequest, int], None], limit: int, name: str) -> None:
        self._perform = perform
        self._limit = limit
        self._name = name
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._waiting: list[_Due] = []
        self._running: dict[int, _Due] = {}
        self._threads = 0
        self._is_closed = False

    def put(self, call: CallRequest, tries: int = 0, after_s: float = 0.0) -> None:
        """Has a call performed in so many seconds."""
        due = _Due(time.monotonic() + after_s, next(self._numbers), call, tries)
        with self._changed:
            heapq.heappush(self._waiting, due)
            self._changed.notify()
            # So there is one for every call, until there are as many as there may be.
            if self._threads < min(self._limit, len(self._waiting) + len(self._running)):
                self._start_thread()

    def under_way(self) -> list[CallRequest]:
        """The calls that are performed now, or are due."""
        now = time.monotonic()
        with self._changed:
            known = (*self._running.values(), *self._waiting)
        return [due.call for due in known if due.at <= now]

    def close(self) -> None:
        """Lets the threads end, each when it is done with its call."""
        with self._changed:
            self._is_closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def _start_thread(self) -> None:
        try:
            threading.Thread(target=self._body, name=self._name, daemon=True).start()
        except RuntimeError:
            if self._threads == 0:
                raise
            logger.warning("can't start another thread, %d must do", self._threads)
        else:
            self._threads += 1

    def _body(self) -> None:
        while (due := self._next()) is not None:
            try:
                self._perform(due.call, due.tries)
            except BaseException:
                logger.exception("what %s came to could not be reported", due.call.job_id)
            with self._changed:
                del self._running[due.number]

    def _next(self) -> _Due | None:
        """The next call, once it is due; None when there won't be one."""
        with self._changed:
            while not self._is_closed:
                wait_s = self._waiting[0].at - time.monotonic() if self._waiting else None
                if wait_s is None or wait_s > 0:
                    self._changed.wait(wait_s)
                    continue
                due = heapq.heappop(self._waiting)
                self._running[due.number] = due
                # Somebody has to look out for the next one.
                self._changed.notify()
                return due
        return None
