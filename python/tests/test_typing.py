"""What a type checker says of code that uses the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = """
from typing import Any

import durable_monty
from durable_monty import Executor, nosuch


class Cloud(Executor):
    def submit_call(self, function_name: str, args: list[Any], kwargs: dict[str, Any]) -> str:
        return "job"

    def check_job(self, job_id: str) -> dict[str, Any]:
        return {"status": "finished", "result": None}


version: str = durable_monty.__version__
"""


def test_names_that_are_not_there_and_executors_as_people_write_them(tmp_path: Path) -> None:
    (tmp_path / "typed.py").write_text(CODE)
    # The project's own settings, whose cache is there when it was checked before.
    command = [sys.executable, "-m", "mypy", "--no-error-summary", str(tmp_path / "typed.py")]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    (only,) = checked.stdout.splitlines()
    assert 'Module "durable_monty" has no attribute "nosuch"' in only
