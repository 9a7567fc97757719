"""What every place for checkpoints can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypedDict

from ..errors import DurableError

__all__ = ["Checkpoint", "CheckpointProvider", "InvalidCheckpoint"]


class InvalidCheckpoint(DurableError, ValueError):
    """A name, a size or a value that no checkpoint can have."""


class Checkpoint(TypedDict):
    """A checkpoint as it is loaded."""

    checkpoint_id: str
    execution_state: dict[str, Any]
    namespace: dict[str, Any]
    metadata: dict[str, Any]


class CheckpointProvider(ABC):
    """Keeps checkpoints. The id of a checkpoint is `<execution>_ckpt_<number>`, counted from 1.

    Subclass it, name it by `storage_type`, and run `durable_monty.checkpoints.conformance` on it.
    """

    storage_type: ClassVar[str] = ""
    """What `[durability] storage_type` calls it."""

    keep_last_n: int | None
    """How many checkpoints a save leaves of an execution, None for all. A provider that does not
    have this attribute leaves it to managers, which keep 10 unless they are told otherwise."""

    @abstractmethod
    async def save_checkpoint(
        self,
        checkpoint_id: str,
        execution_state: dict[str, Any],
        namespace: dict[str, Any],
        metadata: dict[str, Any],
    ) -> None:
        """Keeps a checkpoint, in place of the one with that id. It is safe when this returns.

        Raises `InvalidCheckpoint` (a ValueError) for an id, a size or a value that can't be, and
        `durable_monty.Conflict` while somebody else writes the checkpoints of the execution.
        """

    @abstractmethod
    async def load_checkpoint(self, checkpoint_id: str) -> Checkpoint | None:
        """The checkpoint with an id; None when there is none.

        Raises `durable_monty.Corrupt`, which names it, when it can't be read.
        """

    @abstractmethod
    async def list_checkpoints(self, execution_id: str) -> list[str]:
        """The ids of an execution's checkpoints in the order of their numbers."""

    @abstractmethod
    async def delete_checkpoint(self, checkpoint_id: str) -> None:
        """Removes a checkpoint. Nothing happens when there is none."""

    async def cleanup_old_checkpoints(self, execution_id: str, keep_last_n: int = 10) -> int:
        """Removes all but the last checkpoints of an execution; how many were removed."""
        if keep_last_n < 0:
            raise InvalidCheckpoint(f"keep_last_n is {keep_last_n}: it can't be less than 0")
        ids = await self.list_checkpoints(execution_id)
        old = ids[: max(len(ids) - keep_last_n, 0)]
        for checkpoint_id in old:
            await self.delete_checkpoint(checkpoint_id)
        return len(old)

    async def acquire(self, execution_id: str) -> None:
        """Makes this the only writer of an execution's checkpoints, where that can be done.

        Raises `durable_monty.Conflict` while somebody else is.
        """
        return None

    async def release(self, execution_id: str) -> None:
        """Lets others write the checkpoints of an execution."""
        return None
