"""The service for coroutines."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sqlalchemy.engine import Engine

from .inspection import InspectedCheckpoint
from .service import Checkpoints, ExecutionInfo, OrchestratorService, PendingCalls
from .sessions import AsyncSession
from .waiting import in_own_thread

__all__ = ["AsyncOrchestratorService"]

T = TypeVar("T")


class AsyncOrchestratorService:
    """`OrchestratorService` with the same methods as coroutines. Nothing blocks the event loop.

    >>> service = AsyncOrchestratorService(init_db("sqlite:///app.db"))
    >>> execution_id = await service.start_execution("await add(1, 2)", ["add"])
    >>> output = await service.result(execution_id)
    """

    def __init__(self, engine: Engine) -> None:
        self.sync = OrchestratorService(engine)
        """The service for threads behind this one."""

    async def start_execution(self, *args: Any, **kwargs: Any) -> str:
        """See `OrchestratorService.start_execution`."""
        return await asyncio.to_thread(self.sync.start_execution, *args, **kwargs)

    async def start_executions(self, *args: Any, **kwargs: Any) -> list[str]:
        """See `OrchestratorService.start_executions`."""
        return await asyncio.to_thread(self.sync.start_executions, *args, **kwargs)

    async def start_workflow(self, *args: Any, **kwargs: Any) -> str:
        """See `OrchestratorService.start_workflow`."""
        return await asyncio.to_thread(self.sync.start_workflow, *args, **kwargs)

    async def start_workflows(self, *args: Any, **kwargs: Any) -> builtins.list[str]:
        """See `OrchestratorService.start_workflows`."""
        return await asyncio.to_thread(self.sync.start_workflows, *args, **kwargs)

    async def get_execution(self, execution_id: str) -> ExecutionInfo:
        """See `OrchestratorService.get_execution`."""
        return await asyncio.to_thread(self.sync.get_execution, execution_id)

    async def get_result(self, execution_id: str) -> Any:
        """See `OrchestratorService.get_result`."""
        return await asyncio.to_thread(self.sync.get_result, execution_id)

    async def wait(self, execution_id: str, timeout: float | None = None) -> ExecutionInfo:
        """See `OrchestratorService.wait`. Cancelling the coroutine stops the waiting only."""
        return await self._wait(self.sync.wait, execution_id, timeout)

    async def result(self, execution_id: str, timeout: float | None = None) -> Any:
        """See `OrchestratorService.result`. Cancelling the coroutine stops the waiting only."""
        return await self._wait(self.sync.result, execution_id, timeout)

    async def list(self, *statuses: str, **page: Any) -> list[ExecutionInfo]:
        """See `OrchestratorService.list`."""
        return await asyncio.to_thread(self.sync.list, *statuses, **page)

    async def poll(self, execution_id: str | None = None) -> Any:
        """See `OrchestratorService.poll`."""
        return await asyncio.to_thread(self.sync.poll, execution_id)

    async def get_pending_calls(self, execution_id: str) -> PendingCalls:
        """See `OrchestratorService.get_pending_calls`."""
        return await asyncio.to_thread(self.sync.get_pending_calls, execution_id)

    async def checkpoints(self, execution_id: str) -> Checkpoints:
        """See `OrchestratorService.checkpoints`."""
        return await asyncio.to_thread(self.sync.checkpoints, execution_id)

    async def checkpoint(self, execution_id: str, at: int | None = None) -> InspectedCheckpoint:
        """See `OrchestratorService.checkpoint`."""
        return await asyncio.to_thread(self.sync.checkpoint, execution_id, at)

    async def fork(
        self,
        execution_id: str,
        at: int | None = None,
        *,
        results: Mapping[int, Any] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """See `OrchestratorService.fork`."""
        return await asyncio.to_thread(
            self.sync.fork, execution_id, at, results=results, variables=variables
        )

    async def restore(self, execution_id: str, at: int) -> str:
        """See `OrchestratorService.restore`."""
        return await asyncio.to_thread(self.sync.restore, execution_id, at)

    async def complete_call(self, execution_id: str, call_id: int, result: Any) -> None:
        """See `OrchestratorService.complete_call`."""
        await asyncio.to_thread(self.sync.complete_call, execution_id, call_id, result)

    async def fail_call(self, execution_id: str, call_id: int, error: BaseException | str) -> None:
        """See `OrchestratorService.fail_call`."""
        await asyncio.to_thread(self.sync.fail_call, execution_id, call_id, error)

    async def process_execution(
        self, execution_id: str, resume_group_id: str | None = None
    ) -> None:
        """See `OrchestratorService.process_execution`."""
        await asyncio.to_thread(self.sync.process_execution, execution_id, resume_group_id)

    async def cancel(self, execution_id: str, reason: str = "cancelled") -> None:
        """See `OrchestratorService.cancel`."""
        await asyncio.to_thread(self.sync.cancel, execution_id, reason)

    async def pause(self, execution_id: str, reason: str = "paused") -> None:
        """See `OrchestratorService.pause`."""
        await asyncio.to_thread(self.sync.pause, execution_id, reason)

    async def resume(self, execution_id: str) -> None:
        """See `OrchestratorService.resume`."""
        await asyncio.to_thread(self.sync.resume, execution_id)

    async def retry(self, execution_id: str) -> None:
        """See `OrchestratorService.retry`."""
        await asyncio.to_thread(self.sync.retry, execution_id)

    async def delete(self, execution_id: str) -> None:
        """See `OrchestratorService.delete`."""
        await asyncio.to_thread(self.sync.delete, execution_id)

    # Sessions

    async def open_session(self, *args: Any, **kwargs: Any) -> AsyncSession:
        """See `OrchestratorService.open_session`."""
        session = await asyncio.to_thread(self.sync.open_session, *args, **kwargs)
        return AsyncSession(session)

    async def get_session(self, session_id: str) -> AsyncSession:
        """See `OrchestratorService.get_session`."""
        return AsyncSession(await asyncio.to_thread(self.sync.get_session, session_id))

    async def _wait(
        self, wait: Callable[[str, float], T], execution_id: str, timeout: float | None
    ) -> T:
        try:
            return await in_own_thread(lambda turn: wait(execution_id, turn), timeout)
        except TimeoutError:
            late = f"execution {execution_id} has not ended after {timeout:g} s"
            raise TimeoutError(late) from None
