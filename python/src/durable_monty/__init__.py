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

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .agents import AgentContext, invoke_agent, list_agents, register_agent
    from .aio import AsyncOrchestratorService
    from .api import create_app
    from .context import CallContext, current_call
    from .coordinator import Coordinator
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
    from .executors.aws_lambda import LambdaExecutor
    from .executors.base import Executor
    from .executors.celery import CeleryExecutor as CeleryExecutor
    from .executors.http import HttpExecutor
    from .executors.local import LocalExecutor
    from .executors.modal import ModalExecutor
    from .executors.process import ProcessPoolExecutor
    from .executors.rq import RQExecutor as RQExecutor
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
    from .sessions import AsyncSession, Session
    from .steps import Step, StepWorkflow, load_workflow
    from .streaming import StreamingExecutionError, StreamingPythonExecutor
    from .worker import Worker
    from .workflows import playbook, workflow

    __version__: str

__all__ = [
    "FUNCTION_REGISTRY",
    "AgentContext",
    "AsyncOrchestratorService",
    "AsyncSession",
    "Call",
    "CallContext",
    "CallFailed",
    "CallStatus",
    "Conflict",
    "Coordinator",
    "Corrupt",
    "DurableError",
    "Execution",
    "ExecutionCancelled",
    "ExecutionFailed",
    "ExecutionStatus",
    "Executor",
    "ForkError",
    "HttpExecutor",
    "InternalError",
    "InvalidWorkflow",
    "LambdaExecutor",
    "LocalExecutor",
    "ModalExecutor",
    "NoResult",
    "NotCompleted",
    "NotFound",
    "OrchestratorService",
    "ProcessPoolExecutor",
    "RetryPolicy",
    "Session",
    "Step",
    "StepWorkflow",
    "StreamingExecutionError",
    "StreamingPythonExecutor",
    "Unavailable",
    "Worker",
    "create_app",
    "current_call",
    "execute_function",
    "from_json",
    "get_function",
    "get_session",
    "init_db",
    "invoke_agent",
    "list_agents",
    "load_workflow",
    "playbook",
    "register_agent",
    "register_function",
    "resume_execution",
    "start_execution",
    "to_json",
    "workflow",
]

# What is imported when it is first used, by the module that defines it. A process that only runs
# functions (a job of Redis Queue, a Lambda) then starts without SQLAlchemy and the engine.
_HOMES = {
    "agents": ["AgentContext", "invoke_agent", "list_agents", "register_agent"],
    "api": ["create_app"],
    "aio": ["AsyncOrchestratorService"],
    "context": ["CallContext", "current_call"],
    "coordinator": ["Coordinator"],
    "db": ["get_session", "init_db"],
    "errors": [
        "CallFailed",
        "Conflict",
        "Corrupt",
        "DurableError",
        "ExecutionCancelled",
        "ExecutionFailed",
        "ForkError",
        "InternalError",
        "InvalidWorkflow",
        "NoResult",
        "NotCompleted",
        "NotFound",
        "Unavailable",
    ],
    "executors.base": ["Executor"],
    "executors.local": ["LocalExecutor"],
    "executors.aws_lambda": ["LambdaExecutor"],
    "executors.celery": ["CeleryExecutor"],
    "executors.http": ["HttpExecutor"],
    "executors.modal": ["ModalExecutor"],
    "executors.process": ["ProcessPoolExecutor"],
    "executors.rq": ["RQExecutor"],
    "functions": [
        "FUNCTION_REGISTRY",
        "RetryPolicy",
        "execute_function",
        "get_function",
        "register_function",
    ],
    "models": ["Call", "CallStatus", "Execution", "ExecutionStatus", "from_json", "to_json"],
    "orchestrator": ["resume_execution", "start_execution"],
    "service": ["OrchestratorService"],
    "sessions": ["AsyncSession", "Session"],
    "steps": ["Step", "StepWorkflow", "load_workflow"],
    "streaming": ["StreamingExecutionError", "StreamingPythonExecutor"],
    "worker": ["Worker"],
    "workflows": ["playbook", "workflow"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = frozenset(
    [
        "agents",
        "aio",
        "api",
        "checkpoints",
        "context",
        "coordinator",
        "db",
        "errors",
        "executor",
        "executors",
        "functions",
        "inspection",
        "models",
        "orchestrator",
        "service",
        "sessions",
        "steps",
        "streaming",
        "values",
        "webhooks",
        "worker",
        "workflows",
    ]
)


# Type checkers see the imports above, and no name that is not there.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        home = _HOME_OF.get(name)
        if home is not None:
            value = getattr(importlib.import_module(f".{home}", __name__), name)
            globals()[name] = value
            return value
        if name in _MODULES:
            return importlib.import_module(f".{name}", __name__)
        if name == "__version__":
            from importlib.metadata import version

            return version("durable-monty")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF, *_MODULES})
