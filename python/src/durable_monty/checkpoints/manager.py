"""Saving and finding the checkpoints of one execution."""

from __future__ import annotations

import time
import warnings
from typing import Any

from ..errors import Corrupt
from .content import CheckpointWarning, Policy, savable
from .names import parse_execution_id
from .provider import Checkpoint, CheckpointProvider, InvalidCheckpoint
from .writer import Writer

__all__ = ["CheckpointManager"]

_AS_PROVIDER: Any = object()


class CheckpointManager:
    """The checkpoints of one execution, numbered from 1 across restarts.

    `keep_last_n`: how many are kept at each save, None for all; not more than the provider keeps.
    Unless it is given, as many as the provider keeps, or 10 when that is not the provider's affair.
    `on_unsaved`: what happens when a variable can't be saved: "error" raises `InvalidCheckpoint`
    and saves nothing, "warn" leaves it out, warns, and notes it in the metadata under "unsaved".

    The first save makes it the only writer, in place of another manager with the same provider,
    whose next save raises `Conflict`. A save that was begun is carried through, also when who waits
    for it is cancelled.

    `async with manager:` gives the right to write back at the end, so that another process need
    not wait for it.
    """

    def __init__(
        self,
        execution_id: str,
        provider: CheckpointProvider,
        *,
        keep_last_n: int | None = _AS_PROVIDER,
        on_unsaved: Policy = "error",
    ) -> None:
        if on_unsaved not in ("error", "warn"):
            raise ValueError(f"on_unsaved is {on_unsaved!r}: expected 'error' or 'warn'")
        self.execution_id = parse_execution_id(execution_id)
        self.provider = provider
        self.on_unsaved: Policy = on_unsaved
        if keep_last_n is _AS_PROVIDER:
            keep_last_n = getattr(provider, "keep_last_n", 10)
        self.keep_last_n = _checked(keep_last_n, provider)
        self.checkpoint_counter: int | None = None
        self._writer = Writer(provider, self.execution_id)

    async def acquire(self) -> None:
        """Makes this the only writer, as the first save does: before the newest checkpoint is
        looked for, so that nobody adds one meanwhile.

        Raises `Conflict` while somebody with another provider is, another process for example.
        """
        await self._writer.turn(self._writer.acquire)

    async def save_checkpoint(
        self,
        statement_code: str,
        namespace: dict[str, Any],
        execution_state: dict[str, Any],
        call_stack: list[Any],
        llm_response: str | None = None,
        executed_code: str | None = None,
    ) -> str:
        """Saves a checkpoint after a statement; its id. It is safe when this returns."""
        kept, unsaved = savable(namespace, self.on_unsaved)

        async def save() -> str:
            if not self._writer.has_acquired:
                await self._writer.acquire()
            counter = self._writer.next_number()
            metadata: dict[str, Any] = {
                "statement": statement_code,
                "counter": counter,
                "execution_id": self.execution_id,
                "timestamp": time.time(),
                "call_stack": call_stack,
                "llm_response": llm_response,
                "executed_code": executed_code,
            }
            if unsaved:
                metadata["unsaved"] = unsaved
            checkpoint_id = await self._writer.save(counter, execution_state, kept, metadata)
            self.checkpoint_counter = counter
            kept_by_provider = getattr(self.provider, "keep_last_n", None)
            if self.keep_last_n is not None and self.keep_last_n != kept_by_provider:
                await self.provider.cleanup_old_checkpoints(self.execution_id, self.keep_last_n)
            return checkpoint_id

        return await self._writer.turn(save)

    async def load_checkpoint(self, checkpoint_id: str) -> Checkpoint | None:
        """The checkpoint with an id; None when there is none."""
        return await self.provider.load_checkpoint(checkpoint_id)

    async def list_checkpoints(self) -> list[str]:
        """The ids of the execution's checkpoints in the order of their numbers."""
        return await self.provider.list_checkpoints(self.execution_id)

    async def get_latest_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint that can be read; None when there is none at all.

        Newer ones that can't be read are named in a warning. Raises `Corrupt` when there are some
        and none can be read.
        """
        corrupt: list[str] = []
        for checkpoint_id in reversed(await self.list_checkpoints()):
            try:
                checkpoint = await self.load_checkpoint(checkpoint_id)
            except Corrupt as error:
                corrupt.append(str(error))
                continue
            if checkpoint is None:  # removed since it was listed
                continue
            if corrupt:
                message = f"{'; '.join(corrupt)}: {checkpoint_id} is used instead"
                warnings.warn(message, CheckpointWarning, stacklevel=2)
            return checkpoint
        if corrupt:
            raise Corrupt(
                f"no checkpoint of execution {self.execution_id} can be read: {'; '.join(corrupt)}"
            )
        return None

    async def cleanup_old_checkpoints(self, keep_last_n: int = 10) -> int:
        """Removes all but the last checkpoints; how many were removed."""
        return await self.provider.cleanup_old_checkpoints(self.execution_id, keep_last_n)

    async def close(self) -> None:
        """Lets others write the checkpoints of this execution, when a save under way is over."""
        await self._writer.turn(self._writer.release)
        self.checkpoint_counter = None

    async def __aenter__(self) -> CheckpointManager:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _checked(keep_last_n: int | None, provider: CheckpointProvider) -> int | None:
    if keep_last_n is not None and keep_last_n < 1:
        raise InvalidCheckpoint(f"keep_last_n is {keep_last_n}: at least one is kept")
    by_provider = getattr(provider, "keep_last_n", None)
    if by_provider is not None and (keep_last_n is None or keep_last_n > by_provider):
        raise InvalidCheckpoint(
            f"keep_last_n is {keep_last_n}: the provider's own saves leave the last {by_provider} "
            f"checkpoints of an execution: give the provider keep_last_n={keep_last_n}, too"
        )
    return keep_last_n
