"""What an rq worker runs for a call. It needs neither the engine nor a database."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import redis
import rq
from rq.exceptions import DeserializationError, ShutDownImminentException
from rq.job import Job
from rq.timeouts import JobTimeoutException

from ..failures import failure_of
from .remote import CallMessage, run_request

__all__ = ["JobMessage", "alive_key", "outcome_key", "run", "run_unread"]

logger = logging.getLogger("durable_monty.executor")

PATIENCE_S = 60.0
"""How long a job that is done tries to tell a Redis that is away."""
LONGEST_RETRY_S = 1.0
UNREAD_REPLIES_TTL_S = 3600
IDLE_S = 5.0
"""How long a process keeps the thread that shows life without a job."""


@dataclasses.dataclass(frozen=True)
class JobMessage(CallMessage):
    """The one argument of a job, as JSON text."""

    reply_to: str
    """The list on which a worker waits for outcomes."""
    outcome_ttl_s: int


def outcome_key(job_id: str) -> str:
    """Where the outcome of an attempt is kept until a worker has taken it in."""
    return f"durable-monty:outcome:{job_id}"


def alive_key(job_id: str) -> str:
    """What changes while the process that runs a job shows that it lives."""
    return f"durable-monty:alive:{job_id}"


def run(text: str) -> None:
    """Runs the call that a message holds, keeps its outcome, and tells the worker.

    What the function raises is raised again, for rq's own log and registry.
    """
    job = rq.get_current_job()
    if job is None or job.connection is None:
        raise RuntimeError("this function is run by rq workers only")
    _run(text, job.connection)


def run_unread(
    job: Job, connection: redis.Redis, kind: type[BaseException], error: BaseException, trace: Any
) -> None:
    """Runs the call of a job that its rq worker could not read, being started without `-S json`.

    rq's default is pickle, in which no job of ours is ever written. It tells this function, the
    job's failure callback, of every failure. What it had from Redis is the job's data as it is.
    """
    if not issubclass(kind, DeserializationError):
        return
    logger.warning("this rq worker takes JSON for pickle: start it with `rq worker -S json`")
    try:
        function, _, [text], _ = json.loads(job.data)
    except ValueError:
        return
    if function == f"{run.__module__}.{run.__qualname__}":
        _run(text, connection)


def _run(text: str, connection: redis.Redis) -> None:
    message = JobMessage.from_json(text)
    call = message.call
    try:
        with _heart.showing_life(connection, alive_key(call.job_id), message.beat_s):
            result = run_request(call, message.module)
    except ShutDownImminentException:
        raise  # the rq worker is told to end at once: that is no outcome of the call
    except BaseException as error:
        if isinstance(error, JobTimeoutException):
            error = TimeoutError(str(error))
        _tell(connection, message, {"error": failure_of(error)})
        raise
    _tell(connection, message, {"result": result})


def _tell(connection: redis.Redis, message: JobMessage, outcome: dict[str, Any]) -> None:
    """Keeps the outcome, and wakes the worker that waits for it."""
    job_id = message.call.job_id
    text = json.dumps(outcome)
    give_up = time.monotonic() + PATIENCE_S
    wait_s = 0.05
    while True:
        try:
            # In this order: what is told can also be found.
            with connection.pipeline(transaction=False) as pipeline:
                pipeline.set(outcome_key(job_id), text, ex=message.outcome_ttl_s)
                pipeline.rpush(message.reply_to, json.dumps([job_id, text]))
                pipeline.expire(message.reply_to, UNREAD_REPLIES_TTL_S)
                pipeline.execute()
            return
        except redis.ConnectionError:
            if time.monotonic() > give_up:
                raise
            time.sleep(wait_s)
            wait_s = min(LONGEST_RETRY_S, 2 * wait_s)


@dataclasses.dataclass
class _Running:
    """A job that runs in this process, and when it shows next that it lives."""

    connection: redis.Redis
    beat_s: float
    due: float


class _Heart:
    """Shows that the jobs of this process live, from one thread that stays between jobs: to start
    one for each job costs as much as what a short function does."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: dict[str, _Running] = {}
        self._is_beating = False
        self._wakes_at = 0.0

    @contextlib.contextmanager
    def showing_life(self, connection: redis.Redis, key: str, beat_s: float) -> Iterator[None]:
        """Gives a key another value each beat while the block runs. A block that is over sooner
        than that writes nothing."""
        due = time.monotonic() + beat_s
        with self._changed:
            self._running[key] = _Running(connection, beat_s, due)
            if not self._is_beating:
                self._is_beating = True
                threading.Thread(target=self._beat, name="durable-monty-beat", daemon=True).start()
            elif due < self._wakes_at:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._running.pop(key, None)

    def _beat(self) -> None:
        while due := self._wait():
            for key, running in due.items():
                value, expiry_ms = time.time_ns(), round(3000 * running.beat_s)
                with contextlib.suppress(redis.RedisError):
                    running.connection.set(key, value, px=expiry_ms)

    def _wait(self) -> dict[str, _Running]:
        """The jobs that have to show that they live, once there are any; none when there has been
        no job for a while."""
        with self._changed:
            idle_until = time.monotonic() + IDLE_S
            while True:
                now = time.monotonic()
                due = {key: one for key, one in self._running.items() if one.due <= now}
                for one in due.values():
                    one.due = now + one.beat_s
                if due:
                    return due
                if self._running:
                    idle_until = now + IDLE_S
                elif now >= idle_until:
                    self._is_beating = False
                    return {}
                self._wakes_at = min([idle_until, *(one.due for one in self._running.values())])
                self._changed.wait(self._wakes_at - now)


_heart = _Heart()


def _renew_heart() -> None:
    # In a forked child, which has neither the thread nor the jobs.
    global _heart
    _heart = _Heart()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_heart)
