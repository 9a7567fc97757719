"""LangGraph's checkpoints with a provider: its own conformance tests, and a graph that goes on."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from conftest import service_url

pytest.importorskip("langgraph")

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

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
