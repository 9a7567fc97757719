"""Where calls run. Each executor is imported when it is first used: some need an extra."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import CallRequest, Executor, JobStatus, Outcomes, ReportingExecutor
    from .local import LocalExecutor
    from .rq import RQExecutor

__all__ = [
    "CallRequest",
    "Executor",
    "JobStatus",
    "LocalExecutor",
    "Outcomes",
    "RQExecutor",
    "ReportingExecutor",
]

_HOME_OF = {
    "CallRequest": "base",
    "Executor": "base",
    "JobStatus": "base",
    "LocalExecutor": "local",
    "Outcomes": "base",
    "RQExecutor": "rq",
    "ReportingExecutor": "base",
}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value
