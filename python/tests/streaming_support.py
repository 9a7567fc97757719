"""What the tests of trusted Python share: functions that count, and processes that follow each
other."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from durable_monty import (
    StreamingPythonExecutor,
)
from durable_monty.checkpoints import (
    CheckpointManager,
    MemoryCheckpointProvider,
)


def run(body: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(body)


class Calls:
    """Functions that the code of a test may call, and what it called."""

    def __init__(self) -> None:
        self.made: list[Any] = []
        self.crash_at: Any = None

    async def call(self, value: Any) -> Any:
        await asyncio.sleep(0)
        if value == self.crash_at:
            # As far as a checkpoint can tell, the process is gone.
            raise asyncio.CancelledError
        self.made.append(value)
        return value

    def names(self) -> dict[str, Any]:
        return {"call": self.call}


class Process:
    """Executors that follow each other on the same checkpoints."""

    def __init__(self, **options: Any) -> None:
        self.provider = MemoryCheckpointProvider(keep_last_n=1000)
        self.calls = Calls()
        self.names = self.calls.names()
        self.options = options

    def manager(self) -> CheckpointManager:
        return CheckpointManager("order-7", self.provider)

    async def executor(self) -> StreamingPythonExecutor:
        """What a new process has."""
        return await StreamingPythonExecutor.resume(self.manager(), self.names, **self.options)

    async def crashes_at(self, value: Any, code: str) -> None:
        executor = await self.executor()
        self.calls.crash_at = value
        with pytest.raises(asyncio.CancelledError):
            await executor.add_chunk(code)
        self.calls.crash_at = None


async def whole(executor: StreamingPythonExecutor, code: str) -> None:
    await executor.add_chunk(code)
    await executor.finalize()
