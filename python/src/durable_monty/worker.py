"""The worker: runs executions, and their calls through an executor."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import column, exists, or_, select, table
from sqlalchemy.engine import Engine as Database

from .executors.base import Executor, ReportingExecutor, reports
from .executors.courier import Courier
from .executors.local import LocalExecutor
from .executors.poller import JobPoller
from .executors.pool import CallPool
from .functions import FUNCTION_REGISTRY
from .models import CallStatus, Instant, Step
from .orchestrator import check_and_resume_if_ready, enqueue_calls, execute_and_save
from .service import OrchestratorService

if TYPE_CHECKING:
    from ._internal import Engine

__all__ = ["Worker", "check_and_resume_if_ready", "enqueue_calls", "execute_and_save"]

logger = logging.getLogger("durable_monty.worker")

PROGRESS_S = 1.0
IDLE_SLICE_S = 0.1
DEFAULT_GRACE_S = 10.0
STOP_S = 1.0


class _Driver(Protocol):
    """What moves calls between the engine and an executor."""

    def start(self) -> None: ...
    def stop(self, grace_s: float) -> None: ...
    def is_settled(self) -> bool: ...
    def is_busy(self) -> bool: ...
    def running(self) -> int: ...


class Worker:
    """Leases executions, advances them, and has their calls run by an executor.

    Any number of workers, in any number of processes, may share a database: each execution is
    advanced by one of them at a time, and those of a worker that dies are taken over by another.

    `poll_interval` is how often, at the latest, an executor is asked about a job that can't report
    by itself; calls that run in this process never wait for it. `grace` is how many seconds
    functions that still run are given when the worker stops, here or where only this process awaits
    what they come to; those that need longer run again later, elsewhere or here.

    `queues` are the queues it takes executions from, all of them unless some are named; workers of
    one process share theirs. `concurrency` is how many functions a `LocalExecutor` runs at once.
    While it runs, the worker stands on the list that `durable workers` shows.
    """

    def __init__(
        self,
        service: OrchestratorService,
        executor: Executor | None = None,
        poll_interval: float = 1.0,
        *,
        grace: float = DEFAULT_GRACE_S,
        queues: Iterable[str] = (),
        concurrency: int | None = None,
    ) -> None:
        if poll_interval < 0:
            raise ValueError(f"poll_interval is {poll_interval}, it can't be negative")
        self.service = service
        self.executor: Executor = LocalExecutor() if executor is None else executor
        self.queues = (queues,) if isinstance(queues, str) else tuple(queues)
        if concurrency is not None:
            if not isinstance(self.executor, LocalExecutor):
                kind = type(self.executor).__name__
                raise ValueError(f"concurrency is for a LocalExecutor, {kind} has its own limits")
            if concurrency < 1:
                raise ValueError(f"concurrency is {concurrency}, it must be at least 1")
            self.executor.max_workers = concurrency
        self.poll_interval = poll_interval
        self.grace = grace
        self._wake = threading.Event()
        self._is_stopped = False
        self._running = threading.Lock()

    def run(self, once: bool = False, until_complete: bool = False) -> None:
        """Works until `stop` is called, or Ctrl-C or SIGTERM arrives.

        With `once`, does what is due now and returns: what is left waits for timers, retries or
        jobs elsewhere. With `until_complete`, returns when no execution is scheduled, running or
        waiting any more.
        """
        if once and until_complete:
            raise ValueError("run() takes once=True or until_complete=True, not both")
        if not self._running.acquire(blocking=False):
            raise RuntimeError("this worker is running already, in another thread")
        try:
            self._wake.clear()
            self._is_stopped = False
            with _stop_signals(self.stop):
                self._serve(once, until_complete)
        except KeyboardInterrupt:
            logger.info("interrupted")
        finally:
            self._running.release()
        logger.info("worker stopped")

    def stop(self) -> None:
        """Asks `run` to return, and returns at once itself. Any thread may call it."""
        self._is_stopped = True
        self._wake.set()

    def _serve(self, once: bool, until_complete: bool) -> None:
        store = self.service.store
        store.attach(self.queues, self._announcement())
        driver = self._driver(store.engine)
        try:
            driver.start()
            logger.info("worker started (%s)", type(self.executor).__name__)
            progress = _Progress(self.executor, driver)
            if once:
                self._run_until_settled(driver)
            else:
                self._run_until_stopped(store.engine, progress, until_complete)
        finally:
            # Jobs elsewhere go on by themselves; only what needs this process is waited for.
            store.detach(self.grace if driver.is_busy() else 0.0)
            driver.stop(STOP_S)

    def _announcement(self) -> tuple[str, list[str], int]:
        at_once = getattr(self.executor, "max_workers", None)
        functions = sorted(FUNCTION_REGISTRY)
        return socket.gethostname(), functions, at_once if isinstance(at_once, int) else 0

    def _driver(self, engine: Engine) -> _Driver:
        executor = self.executor
        # A subclass that submits calls its own way wants its own way to be used.
        is_local = type(executor).submit_call is LocalExecutor.submit_call
        if is_local and isinstance(executor, LocalExecutor):
            return CallPool(engine, executor)
        if isinstance(executor, ReportingExecutor) and reports(executor):
            return Courier(engine, executor, self.service.engine)
        return JobPoller(engine, executor, self.service.engine, self.poll_interval)

    def _run_until_stopped(self, engine: Engine, progress: _Progress, until_complete: bool) -> None:
        while not self._is_stopped:
            if not until_complete:
                self._wake.wait(PROGRESS_S)
            elif engine.wait_idle(IDLE_SLICE_S):
                logger.info("all executions have ended")
                return
            progress.log_if_due()

    def _run_until_settled(self, driver: _Driver) -> None:
        wait_s = 0.001
        while not self._is_stopped:
            # The database is asked last: what the driver reports before it was committed is
            # still seen as open there.
            if driver.is_settled() and not _has_due_work(self.service.engine):
                return
            self._wake.wait(wait_s)
            wait_s = min(0.02, wait_s * 2)


class _Progress:
    """Tells what a worker has done, once a second while there is something to tell."""

    def __init__(self, executor: Executor, driver: _Driver) -> None:
        self._executor = executor
        self._driver = driver
        self._told: Any = None
        self._due = time.monotonic() + PROGRESS_S

    def log_if_due(self) -> None:
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + PROGRESS_S
        state = (self._executor.get_stats(), self._driver.running())
        if state != self._told and logger.isEnabledFor(logging.INFO):
            self._told = state
            numbers = ", ".join(f"{name}: {value}" for name, value in state[0].items())
            logger.info("calls running: %d%s", state[1], f", {numbers}" if numbers else "")


_EXECUTIONS = table(
    "executions", column("id"), column("status"), column("inbox"), column("wake_at", Instant())
)
_LOCKS = table("execution_locks", column("execution_id"))


def _has_due_work(database: Database) -> bool:
    """Whether an execution waits to be leased, has something in its inbox, or is leased and has a
    call or timer whose time has come. A submitted call is with its executor."""
    execution, step = _EXECUTIONS.c, Step
    now = dt.datetime.now(dt.timezone.utc)
    is_due = exists().where(
        step.execution_id == execution.id,
        step.applied.is_(False),
        step.status != CallStatus.SUBMITTED,
        or_(step.due_at.is_(None), step.due_at <= now),
    )
    is_leased = _LOCKS.c.execution_id == execution.id
    begins = execution.status.in_(["SCHEDULED", "RUNNING"])
    due = or_(
        exists().where(execution.wake_at <= now),
        exists().where(execution.inbox > 0, execution.status != "PAUSED"),
        exists().where(is_leased, or_(begins, is_due)),
    )
    with database.connect() as connection:
        return bool(connection.scalar(select(due)))


@contextlib.contextmanager
def _stop_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Lets SIGTERM stop the worker while the block runs, where the program didn't decide on it."""
    is_ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if not is_ours:
        yield
        return

    def handle(_number: int, _frame: Any) -> None:
        # The next one ends the process.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        stop()

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
