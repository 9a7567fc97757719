"""LangGraph's checkpoints with a provider: its own conformance tests, and a graph that goes on."""

from __future__ import annotations

import asyncio
import operator
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from checkpoints_support import HeldProvider, PlainProvider
from conftest import service_url

pytest.importorskip("langgraph")

from langgraph.checkpoint.base import empty_checkpoint
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from durable_monty import Conflict
from durable_monty.checkpoints import (
    CheckpointProvider,
    FilesystemCheckpointProvider,
    InvalidCheckpoint,
    RedisCheckpointProvider,
)
from durable_monty.checkpoints.langgraph import DurableSaver


@pytest.fixture(params=["filesystem", "redis"])
def provider(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointProvider:
    if request.param == "filesystem":
        return FilesystemCheckpointProvider(tmp_path, keep_last_n=None)
    return RedisCheckpointProvider(service_url("DURABLE_TEST_REDIS"), keep_last_n=None)


def test_it_passes_the_tests_of_langgraph(provider: CheckpointProvider) -> None:
    conformance = pytest.importorskip("langgraph.checkpoint.conformance")

    @conformance.checkpointer_test(name=f"DurableSaver {provider.storage_type}")
    async def saver() -> AsyncIterator[DurableSaver]:
        made = DurableSaver(provider)
        yield made
        await asyncio.to_thread(made.close)

    report = asyncio.run(conformance.validate(saver))
    failures = {name: result.failures for name, result in report.results.items() if result.failures}
    assert not failures
    assert all(result.detected and result.passed for result in report.results.values())
    assert len(report.results) == 8


class State(TypedDict):
    words: Annotated[list[str], operator.add]


def graph(saver: DurableSaver) -> Any:
    def ask(state: State) -> State:
        return {"words": [f"answer: {interrupt('what?')}"]}

    builder = StateGraph(State)
    builder.add_node("greet", lambda state: {"words": ["hello"]})
    builder.add_node("ask", ask)
    builder.add_edge(START, "greet")
    builder.add_edge("greet", "ask")
    builder.add_edge("ask", END)
    return builder.compile(checkpointer=saver)


def test_a_graph_goes_on_in_another_process(tmp_path: Path) -> None:
    thread = {"configurable": {"thread_id": "a thread / with ../ any name"}}
    with DurableSaver(FilesystemCheckpointProvider(tmp_path, keep_last_n=None)) as saver:
        assert "__interrupt__" in graph(saver).invoke({"words": []}, thread)
    with DurableSaver(FilesystemCheckpointProvider(tmp_path, keep_last_n=None)) as saver:
        state = asyncio.run(graph(saver).ainvoke(Command(resume="all"), thread))
        assert state == {"words": ["hello", "answer: all"]}
        assert len(list(graph(saver).get_state_history(thread))) == 4
        saver.delete_thread(thread["configurable"]["thread_id"])
        assert saver.get_tuple(thread) is None


def test_a_provider_that_forgets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpoint, match="keep_last_n=None"):
        DurableSaver(FilesystemCheckpointProvider(tmp_path))


# Entries are never overwritten

THREAD: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}


def put(saver: DurableSaver, value: str = "") -> str:
    """Puts a checkpoint; its id."""
    saved = saver.put(THREAD, made(value), {}, {})
    return str(saved["configurable"]["checkpoint_id"])


def made(value: str) -> Any:
    return {**empty_checkpoint(), "channel_values": {"x": value}}


def ids(provider: CheckpointProvider) -> set[str]:
    """Those of the checkpoints that a saver finds which opens the thread anew."""
    with DurableSaver(provider) as saver:
        return {found.checkpoint["id"] for found in saver.list(THREAD)}


def test_a_cancelled_put_is_followed_and_never_overwrites() -> None:
    provider = HeldProvider(keep_last_n=None)

    async def body() -> set[str]:
        with DurableSaver(provider) as saver:
            held, new = made("held"), made("new")
            cancelled = asyncio.ensure_future(saver.aput(THREAD, held, {}, {}))
            await asyncio.to_thread(provider.begun.wait, 60)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            newest = asyncio.ensure_future(saver.aput(THREAD, new, {}, {}))
            await asyncio.sleep(0)
            provider.let_go.set()
            await newest
            return {held["id"], new["id"]}

    expected = asyncio.run(body())
    assert ids(provider) == expected


@pytest.mark.parametrize("kind", ["filesystem", "plain"])
def test_savers_with_one_provider_overwrite_nothing(kind: str, tmp_path: Path) -> None:
    filesystem = FilesystemCheckpointProvider(tmp_path, keep_last_n=None)
    provider = filesystem if kind == "filesystem" else PlainProvider()
    expected: set[str] = set()
    together = threading.Barrier(3)

    def puts() -> None:
        with DurableSaver(provider) as saver:
            together.wait(60)
            for _ in range(15):
                expected.add(put(saver))

    threads = [threading.Thread(target=puts) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(expected) == 45
    assert ids(provider) == expected


def test_savers_in_turn_overwrite_nothing_without_leases() -> None:
    kept: dict[str, Any] = {}
    first, second = (DurableSaver(PlainProvider(kept=kept)) for _ in range(2))
    with first, second:
        expected = {put(saver) for saver in (first, second, first, second)}
    assert ids(PlainProvider(kept=kept)) == expected


def test_who_lost_a_thread_looks_before_it_writes_again(tmp_path: Path) -> None:
    def opened() -> DurableSaver:
        # A lease that expires at once: whoever asks gets it.
        return DurableSaver(FilesystemCheckpointProvider(tmp_path, keep_last_n=None, lease_s=0))

    with opened() as first, opened() as second:
        expected = {put(first), put(second)}
        with pytest.raises(Conflict):
            put(first)
        expected.add(put(first))
        assert {found.checkpoint["id"] for found in first.list(THREAD)} == expected


class CountingProvider(FilesystemCheckpointProvider):
    """Counts how often it is asked for a list."""

    asked = 0

    async def list_checkpoints(self, execution_id: str) -> list[str]:
        self.asked += 1
        return await super().list_checkpoints(execution_id)


def test_what_is_appended_does_not_cost_a_look_at_everything(tmp_path: Path) -> None:
    provider = CountingProvider(tmp_path, keep_last_n=None)
    with DurableSaver(provider) as saver:
        expected = {put(saver) for _ in range(20)}
        assert provider.asked <= 1
    assert ids(provider) == expected
