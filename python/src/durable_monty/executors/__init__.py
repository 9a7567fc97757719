"""Where calls run. Each executor is imported when it is first used: some need an extra."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .aws_lambda import LambdaExecutor
    from .base import CallRequest, Executor, JobStatus, Outcome, Outcomes, ReportingExecutor
    from .celery import CeleryExecutor
    from .http import HttpExecutor
    from .local import LocalExecutor
    from .modal import ModalExecutor
    from .process import ProcessPoolExecutor
    from .rq import RQExecutor

__all__ = [
    "CallRequest",
    "CeleryExecutor",
    "Executor",
    "HttpExecutor",
    "JobStatus",
    "LambdaExecutor",
    "LocalExecutor",
    "ModalExecutor",
    "Outcome",
    "Outcomes",
    "ProcessPoolExecutor",
    "RQExecutor",
    "ReportingExecutor",
]

_HOME_OF = {
    "CallRequest": "base",
    "CeleryExecutor": "celery",
    "Executor": "base",
    "HttpExecutor": "http",
    "JobStatus": "base",
    "LambdaExecutor": "aws_lambda",
    "LocalExecutor": "local",
    "ModalExecutor": "modal",
    "Outcome": "base",
    "Outcomes": "base",
    "ProcessPoolExecutor": "process",
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
