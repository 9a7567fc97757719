"""Trusted Python that is saved by one process and resumed by a new one: each value is as it was, or
was named when it could not be saved."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from durable_monty import StreamingPythonExecutor
from durable_monty.checkpoints import CheckpointManager, FilesystemCheckpointProvider

RESUME = """
import asyncio, sys
from durable_monty import StreamingPythonExecutor
from durable_monty.checkpoints import CheckpointManager, FilesystemCheckpointProvider

async def main(folder, code):
    async with CheckpointManager("e", FilesystemCheckpointProvider(folder)) as manager:
        executor = await StreamingPythonExecutor.resume(manager)
        await executor.add_chunk(code)
        return (await executor.finalize()).output

print(ascii(asyncio.run(main(*sys.argv[1:]))))
"""


async def save(folder: Path, code: str) -> None:
    async with CheckpointManager("e", FilesystemCheckpointProvider(folder)) as manager:
        executor = await StreamingPythonExecutor.resume(manager)
        await executor.add_chunk(code)
        await executor.finalize()


def resume(folder: Path, code: str) -> object:
    """What an expression comes to in a new process that goes on from the checkpoints."""
    command = [sys.executable, "-c", RESUME, str(folder), code]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return ast.literal_eval(child.stdout)


SAVED = {
    "the ends of lines": (
        'def f():\n    return "a\u2028b", """\x0c\u2028\x1c\x85\n"""\n',
        "f()",
        ("a\u2028b", "\x0c\u2028\x1c\x85\n"),
    ),
    "carriage returns": ('# note\rdef f():\r\n    return """a\r\nb"""\r\n', "f()", "a\nb"),
}


@pytest.mark.parametrize(("code", "expression", "value"), SAVED.values(), ids=SAVED)
def test_a_new_process_finds_what_was_saved(
    code: str, expression: str, value: object, tmp_path: Path
) -> None:
    asyncio.run(save(tmp_path, code))
    assert resume(tmp_path, expression) == value
