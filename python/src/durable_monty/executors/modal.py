"""Runs calls on Modal."""

from __future__ import annotations

import threading
from typing import Any

from ..errors import Unavailable
from ..failures import Failure, failure_of
from .base import CallRequest, Outcome
from .remote import answer_of, message_of, outcome_of
from .threads import DEFAULT_MAX_CONCURRENCY, Again, ThreadedExecutor

__all__ = ["ModalExecutor", "run"]

FIRST_LOOK_S = 0.1
LONGEST_LOOK_S = 5.0


def run(message: dict[str, Any]) -> dict[str, Any]:
    """What is to be deployed: runs the function that the message names."""
    return answer_of(message)


class ModalExecutor(ThreadedExecutor):
    """Runs calls on Modal. Extra `modal`.

    >>> Worker(service, ModalExecutor("my-app")).run()

    The deployed app has a function `run` that wraps `durable_monty.executors.modal.run`:

    >>> app = modal.App("my-app")
    >>> @app.function(image=image_with_your_functions)
    ... def run(message):
    ...     return durable_monty.executors.modal.run(message)

    Calls are spawned, and asked about at growing distances. The id of each is stored, so that a
    worker which takes over asks about the same one.
    """

    def __init__(
        self,
        app_name: str = "durable-monty",
        function_name: str = "run",
        *,
        max_concurrency: int = DEFAULT_MAX_CONCURRENCY,
    ) -> None:
        super().__init__(max_concurrency)
        self._modal = _modal()
        self._function = self._modal.Function.from_name(app_name, function_name)
        self._lock = threading.Lock()
        self._spawned: dict[str, tuple[Any, float]] = {}

    def perform(self, call: CallRequest) -> Outcome | Again:
        """Spawns a call, or asks about one that was spawned."""
        spawned, look_s = self._spawned.get(call.job_id, (None, FIRST_LOOK_S))
        try:
            if spawned is None:
                spawned = self._spawn(call)
                self._remember(call, spawned, look_s)
            answer = spawned.get(timeout=0)
        except TimeoutError:
            self._remember(call, spawned, min(LONGEST_LOOK_S, 2 * look_s))
            return Again(look_s)
        except Exception as error:
            if type(error).__name__ == "ConnectionError":
                raise Unavailable(f"Modal: {error}") from error
            self._forget(call)
            kind, message, shown = failure_of(error)
            return Outcome(None, Failure(kind, f"Modal: {message}", shown))
        self._forget(call)
        return outcome_of(answer)

    def is_busy(self) -> bool:
        """Never: whoever takes over asks about what was spawned."""
        return False

    def cancel_call(self, call: CallRequest) -> None:
        """Cancels what was spawned."""
        spawned = self._forget(call)
        if spawned is not None:
            spawned.cancel()

    def detach(self) -> None:
        """Asks no more. What was spawned goes on."""
        super().detach()
        with self._lock:
            self._spawned.clear()

    def _spawn(self, call: CallRequest) -> Any:
        if call.submitted_as is not None:
            return self._modal.FunctionCall.from_id(call.submitted_as)
        spawned = self._function.spawn(message_of(call))
        self.named(call, spawned.object_id)
        return spawned

    def _remember(self, call: CallRequest, spawned: Any, look_s: float) -> None:
        with self._lock:
            self._spawned[call.job_id] = spawned, look_s

    def _forget(self, call: CallRequest) -> Any:
        with self._lock:
            return self._spawned.pop(call.job_id, (None, 0))[0]


def _modal() -> Any:
    try:
        import modal
    except ImportError as error:
        raise ImportError(
            "ModalExecutor needs Modal: pip install 'durable-monty[modal]'"
        ) from error
    return modal
