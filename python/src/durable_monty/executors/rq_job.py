"""What an rq worker runs for a call. It needs neither the engine nor a database."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import redis
import rq
from rq.exceptions import DeserializationError, ShutDownImminentException
from rq.job import Job
from rq.timeouts import JobTimeoutException

from ..failures import Failure, failure_of
from .base import CallRequest, Outcome
from .remote import run_request

__all__ = ["JobMessage", "alive_key", "outcome_key", "read_outcome", "run", "run_unread"]

logger = logging.getLogger("durable_monty.executor")

PATIENCE_S = 60.0
"""How long a job that is done tries to tell a Redis that is away."""
LONGEST_RETRY_S = 1.0
UNREAD_REPLIES_TTL_S = 3600


@dataclasses.dataclass(frozen=True)
class JobMessage:
    """The one argument of a job, as JSON text."""

    call: CallRequest
    module: str | None
    """Whose import registers the function."""
    reply_to: str
    """The list on which a worker waits for outcomes."""
    outcome_ttl_s: int
    beat_s: float
    """How often a running job shows that it lives."""

    def to_json(self) -> str:
        """The message as text."""
        return json.dumps({**vars(self), "call": vars(self.call)})

    @classmethod
    def from_json(cls, text: str) -> JobMessage:
        """The message that a text holds."""
        members = json.loads(text)
        return cls(**{**members, "call": CallRequest(**members["call"])})


def outcome_key(job_id: str) -> str:
    """Where the outcome of an attempt is kept until a worker has taken it in."""
    return f"durable-monty:outcome:{job_id}"


def alive_key(job_id: str) -> str:
    """What exists while the process that runs a job shows that it lives."""
    return f"durable-monty:alive:{job_id}"


def read_outcome(text: str | bytes) -> Outcome:
    """An outcome as it is kept."""
    members = json.loads(text)
    error = members.get("error")
    return Outcome(members.get("result"), None if error is None else Failure(*error))


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
        with _showing_life(connection, alive_key(call.job_id), message.beat_s):
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


@contextlib.contextmanager
def _showing_life(connection: redis.Redis, key: str, beat_s: float) -> Iterator[None]:
    """Renews a key while the block runs. One that is over sooner than a beat writes nothing."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(beat_s):
            with contextlib.suppress(redis.RedisError):
                connection.set(key, 1, px=round(3000 * beat_s))

    threading.Thread(target=beat, name="durable-monty-beat", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
