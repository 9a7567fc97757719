"""Sessions: an agent's code interpreter that survives crashes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ._native import native
from .errors import Conflict
from .inspection import Opaque, shown
from .values import decode, encode
from .waiting import in_own_thread

if TYPE_CHECKING:
    from . import _internal
    from .db import Store

__all__ = ["AsyncSession", "Feed", "FeedError", "FeedResult", "Opaque", "Session"]


T = TypeVar("T")


@dataclass(frozen=True)
class FeedError:
    """The exception that ended a feed."""

    type: str
    """The exception's type, such as `ValueError`."""
    message: str
    traceback: str | None
    """Where it was raised, by feed and line."""
    call_id: int | None
    """The call whose failure it is."""


@dataclass(frozen=True)
class FeedResult:
    """What a feed came to."""

    number: int
    """Which feed of the session it was, from 1."""
    output: Any
    """The value of the last expression; None without one, and after an error."""
    printed: str
    error: FeedError | None
    repr: str | None
    """How the value shows itself when it has no JSON form (a function, for example)."""


@dataclass(frozen=True)
class Feed:
    """A feed in the history of a session."""

    number: int
    code: str
    response: Any
    """What was kept with the code: the text of the model that wrote it."""
    result: FeedResult | None
    """None while it runs, and when it ended the session."""

    @property
    def output(self) -> Any:
        return None if self.result is None else self.result.output

    @property
    def printed(self) -> str:
        return "" if self.result is None else self.result.printed

    @property
    def error(self) -> FeedError | None:
        return None if self.result is None else self.result.error


class Session:
    """Runs code piece by piece, and keeps its names, on disk, from one piece to the next.

    Made by `OrchestratorService.open_session` and `get_session`. Some worker has to run, here or
    in another process on the same store; threads and processes may share a session, one feed at
    a time. As a context manager it is closed at the end of the block, unless by an exception.

    >>> session = service.open_session(functions=["fetch"])
    >>> session.feed("page = await fetch('a')\\nlen(page)").output
    """

    def __init__(self, store: Store, execution_id: str) -> None:
        self._store = store
        self._session: _internal.Session = native().Session.open(store.engine, execution_id)
        self.id = execution_id
        """The id of its execution: with it `get_session` finds the session again."""

    def feed(
        self,
        code: str,
        *,
        response: Any = None,
        number: int | None = None,
        timeout: float | None = None,
    ) -> FeedResult:
        """Runs code and returns what it comes to. An exception in the code is in the result.

        `response` is kept with the code, for `feeds`: the text of the model that wrote it, or
        anything else with a JSON form. With a `number`, the place of the feed in the session
        counted from 1, a feed that was taken before is not run again: its result is returned. So
        an agent that is started anew can feed what it fed before.

        Raises TimeoutError after `timeout` seconds, while the code runs on: `wait` for it. Raises
        Conflict while another feed runs, when the session has ended or is paused, when this feed
        ended it by breaking a limit, and for a `number` that is not the next and was other code.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        fed = self._submit(code, response, number, timeout)
        return self._result(fed, None if deadline is None else deadline - time.monotonic())

    def wait(self, timeout: float | None = None) -> FeedResult:
        """What the last feed came to; waits while it runs. So one goes on after a crash.

        Raises TimeoutError, and Conflict when nothing was fed yet or the feed ended the session.
        """
        feeds = self.feeds()
        if not feeds:
            raise Conflict(f"session {self.id} was not fed yet")
        return feeds[-1].result or self._result(feeds[-1].number, timeout)

    def feeds(self) -> list[Feed]:
        """All that was fed so far, in order."""
        return [
            Feed(
                feed["number"],
                feed["code"],
                None if feed["response"] is None else decode(feed["response"]),
                None if feed["result"] is None else _result(feed["result"]),
            )
            for feed in self._session.feeds()
        ]

    def variables(self) -> dict[str, Any]:
        """The names the session knows by now and their values; during a feed, as they were at its
        last `await`. What has no JSON form, such as a function, is an `Opaque`."""
        return {name: shown(value) for name, value in self._session.variables().items()}

    def fork(self, after: int | None = None) -> Session:
        """A new session that goes on from where this one was after a feed (0 is before the first),
        or after the last one that has ended. Raises NotFound when no such feed has ended."""
        return Session(self._store, self._session.fork(after))

    def rewind(self, after: int) -> Session:
        """Goes back to where the session was after a feed: returns the session that goes on from
        there, and cancels this one. Raises NotFound when no such feed has ended."""
        return Session(self._store, self._session.rewind(after))

    def close(self) -> None:
        """Ends the session; its history stays. Raises Conflict while a feed runs."""
        self._session.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()

    def _submit(self, code: str, response: Any, number: int | None, timeout: float | None) -> int:
        kept = None if response is None else encode(response)
        fed = self._session.submit(code, kept, number, timeout)
        if fed is None:
            raise TimeoutError(f"session {self.id} has not begun: no worker runs it")
        return fed

    def _result(self, number: int, timeout: float | None) -> FeedResult:
        came = self._session.result(number, None if timeout is None else max(0.0, timeout))
        if came is None:
            raise TimeoutError(f"feed {number} of session {self.id} still runs")
        return _result(came)


class AsyncSession:
    """`Session` with its methods as coroutines. Nothing blocks the event loop.

    >>> async with await service.open_session(functions=["fetch"]) as session:
    ...     result = await session.feed("x = await fetch('a')")
    """

    def __init__(self, session: Session) -> None:
        self.sync = session
        """The session for threads behind this one."""

    @property
    def id(self) -> str:
        """The id of its execution."""
        return self.sync.id

    async def feed(
        self,
        code: str,
        *,
        response: Any = None,
        number: int | None = None,
        timeout: float | None = None,
    ) -> FeedResult:
        """See `Session.feed`. Cancelling the coroutine stops the waiting only: the code runs on."""
        deadline = None if timeout is None else time.monotonic() + timeout
        fed = await self._wait(lambda s: self.sync._submit(code, response, number, s), timeout)
        left = None if deadline is None else deadline - time.monotonic()
        return await self._wait(lambda s: self.sync._result(fed, s), left)

    async def wait(self, timeout: float | None = None) -> FeedResult:
        """See `Session.wait`. Cancelling the coroutine stops the waiting only."""
        return await self._wait(self.sync.wait, timeout)

    async def feeds(self) -> list[Feed]:
        """See `Session.feeds`."""
        return await asyncio.to_thread(self.sync.feeds)

    async def variables(self) -> dict[str, Any]:
        """See `Session.variables`."""
        return await asyncio.to_thread(self.sync.variables)

    async def fork(self, after: int | None = None) -> AsyncSession:
        """See `Session.fork`."""
        return AsyncSession(await asyncio.to_thread(self.sync.fork, after))

    async def rewind(self, after: int) -> AsyncSession:
        """See `Session.rewind`."""
        return AsyncSession(await asyncio.to_thread(self.sync.rewind, after))

    async def close(self) -> None:
        """See `Session.close`."""
        await asyncio.to_thread(self.sync.close)

    async def __aenter__(self) -> AsyncSession:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.close()

    async def _wait(self, ask: Callable[[float], T], timeout: float | None) -> T:
        return await in_own_thread(ask, timeout)


def _result(came: _internal.FeedResultDict) -> FeedResult:
    error = came["error"]
    return FeedResult(
        came["number"],
        decode(came["output"]),
        came["printed"],
        None if error is None else FeedError(**error),
        came["repr"],
    )
