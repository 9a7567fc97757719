"""The interface of executors."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any, Literal, TypedDict

__all__ = ["Executor", "JobStatus"]


class _JobState(TypedDict):
    status: Literal["finished", "failed", "queued", "started"]


class JobStatus(_JobState, total=False):
    """What became of a job. `result` goes with `finished`, `error` with `failed`.

    An `error` that begins with the name of a builtin exception (`"ValueError: no price"`) is
    raised in the workflow as that exception, any other as a RuntimeError.
    """

    result: Any
    error: str | None


class Executor(ABC):
    """Runs calls somewhere: on this machine, in a queue, in a cloud.

    A worker submits each call once it is durable that the workflow asked for it, and asks
    `check_job` about every job each poll interval. An exception raised by any of these methods
    fails the call in question and nothing else.

    >>> class CloudExecutor(Executor):
    ...     def submit_call(self, function_name, args, kwargs):
    ...         return cloud.launch(function_name, args, kwargs).id
    ...     def check_job(self, job_id):
    ...         job = cloud.find(job_id)
    ...         return {"status": job.state, "result": job.result, "error": job.error}
    """

    @abstractmethod
    def submit_call(self, *call: Any) -> str | None:
        """Hands a call over and returns at once.

        Written as `submit_call(self, function_name, args, kwargs)`, with the arguments as values,
        it returns the name of the job. Written as `submit_call(self, call)` it is given a
        `durable_monty.Call`, whose `args` and `kwargs` are JSON text; when that returns None, no
        job is asked about, and whoever runs the call reports with
        `OrchestratorService.complete_call`.
        """

    def check_job(self, job_id: str) -> JobStatus:
        """What became of a job. By default nothing is known yet."""
        return {"status": "started"}

    def get_stats(self) -> dict[str, Any]:
        """Numbers for people."""
        return {}


def takes_call(executor: Executor) -> bool:
    """Whether `submit_call` is written to take one `Call` instead of name, args and kwargs."""
    parameters = inspect.signature(executor.submit_call).parameters.values()
    positional = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return False
    required = [p for p in positional if p.default is p.empty]
    return len(positional) == 1 or (len(required) == 1 and required[0].name == "call")
