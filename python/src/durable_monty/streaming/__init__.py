"""Trusted Python: runs code in this process as it arrives, and saves its names at each `await`."""

from __future__ import annotations

from .errors import StreamingExecutionError
from .executor import ExecutionResult, StreamingPythonExecutor
from .record import InFlight, Resumed

__all__ = [
    "ExecutionResult",
    "InFlight",
    "Resumed",
    "StreamingExecutionError",
    "StreamingPythonExecutor",
]
