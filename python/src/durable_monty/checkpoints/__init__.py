"""Checkpoints: what an execution was at a moment, kept under an id, and going on from there.

>>> import asyncio
>>> from durable_monty.checkpoints import CheckpointManager, MemoryCheckpointProvider
>>> async def main():
...     manager = CheckpointManager("order-7", MemoryCheckpointProvider())
...     return await manager.save_checkpoint("x = 1", {"x": 1}, {}, [])
>>> asyncio.run(main())
'order-7_ckpt_1'
"""

from __future__ import annotations

from .config import DurabilityConfig, open_manager
from .content import CheckpointWarning
from .manager import CheckpointManager
from .provider import Checkpoint, CheckpointProvider, InvalidCheckpoint
from .providers import (
    FilesystemCheckpointProvider,
    MemoryCheckpointProvider,
    PostgresCheckpointProvider,
    RedisCheckpointProvider,
    S3CheckpointProvider,
    SqliteCheckpointProvider,
)
from .recovery import RecoveryCoordinator
from .registry import (
    checkpoint_providers,
    get_checkpoint_provider,
    register_checkpoint_provider,
)

__all__ = [
    "Checkpoint",
    "CheckpointManager",
    "CheckpointProvider",
    "CheckpointWarning",
    "DurabilityConfig",
    "FilesystemCheckpointProvider",
    "InvalidCheckpoint",
    "MemoryCheckpointProvider",
    "PostgresCheckpointProvider",
    "RecoveryCoordinator",
    "RedisCheckpointProvider",
    "S3CheckpointProvider",
    "SqliteCheckpointProvider",
    "checkpoint_providers",
    "get_checkpoint_provider",
    "open_manager",
    "register_checkpoint_provider",
]
