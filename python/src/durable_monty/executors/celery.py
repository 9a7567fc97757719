"""Runs calls with Celery."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

try:
    import celery
    from celery import states
    from celery.backends.base import DisabledBackend
    from celery.backends.rpc import RPCBackend
    from celery.exceptions import NotRegistered, WorkerLostError
    from kombu.exceptions import OperationalError

    if celery.VERSION < (5, 4):
        raise ImportError(f"celery {celery.__version__} is too old")
except ImportError as error:
    raise ImportError(
        "CeleryExecutor needs Celery 5.4 or later: pip install 'durable-monty[celery]'"
    ) from error

from ..errors import Unavailable
from ..failures import Failure, failure_of
from ..functions import module_of
from .base import CallRequest, Outcome, Outcomes, ReportingExecutor
from .celery_task import MODULE, TASK
from .remote import CallMessage, read_outcome

__all__ = ["CeleryExecutor"]

logger = logging.getLogger("durable_monty.executor")

JSON = frozenset({"json", "application/json"})
QUEUED = "QUEUED"
"""The state of the result that says of another task that it waits in the broker's queue."""
BEATS = 6
"""How often a task shows its life in the time after which it is lost."""
MAX_DEATHS = 3
"""How often a call whose Celery worker died is submitted again."""
KILL_AFTER_S = 10
"""When Celery kills the process of a function that goes on after its timeout."""
FIRST_LOOK_S = 0.01
LONGEST_LOOK_S = 0.25
MAX_LOOKED_AT = 1000
IDLE_SHARE = 9
"""How many times as long as a look takes it is until the next one."""

Meta = Mapping[str, Any]
"""What a result backend has on a task: `status` and `result`."""
UNKNOWN: Meta = {"status": states.PENDING, "result": None}


@dataclasses.dataclass
class _Open:
    """A call that was submitted."""

    call: CallRequest
    deaths: int = 0
    seen: Meta | None = None
    """What was last seen of its task."""
    silent_since: float | None = None


class CeleryExecutor(ReportingExecutor):
    """Runs calls with Celery, in any number of Celery workers on any hosts. Extra `celery`.

    >>> app = Celery("my-app", broker=url, backend=url,
    ...     include=["durable_monty.executors.celery_task"])
    >>> Worker(service, CeleryExecutor(app)).run()

    and `celery -A my_app worker`, which needs the functions and no database. Tasks and results are
    JSON, never pickle. Functions that are registered by a name are found by importing the module
    that registers them, as this process knows it, or those listed in DURABLE_FUNCTIONS. `queue` is
    where tasks go; by default where the app routes the task `durable_monty.run`.

    A function runs at least once; every run has the idempotency key of its call. A task has the id
    of its attempt, so that a worker which takes over finds it in the result backend, and Celery may
    deliver it as often as it likes: what has begun is not begun again. A task is submitted again
    when its result backend has lost it or when it shows no life, for `lost_after` seconds; it shows
    its life six times in that time, from a thread, for as long as it runs. One whose process died
    is submitted again at once. A call that has cost four processes or workers their life fails.

    A task that waits in the queue has a mark in the result backend. A broker that loses tasks while
    the result backend lives is noticed only when the mark expires (`result_expires`, a day).

    A task stops at the timeout of its function where Celery's pool has time limits (`prefork`).
    What was cancelled is not begun any more; what runs is left alone.
    """

    def __init__(
        self, app: celery.Celery, queue: str | None = None, *, lost_after: float = 15.0
    ) -> None:
        if lost_after <= 0:
            raise ValueError(f"lost_after is {lost_after}, it must be more than 0 seconds")
        if isinstance(app.backend, (DisabledBackend, RPCBackend)):
            raise ValueError(
                f"result_backend of the Celery app is {app.conf.result_backend!r}, it must be one "
                "that keeps results for whoever asks, such as redis://"
            )
        accepts_json = not JSON.isdisjoint(app.conf.accept_content or JSON)
        if app.conf.result_serializer != "json" or not accepts_json:
            raise ValueError(
                "the Celery app must accept json and have it as its result_serializer: they are "
                f"{app.conf.accept_content!r} and {app.conf.result_serializer!r}"
            )
        self.app = app
        self.queue = queue
        self.lost_after = lost_after
        self._lock = threading.Lock()
        self._open: dict[str, _Open] = {}
        self._looked = 0
        self._outcomes: Outcomes | None = None
        self._woken = threading.Event()
        self._is_stopping = False
        self._collector: threading.Thread | None = None

    def attach(self, outcomes: Outcomes) -> None:
        """Begins to collect outcomes."""
        self._outcomes = outcomes
        self._is_stopping = False
        self._collector = threading.Thread(
            target=self._collect, name="durable-monty-celery", daemon=True
        )
        self._collector.start()

    def detach(self) -> None:
        """Stops collecting. Tasks go on; what they come to is found by whoever takes over."""
        self._is_stopping = True
        self._woken.set()
        if self._collector is not None:
            self._collector.join(LONGEST_LOOK_S + 1)
        with self._lock:
            self._open.clear()
        self._outcomes = None

    def submit_calls(self, calls: Sequence[CallRequest]) -> Sequence[str | None]:
        """Sends the tasks of those calls that have none yet."""
        names = [call.job_id for call in calls]
        try:
            metas = self._look_at([*names, *map(_queued, names)])
            for call, meta, queued in zip(calls, metas, metas[len(names) :], strict=False):
                is_over = meta["status"] in states.READY_STATES
                if is_over and call.submitted_as is None and _outcome_of(call, meta).error:
                    # That of the same attempt, in an execution that failed and was retried.
                    self._submit_again(call)
                elif meta["status"] == queued["status"] == states.PENDING:
                    self._submit(call)
        except Exception as error:
            if self._is_away(error):
                raise Unavailable(f"Celery: {error}") from error
            raise
        with self._lock:
            self._open.update((call.job_id, _Open(call)) for call in calls)
        self._woken.set()
        return names

    def release_call(self, call: CallRequest) -> None:
        """Looks at its task no more."""
        with self._lock:
            self._open.pop(call.job_id, None)

    def cancel_call(self, call: CallRequest) -> None:
        """Revokes a task that was not begun."""
        [meta] = self._look_at([call.job_id])
        if meta["status"] == states.PENDING:
            # In the backend, where whoever takes the task looks. What Celery revokes is known to
            # the workers of now, and can't be submitted again when the execution is retried.
            self.app.backend.store_result(call.job_id, None, states.REVOKED)

    # Celery

    def _submit(self, call: CallRequest) -> None:
        # As text: Celery's own JSON takes some objects for others.
        message = CallMessage(call, module_of(call.function_name), self.lost_after / BEATS)
        timeout_s = None if call.timeout_ms is None else -(-call.timeout_ms // 1000)
        self.app.send_task(
            TASK,
            args=[message.to_json()],
            task_id=call.job_id,
            queue=self.queue,
            serializer="json",
            ignore_result=True,
            soft_time_limit=timeout_s,
            time_limit=None if timeout_s is None else timeout_s + KILL_AFTER_S,
            shadow=call.function_name,
        )
        # Only now: what is marked was sent. It is a result of its own, since the task may write
        # its state at any moment.
        self.app.backend.store_result(_queued(call.job_id), None, QUEUED)

    def _submit_again(self, call: CallRequest) -> None:
        for task_id in (_queued(call.job_id), call.job_id):
            self.app.backend.forget(task_id)
        self._submit(call)

    def _look_at(self, task_ids: Sequence[str]) -> list[Meta]:
        """What the result backend has on tasks; in one round trip if it is Redis."""
        backend = self.app.backend
        try:
            kept = backend.mget([backend.get_key_for_task(task_id) for task_id in task_ids])
        except (AttributeError, NotImplementedError):
            kept = None
        if not isinstance(kept, list):
            return [backend.get_task_meta(task_id, cache=False) for task_id in task_ids]
        return [UNKNOWN if text is None else self._decoded(text) for text in kept]

    def _decoded(self, text: Any) -> Meta:
        try:
            meta: Meta = self.app.backend.decode_result(text)
        except Exception as error:
            return {"status": states.FAILURE, "result": error}
        return meta

    def _is_away(self, error: Exception) -> bool:
        """Whether an error says that the broker or the result backend can't be reached."""
        backend = self.app.backend
        known = (OperationalError, OSError, *getattr(backend, "connection_errors", ()))
        return isinstance(error, known) or bool(backend.exception_safe_to_retry(error))

    # The collector

    def _collect(self) -> None:
        pause_s = FIRST_LOOK_S
        while not self._is_stopping:
            if self._woken.wait(pause_s if self._open else None):
                self._woken.clear()
                pause_s = FIRST_LOOK_S
            began = time.monotonic()
            try:
                if self._look():
                    pause_s = FIRST_LOOK_S
            except Exception as error:
                if self._is_away(error):
                    logger.warning("Celery: %s", error)
                else:
                    logger.exception("what Celery said could not be used")
                self._excuse()
                pause_s = LONGEST_LOOK_S
            pause_s = min(LONGEST_LOOK_S, 2 * pause_s)
            pause_s = max(pause_s, IDLE_SHARE * (time.monotonic() - began))

    def _look(self) -> bool:
        """Looks at open calls, some at a time; whether any has come to something."""
        with self._lock:
            begin = self._looked if self._looked < len(self._open) else 0
            end = self._looked = begin + MAX_LOOKED_AT
            looked_at = list(itertools.islice(self._open.values(), begin, end))
        if not looked_at:
            return False
        ended: dict[str, Outcome] = {}
        again: list[_Open] = []
        missing: list[_Open] = []
        metas = self._look_at([one.call.job_id for one in looked_at])
        for one, meta in zip(looked_at, metas, strict=True):
            has_died = isinstance(meta["result"], WorkerLostError)
            if meta["status"] in states.READY_STATES and not has_died:
                ended[one.call.job_id] = _outcome_of(one.call, meta)
            elif not has_died and not self._is_silent(one, meta):
                continue
            elif meta["status"] == states.PENDING:
                missing.append(one)
            elif one.deaths < MAX_DEATHS:
                one.deaths += 1
                again.append(one)
            else:
                why = f"the Celery worker that ran the task {one.call.job_id} died"
                ended[one.call.job_id] = Outcome(None, Failure("RuntimeError", why))
        self._report(ended)
        for one in [*again, *self._lost(missing)]:
            logger.warning("the task %s was lost: submitted again", one.call.job_id)
            self._submit_again(one.call)
            one.silent_since = None
        return bool(ended)

    def _is_silent(self, one: _Open, meta: Meta) -> bool:
        """Whether a task has shown no life for too long."""
        now = time.monotonic()
        if one.silent_since is None or meta != one.seen:
            one.seen, one.silent_since = meta, now
        return now - one.silent_since >= self.lost_after

    def _lost(self, missing: Sequence[_Open]) -> list[_Open]:
        """Which tasks of those without a result don't wait in the queue either."""
        if not missing:
            return []
        marks = self._look_at([_queued(one.call.job_id) for one in missing])
        for one in missing:
            one.silent_since = None
        pairs = zip(missing, marks, strict=True)
        return [one for one, mark in pairs if mark["status"] == states.PENDING]

    def _report(self, ended: Mapping[str, Outcome]) -> None:
        with self._lock:
            for job_id in ended:
                self._open.pop(job_id, None)
        if ended and self._outcomes is not None:
            self._outcomes.report(ended)

    def _excuse(self) -> None:
        """Nobody is heard while Celery is away."""
        with self._lock:
            for one in self._open.values():
                one.silent_since = None


def _queued(task_id: str) -> str:
    """The result that says that a task waits in the queue."""
    return f"{task_id}-queued"


def _outcome_of(call: CallRequest, meta: Meta) -> Outcome:
    """What a task that has ended came to."""
    status, result = meta["status"], meta["result"]
    if status == states.SUCCESS:
        try:
            return read_outcome(result)
        except (AttributeError, TypeError, ValueError) as error:
            why = f"the result of the task {call.job_id} can't be read: {error}"
    elif isinstance(result, NotRegistered):
        why = f"a Celery worker doesn't know {TASK}: it has to import {MODULE}"
    elif isinstance(result, Exception):
        return Outcome(None, failure_of(result))
    else:
        why = f"the task {call.job_id} is {status} in Celery"
    return Outcome(None, Failure("RuntimeError", why))
