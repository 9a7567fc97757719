"""Trusted Python that is saved by one process and resumed by a new one: each value is as it was, or
was named when it could not be saved."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from conftest import PATIENCE_S, service_url

from durable_monty import StreamingPythonExecutor
from durable_monty.checkpoints import CheckpointManager, FilesystemCheckpointProvider

CHILD = """
import asyncio, sys
from durable_monty import StreamingPythonExecutor, checkpoints

async def call(value):
    print(value, flush=True)
    if value in sys.argv[5:]:
        await asyncio.Event().wait()
    return value

async def main(provider, place, execution, code):
    store = getattr(checkpoints, provider)(place)
    async with checkpoints.CheckpointManager(execution, store) as manager:
        executor = await StreamingPythonExecutor.resume(manager, {"call": call})
        await executor.add_chunk(code)
        return (await executor.finalize()).output

print(ascii(asyncio.run(main(*sys.argv[1:5]))))
"""


async def save(folder: Path, code: str) -> None:
    async with CheckpointManager("e", FilesystemCheckpointProvider(folder)) as manager:
        executor = await StreamingPythonExecutor.resume(manager)
        await executor.add_chunk(code)
        await executor.finalize()


def child(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )


def end(process: subprocess.Popen[str]) -> list[str]:
    """The lines that a process printed which has ended well."""
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    return out.splitlines()


def resume(folder: Path, code: str) -> object:
    """What an expression comes to in a new process that goes on from the checkpoints."""
    (line,) = end(child("FilesystemCheckpointProvider", str(folder), "e", code))
    return ast.literal_eval(line)


SAVED = {
    "the ends of lines": (
        'def f():\n    return "a\u2028b", """\x0c\u2028\x1c\x85\n"""\n',
        "f()",
        ("a\u2028b", "\x0c\u2028\x1c\x85\n"),
    ),
    "carriage returns": ('# note\rdef f():\r\n    return """a\r\nb"""\r\n', "f()", "a\nb"),
    "nan in a class": ("class C:\n    x = float('nan')\n", "repr(C.x)", "nan"),
    "nan in a dataclass": (
        "import math\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass P:\n    s: float = math.nan\np = P()\n",
        "repr(p)",
        "P(s=nan)",
    ),
    "what a class holds": (
        "class C:\n    items = [[1], {'a:b': [2]}]\nx = C.items\ny = {'in': C.items[1]['a:b']}\n",
        "(x is C.items, y['in'] is C.items[1]['a:b'], x)",
        (True, True, [[1], {"a:b": [2]}]),
    ),
    "what an enum holds": (
        "import enum\nclass E(enum.Enum):\n    A = [1]\nx = E.A.value\n",
        "(x is E.A.value, x)",
        (True, [1]),
    ),
    "what a function holds": (
        "def f(into=[]):\n    return into\nx = f()\n",
        "(x is f(), x)",
        (True, []),
    ),
    "a loop over what a class holds": (
        "import asyncio\nseen = []\nclass C:\n    items = [1, 2]\n"
        "for n in C.items:\n    await asyncio.sleep(0)\n    seen.append(n)\n",
        "seen",
        [1, 2],
    ),
    "a module by its name": (
        "import importlib\nm = importlib.import_module('colorsys')\nf = m.rgb_to_hsv\n",
        "(m.__name__, f(0, 0, 0))",
        ("colorsys", (0.0, 0.0, 0)),
    ),
    "a module that may be missing": (
        "import contextlib\nwith contextlib.suppress(ImportError):\n    import colorsys\n"
        "with contextlib.suppress(ImportError):\n    import not_there\n",
        "(colorsys.__name__, 'not_there' in globals())",
        ("colorsys", False),
    ),
    "a module that something else imported before": (
        "def f():\n    import colorsys\nf()\nimport colorsys as c\ng = c.rgb_to_hsv\n",
        "g.__module__",
        "colorsys",
    ),
    "a model made of a generic one": (
        "import pydantic\nclass Ids(pydantic.RootModel[list[int]]): pass\nx = Ids([1])\n",
        "repr(x)",
        "Ids(root=[1])",
    ),
    "a warning": (
        "import warnings\nwith warnings.catch_warnings():\n"
        "    warnings.simplefilter('ignore')\n    warnings.warn('old')\nx = 1\n",
        "x",
        1,
    ),
    "flags and what Python notes of them": (
        "import enum\nclass F(enum.IntFlag):\n    A = 1\n    B = 2\nx = [~F.A, F.A | F.B]\n",
        "x == [~F.A, F.A | F.B]",
        True,
    ),
    "an exception with all that it says": (
        "try:\n    raise ValueError('x')\nexcept ValueError as caught:\n    e = caught\n"
        "e.add_note('hint') if hasattr(e, 'add_note') else setattr(e, '__notes__', ['hint'])\n"
        "e.__cause__ = cause = KeyError('k')\ne.code = 5\n"
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n"
        "    try:\n        raise e from cause\n    except ValueError:\n        pass\n",
        "(e.__notes__, e.__cause__ is cause, repr(e.__context__), e.__suppress_context__, e.code)",
        (["hint"], True, "ZeroDivisionError('division by zero')", True, 5),
    ),
    "exceptions of the system": (
        "errors = []\n"
        "for text in ['open(\"/not/there\")', 'import not_there', 'nothing', '[].x', '1 +']:\n"
        "    try:\n        exec(text)\n    except Exception as e:\n        errors.append(e)\n",
        "(str(errors[0]), errors[0].filename, errors[1].name, errors[2].name, errors[3].obj,"
        " errors[4].lineno)",
        (
            "[Errno 2] No such file or directory: '/not/there'",
            *("/not/there", "not_there", "nothing", [], 1),
        ),
    ),
}


@pytest.mark.parametrize(("code", "expression", "value"), SAVED.values(), ids=SAVED)
def test_a_new_process_finds_what_was_saved(
    code: str, expression: str, value: object, tmp_path: Path
) -> None:
    asyncio.run(save(tmp_path, code))
    assert resume(tmp_path, expression) == value


@pytest.mark.parametrize("kind", ["Filesystem", "Sqlite", "Postgres", "Redis"])
def test_a_killed_process_is_gone_on_from_with_every_provider(kind: str, tmp_path: Path) -> None:
    if kind in ("Postgres", "Redis"):
        place = service_url(f"DURABLE_TEST_{kind.upper()}")
    else:
        place = str(tmp_path / "checkpoints")
    store = (f"{kind}CheckpointProvider", place, f"e-{uuid.uuid4().hex}")
    code = (
        "items = shared = [await call('a')]\n"
        "for word in ['b', 'c', 'd']:\n    items.append(await call(word))\n"
    )
    with child(*store, code, "c") as first:
        assert first.stdout is not None
        assert [first.stdout.readline() for _ in range(3)] == ["a\n", "b\n", "c\n"]
        first.kill()
    *called, output = end(child(*store, "(items, items is shared)\n"))
    assert called == ["c", "d"], "what was saved is not done again"
    assert ast.literal_eval(output) == (["a", "b", "c", "d"], True)
    assert end(child(*store, "items.pop()")) == ["'d'"]
