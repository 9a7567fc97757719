"""What an agent is told about the step it works for, and what it can tell beside its result."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any

from ..context import current_task
from ..values import encode

__all__ = ["MAX_EVENTS", "AgentContext"]

MAX_EVENTS = 1_000
"""How many events one attempt may emit."""

METADATA = "agent_metadata"
"""The key of a result under which stands what the agent reports about its run."""


class AgentContext:
    """One attempt of one step, as the agent sees it.

    >>> def run(payload, context):
    ...     context.emit("looked_up", {"id": payload["id"]})
    ...     context.report_usage(model="small", input_tokens=120, output_tokens=8)
    ...     return {"answer": 42}
    """

    def __init__(
        self,
        agent: str,
        *,
        execution_id: str = "",
        step: str | None = None,
        attempt: int = 1,
        idempotency_key: str | None = None,
        deadline: float | None = None,
    ) -> None:
        self.agent = agent
        """The name by which the agent was asked for."""
        self.execution_id = execution_id
        """Empty outside of a workflow."""
        self.step = step
        """The name of the step; None outside of a workflow, and where the executor does not pass
        it on."""
        self.attempt = attempt
        """Counted from 1."""
        self.idempotency_key = uuid.uuid4().hex if idempotency_key is None else idempotency_key
        """The same in every attempt of the step, and of no other step: hand it to whatever must
        not happen twice (a payment, a mail, a paid model call)."""
        self.deadline = deadline
        """When the attempt's timeout is over, on the clock of `time.time()`."""
        self._lock = threading.Lock()
        self._events: list[dict[str, Any]] = []
        self._usage: dict[str, int] = {}
        self._model: str | None = None

    @classmethod
    def of_call(cls, agent: str) -> AgentContext:
        """The context of the call that this thread or task serves; a context of its own where
        there is none."""
        current = current_task.get()
        if current is None:
            return cls(agent)
        task, began = current
        timeout_ms = task.timeout_ms
        return cls(
            agent,
            execution_id=task.execution_id,
            step=getattr(task, "step", None),
            attempt=task.attempt,
            idempotency_key=task.idempotency_key,
            deadline=None if timeout_ms is None else began + timeout_ms / 1000,
        )

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger named after the agent, whose lines name the execution, the step and the
        attempt."""
        logger = logging.getLogger(f"durable_monty.agent.{self.agent}")
        return _AgentLogger(logger, {"context": self})

    def remaining(self) -> float | None:
        """How many seconds are left until the deadline, 0 at the least; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.time())

    def emit(self, event: str, payload: Mapping[str, Any] | None = None) -> None:
        """Notes that something happened. What was emitted stands in the journal, in the payload
        of the step's AGENT_RESPONSE, when the attempt succeeds.

        Raises TypeError for a payload that has no JSON form, ValueError after `MAX_EVENTS`.
        """
        if not isinstance(event, str) or not event:
            raise ValueError(f"the name of an event must be a text, it is {event!r}")
        content = dict(payload or {})
        encode(content, f"the payload of event '{event}'")
        with self._lock:
            if len(self._events) >= MAX_EVENTS:
                raise ValueError(f"agent '{self.agent}' emitted more than {MAX_EVENTS} events")
            self._events.append({"event": event, "payload": content})

    def report_usage(
        self, *, model: str | None = None, input_tokens: int = 0, output_tokens: int = 0
    ) -> None:
        """Notes which model was used and how many tokens; several reports add up."""
        with self._lock:
            if model is not None:
                self._model = model
            for name, tokens in (("input_tokens", input_tokens), ("output_tokens", output_tokens)):
                self._usage[name] = self._usage.get(name, 0) + tokens

    def metadata(self) -> dict[str, Any]:
        """What was reported so far: `model`, `usage` and `events`, as far as there is any."""
        found: dict[str, Any] = {}
        if self._model is not None:
            found["model"] = self._model
        if any(self._usage.values()):
            found["usage"] = dict(self._usage)
        if self._events:
            found["events"] = list(self._events)
        return found

    def __repr__(self) -> str:
        return f"<AgentContext {self.agent} {self.idempotency_key} attempt {self.attempt}>"


class _AgentLogger(logging.LoggerAdapter):  # type: ignore[type-arg]
    """Puts what the line is about before it."""

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        context: AgentContext = (self.extra or {})["context"]  # type: ignore[assignment]
        where = [context.execution_id, context.step, f"attempt {context.attempt}"]
        return f"[{', '.join(part for part in where if part)}] {msg}", kwargs
