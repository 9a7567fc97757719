"""The event loop on which `async def` functions run."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["AsyncLane"]


class AsyncLane:
    """One event loop on one thread, started when it is first needed and kept for the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Runs a coroutine on the loop, in the context of the caller, and returns at once."""
        self._ready().call_soon_threadsafe(
            self._begin, coroutine, context=contextvars.copy_context()
        )

    def call(self, function: Callable[[], None]) -> None:
        """Calls a function on the loop, after what was started before."""
        self._ready().call_soon_threadsafe(function)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Runs a coroutine on the loop and waits for what it returns or raises."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._ready()).result()

    def _begin(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        # The loop itself holds tasks weakly.
        task = asyncio.ensure_future(coroutine)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _ready(self) -> asyncio.AbstractEventLoop:
        loop = self._loop
        if loop is None or self._pid != os.getpid():
            with self._lock:
                if self._loop is None or self._pid != os.getpid():
                    self._loop = asyncio.new_event_loop()
                    self._pid = os.getpid()
                    threading.Thread(
                        target=self._loop.run_forever, name="durable-monty-async", daemon=True
                    ).start()
                loop = self._loop
        return loop
