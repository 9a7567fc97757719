"""What a running function can know about the call it serves."""

from __future__ import annotations

import contextvars
import dataclasses
from typing import Protocol

__all__ = ["CallContext", "current_call"]


@dataclasses.dataclass(frozen=True)
class CallContext:
    """One attempt of one call."""

    execution_id: str
    call_id: int
    attempt: int
    """Counted from 1."""
    idempotency_key: str
    """The same in every attempt of the call, and of no other call: hand it to whatever must not
    happen twice (a payment, a mail)."""
    deadline: float | None
    """When the attempt's timeout is over, on the clock of `time.time()`."""


class Attempt(Protocol):
    """What an executor knows of the attempt that it runs."""

    @property
    def execution_id(self) -> str: ...
    @property
    def call_id(self) -> int: ...
    @property
    def attempt(self) -> int: ...
    @property
    def idempotency_key(self) -> str: ...
    @property
    def timeout_ms(self) -> int | None: ...


current_task: contextvars.ContextVar[tuple[Attempt, float] | None] = contextvars.ContextVar(
    "durable_monty.current_task", default=None
)
"""Set by executors: the task and when it began. Plain, so that setting it costs little."""


def current_call() -> CallContext | None:
    """The call that the calling function serves; None outside of one."""
    current = current_task.get()
    if current is None:
        return None
    task, began = current
    return CallContext(
        execution_id=task.execution_id,
        call_id=task.call_id,
        attempt=task.attempt,
        idempotency_key=task.idempotency_key,
        deadline=None if task.timeout_ms is None else began + task.timeout_ms / 1000,
    )
