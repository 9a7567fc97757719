"""What docs/TRUSTED_PYTHON.md shows works as it shows it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from test_docs import ROOT, blocks, run

from durable_monty import StreamingPythonExecutor
from durable_monty.streaming.executor import StreamingExecutionError

PAGE = "docs/TRUSTED_PYTHON.md"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_first_block_runs_in_the_first_process_and_in_another() -> None:
    block = blocks(PAGE, "python")[0]
    names = run(block)
    assert (names["result"].output, names["result"].printed) == ("home", "2 pages\n")
    # The response is over: another process has nothing to do but what comes next.
    names = run(block.replace("CODE[len(", '"pages[1].title"[len('))
    assert (names["result"].output, names["result"].response) == ("shop", 2)


def test_the_responses_of_the_page_run() -> None:
    names = run(blocks(PAGE, "python")[1])
    error, *outputs = names["seen"]
    assert outputs == [None, 21.0]
    shown = blocks(PAGE, "text")[0]
    if sys.version_info >= (3, 11):
        assert error.partition(":")[2] == shown.rstrip("\n").partition(":")[2]


def test_the_crash_of_the_page_is_told_as_it_says() -> None:
    names = run(blocks(PAGE, "python")[2])
    assert names["told"] == (2, 2, "b = await charge(2)", ["receipt 1", "receipt 2"])
    assert names["charged"] == [1, 2, 2]


def test_what_is_not_saved_is_told_as_it_says() -> None:
    from durable_monty.checkpoints import CheckpointManager, MemoryCheckpointProvider

    async def body() -> str:
        manager = CheckpointManager("e", MemoryCheckpointProvider())
        executor = StreamingPythonExecutor(manager)
        await executor.add_chunk("import socket\ncrawlers = {'a': [1, 2, 3, socket.socket()]}\n")
        with pytest.raises(StreamingExecutionError) as caught:
            await executor.finalize()
        executor.namespace["crawlers"]["a"][3].close()
        return str(caught.value)

    message = asyncio.run(body())
    assert " ".join(blocks(PAGE, "text")[1].split()) in message


def test_the_limits_of_the_page_are_those_of_the_code() -> None:
    import inspect

    page = (ROOT / PAGE).read_text()
    parameters = inspect.signature(StreamingPythonExecutor).parameters
    limits = [name for name in parameters if name.startswith("max_")]
    assert len(limits) == 3
    for name in limits:
        assert f"| `{name}` | {parameters[name].default:,} " in page
