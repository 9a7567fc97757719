"""The service: start, watch and steer executions."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from sqlalchemy.engine import Engine

from .checks import check_inputs
from .db import Store, store_of
from .errors import (
    CallFailed,
    Conflict,
    ExecutionCancelled,
    ExecutionFailed,
    InvalidWorkflow,
    NotCompleted,
    NotFound,
)
from .failures import Failure, failure_of
from .functions import declare_functions
from .inspection import Checkpoint, InspectedCheckpoint, checkpoint_of, inspected_of
from .models import CallStatus, ExecutionStatus
from .sessions import Session
from .steps import StepWorkflow, load_workflow
from .values import decode, encode, encode_object

if TYPE_CHECKING:
    from . import _internal

__all__ = ["ExecutionInfo", "OrchestratorService", "PendingCall", "PollResult"]

logger = logging.getLogger("durable_monty.service")

ExternalFunctions = Iterable[str | Callable[..., Any]]


class PendingCall(TypedDict):
    """A call that has no result yet."""

    call_id: int
    function_name: str
    args: list[Any]
    kwargs: dict[str, Any]
    status: CallStatus


# Named, because inside the class `list` is a method.
PendingCalls = list[PendingCall]
Checkpoints = list[Checkpoint]


class PollResult(TypedDict):
    """What `poll` tells of an execution."""

    execution_id: str
    status: str
    output: Any
    pending_calls: list[PendingCall]


class ExecutionInfo(TypedDict):
    """What `get_execution` and `list` tell of an execution."""

    execution_id: str
    workflow_id: str
    status: ExecutionStatus
    output: Any
    error: str | None


class OrchestratorService:
    """Starts executions and reports on them. Threads may share one.

    >>> service = OrchestratorService(init_db("sqlite:///app.db"))
    >>> execution_id = service.start_execution("await add(1, 2)", ["add"])

    Starting stores the execution; a `Worker`, here or in another process, runs it.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._store = store_of(engine)

    @property
    def store(self) -> Store:
        """The store behind this service."""
        return self._store

    # Starting

    def start_execution(
        self,
        code: str,
        external_functions: ExternalFunctions = (),
        inputs: Mapping[str, Any] | None = None,
        *,
        workflow_id: str | None = None,
        idempotency_key: str | None = None,
        limits: Mapping[str, int] | None = None,
        namespace: str | None = None,
        queue: str | None = None,
        tags: Iterable[str] = (),
    ) -> str:
        """Checks and stores an execution, status `scheduled`, and returns its id.

        `code` is Python whose last expression is the output. `external_functions` are the
        functions it may call: registered names, dotted import paths or the functions
        themselves. `inputs` become its global variables. `workflow_id` is a name for people.
        With an `idempotency_key` that was used before, nothing is started and the id of that
        execution is returned. `limits` overrides single bounds by name, such as `max_calls`.

        `queue` is the queue that workers take it from, `namespace` the tenant it belongs to (both
        `default` unless given), `tags` are words to find it by.

        When it returns, the execution survives a crash.

        Raises InvalidWorkflow (a ValueError) for code, functions or inputs that can't work, with
        the place in the code, and TypeError for an input that has no JSON form.
        """
        given = dict(inputs or {})
        functions, names = declare_functions(external_functions)
        check_inputs(self._store.engine, code, functions, names, given)
        return self._start(
            code, functions, given, workflow_id, idempotency_key, limits, namespace, queue, tags
        )

    def start_executions(
        self,
        code: str,
        external_functions: ExternalFunctions,
        inputs: Iterable[Mapping[str, Any]],
    ) -> list[str]:
        """Starts one execution of the same code for each set of inputs, in few commits."""
        functions, names = declare_functions(external_functions)
        starts: list[tuple[str, str, str]] = []
        for index, given in enumerate(map(dict, inputs)):
            check_inputs(self._store.engine, code, functions, names, given)
            starts.append((code, functions, encode_object(given, f"inputs[{index}]")))
        return self._store.engine.start_many(starts)

    def start_workflow(
        self,
        workflow: StepWorkflow | str | Path,
        inputs: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        limits: Mapping[str, int] | None = None,
        namespace: str | None = None,
        queue: str | None = None,
        tags: Iterable[str] = (),
    ) -> str:
        """Checks and stores an execution of a step workflow, or of the one in a file, and returns
        its id. Its agents must be registered in this process.

        `inputs` are what its templates know as `inputs`. The rest is as with `start_execution`.

        Raises InvalidWorkflow for a definition that can't work, with the place in it, and TypeError
        for an input that has no JSON form.
        """
        if not isinstance(workflow, StepWorkflow):
            workflow = load_workflow(workflow)
        agents, language = workflow.declared_agents(), workflow.language
        what = (workflow.source, agents, inputs, workflow.id)
        try:
            return self._start(*what, idempotency_key, limits, namespace, queue, tags, language)
        except InvalidWorkflow as error:
            raise self._refused(workflow, error) from None

    def start_workflows(
        self, workflow: StepWorkflow | str | Path, inputs: Iterable[Mapping[str, Any]]
    ) -> list[str]:
        """Starts one execution of a step workflow for each set of inputs, in few commits."""
        if not isinstance(workflow, StepWorkflow):
            workflow = load_workflow(workflow)
        source, agents = workflow.source, workflow.declared_agents()
        starts = [
            (source, agents, encode_object(dict(given), f"inputs[{index}]"))
            for index, given in enumerate(inputs)
        ]
        try:
            return self._store.engine.start_many(starts, workflow.language)
        except InvalidWorkflow as error:
            raise self._refused(workflow, error) from None

    def _start(
        self,
        source: str,
        functions: str,
        inputs: Mapping[str, Any] | None,
        workflow_id: str | None,
        idempotency_key: str | None,
        limits: Mapping[str, int] | None,
        namespace: str | None,
        queue: str | None,
        tags: Iterable[str],
        language: str = "python",
    ) -> str:
        execution_id = self._store.engine.start(
            source,
            functions,
            encode_object(dict(inputs or {}), "inputs"),
            workflow_id,
            idempotency_key,
            None if limits is None else json.dumps(dict(limits)),
            namespace,
            queue,
            [tags] if isinstance(tags, str) else list(tags),
            language,
        )
        logger.debug("execution %s scheduled", execution_id)
        return execution_id

    def _refused(self, workflow: StepWorkflow, error: InvalidWorkflow) -> InvalidWorkflow:
        """What is wrong with a workflow. A program knows the agents that it names, and stays the
        same when others come; to name the nearest one, all of them have to be told of."""
        every = workflow.declared_agents(all_known=True)
        try:
            self._store.engine.validate(workflow.source, every, [], workflow.language)
        except InvalidWorkflow as better:
            error = better
        return workflow.refused(error)

    # Sessions

    def open_session(
        self,
        functions: ExternalFunctions = (),
        *,
        inputs: Mapping[str, Any] | None = None,
        limits: Mapping[str, int] | None = None,
        workflow_id: str | None = None,
        idempotency_key: str | None = None,
        namespace: str | None = None,
        queue: str | None = None,
        tags: Iterable[str] = (),
    ) -> Session:
        """Opens a session: code is fed to it piece by piece, and what it does survives crashes.

        `functions` are what the code may call, `inputs` its first variables; the rest is as for
        `start_execution`. With an `idempotency_key` that was used before, that session is
        returned. See docs/SESSIONS.md.
        """
        declared, _ = declare_functions(functions)
        what = ("", declared, inputs, workflow_id or "session")
        session_id = self._start(*what, idempotency_key, limits, namespace, queue, tags, "session")
        return self.get_session(session_id)

    def get_session(self, session_id: str) -> Session:
        """A session that was opened before, perhaps by a process that is gone.

        Raises NotFound, and InvalidWorkflow for an execution that is no session.
        """
        return Session(self._store, session_id)

    # Looking

    def get_execution(self, execution_id: str) -> ExecutionInfo:
        """Status, output and error of an execution. Raises NotFound (a ValueError)."""
        return _info(self._execution(execution_id))

    def get_result(self, execution_id: str) -> Any:
        """The output of a completed execution.

        Raises, all of them ValueErrors: NotFound; NotCompleted while it has not ended;
        ExecutionFailed with the traceback of the workflow, its cause the failed call;
        ExecutionCancelled.
        """
        return self._result(self._execution(execution_id))

    def wait(self, execution_id: str, timeout: float | None = None) -> ExecutionInfo:
        """Waits until an execution has ended and tells how. Some worker must be running.

        Raises TimeoutError after `timeout` seconds, and NotFound.
        """
        return _info(self._wait(execution_id, timeout))

    def result(self, execution_id: str, timeout: float | None = None) -> Any:
        """Waits until an execution has ended and returns its output: `wait`, then `get_result`."""
        return self._result(self._wait(execution_id, timeout))

    def list(
        self,
        *statuses: ExecutionStatus | str,
        limit: int = 100,
        before: str | None = None,
    ) -> list[ExecutionInfo]:
        """Executions, newest first; only those of the given statuses if there are any.

        `before` is the id of the last one of the page before.
        """
        words = [ExecutionStatus(status).value for status in statuses]
        return [_info(row) for row in self._store.engine.executions(words, limit, before)]

    def poll(self, execution_id: str | None = None) -> Any:
        """What an execution has come to; without an id, a list of that for all waiting ones.

        `{"execution_id", "status", "output", "pending_calls"}`, where the status of an execution
        that has not ended is `pending`. When everything an execution waits for has been reported
        and no worker holds it, polling advances it.
        """
        if execution_id is not None:
            return self._poll(self._execution(execution_id))
        found: list[PollResult] = []
        before = None
        while rows := self._store.engine.executions(["waiting"], 500, before):
            found.extend(self._poll(row) for row in rows)
            before = rows[-1]["execution_id"]
        return found

    def get_pending_calls(self, execution_id: str) -> PendingCalls:
        """The calls of an execution that have no result yet, in the order they were asked for."""
        self._execution(execution_id)
        return [
            {
                "call_id": call["call_id"],
                "function_name": call["target"],
                "args": decode(call["args"]),
                "kwargs": decode(call["kwargs"]),
                "status": CallStatus(call["status"]),
            }
            for call in self._open_calls(execution_id)
        ]

    # Checkpoints

    def checkpoints(self, execution_id: str) -> Checkpoints:
        """Every place at which an execution has waited, the oldest first, also after it has ended.
        Raises NotFound."""
        return [checkpoint_of(row) for row in self._store.engine.checkpoints(execution_id)]

    def checkpoint(self, execution_id: str, at: int | None = None) -> InspectedCheckpoint:
        """What an execution was at a checkpoint, by default its newest: call stacks, variables,
        source.

        The program is run again up to there; the execution is left alone. Raises NotFound, and
        Conflict when the program does not get there any more.
        """
        return inspected_of(self._store.engine.checkpoint(execution_id, at))

    def fork(
        self,
        execution_id: str,
        at: int | None = None,
        *,
        results: Mapping[int, Any] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Starts an execution that goes on from a checkpoint of another, by default its newest,
        and returns its id. The other one stays as it is.

        `results` are what calls come to that the checkpoint waits for, by their ids; the others are
        made again, with idempotency keys of their own. `variables` of the program get other values
        first: by name, or, where several functions have one of this name, by `function.name` or by
        task and depth in `stacks`, as in `1.0.name`.

        Raises NotFound, InvalidWorkflow (a ValueError) for a call that is not waited for there or a
        variable that is not there, and TypeError for a value that has no JSON form.
        """
        given = {call: encode(result) for call, result in (results or {}).items()}
        values = {name: encode(value) for name, value in (variables or {}).items()}
        fork = self._store.engine.fork(execution_id, at, given, values)
        logger.info("execution %s: forked as %s", execution_id, fork)
        return fork

    def restore(self, execution_id: str, at: int) -> str:
        """Takes an execution back to a checkpoint: it is cancelled if it has not ended, and the one
        whose id is returned goes on in its place. Raises NotFound."""
        fork = self._store.engine.restore(execution_id, at)
        logger.info("execution %s: restored to checkpoint %s as %s", execution_id, at, fork)
        return fork

    # Calls from outside

    def complete_call(self, execution_id: str, call_id: int, result: Any) -> None:
        """Reports the result of a call. When it returns, the result survives a crash.

        Raises NotFound, Conflict when the call has ended already, and TypeError for a result
        that has no JSON form.
        """
        self._store.engine.complete_call(execution_id, call_id, encode(result))

    def fail_call(self, execution_id: str, call_id: int, error: BaseException | str) -> None:
        """Reports that a call failed; the workflow is given the exception at its `await`.

        A text is reported as a RuntimeError. Raises NotFound, and Conflict when the call has
        ended already.
        """
        failure = Failure("RuntimeError", error) if isinstance(error, str) else failure_of(error)
        self._store.engine.fail_call(execution_id, call_id, *failure)

    def process_execution(self, execution_id: str, resume_group_id: str | None = None) -> None:
        """Advances one execution here and now, without a worker: starts it, or gives it the
        results that were reported, and runs it to its next suspension. Runs no calls.

        `resume_group_id` is accepted and not needed: whatever has arrived is applied. Raises
        NotFound, and Conflict when a worker holds the execution or it has ended.
        """
        self._store.engine.advance(execution_id)

    # Steering

    def cancel(self, execution_id: str, reason: str = "cancelled") -> None:
        """Ends an execution. Raises NotFound, and Conflict when it has ended already."""
        self._store.engine.cancel(execution_id, reason)
        logger.info("execution %s: cancel requested: %s", execution_id, reason)

    def pause(self, execution_id: str, reason: str = "paused") -> None:
        """Stops advancing an execution until `resume`. Raises NotFound and Conflict."""
        self._store.engine.pause(execution_id, reason)
        logger.info("execution %s: pause requested: %s", execution_id, reason)

    def resume(self, execution_id: str) -> None:
        """Lets a paused execution go on. Raises NotFound and Conflict."""
        self._store.engine.resume(execution_id)
        logger.info("execution %s: resume requested", execution_id)

    def retry(self, execution_id: str) -> None:
        """Lets a failed execution go on from where it failed: calls whose failure was the cause
        are made again, and what has completed stays. Raises NotFound, and Conflict when it has
        not failed."""
        self._store.engine.retry(execution_id)
        logger.info("execution %s: retried", execution_id)

    def delete(self, execution_id: str) -> None:
        """Removes an execution with all its rows. Raises NotFound, and Conflict while a worker
        holds it."""
        self._store.engine.delete(execution_id)
        logger.info("execution %s deleted", execution_id)

    def _execution(self, execution_id: str) -> _internal.ExecutionDict:
        row = self._store.engine.execution(execution_id)
        if row is None:
            raise NotFound(f"Execution {execution_id} not found")
        return row

    def _wait(self, execution_id: str, timeout: float | None) -> _internal.ExecutionDict:
        # In slices: between them Python can deliver a signal.
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = 0.5 if deadline is None else min(0.5, deadline - time.monotonic())
            row = self._store.engine.wait(execution_id, max(0.0, left))
            if row is not None:
                return row
            if deadline is not None and time.monotonic() >= deadline:
                status = self._execution(execution_id)["status"]
                raise TimeoutError(
                    f"execution {execution_id} is still {status} after {timeout:g} s"
                )

    def _poll(self, row: _internal.ExecutionDict) -> PollResult:
        execution_id = row["execution_id"]
        pending: list[PendingCall] = []
        if row["status"] == "waiting":
            pending = self.get_pending_calls(execution_id)
            if not pending:
                row = self._advance_if_free(row)
                pending = self.get_pending_calls(execution_id)
        status = row["status"]
        return {
            "execution_id": execution_id,
            "status": "pending" if status in ("scheduled", "running", "waiting") else status,
            "output": _output(row),
            "pending_calls": pending if status == "waiting" else [],
        }

    def _advance_if_free(self, row: _internal.ExecutionDict) -> _internal.ExecutionDict:
        try:
            self._store.engine.advance(row["execution_id"])
        except Conflict:
            pass  # a worker is at it
        return self._store.engine.execution(row["execution_id"]) or row

    def _open_calls(self, execution_id: str) -> Iterable[_internal.CallDict]:
        return (
            call
            for call in self._store.engine.calls(execution_id)
            if call["status"] in ("pending", "submitted") and not call["is_timer"]
        )

    def _result(self, row: _internal.ExecutionDict) -> Any:
        execution_id, status = row["execution_id"], row["status"]
        if status == "completed":
            return _output(row)
        if status == "failed":
            raise self._failure(row) from self._cause(row)
        if status == "cancelled":
            reason = row["error"] or "no reason was given"
            raise ExecutionCancelled(
                f"Execution {execution_id} was cancelled: {reason}", execution_id
            )
        raise NotCompleted(f"Execution {execution_id} is not completed ({status})", execution_id)

    def _failure(self, row: _internal.ExecutionDict) -> ExecutionFailed:
        return ExecutionFailed(
            row["execution_id"],
            row["error_type"] or "Error",
            row["error"] or "",
            row["error_traceback"],
        )

    def _cause(self, row: _internal.ExecutionDict) -> CallFailed | None:
        for call in self._store.engine.calls(row["execution_id"]):
            if call["call_id"] == row["error_call"]:
                return CallFailed(
                    call["call_id"],
                    call["function_name"],
                    call["error_type"] or "Error",
                    call["error"] or "",
                    call["error_traceback"],
                )
        return None


def _output(row: _internal.ExecutionDict) -> Any:
    return None if row["output"] is None else decode(row["output"])


def _info(row: _internal.ExecutionDict) -> ExecutionInfo:
    return {
        "execution_id": row["execution_id"],
        "workflow_id": row["workflow_id"],
        "status": ExecutionStatus(row["status"]),
        "output": _output(row),
        "error": row["error"],
    }
