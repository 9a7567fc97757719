"""Waiting for what blocks, from coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["in_own_thread"]

T = TypeVar("T")


async def in_own_thread(wait: Callable[[float], T], timeout: float | None) -> T:
    """Runs a waiting function on a thread of its own: the loop's pool has too few of them for
    thousands of waiters. The thread sees within a second that nobody waits any more.

    `wait` is called again and again with a number of seconds, until it returns or `timeout`
    seconds are over; it raises TimeoutError when it has waited so long in vain."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(setter: Callable[[Any], None], value: Any) -> None:
        if not done.done():
            setter(value)

    def report(setter: Callable[[Any], None], value: Any) -> None:
        try:
            loop.call_soon_threadsafe(settle, setter, value)
        except RuntimeError:
            pass  # the loop is closed: nobody waits

    def body() -> None:
        left = timeout
        while not done.done():
            turn = 1.0 if left is None else min(1.0, left)
            try:
                return report(done.set_result, wait(turn))
            except TimeoutError as error:
                if left is not None:
                    left -= turn
                    if left <= 0:
                        return report(done.set_exception, error)
            except BaseException as error:
                return report(done.set_exception, error)

    threading.Thread(target=body, name="durable-monty-wait", daemon=True).start()
    return await done
