"""Providers that tests of several writers need."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from durable_monty.checkpoints import Checkpoint, CheckpointProvider, MemoryCheckpointProvider


class HeldProvider(MemoryCheckpointProvider):
    """Saves a namespace that says "held" when it is told to, in a thread that can't be called
    back."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.begun, self.let_go = threading.Event(), threading.Event()

    async def save_checkpoint(self, *arguments: Any) -> None:
        save = super().save_checkpoint(*arguments)
        if "held" not in str(arguments[2]):
            return await save

        def later() -> None:
            self.begun.set()
            self.let_go.wait(60)
            asyncio.run(save)

        await asyncio.to_thread(later)


class PlainProvider(CheckpointProvider):
    """As another package would write it: no leases, not hashable, no retention."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, storage_path: str = "", kept: dict[str, Any] | None = None) -> None:
        self.kept = {} if kept is None else kept

    async def save_checkpoint(self, checkpoint_id: str, *parts: Any) -> None:
        await asyncio.sleep(0)
        self.kept[checkpoint_id] = Checkpoint(
            checkpoint_id=checkpoint_id,
            execution_state=parts[0],
            namespace=parts[1],
            metadata=parts[2],
        )

    async def load_checkpoint(self, checkpoint_id: str) -> Checkpoint | None:
        return self.kept.get(checkpoint_id)

    async def list_checkpoints(self, execution_id: str) -> list[str]:
        await asyncio.sleep(0)
        ids = [one for one in self.kept if one.rpartition("_ckpt_")[0] == execution_id]
        return sorted(ids, key=lambda one: int(one.rpartition("_")[2]))

    async def delete_checkpoint(self, checkpoint_id: str) -> None:
        self.kept.pop(checkpoint_id, None)
