"""Who writes the checkpoints of an execution, among those that share a provider."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from ..errors import Conflict
from .names import parse_checkpoint_id
from .provider import CheckpointProvider, InvalidCheckpoint

__all__ = ["Writer"]

_T = TypeVar("_T")

SURE_S = 10.0
"""How long after it last wrote a writer takes it for granted that nobody else has. Not longer: a
provider may give back leases that were not used for long, without saying so."""


class Writer:
    """Writes the checkpoints of one execution with a provider, under numbers that nobody else uses.

    The lease of an execution belongs to the provider: it keeps out other providers, those of other
    processes for example. Of the writers that share a provider the one that acquired last may
    write. What they do they do one after another, in any thread and on any event loop.
    """

    def __init__(self, provider: CheckpointProvider, execution_id: str) -> None:
        self.provider = provider
        self.execution_id = execution_id
        self._shared = _shared_by(provider, execution_id)
        self._tenure: object | None = None
        self._wrote_at = 0.0
        self._is_leased = type(provider).acquire is not CheckpointProvider.acquire

    async def turn(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Runs work when nobody else's is under way; the methods below belong into it.

        A caller that is cancelled while it waits has done nothing. What has begun is carried
        through, whether its caller is cancelled or not: a thread that saves can't be called back.
        """
        turn = _Turn()
        with _lock:
            before, self._shared.last_turn = self._shared.last_turn, turn
        is_given_up = False

        async def take() -> _T:
            try:
                if before is not None:
                    await before.over()
                if is_given_up:
                    raise asyncio.CancelledError
                return await work()
            finally:
                turn.end()

        task = asyncio.ensure_future(take())
        task.add_done_callback(turn.end)  # also when it was cancelled before it began
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            is_given_up = True
            raise

    @property
    def has_acquired(self) -> bool:
        """Whether `acquire` was called, and `release` not yet."""
        return self._tenure is not None

    @property
    def is_current(self) -> bool:
        """Whether it has acquired, and has neither lost its lease nor been replaced since."""
        return self._tenure is not None and self._shared.tenure is self._tenure

    @property
    def is_sole(self) -> bool:
        """Whether nobody else can have written since this one did."""
        return self._is_leased and self.is_current and time.monotonic() < self._wrote_at + SURE_S

    async def acquire(self) -> None:
        """Makes this the one that may write, and looks which numbers are taken.

        Raises `Conflict` while somebody with another provider may.
        """
        tenure = object()
        await self.provider.acquire(self.execution_id)
        self._shared.tenure = tenure
        ids = await self.provider.list_checkpoints(self.execution_id)
        if ids:
            newest = parse_checkpoint_id(ids[-1])[1]
            self._shared.number = max(self._shared.number, newest)
        self._tenure, self._wrote_at = tenure, time.monotonic()

    async def release(self) -> None:
        """Lets others write, if this one still may."""
        was_current, self._tenure = self.is_current, None
        if was_current:
            self._shared.tenure = None
            await self.provider.release(self.execution_id)

    def next_number(self) -> int:
        """The number of the next checkpoint, to be saved in this turn.

        Raises `Conflict` unless this is the writer that may save one.
        """
        self._check_current()
        self._shared.number += 1
        return self._shared.number

    async def save(
        self,
        number: int,
        execution_state: dict[str, Any],
        namespace: dict[str, Any],
        metadata: dict[str, Any],
    ) -> str:
        """Saves the checkpoint with the next number; its id."""
        checkpoint_id = f"{self.execution_id}_ckpt_{number}"
        try:
            await self.provider.save_checkpoint(checkpoint_id, execution_state, namespace, metadata)
        except InvalidCheckpoint:
            # Nothing was saved. After anything else the number may be taken, or be taken yet.
            self._shared.number = number - 1
            raise
        except Conflict:
            self._shared.tenure = None
            raise
        # Who did not wait for this turn, because its event loop had stopped, has not seen it.
        self._check_current()
        self._wrote_at = time.monotonic()
        return checkpoint_id

    def _check_current(self) -> None:
        if not self.is_current:
            raise Conflict(
                f"somebody else took over the checkpoints of execution {self.execution_id}: go on "
                "from the newest one, or stop"
            )


class _Shared:
    """What the writers of one execution have in common that share a provider."""

    def __init__(self, provider: CheckpointProvider) -> None:
        self.provider = provider
        """Kept, so that no other provider gets its identity meanwhile."""
        self.tenure: object | None = None
        """That of the writer that may write."""
        self.number = 0
        """The greatest that is known, or was given to a save."""
        self.last_turn: _Turn | None = None


class _Turn:
    """Something that is done alone, by a task of the event loop that runs here."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_over: Future[None] = Future()
        self._is_over.set_running_or_notify_cancel()  # whoever waits for it can't cancel it

    def end(self, _: object = None) -> None:
        if not self._is_over.done():
            self._is_over.set_result(None)

    async def over(self) -> None:
        """Waits until it is over, or never will be, as its event loop was stopped."""
        while not self._is_over.done() and self._loop.is_running():
            await asyncio.wait([asyncio.wrap_future(self._is_over)], timeout=1.0)


_lock = threading.Lock()
_shared: weakref.WeakValueDictionary[tuple[int, str], _Shared] = weakref.WeakValueDictionary()


def _shared_by(provider: CheckpointProvider, execution_id: str) -> _Shared:
    # By identity: providers need not be hashable, and equal ones have leases of their own.
    key = (id(provider), execution_id)
    with _lock:
        found = _shared.get(key)
        if found is None:
            found = _shared[key] = _Shared(provider)
        return found


def _forget_parent() -> None:
    # In a forked child. Turns that are under way belong to threads that only the parent has.
    global _lock
    _lock = threading.Lock()
    for one in list(_shared.values()):
        one.last_turn = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
