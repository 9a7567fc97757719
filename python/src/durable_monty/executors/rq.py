"""Runs calls with Redis Queue."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import secrets
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

try:
    import redis
    import rq
    from rq.command import PUBSUB_CHANNEL_TEMPLATE, send_stop_job_command
    from rq.exceptions import NoSuchJobError
    from rq.job import Callback, Job
    from rq.registry import FailedJobRegistry, FinishedJobRegistry
    from rq.serializers import JSONSerializer
except ImportError as error:
    raise ImportError("RQExecutor needs Redis Queue: pip install 'durable-monty[rq]'") from error

from ..errors import Unavailable
from ..failures import Failure
from ..functions import module_of
from .base import (
    CallRequest,
    JobStatus,
    Outcome,
    Outcomes,
    ReportingExecutor,
    new_request,
    status_of,
)
from .remote import read_outcome
from .rq_job import JobMessage, alive_key, outcome_key, run, run_unread

if TYPE_CHECKING:
    from redis import Redis

__all__ = ["RQExecutor"]

logger = logging.getLogger("durable_monty.executor")

OUTCOME_TTL_S = 7 * 24 * 3600
"""How long an outcome waits for a worker to take it in."""
TAKEN_IN_TTL_S = 300
"""How long it stays after that: until then the database has it, or another worker asks again."""
BEATS = 6
"""How often a job shows its life in the time after which it is lost."""
DESERTED_BEATS = 2
"""In how many beats a job has to show its life when its rq worker seems to be gone."""
MAX_DEATHS = 3
"""How often a call whose rq worker died is submitted again."""
NO_TIMEOUT = -1
LISTEN_S = 1
MAX_REPLIES = 500
MAX_SCANNED = 1000
MAX_CANCELLED = 10_000
WAITING = frozenset({"queued", "deferred", "scheduled"})
ALIVE = WAITING | {"started"}
FEW_OPEN = 8
GATHER_S = 0.003
"""With more than a few jobs open, replies are awaited a moment longer to take them in together."""
LONGEST_RETRY_S = 2.0

_RUN = f"{run.__module__}.{run.__qualname__}"
_RUN_UNREAD = f"{run_unread.__module__}.{run_unread.__qualname__}"


@dataclasses.dataclass
class _Open:
    """A call that was submitted, and its job in rq."""

    call: CallRequest
    name: str
    deaths: int = 0
    life: bytes | None = None
    """What was last seen of its life."""
    silent_since: float | None = None
    deserted_since: float | None = None


class _Seen(NamedTuple):
    """What a scan found of a job."""

    outcome: bytes | None
    status: str | None
    life: bytes | None
    worker: str | None


NOTHING = _Seen(None, None, None, None)


class RQExecutor(ReportingExecutor):
    """Runs calls with Redis Queue, in any number of `rq worker` processes on any hosts.

    >>> Worker(service, RQExecutor(queue_name="my-queue")).run()

    and `rq worker -S json my-queue`, which needs the functions and no database. Jobs are JSON,
    never pickle. Functions that are registered by a name are found by importing the module that
    registers them, as this process knows it, or those listed in DURABLE_FUNCTIONS.

    `redis_conn` is a `redis.Redis`; by default the one that `rq` itself would use, from
    RQ_REDIS_URL or REDIS_URL, else localhost.

    A job is named after its attempt, so that a worker which takes over finds it again. A job whose
    rq worker died, and one that Redis has lost, is submitted again; a call whose rq worker died
    four times fails. A job is lost when it shows no life for `lost_after` seconds, or for a third
    of that while its rq worker has no connection to Redis, as when it was killed. `job_ttl` is how
    many seconds rq keeps jobs that have ended, `failure_ttl` those that failed.
    """

    def __init__(
        self,
        redis_conn: Redis | None = None,
        queue_name: str = "durable-monty",
        *,
        lost_after: float = 15.0,
        job_ttl: int = 500,
        failure_ttl: int = 24 * 3600,
    ) -> None:
        if lost_after <= 0:
            raise ValueError(f"lost_after is {lost_after}, it must be more than 0 seconds")
        self.redis: Redis = _default_connection() if redis_conn is None else redis_conn
        if self.redis.connection_pool.connection_kwargs.get("decode_responses"):
            raise ValueError("rq can't work with a connection that has decode_responses=True")
        self.queue_name = queue_name
        self.queue = rq.Queue(queue_name, connection=self.redis, serializer=JSONSerializer)
        self.lost_after = lost_after
        self.job_ttl = job_ttl
        self.failure_ttl = failure_ttl
        self._reply_to = f"durable-monty:replies:{uuid.uuid4()}"
        self._lock = threading.Lock()
        self._open: dict[str, _Open] = {}
        self._outcomes: Outcomes | None = None
        self._taken_in: list[str] = []
        self._cancelled: deque[str] = deque(maxlen=MAX_CANCELLED)
        self._stopped = threading.Event()
        self._listener: threading.Thread | None = None
        self._scan_due = 0.0
        self._scanned = 0
        self._told_stats: dict[str, Any] = {"queued": 0, "failed": 0, "finished": 0}

    # Without a worker

    def submit_call(
        self, function_name: str, args: list[Any], kwargs: dict[str, Any] | None = None
    ) -> str:
        """Enqueues one call and returns the name of its job."""
        call = new_request(function_name, args, kwargs)
        self._enqueue([(call, call.job_id)])
        return call.job_id

    def check_job(self, job_id: str) -> JobStatus:
        """What became of a job."""
        seen = self._look_at([(job_id, job_id)])[0]
        if seen.outcome is not None:
            return status_of(read_outcome(seen.outcome))
        if seen.status is None:
            return {"status": "failed", "error": f"LookupError: Redis has no job {job_id}"}
        if seen.status in ("failed", "stopped", "canceled"):
            return {"status": "failed", "error": f"RuntimeError: {self._why(job_id, seen)}"}
        return {"status": "started" if seen.status == "started" else "queued"}

    def get_stats(self) -> dict[str, Any]:
        """How many jobs wait in the queue, and how many rq still knows that failed or finished.

        The numbers of before while Redis is away.
        """
        now = time.time()
        try:
            with self.redis.pipeline(transaction=False) as pipeline:
                pipeline.llen(self.queue.key)
                for kind in (FailedJobRegistry, FinishedJobRegistry):
                    pipeline.zcount(kind(queue=self.queue).key, now, "+inf")
                queued, failed, finished = pipeline.execute()
            self._told_stats = {"queued": queued, "failed": failed, "finished": finished}
        except redis.RedisError:
            logger.debug("no numbers from Redis", exc_info=True)
        return dict(self._told_stats)

    # With a worker

    def attach(self, outcomes: Outcomes) -> None:
        """Begins to listen for outcomes."""
        self._outcomes = outcomes
        self._stopped.clear()
        self._listener = threading.Thread(target=self._listen, name="durable-monty-rq", daemon=True)
        self._listener.start()

    def detach(self) -> None:
        """Stops listening. Jobs go on; what they come to is found by whoever takes over."""
        self._stopped.set()
        if self._listener is not None:
            self._listener.join(LISTEN_S + 1)
        with self._lock:
            self._open.clear()
        self._outcomes = None

    def submit_calls(self, calls: Sequence[CallRequest]) -> Sequence[str | None]:
        """Enqueues those calls of which there is no job yet."""
        open_calls: list[_Open] = []
        fresh: list[_Open] = []
        kept: dict[str, str | bytes] = {}
        names: list[str] = []
        try:
            named = [(call.job_id, call.submitted_as or call.job_id) for call in calls]
            for call, (job_id, name), found in zip(calls, named, self._look_at(named), strict=True):
                if found.outcome is not None and _belongs_to(call, found.outcome):
                    kept[job_id] = found.outcome
                elif found.outcome is None and found.status in ALIVE:
                    open_calls.append(_Open(call, name))
                else:
                    # What ended without an outcome, or before the call was made again, is no more
                    # than a name that is taken.
                    name = name if found == NOTHING else _another_name(call)
                    fresh.append(_Open(call, name))
                names.append(name)
            with self._lock:
                self._open.update((one.call.job_id, one) for one in (*open_calls, *fresh))
            self._enqueue([(one.call, one.name) for one in fresh])
        except redis.RedisError as error:
            for call in calls:
                self.release_call(call)
            raise Unavailable(f"Redis: {error}") from error
        self._take_in(kept)
        return names

    def release_call(self, call: CallRequest) -> None:
        """Looks at its job no more."""
        with self._lock:
            self._open.pop(call.job_id, None)

    def cancel_call(self, call: CallRequest) -> None:
        """Takes a job out of the queue, or stops it."""
        name = call.submitted_as or call.job_id
        self._cancelled.append(name)
        try:
            job = Job.fetch(name, connection=self.redis, serializer=JSONSerializer)
        except NoSuchJobError:
            return
        if job.is_started:
            send_stop_job_command(self.redis, name, serializer=JSONSerializer)
        else:
            job.delete()

    # Redis

    def _enqueue(self, calls: Sequence[tuple[CallRequest, str]]) -> None:
        """Makes jobs. Outcomes of earlier ones don't count any more."""
        if not calls:
            return
        pipeline = self.redis.pipeline()
        pipeline.delete(*[outcome_key(call.job_id) for call, _ in calls])
        self.queue.enqueue_many(
            [
                rq.Queue.prepare_data(
                    _RUN,
                    args=[self._message(call)],
                    kwargs={},
                    job_id=name,
                    timeout=_timeout_s(call),
                    result_ttl=self.job_ttl,
                    failure_ttl=self.failure_ttl,
                    description=f"{call.function_name} ({call.idempotency_key})",
                    on_failure=Callback(_RUN_UNREAD, timeout=_timeout_s(call)),
                )
                for call, name in calls
            ],
            pipeline=pipeline,
        )
        pipeline.execute()

    def _message(self, call: CallRequest) -> str:
        return JobMessage(
            call=call,
            module=module_of(call.function_name),
            reply_to=self._reply_to,
            outcome_ttl_s=OUTCOME_TTL_S,
            beat_s=self.lost_after / BEATS,
        ).to_json()

    def _look_at(self, jobs: Sequence[tuple[str, str]]) -> list[_Seen]:
        """Outcome, status and life of jobs, each given by attempt and name, in one round trip."""
        with self.redis.pipeline() as pipeline:
            pipeline.mget([outcome_key(job_id) for job_id, _ in jobs])
            pipeline.mget([alive_key(job_id) for job_id, _ in jobs])
            for _, name in jobs:
                # A job that ends after Redis was flushed leaves a hash without an origin.
                pipeline.hmget(Job.key_for(name), "status", "origin", "worker_name")
            outcomes, lives, *hashes = pipeline.execute()
        return [
            _Seen(
                outcome=outcome,
                status=status.decode() if status and origin else None,
                life=life,
                worker=worker.decode() if worker else None,
            )
            for outcome, life, (status, origin, worker) in zip(outcomes, lives, hashes, strict=True)
        ]

    def _gone(self, seen: Sequence[_Seen]) -> set[str]:
        """Those workers of jobs that were started which don't listen for rq's commands: they were
        killed, or have lost Redis. A process that a killed worker forked for a job still holds
        its connection, and counts as the worker."""
        workers = {one.worker for one in seen if one.status == "started" and one.worker}
        if not workers:
            return set()
        try:
            channels = [PUBSUB_CHANNEL_TEMPLATE % worker for worker in workers]
            listening: dict[Any, int] = dict(self.redis.pubsub_numsub(*channels))
        except redis.ResponseError as error:
            logger.debug("Redis does not tell who listens: %s", error)
            return set()
        found = {channel.decode() for channel, count in listening.items() if count}
        return {worker for worker in workers if PUBSUB_CHANNEL_TEMPLATE % worker not in found}

    def _why(self, name: str, seen: _Seen) -> str:
        """What rq knows of a job that ended without an outcome."""
        if seen.status in ("stopped", "canceled"):
            return f"the job {name} was {seen.status} in rq"
        try:
            job = Job.fetch(name, connection=self.redis, serializer=JSONSerializer)
            last = job.latest_result()
        except NoSuchJobError:
            last = None
        said = (last.exc_string or "").strip().rpartition("\n")[2] if last else ""
        return f"the rq worker that ran the job {name} died" + (f": {said}" if said else "")

    # The listener

    def _listen(self) -> None:
        retry_s = 0.05
        while not self._stopped.is_set():
            try:
                self._receive()
                if time.monotonic() >= self._scan_due:
                    self._scan_due = time.monotonic() + min(1.0, self.lost_after / 3)
                    self._scan()
                retry_s = 0.05
            except redis.RedisError as error:
                logger.warning("Redis: %s", error)
                self._stopped.wait(retry_s)
                retry_s = min(LONGEST_RETRY_S, 2 * retry_s)
            except Exception:
                logger.exception("what Redis said could not be used")
                self._stopped.wait(retry_s)

    def _receive(self) -> None:
        """Waits for replies and takes in all that have come."""
        try:
            first = self.redis.blpop([self._reply_to], timeout=LISTEN_S)
        except redis.TimeoutError:
            first = None  # the connection's own, shorter timeout
        if first is None and not self._taken_in:
            return
        if len(self._open) > FEW_OPEN:
            self._stopped.wait(GATHER_S)
        with self._lock:
            taken_in, self._taken_in = self._taken_in, []
        with self.redis.pipeline() as pipeline:
            pipeline.lrange(self._reply_to, 0, MAX_REPLIES - 1)
            pipeline.ltrim(self._reply_to, MAX_REPLIES, -1)
            for job_id in taken_in:
                pipeline.expire(outcome_key(job_id), TAKEN_IN_TTL_S)
            rest, *_ = pipeline.execute()
        replies = rest if first is None else [first[1], *rest]
        self._take_in(dict(json.loads(reply) for reply in replies))

    def _take_in(self, kept: Mapping[str, str | bytes]) -> None:
        """Passes on outcomes. Redis is told with the next replies that they were taken in."""
        if not kept:
            return
        with self._lock:
            for job_id in kept:
                self._open.pop(job_id, None)
            self._taken_in.extend(kept)
        if self._outcomes is not None:
            self._outcomes.report({job_id: read_outcome(text) for job_id, text in kept.items()})

    def _scan(self) -> None:
        """Looks at open jobs, some at a time: for outcomes whose reply was lost, and for jobs that
        nobody runs any more."""
        with self._lock:
            count = len(self._open)
            begin = self._scanned if self._scanned < count else 0
            looked_at = list(self._open.values())[begin : begin + MAX_SCANNED]
            self._scanned = begin + MAX_SCANNED
        if not looked_at:
            return
        seen = self._look_at([(one.call.job_id, one.name) for one in looked_at])
        gone = self._gone(seen)
        kept: dict[str, str | bytes] = {}
        again: list[_Open] = []
        for one, found in zip(looked_at, seen, strict=True):
            if found.outcome is not None:
                kept[one.call.job_id] = found.outcome
            elif found.status in ("stopped", "canceled") and one.name not in self._cancelled:
                self._give_up(one, found)
            elif self._is_lost(one, found, found.worker in gone):
                again.append(one)
        self._take_in(kept)
        self._submit_again(again)

    def _is_lost(self, one: _Open, found: _Seen, is_deserted: bool) -> bool:
        """Whether a job without an outcome will never have one. Counts deaths."""
        if found.status in WAITING:
            one.silent_since = one.deserted_since = None
            return False
        if one.name in self._cancelled and found.status != "started":
            return True  # its execution failed, and was retried before the job was stopped
        # What has failed may have shown its life just before.
        if found.status != "failed":
            if not self._is_silent(one, found.life, is_deserted):
                return False
            if found.status is None:
                return True
        one.deaths += 1
        if one.deaths > MAX_DEATHS:
            self._give_up(one, found)
            return False
        return True

    def _is_silent(self, one: _Open, life: bytes | None, is_deserted: bool) -> bool:
        """Whether a job that was started, or is gone, has shown no life for too long. A moment ago
        it may have begun, or Redis was flushed under a job that is about to show itself."""
        now = time.monotonic()
        if life is not None and life != one.life:
            one.life, one.silent_since, one.deserted_since = life, now, None
        if one.silent_since is None:
            one.silent_since = now
        if not is_deserted:
            one.deserted_since = None
        elif one.deserted_since is None:
            one.deserted_since = now
        if now - one.silent_since >= self.lost_after:
            return True
        deserted_s = 0.0 if one.deserted_since is None else now - one.deserted_since
        return deserted_s >= self.lost_after * DESERTED_BEATS / BEATS

    def _submit_again(self, lost: Sequence[_Open]) -> None:
        """Makes another job of calls. It has another name: rq may still clear up the first one."""
        names = [_another_name(one.call) for one in lost]
        self._enqueue([(one.call, name) for one, name in zip(lost, names, strict=True)])
        for one, name in zip(lost, names, strict=True):
            logger.warning("the job %s was lost: submitted again as %s", one.name, name)
            one.name, one.life, one.silent_since, one.deserted_since = name, None, None, None
            if self._outcomes is not None:
                self._outcomes.submitted(one.call.job_id, name)

    def _give_up(self, one: _Open, found: _Seen) -> None:
        with self._lock:
            self._open.pop(one.call.job_id, None)
        if self._outcomes is not None:
            failure = Failure("RuntimeError", self._why(one.name, found))
            self._outcomes.report({one.call.job_id: Outcome(None, failure)})


def _belongs_to(call: CallRequest, kept: bytes) -> bool:
    """Whether an outcome that is found when a call is submitted is the one of this attempt. A
    failure may be that of the same attempt in an execution that failed and was retried: unless a
    worker before this one has noted the job, the call is made again."""
    return call.submitted_as is not None or read_outcome(kept).error is None


def _another_name(call: CallRequest) -> str:
    return f"{call.job_id}-{secrets.token_hex(4)}"


def _timeout_s(call: CallRequest) -> int:
    return NO_TIMEOUT if call.timeout_ms is None else -(-call.timeout_ms // 1000)


def _default_connection() -> Redis:
    url = os.environ.get("RQ_REDIS_URL") or os.environ.get("REDIS_URL")
    return redis.Redis.from_url(url or "redis://localhost:6379/0")
