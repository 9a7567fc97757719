"""What executors share whose calls each occupy a thread here while they run somewhere else."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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


class _Due(NamedTuple):
    at: float
    number: int
    call: CallRequest
    tries: int


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
        self._changed = threading.Condition()
        self._wanted: set[str] = set()
        self._later: list[_Due] = []
        self._numbers = itertools.count()
        self._outcomes: Outcomes | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._counts = {"submitted": 0, "finished": 0, "failed": 0}

    @abstractmethod
    def perform(self, call: CallRequest) -> Outcome | Again:
        """Has a call run, and waits for its outcome.

        Raises Unavailable when that is not possible now. Any other exception fails the call.
        """

    def attach(self, outcomes: Outcomes) -> None:
        """Starts the threads."""
        self._outcomes = outcomes
        self._pool = ThreadPoolExecutor(
            self.max_concurrency, f"durable-monty-{type(self).__name__}"
        )
        threading.Thread(
            target=self._tick, args=(self._pool,), name="durable-monty-later", daemon=True
        ).start()

    def detach(self) -> None:
        """Begins nothing any more. What runs elsewhere goes on."""
        with self._changed:
            pool, self._pool, self._outcomes = self._pool, None, None
            self._wanted.clear()
            self._later.clear()
            self._changed.notify_all()
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    def submit_calls(self, calls: Sequence[CallRequest]) -> Sequence[str | None]:
        """Queues calls for the threads."""
        with self._changed:
            for call in calls:
                self._counts["submitted"] += 1
                self._wanted.add(call.job_id)
                if self._pool is not None:
                    self._pool.submit(self._try, call, 0)
        return [self.name_of(call) for call in calls]

    def name_of(self, call: CallRequest) -> str | None:
        """The name of a call's job; None when there is nothing that operators could find."""
        return None

    def release_call(self, call: CallRequest) -> None:
        """Does not perform it again."""
        with self._changed:
            self._wanted.discard(call.job_id)

    def get_stats(self) -> dict[str, int]:
        """How many calls were submitted, finished and failed."""
        with self._changed:
            return dict(self._counts)

    def named(self, call: CallRequest, name: str) -> None:
        """Tells by what name operators, and workers after this one, find the job of a call."""
        outcomes = self._outcomes
        if outcomes is not None:
            outcomes.submitted(call.job_id, name)

    def _try(self, call: CallRequest, tries: int) -> None:
        with self._changed:
            if call.job_id not in self._wanted:
                return
        try:
            outcome = self.perform(call)
        except Unavailable as error:
            wait_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(tries, 20))
            logger.warning("%s is tried again in %.1f s: %s", call.job_id, wait_s, error)
            self._perform_later(call, wait_s, tries + 1)
            return
        except Exception as error:
            outcome = Outcome(None, failure_of(error))
        if isinstance(outcome, Again):
            self._perform_later(call, outcome.after_s, 0)
        else:
            self._report(call, outcome)

    def _report(self, call: CallRequest, outcome: Outcome) -> None:
        with self._changed:
            outcomes = self._outcomes
            if outcomes is None or call.job_id not in self._wanted:
                return
            self._wanted.discard(call.job_id)
            self._counts["failed" if outcome.error else "finished"] += 1
        outcomes.report({call.job_id: outcome})

    def _perform_later(self, call: CallRequest, wait_s: float, tries: int) -> None:
        due = _Due(time.monotonic() + wait_s, next(self._numbers), call, tries)
        with self._changed:
            if call.job_id in self._wanted:
                heapq.heappush(self._later, due)
                self._changed.notify_all()

    def _tick(self, pool: ThreadPoolExecutor) -> None:
        """Hands calls whose time has come to the threads."""
        with self._changed:
            while self._pool is pool:
                now = time.monotonic()
                while self._later and self._later[0].at <= now:
                    due = heapq.heappop(self._later)
                    pool.submit(self._try, due.call, due.tries)
                self._changed.wait(self._later[0].at - now if self._later else None)
