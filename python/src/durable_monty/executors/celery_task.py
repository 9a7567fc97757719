"""What a Celery worker runs for a call. It needs neither the engine nor a database.

A Celery app has it with `include=["durable_monty.executors.celery_task"]`.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from celery import shared_task, states
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from ..failures import failure_of
from .remote import CallMessage, run_request

__all__ = ["MODULE", "TASK", "run"]

MODULE = __name__
"""What a Celery app has to import."""
TASK = "durable_monty.run"
PATIENCE_S = 60.0
"""How long a task waits for a result backend that is away."""
LONGEST_RETRY_S = 1.0
UNTAKEN = frozenset({states.PENDING, states.RETRY})
"""In which states a task may be begun."""


def _run(task: Any, text: str) -> None:
    """Runs a call, and keeps its outcome as the result of the task.

    A message that comes when the task was begun already is dropped: brokers deliver again what
    takes long, and what a killed worker had. Whether it still runs somewhere is seen from its signs
    of life, and decided by the worker of the workflow alone.
    """
    message = CallMessage.from_json(text)
    task_id, hostname = task.request.id, task.request.hostname

    def show_life() -> None:
        life = {"hostname": hostname, "pid": os.getpid(), "alive_at": time.time()}
        task.backend.store_result(task_id, life, states.STARTED)

    try:
        meta = _patiently(lambda: task.backend.get_task_meta(task_id, cache=False))
        if meta["status"] in UNTAKEN:
            _patiently(show_life)
    except Exception as error:
        raise Reject(error, requeue=True) from error  # not begun: somebody else may
    if meta["status"] not in UNTAKEN:
        raise Ignore
    with _showing_life(show_life, message.beat_s):
        outcome = json.dumps(_outcome(message))
    _patiently(lambda: task.backend.store_result(task_id, outcome, states.SUCCESS))


# Celery keeps no result of its own, but says what killed a task. Acknowledged late, a task isn't
# lost when its worker dies before it has shown life.
run = shared_task(
    bind=True,
    name=TASK,
    acks_late=True,
    reject_on_worker_lost=False,
    ignore_result=True,
    store_errors_even_if_ignored=True,
)(_run)


def _outcome(message: CallMessage) -> dict[str, Any]:
    try:
        return {"result": run_request(message.call, message.module)}
    except Exception as error:
        if isinstance(error, SoftTimeLimitExceeded):
            error = TimeoutError(f"Celery's time limit: {error}")
        return {"error": failure_of(error)}


@contextlib.contextmanager
def _showing_life(show_life: Callable[[], None], beat_s: float) -> Iterator[None]:
    """Shows every `beat_s` seconds, from a thread, that the block runs."""
    is_over = threading.Event()

    def beat() -> None:
        while not is_over.wait(beat_s):
            with contextlib.suppress(Exception):  # the next one may get through
                show_life()

    thread = threading.Thread(target=beat, name="durable-monty-beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()  # no sign of life may come after the outcome


def _patiently(action: Callable[[], Any]) -> Any:
    """Does something with a result backend that may be away for a while."""
    give_up = time.monotonic() + PATIENCE_S
    wait_s = 0.05
    while True:
        try:
            return action()
        except Exception:
            if time.monotonic() > give_up:
                raise
            time.sleep(wait_s)
            wait_s = min(LONGEST_RETRY_S, 2 * wait_s)
