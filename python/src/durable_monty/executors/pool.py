"""The threads of a worker that runs calls in its own process."""

from __future__ import annotations

import _thread
import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Coroutine
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from ..context import current_task
from ..errors import Unavailable
from ..failures import failure_of
from ..functions import FUNCTION_REGISTRY, get_function
from ..values import decode, decode_object, encode

if TYPE_CHECKING:
    from .._internal import Engine, Task
    from .local import LocalExecutor, Tally

__all__ = ["CallPool"]

logger = logging.getLogger("durable_monty.executor")

IDLE_S = 5.0
CHECK_EVERY_S = 1.0
"""How often coroutines are looked at that nobody may wait for any more."""


class CallPool:
    """Threads that take calls from the engine, run them and report what they came to.

    A thread that reports a result is given the next call in the same breath, so a queue of quick
    functions is worked off by one thread without any hand-over. While threads are busy, one more
    always waits in the engine (until there are `max_workers`): as soon as the others block and
    let go of the interpreter lock, it takes the next call and sends for another thread to wait.
    So functions that block run side by side at once, and functions that don't never wake it.
    """

    def __init__(self, engine: Engine, executor: LocalExecutor) -> None:
        self._engine = engine
        self._executor = executor
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._threads = 0
        self._idle = 0
        self._coroutines = 0
        self._awaited: dict[asyncio.Task[Any], Task] = {}
        """The coroutines that may be cancelled; only the event loop looks at it."""
        self._is_watching = False
        self._handed: deque[Task] = deque()
        self._is_stopping = False

    def start(self) -> None:
        """Starts the first thread."""
        with self._lock:
            self._add_thread(None)

    def stop(self, grace_s: float) -> None:
        """Cancels coroutines, and waits until they and the threads have ended. The engine must have
        been told to stop before."""
        with self._lock:
            self._is_stopping = True
            if self._coroutines:
                self._executor.lane.call(self._cancel_unwanted)
            self._ended.wait_for(lambda: self._threads + self._coroutines == 0, grace_s)

    def is_settled(self) -> bool:
        """Whether nothing is running here and nothing waits to."""
        with self._lock:
            is_idle = self._idle == self._threads and self._coroutines == 0
        return is_idle and self._engine.pending_tasks() == 0

    def is_busy(self) -> bool:
        """Whether outcomes would be lost with this process: always, a function may just begin."""
        return True

    def running(self) -> int:
        """How many functions run just now."""
        with self._lock:
            return self._threads - self._idle + self._coroutines

    def _add_thread(self, first: Task | None) -> None:
        # The lock is held. Without a first call the thread is on its way to wait for one.
        self._threads += 1
        self._idle += first is None
        try:
            # Not `threading.Thread`: its start() waits for the new thread to run.
            _thread.start_new_thread(self._body, (first,))
        except RuntimeError:
            self._threads -= 1
            self._idle -= first is None
            if self._threads == 0 or first is not None:
                raise
            logger.warning("can't start another thread, %d must do", self._threads)

    def _body(self, task: Task | None) -> None:
        tally = self._executor.new_tally()
        if task is None:
            task = self._await_task()
        try:
            while task is not None:
                self._run_tasks(task, tally)
                with self._lock:
                    task = self._handed.popleft() if self._handed else None
                    self._idle += task is None
                if task is None:
                    task = self._await_task()
        except BaseException:
            logger.exception("a thread that runs calls has ended unexpectedly")
            with self._lock:
                self._idle += 1
        finally:
            self._executor.fold_tally(tally)
            with self._lock:
                self._threads -= 1
                self._idle -= 1
                if self._threads == 0 and not self._is_stopping:
                    self._add_thread(None)
                self._ended.notify_all()

    def _await_task(self) -> Task | None:
        """The next call; None when this thread is not needed any more."""
        while True:
            try:
                task = self._engine.next_task(IDLE_S)
            except Unavailable:
                # The engine was closed under the worker: the process is about to end.
                task = None
                self._is_stopping = True
            with self._lock:
                if task is not None:
                    self._idle -= 1
                    if self._idle == 0 and self._threads < self._executor.max_workers:
                        self._add_thread(None)
                    return task
                if self._is_stopping or self._idle > 2:
                    return None

    def _run_tasks(self, first: Task, tally: Tally) -> None:
        """Runs a call, and the ones the engine has at hand when one is done."""
        task: Task | None = first
        handed = self._handed
        finish = self._engine.finish
        find = FUNCTION_REGISTRY.get
        set_current = current_task.set
        now = time.time
        while task is not None:
            set_current((task, now()))
            try:
                function = find(task.function) or get_function(task.function)
                kwargs = task.kwargs
                if kwargs == "{}":
                    result = function(*decode(task.args))
                else:
                    result = function(*decode(task.args), **decode_object(kwargs))
                if type(result) is CoroutineType:
                    self._start_coroutine(task, result)
                    return
                text = encode(result)
            except BaseException as error:
                tally.failed += 1
                task = self._fail(task, error)
            else:
                task = finish(task, text)
            tally.executed += 1
            if handed and task is not None:
                handed.append(task)
                task = handed.popleft()

    def _start_coroutine(self, task: Task, coroutine: Coroutine[Any, Any, Any]) -> None:
        with self._lock:
            self._coroutines += 1
        self._executor.lane.start(self._run_coroutine(task, coroutine))

    async def _run_coroutine(self, task: Task, coroutine: Coroutine[Any, Any, Any]) -> None:
        tally = self._executor.async_tally
        following = None
        try:
            text = encode(await self._await(task, coroutine))
        except BaseException as error:
            tally.failed += 1
            # What was cancelled because nobody waits for it comes to nothing.
            if not isinstance(error, asyncio.CancelledError) or self._is_wanted(task):
                following = self._fail(task, error)
        else:
            following = self._engine.finish(task, text)
        tally.executed += 1
        with self._lock:
            self._coroutines -= 1
            if following is not None:
                self._hand_over(following)
            if self._is_stopping:
                self._ended.notify_all()

    async def _await(self, task: Task, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """What a coroutine returns, which is cancelled when nobody waits for that any more."""
        running = asyncio.current_task()
        if running is None or self._is_stopping:
            coroutine.close()
            raise asyncio.CancelledError
        self._awaited[running] = task
        if not self._is_watching:
            self._is_watching = True
            running.get_loop().call_later(CHECK_EVERY_S, self._watch)
        try:
            if task.timeout_ms is None:
                return await coroutine
            return await self._in_time(running, coroutine, task.timeout_ms)
        finally:
            self._awaited.pop(running, None)

    async def _in_time(
        self, running: asyncio.Task[Any], coroutine: Coroutine[Any, Any, Any], timeout_ms: int
    ) -> Any:
        is_late = False

        def give_up() -> None:
            nonlocal is_late
            is_late = True
            self._cancel(running)

        timer = running.get_loop().call_later(timeout_ms / 1000, give_up)
        try:
            return await coroutine
        except asyncio.CancelledError:
            if not is_late:
                raise
            raise TimeoutError(f"the attempt took longer than its {timeout_ms} ms") from None
        finally:
            timer.cancel()

    def _watch(self) -> None:
        self._cancel_unwanted()
        self._is_watching = bool(self._awaited)
        if self._is_watching:
            asyncio.get_running_loop().call_later(CHECK_EVERY_S, self._watch)

    def _cancel_unwanted(self) -> None:
        for running, task in list(self._awaited.items()):
            if not self._is_wanted(task):
                self._cancel(running)

    def _cancel(self, running: asyncio.Task[Any]) -> None:
        # Once: what it does about it is not to be disturbed.
        if self._awaited.pop(running, None) is not None:
            running.cancel()

    def _is_wanted(self, task: Task) -> bool:
        return not self._is_stopping and not self._engine.is_cancelled(task)

    def _hand_over(self, task: Task) -> None:
        """Gives a call that came to the event loop, where it must not block, to a thread."""
        # The lock is held. A thread that waits in the engine doesn't look at `_handed`; a busy
        # one does when it is done.
        if self._threads - self._idle < self._executor.max_workers:
            self._add_thread(task)
        else:
            self._handed.append(task)

    def _fail(self, task: Task, error: BaseException) -> Task | None:
        kind, message, shown = failure_of(error)
        logger.info(
            "call %s of %s (%s) failed in attempt %d: %s: %s",
            task.call_id,
            task.execution_id,
            task.function,
            task.attempt,
            kind,
            message,
        )
        return self._engine.fail(task, kind, message, shown)
