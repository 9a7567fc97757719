"""What the tests of executors with a queue of their own have in common."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import uuid
from pathlib import Path
from typing import Any

from durable_monty import OrchestratorService

FAILURES = """
seen = []
for kind in ['value', 'price', 'os', 'unjson', 'unknown']:
    try:
        if kind == 'unjson':
            await unjson()
        elif kind == 'unknown':
            await nowhere()
        else:
            await fail(kind)
    except ValueError as e:
        seen.append(['ValueError', str(e)])
    except OSError as e:
        seen.append(['OSError', str(e)])
    except TypeError as e:
        seen.append(['TypeError', str(e)])
    except KeyError as e:
        seen.append(['KeyError', str(e)])
seen
"""
"""A workflow that meets every kind of failure, and gives their types and messages."""


def assert_failures(seen: Any, module: str) -> None:
    """What FAILURES comes to when `module` has the functions."""
    assert seen[:3] == [
        ["ValueError", "no value"],
        ["ValueError", f"{module}.NoPrice: no price"],
        ["OSError", "no os"],
    ]
    assert seen[3][0] == "TypeError"
    assert seen[4][0] == "KeyError"
    assert "DURABLE_FUNCTIONS" in seen[4][1]


class Crew:
    """A Redis, a queue of a test's own, and the workers that it starts."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self.directory = directory
        self.queue = f"test-{uuid.uuid4()}"
        self.workers: list[subprocess.Popen[bytes]] = []

    def told(self) -> list[str]:
        """What the functions have noted of their runs."""
        file = self.directory / "told"
        return file.read_text().splitlines() if file.exists() else []

    def let_go(self, name: str) -> None:
        """Lets a function end that waits for this."""
        (self.directory / f"{name}.go").touch()

    def kill(self) -> None:
        """Kills the workers that have not ended."""
        for process in self.workers:
            if process.poll() is None:
                kill_tree(process)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGKILL)
    process.wait()


def taken_over(service: OrchestratorService) -> bool:
    with service.engine.connect() as connection:
        epoch = connection.exec_driver_sql("SELECT max(epoch) FROM execution_locks").scalar()
    return epoch is not None and epoch > 1
