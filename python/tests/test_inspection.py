"""Looking into executions where they have waited, and going on from there."""

from __future__ import annotations

import asyncio
from datetime import timezone

import pytest
from conftest import PATIENCE_S, Serve

from durable_monty import (
    AsyncOrchestratorService,
    InvalidWorkflow,
    NotFound,
    OrchestratorService,
    register_function,
)
from durable_monty.inspection import Assignment, Opaque, OpenCall

FLOW = """\
from asyncio import gather
async def scale(x):
    factor = 10
    y = await same(x)
    return y * factor
pair = await gather(scale(1), scale(2))
await __checkpoint__('half-way')
def shout(): pass
last = await same(sum(pair))
last + 1
"""


@pytest.fixture(autouse=True)
def _functions() -> None:
    register_function("same")(lambda x: x)


def ended(service: OrchestratorService) -> str:
    execution = service.start_execution(FLOW, ["same"])
    assert service.result(execution, PATIENCE_S) == 31
    return execution


def test_an_ended_execution_shows_where_it_waited_and_with_what(
    service: OrchestratorService, serve: Serve
) -> None:
    with serve():
        execution = ended(service)
    listed = service.checkpoints(execution)
    assert [one.number for one in listed] == list(range(1, len(listed) + 1))
    first, last = listed[0], listed[-1]
    assert [call.name for call in first.waits_for] == ["same", "same"]
    assert first.waits_for[0] == OpenCall(0, "same", 4, 15)
    assert [one.label for one in listed if one.label] == ["half-way"]
    assert (first.id, first.execution_id) == (f"{execution}_ckpt_1", execution)
    assert first.time <= last.time
    assert first.time.tzinfo is timezone.utc

    seen = service.checkpoint(execution, 1)
    assert (seen.number, seen.source, seen.waits_for) == (1, FLOW, first.waits_for)
    assert seen.waiting_lines == [4, 6]
    inner = [stack[-1] for stack in seen.stacks if stack[-1].function == "scale"]
    assert [frame.variables for frame in inner] == [{"x": x, "factor": 10} for x in (1, 2)]
    newest = service.checkpoint(execution)
    assert (newest.number, newest.waiting_lines) == (last.number, [9])
    assert newest.variables["pair"] == [10, 20]
    assert isinstance(newest.variables["shout"], Opaque)


def test_a_fork_goes_on_from_a_checkpoint_with_another_result(
    service: OrchestratorService, serve: Serve
) -> None:
    with serve():
        execution = ended(service)
        (open_call,) = service.checkpoint(execution).waits_for
        fork = service.fork(execution, results={open_call.call_id: 7})
        assert service.result(fork, PATIENCE_S) == 8
        again = service.fork(execution, at=1, results={0: 5})
        assert service.result(again, PATIENCE_S) == 71
    assert service.get_result(execution) == 31


def test_a_fork_goes_on_with_other_variables(service: OrchestratorService, serve: Serve) -> None:
    with serve():
        execution = ended(service)
        fork = service.fork(execution, at=1, variables={"1.0.factor": 100})
        assert service.result(fork, PATIENCE_S) == 121
        changed = service.checkpoint(fork, 2)
        assert changed.stacks[1][0].variables["factor"] == 100
        assert changed.set == [Assignment(1, 0, "scale", "factor", 100)]
        assert service.checkpoint(fork, 1).set == []
        tuples = service.fork(execution, variables={"pair": ({1}, None)})
        assert service.checkpoint(tuples).variables["pair"] == ({1}, None)
    with pytest.raises(InvalidWorkflow, match=r"1\.0\.factor .* or 2\.0\.factor"):
        service.fork(execution, 1, variables={"factor": 1})
    with pytest.raises(InvalidWorkflow, match="did you mean 'factor'"):
        service.fork(execution, 1, variables={"factr": 1})
    with pytest.raises(TypeError):
        service.fork(execution, 1, variables={"1.0.factor": object()})


def test_a_restored_execution_is_cancelled_and_another_goes_on(
    service: OrchestratorService, serve: Serve
) -> None:
    execution = service.start_execution(FLOW, ["same"])
    service.process_execution(execution)
    restored = service.restore(execution, 1)
    assert service.get_execution(execution)["status"] == "cancelled"
    with serve():
        assert service.result(restored, PATIENCE_S) == 31


def test_what_is_not_there_or_can_not_be_is_refused(service: OrchestratorService) -> None:
    execution = service.start_execution(FLOW, ["same"])
    assert service.checkpoints(execution) == []
    with pytest.raises(NotFound, match="it has not waited yet"):
        service.checkpoint(execution)
    service.process_execution(execution)
    for missing in ("nonsense", "01a1fde1-95a2-7211-97bc-22a3c3fb636b"):
        with pytest.raises(NotFound):
            service.checkpoints(missing)
    with pytest.raises(NotFound, match="it has 1, counted from 1"):
        service.fork(execution, 2)
    with pytest.raises(InvalidWorkflow, match="it waits for 0, 1"):
        service.fork(execution, 1, results={9: 1})
    with pytest.raises(InvalidWorkflow, match="max_payload_bytes"):
        service.fork(execution, 1, results={0: "x" * (11 << 20)})
    with pytest.raises(TypeError):
        service.fork(execution, 1, results={0: object()})
    assert len(service.list()) == 1


def test_coroutines_do_the_same(service: OrchestratorService, serve: Serve) -> None:
    async def use() -> None:
        a_service = AsyncOrchestratorService(service.engine)
        execution = await a_service.start_execution(FLOW, ["same"])
        assert await a_service.result(execution, PATIENCE_S) == 31
        first, *_ = await a_service.checkpoints(execution)
        assert (await a_service.checkpoint(execution, first.number)).waiting_lines == [4, 6]
        fork = await a_service.fork(execution, first.number, results={0: 5})
        assert await a_service.result(fork, PATIENCE_S) == 71
        fork = await a_service.fork(execution, first.number, variables={"2.0.factor": 100})
        assert await a_service.result(fork, PATIENCE_S) == 211
        restored = await a_service.restore(execution, first.number)
        assert await a_service.result(restored, PATIENCE_S) == 31

    with serve():
        asyncio.run(use())
