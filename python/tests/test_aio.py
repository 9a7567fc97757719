"""The service for coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from conftest import Serve

from durable_monty import (
    AsyncOrchestratorService,
    ExecutionFailed,
    NotFound,
    OrchestratorService,
    register_function,
)


@pytest.fixture
def aservice(service: OrchestratorService) -> AsyncOrchestratorService:
    return AsyncOrchestratorService(service.engine)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


def test_results_of_many_at_once(aservice: AsyncOrchestratorService, serve: Serve) -> None:
    register_function("double")(lambda i: 2 * i)

    async def body() -> list[Any]:
        ids = [
            await aservice.start_execution("await double(i)", ["double"], {"i": i})
            for i in range(50)
        ]
        return await asyncio.gather(*[aservice.result(i, 30) for i in ids])

    with serve():
        assert run(body()) == [2 * i for i in range(50)]


def test_failures_and_timeouts(aservice: AsyncOrchestratorService, serve: Serve) -> None:
    async def body() -> None:
        waiting = await aservice.start_execution("import asyncio\nawait asyncio.sleep(3600)")
        with pytest.raises(TimeoutError, match=r"has not ended after 0\.05 s"):
            await aservice.result(waiting, 0.05)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(aservice.result(waiting), 0.05)
        await aservice.cancel(waiting)
        failing = await aservice.start_execution("x = 0\n1 / x")
        with pytest.raises(ExecutionFailed, match="ZeroDivisionError"):
            await aservice.result(failing, 30)
        with pytest.raises(NotFound):
            await aservice.get_execution("nobody")

    with serve():
        run(body())


def test_every_method_has_its_twin() -> None:
    def names(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert names(OrchestratorService) - names(AsyncOrchestratorService) == {"store"}


def test_by_hand(aservice: AsyncOrchestratorService) -> None:
    async def body() -> Any:
        execution_id = await aservice.start_execution("await f(1)", ["os.path.f"])
        await aservice.process_execution(execution_id)
        [call] = await aservice.get_pending_calls(execution_id)
        await aservice.complete_call(execution_id, call["call_id"], 5)
        return await aservice.poll(execution_id)

    assert run(body())["output"] == 5
