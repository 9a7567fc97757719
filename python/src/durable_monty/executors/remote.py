"""Calls in processes that have neither the engine nor a database: running them, and the form in
which they go there as plain JSON."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any, TypeVar

from ..context import current_task
from ..failures import Failure, failure_of
from ..functions import find_function, finished
from ..values import decode, decode_object, encode
from .base import CallRequest, Outcome

__all__ = [
    "CallMessage",
    "answer_of",
    "message_of",
    "outcome_of",
    "read_outcome",
    "request_of",
    "run_request",
]

_M = TypeVar("_M", bound="CallMessage")


@dataclasses.dataclass(frozen=True)
class CallMessage:
    """A call as it goes through a queue."""

    call: CallRequest
    module: str | None
    """Whose import registers the function."""
    beat_s: float
    """How often a running function shows that it lives."""

    def to_json(self) -> str:
        """The message as text."""
        return json.dumps({**vars(self), "call": vars(self.call)})

    @classmethod
    def from_json(cls: type[_M], text: str) -> _M:
        """The message that a text holds."""
        members = json.loads(text)
        return cls(**{**members, "call": CallRequest(**members["call"])})


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


def message_of(call: CallRequest) -> dict[str, Any]:
    """A call as an object of plain JSON."""
    timeout_s = None if call.timeout_ms is None else call.timeout_ms / 1000
    return {
        "function": call.function_name,
        "args": json.loads(call.args),
        "kwargs": json.loads(call.kwargs),
        "job_id": call.job_id,
        "execution_id": call.execution_id,
        "call_id": call.call_id,
        "step": call.step,
        "attempt": call.attempt,
        "idempotency_key": call.idempotency_key,
        "deadline": None if timeout_s is None else time.time() + timeout_s,
    }


def request_of(message: object) -> CallRequest:
    """The call that such an object tells of. Raises ValueError or TypeError when it tells of
    none."""
    if not isinstance(message, dict):
        raise ValueError("it must be an object")
    name = message.get("function", message.get("function_name"))
    args, kwargs = message.get("args", []), message.get("kwargs") or {}
    if not isinstance(name, str) or not isinstance(args, list) or not isinstance(kwargs, dict):
        raise ValueError("function must be a text, args an array and kwargs an object")
    deadline = message.get("deadline")
    left_ms = None if deadline is None else max(1, round(1000 * (deadline - time.time())))
    return CallRequest(
        function_name=name,
        args=json.dumps(args),
        kwargs=json.dumps(kwargs),
        execution_id=str(message.get("execution_id", "")),
        call_id=int(message.get("call_id", 0)),
        attempt=int(message.get("attempt", 1)),
        timeout_ms=left_ms,
        step=message.get("step"),
    )


def answer_of(message: object) -> dict[str, Any]:
    """Runs the function of the call that such an object tells of, and says what it came to as
    `outcome_of` reads it: `{"result": …}` or `{"error": {"type", "message", "traceback"}}`."""
    try:
        return {"result": json.loads(run_request(request_of(message)))}
    except KeyboardInterrupt:
        raise  # meant for this process, not for the function
    except BaseException as error:
        kind, text, shown = failure_of(error)
        return {"error": {"type": kind, "message": text, "traceback": shown}}


def outcome_of(answer: object) -> Outcome:
    """What `{"result": …}` or `{"error": {"type", "message"}}` says. Raises ValueError or TypeError
    when it is neither."""
    if isinstance(answer, dict):
        error = answer.get("error")
        if isinstance(error, dict):
            kind = str(error.get("type") or "RuntimeError")
            shown = error.get("traceback")
            message = str(error.get("message") or "")
            return Outcome(None, Failure(kind, message, shown if isinstance(shown, str) else None))
        if error is not None:
            return Outcome(None, Failure("RuntimeError", str(error)))
        if "result" in answer:
            # Decoded and encoded again: what comes from elsewhere may be no value of ours.
            return Outcome(encode(decode(json.dumps(answer["result"]))))
    raise ValueError('there is neither a "result" nor an "error" in it')


def read_outcome(text: str | bytes) -> Outcome:
    """An outcome as our own processes tell it: the JSON text of a result, or the three members of
    a Failure."""
    members = json.loads(text)
    error = members.get("error")
    return Outcome(members.get("result"), None if error is None else Failure(*error))
