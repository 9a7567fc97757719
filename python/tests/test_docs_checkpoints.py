"""What docs/CHECKPOINTS.md shows works as it shows it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from test_docs import blocks, run

PAGE = "docs/CHECKPOINTS.md"


def test_the_blocks_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    looking, _, saving, settings, *_ = blocks(PAGE, "python")
    names = run(looking)
    assert (names["paid"], names["line"]) == ((12, 6), "await price('gift')")
    assert names["seen"].variables["paid"] == 12
    assert run(saving)["answer"] == ("order-7_ckpt_1", {"price": 3})
    table, _ = blocks(PAGE, "toml")
    assert run(settings)["saved"] is None
    (tmp_path / "durable.toml").write_text(table)
    names = run(settings)
    assert (names["saved"], names["config"].keep_last_n) == ("order-8_ckpt_1", 5)


def test_the_workflow_of_the_page_runs(tmp_path: Path) -> None:
    block = blocks(PAGE, "python")[1]
    tasks = (
        "def quote(item):\n    return len(item)\n\ndef charge(total):\n    return {'paid': total}\n"
    )
    (tmp_path / "tasks.py").write_text(tasks)
    (tmp_path / "app.py").write_text(block + "print(receipt)\n")
    command = [sys.executable, "app.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == "{'paid': 6}\n", done.stderr


def test_the_graph_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("langgraph")
    monkeypatch.chdir(tmp_path)
    (block,) = (block for block in blocks(PAGE, "python") if "StateGraph" in block)
    assert run(block)["state"] == {"n": 42}


def test_the_provider_of_the_page_passes_the_suite(tmp_path: Path) -> None:
    *_, provider, tests = blocks(PAGE, "python")
    (tmp_path / "test_page.py").write_text(provider + tests)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_a_provider_that_loses_things_does_not_pass(tmp_path: Path) -> None:
    *_, provider, tests = blocks(PAGE, "python")
    names = run(provider + tests)
    suite = names["TestDictProvider"]()

    class Forgetful(names["DictProvider"]):  # type: ignore[misc]
        async def list_checkpoints(self, execution_id: str) -> list[str]:
            return list(reversed(await super().list_checkpoints(execution_id)))

    suite.kept = {}
    suite.open_provider = lambda: Forgetful(kept=suite.kept)
    with pytest.raises(AssertionError):
        suite.test_checkpoints_are_listed_by_their_numbers()
    assert asyncio.run(suite.open_provider().list_checkpoints("e")) == []
