"""Every exception this package raises, in one tree, named by what the caller can do about it."""

from __future__ import annotations

__all__ = [
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
]


class DurableError(Exception):
    """Root of the tree."""


class InvalidWorkflow(DurableError, ValueError):
    """The request is wrong: code, function names, inputs, options. Fix it."""


class NotFound(DurableError, ValueError, LookupError):
    """There is no execution, call or file of that name."""


class Conflict(DurableError):
    """Somebody else changed it first, or it has ended already. Reload and look again."""


class Unavailable(DurableError):
    """The store can't be reached or is busy. Try again later."""


class Corrupt(DurableError):
    """What is stored can't be read. An operator has to look at it."""


class InternalError(DurableError):
    """A fault of the engine itself."""


class ForkError(DurableError):
    """A store that was opened before `fork()` was used in the child."""


class NoResult(DurableError, ValueError):
    """The execution has no output to give: see the subclasses."""

    def __init__(self, message: str, execution_id: str) -> None:
        super().__init__(message)
        self.execution_id = execution_id


class NotCompleted(NoResult):
    """The execution has not ended yet."""


class ExecutionCancelled(NoResult):
    """An operator ended the execution."""


class ExecutionFailed(NoResult):
    """The execution ended with an uncaught exception.

    `str()` shows the traceback of the workflow code. If a call was the reason, `__cause__` is a
    `CallFailed` with the traceback of the function.
    """

    def __init__(
        self,
        execution_id: str,
        error_type: str,
        error: str,
        workflow_traceback: str | None,
    ) -> None:
        summary = f"{error_type}: {error}" if error else error_type
        shown = (workflow_traceback or summary).rstrip()
        super().__init__(f"execution {execution_id} failed with {summary}\n\n{shown}", execution_id)
        self.error_type = error_type
        self.error = error
        self.workflow_traceback = workflow_traceback


class CallFailed(DurableError):
    """A call of a workflow failed in its last attempt."""

    def __init__(
        self,
        call_id: int,
        function_name: str,
        error_type: str,
        error: str,
        function_traceback: str | None,
    ) -> None:
        shown = (function_traceback or f"{error_type}: {error}").rstrip()
        super().__init__(f"call {call_id} of {function_name} failed\n\n{shown}")
        self.call_id = call_id
        self.function_name = function_name
        self.error_type = error_type
        self.error = error
        self.function_traceback = function_traceback
