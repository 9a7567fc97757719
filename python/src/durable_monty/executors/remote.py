"""Running a call in a process that has neither the engine nor a database."""

from __future__ import annotations

import time

from ..context import current_task
from ..functions import find_function, finished
from ..values import decode, decode_object, encode
from .base import CallRequest

__all__ = ["run_request"]


def run_request(call: CallRequest, module: str | None = None) -> str:
    """Runs the function of a call, which can ask `current_call` about it, and returns its result
    as JSON text. Raises what the function raises. `module` is where a worker knows the function
    from."""
    token = current_task.set((call, time.time()))
    try:
        function = find_function(call.function_name, module)
        result = finished(function(*decode(call.args), **decode_object(call.kwargs)))
        return encode(result)
    finally:
        current_task.reset(token)
