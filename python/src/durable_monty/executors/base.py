"""The interface of executors."""

from __future__ import annotations

import dataclasses
import inspect
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypedDict

from ..failures import Failure
from ..values import decode, encode, encode_object

__all__ = ["CallRequest", "Executor", "JobStatus", "Outcome", "Outcomes", "ReportingExecutor"]


class _JobState(TypedDict):
    status: Literal["finished", "failed", "queued", "started"]


class JobStatus(_JobState, total=False):
    """What became of a job. `result` goes with `finished`, `error` with `failed`.

    An `error` that begins with the name of a builtin exception (`"ValueError: no price"`) is
    raised in the workflow as that exception, any other as a RuntimeError.
    """

    result: Any
    error: str | None


class Executor(ABC):
    """Runs calls somewhere: on this machine, in a queue, in a cloud.

    A worker submits each call once it is durable that the workflow asked for it, and asks
    `check_job` about every job each poll interval. An exception raised by any of these methods
    fails the call in question and nothing else; but Unavailable says that what is behind it can't
    be reached now, and is followed by another try, within the call's own timeout.

    >>> class CloudExecutor(Executor):
    ...     def submit_call(self, function_name, args, kwargs):
    ...         return cloud.launch(function_name, args, kwargs).id
    ...     def check_job(self, job_id):
    ...         job = cloud.find(job_id)
    ...         return {"status": job.state, "result": job.result, "error": job.error}
    """

    @abstractmethod
    def submit_call(self, *call: Any) -> str | None:
        """Hands a call over and returns at once.

        Written as `submit_call(self, function_name, args, kwargs)`, with the arguments as values,
        it returns the name of the job. Written as `submit_call(self, call)` it is given a
        `durable_monty.Call`, whose `args` and `kwargs` are JSON text; when that returns None, no
        job is asked about, and whoever runs the call reports with
        `OrchestratorService.complete_call`.
        """

    def check_job(self, job_id: str) -> JobStatus | dict[str, Any]:
        """What became of a job. By default nothing is known yet."""
        return {"status": "started"}

    def get_stats(self) -> dict[str, Any]:
        """Numbers for people."""
        return {}


@dataclasses.dataclass(frozen=True)
class CallRequest:
    """One attempt of one call, as it goes to an executor. Arguments are JSON text
    (`durable_monty.values.decode` reads it)."""

    function_name: str
    args: str
    kwargs: str
    execution_id: str
    call_id: int
    attempt: int
    """Counted from 1."""
    timeout_ms: int | None = None
    """How long the attempt may take from when it was handed out."""
    submitted_as: str | None = None
    """The job that an earlier worker made of this very attempt, if one did."""
    step: str | None = None
    """The workflow's own name for the call, such as that of the step."""

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of the call."""
        return f"{self.execution_id}:{self.call_id}"

    @property
    def job_id(self) -> str:
        """A name for this attempt: the same whoever submits it, and however often."""
        return f"{self.execution_id}-{self.call_id}-{self.attempt}"


class Outcomes(Protocol):
    """Where an executor reports what calls came to. Any thread may report. Late and repeated
    reports change nothing."""

    def report(self, outcomes: Mapping[str, Outcome]) -> None:
        """Outcomes by the `job_id` of their requests; those that came together, together."""

    def submitted(self, job_id: str, name: str) -> None:
        """Another job was made of the same attempt; `name` is what operators can find it by."""


class Outcome(NamedTuple):
    """What an attempt came to: the JSON text of a result, or an error."""

    result: str | None
    error: Failure | None = None


class KeptOutcomes:
    """Outcomes that wait to be asked for, where no worker takes them in."""

    def __init__(self) -> None:
        self._kept: dict[str, Outcome] = {}

    def report(self, outcomes: Mapping[str, Outcome]) -> None:
        """Keeps them."""
        self._kept.update(outcomes)

    def submitted(self, job_id: str, name: str) -> None:
        """Nobody looks for jobs by name here."""

    def take(self, job_id: str) -> Outcome | None:
        """The outcome of a job, once."""
        return self._kept.pop(job_id, None)


def new_request(function_name: str, args: list[Any], kwargs: dict[str, Any] | None) -> CallRequest:
    """A call that no workflow asked for."""
    return CallRequest(
        function_name=function_name,
        args=encode(list(args), "args"),
        kwargs=encode_object(kwargs or {}, "kwargs"),
        execution_id=str(uuid.uuid4()),
        call_id=0,
        attempt=1,
    )


def status_of(outcome: Outcome) -> JobStatus:
    """An outcome as `check_job` tells it."""
    if outcome.error is None:
        return {"status": "finished", "result": decode(outcome.result or "null")}
    kind, message, _ = outcome.error
    return {"status": "failed", "error": f"{kind}: {message}"}


class ReportingExecutor(Executor):
    """An executor that takes calls together and says by itself what they came to, instead of
    being asked.

    A worker calls `attach` once, then `submit_calls` from one or several threads, and `detach`
    when it stops. What is open then is submitted again by whoever takes the executions over.
    """

    reported_by_name = False
    """Whether whoever runs a job may report it to the database by its `job_id`, which is then
    stored before the call is handed over."""

    _alone: KeptOutcomes | None = None

    def submit_call(
        self, function_name: str, args: list[Any], kwargs: dict[str, Any] | None = None
    ) -> str:
        """Has one call run, without a worker, and returns the name of its job."""
        if self._alone is None:
            self._alone = KeptOutcomes()
            self.attach(self._alone)
        call = new_request(function_name, args, kwargs)
        self.submit_calls([call])
        return call.job_id

    def check_job(self, job_id: str) -> JobStatus:
        """What became of a job of `submit_call`. One that has ended is told about once."""
        outcome = None if self._alone is None else self._alone.take(job_id)
        return {"status": "started"} if outcome is None else status_of(outcome)

    @abstractmethod
    def attach(self, outcomes: Outcomes) -> None:
        """Gets ready. Outcomes may be reported until `detach` returns."""

    @abstractmethod
    def detach(self) -> None:
        """Stops reporting."""

    @abstractmethod
    def submit_calls(self, calls: Sequence[CallRequest]) -> Sequence[str | None]:
        """Hands calls over and returns at once, with the names under which operators find the
        jobs (None for a call that needs no name).

        Raises Unavailable when that is not possible now: it is tried again, so calls may come
        that were handed over before. Any other exception fails these calls.
        """

    def is_busy(self) -> bool:
        """Whether outcomes are on their way that would be lost with this process. A worker that
        stops gives them its grace."""
        return False

    def release_call(self, call: CallRequest) -> None:
        """This worker does not wait for the outcome any more. Perhaps another one does."""

    def cancel_call(self, call: CallRequest) -> None:
        """Nobody waits for the outcome any more: the call was released and has ended. Stopping
        the job is a courtesy."""


def takes_call(executor: Executor) -> bool:
    """Whether `submit_call` is written to take one `Call` instead of name, args and kwargs."""
    parameters = inspect.signature(executor.submit_call).parameters.values()
    positional = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return False
    required = [p for p in positional if p.default is p.empty]
    return len(positional) == 1 or (len(required) == 1 and required[0].name == "call")


def reports(executor: ReportingExecutor) -> bool:
    """Whether no subclass of a reporting executor has put a `submit_call` of its own in the place
    of that."""
    for kind in type(executor).__mro__:
        if "submit_calls" in vars(kind):
            return True
        if "submit_call" in vars(kind):
            return False
    return False
