"""What a checkpoint costs in Python code outside the sandbox, on the providers of one machine."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from durable_monty.checkpoints import (
    CheckpointManager,
    DurabilityConfig,
    FilesystemCheckpointProvider,
    SqliteCheckpointProvider,
    open_manager,
)

SAVES = 500


async def microseconds(manager: Any, saves: int) -> list[float]:
    """How long each save takes."""
    state = {"variables": {f"v{n}": n for n in range(20)}}
    took = []
    for n in range(saves):
        namespace = {"n": n, "text": "some words " * 20, "items": list(range(30))}
        begun = time.perf_counter()
        await manager.save_checkpoint("x = await fetch(n)", namespace, state, [])
        took.append((time.perf_counter() - begun) * 1e6)
    return took


def report(name: str, took: list[float]) -> None:
    cuts = statistics.quantiles(took, n=100)
    print(f"checkpoint, {name:<24} p50 {cuts[49]:9.1f} us   p99 {cuts[98]:9.1f} us")


async def main() -> None:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for provider in (
            FilesystemCheckpointProvider(Path(folder) / "files"),
            SqliteCheckpointProvider(Path(folder) / "c.db"),
        ):
            async with CheckpointManager("bench", provider) as manager:
                await microseconds(manager, 20)
                report(provider.storage_type, await microseconds(manager, SAVES))
    disabled = open_manager("bench", DurabilityConfig(enabled=False))
    report("enabled = false", await microseconds(disabled, 10_000))


asyncio.run(main())
