"""Durable executions: workflows in plain async Python that survive crashes, deployments and waits.

>>> from durable_monty import OrchestratorService, Worker, init_db, register_function
>>> @register_function("add")
... def add(a, b):
...     return a + b
>>> service = OrchestratorService(init_db("sqlite:///app.db"))
>>> execution_id = service.start_execution("await add(1, 2)", ["add"])
>>> Worker(service).run(until_complete=True)
>>> service.get_result(execution_id)
3
"""

from __future__ import annotations

from typing import Any

from .aio import AsyncOrchestratorService
from .context import CallContext, current_call
from .db import get_session, init_db
from .errors import (
    CallFailed,
    Conflict,
    Corrupt,
    DurableError,
    ExecutionCancelled,
    ExecutionFailed,
    ForkError,
    InternalError,
    InvalidWorkflow,
    NoResult,
    NotCompleted,
    NotFound,
    Unavailable,
)
from .executor import Executor, LocalExecutor
from .functions import (
    FUNCTION_REGISTRY,
    RetryPolicy,
    execute_function,
    get_function,
    register_function,
)
from .models import Call, CallStatus, Execution, ExecutionStatus, from_json, to_json
from .orchestrator import resume_execution, start_execution
from .service import OrchestratorService
from .worker import Worker

__all__ = [
    "FUNCTION_REGISTRY",
    "AsyncOrchestratorService",
    "Call",
    "CallContext",
    "CallFailed",
    "CallStatus",
    "Conflict",
    "Corrupt",
    "DurableError",
    "Execution",
    "ExecutionCancelled",
    "ExecutionFailed",
    "ExecutionStatus",
    "Executor",
    "ForkError",
    "InternalError",
    "InvalidWorkflow",
    "LocalExecutor",
    "NoResult",
    "NotCompleted",
    "NotFound",
    "OrchestratorService",
    "RetryPolicy",
    "Unavailable",
    "Worker",
    "current_call",
    "execute_function",
    "from_json",
    "get_function",
    "get_session",
    "init_db",
    "register_function",
    "resume_execution",
    "start_execution",
    "to_json",
]

_LATER = frozenset({"LambdaExecutor", "ModalExecutor", "RQExecutor", "create_app"})


def __getattr__(name: str) -> Any:
    if name in _LATER:
        raise ImportError(
            f"{name} is not part of this release: it comes with a later one. "
            "Until then calls run with LocalExecutor or an Executor of your own"
        )
    if name == "__version__":
        from importlib.metadata import version

        return version("durable-monty")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
