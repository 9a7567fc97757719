"""Runs step workflows from beginning to end, in this process."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

from sqlalchemy.engine import make_url

from .db import init_db
from .errors import (
    DurableError,
    ExecutionCancelled,
    ExecutionFailed,
    InvalidWorkflow,
    NotFound,
    Unavailable,
)
from .executors.base import Executor
from .models import ExecutionStatus
from .service import OrchestratorService
from .steps import StepWorkflow, load_workflow
from .suggest import nearest
from .worker import Worker

__all__ = ["Coordinator", "RunResult"]

logger = logging.getLogger("durable_monty.coordinator")

DEFAULT_URL = "sqlite:///workflow.db"
QUEUE = "agents"
SLICE_S = 0.5
STOP_S = 60.0


class _Ended(TypedDict):
    status: Literal["SUCCESS", "FAILED"]
    execution_id: str | None


class RunResult(_Ended, total=False):
    """What came of an execution: `output` goes with SUCCESS, `error` with FAILED.

    `execution_id` is None when there is none: the workflow was refused, or the database could not
    be reached.
    """

    output: Any
    error: str


class Coordinator:
    """Starts step workflows, runs their agents here and waits for what they come to.

    >>> coordinator = Coordinator("postgresql://…", workflows=["workflows/report.yaml"])
    >>> coordinator.run_execution("report", {"text": "…"})
    {'status': 'SUCCESS', 'execution_id': '…', 'output': {…}}

    Nothing is connected before the first run. Any number of coordinators, in any number of
    processes, may share a database: each execution is advanced by one of them at a time, the
    others wait and are given the same result, and what one leaves when it is killed another goes on
    with, at the step it was in. Threads may share one.

    `database_url` is DATABASE_URL or else `sqlite:///workflow.db` unless given. `workflows` are
    workflows or their files. Executions stand in `queue`, apart from those that other kinds of
    workers take; `executor` is where agents run, by default this process.
    """

    def __init__(
        self,
        database_url: str | None = None,
        *,
        workflows: Iterable[StepWorkflow | str | Path] = (),
        executor: Executor | None = None,
        queue: str = QUEUE,
    ) -> None:
        self.database_url = database_url or os.environ.get("DATABASE_URL") or DEFAULT_URL
        self.queue = queue
        self.workflows: dict[str, StepWorkflow] = {}
        self._executor = executor
        self._lock = threading.Lock()
        self._server: _Server | None = None
        for workflow in workflows:
            self.add_workflow(workflow)

    def add_workflow(self, workflow: StepWorkflow | str | Path) -> None:
        """Makes a workflow, or the one in a file, known under its id.

        Raises InvalidWorkflow when another one has this id.
        """
        if not isinstance(workflow, StepWorkflow):
            workflow = load_workflow(workflow)
        if self.workflows.setdefault(workflow.id, workflow) != workflow:
            raise InvalidWorkflow(f"there are two workflows with the id '{workflow.id}'")

    def run_execution(
        self,
        workflow_id: str,
        input_payload: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> RunResult:
        """Starts an execution and waits for its end. Never raises for what can go wrong with it.

        With an `idempotency_key` that was used before, it waits for that execution, and goes on
        with it when nobody does. After `timeout` seconds it is no longer waited for; it goes on
        with the next coordinator.
        """
        execution_id = None
        try:
            workflow = self._workflow(workflow_id)
            with self._serving() as server:
                execution_id = server.service.start_workflow(
                    workflow,
                    input_payload,
                    idempotency_key=idempotency_key,
                    queue=self.queue,
                )
                return server.outcome(execution_id, timeout)
        except (DurableError, TypeError, ValueError, TimeoutError) as error:
            return self._failed(execution_id, error)

    def resume_execution(self, execution_id: str, *, timeout: float | None = None) -> RunResult:
        """Waits for the end of an execution, and goes on with it when nobody does."""
        known = None
        try:
            with self._serving() as server:
                server.service.get_execution(execution_id)
                known = execution_id
                return server.outcome(execution_id, timeout)
        except (DurableError, TimeoutError) as error:
            return self._failed(known, error)

    def _failed(self, execution_id: str | None, error: Exception) -> RunResult:
        message = str(error) or type(error).__name__
        if isinstance(error, Unavailable):
            place = make_url(self.database_url).render_as_string(hide_password=True)
            message = f"the database {place} can't be used: {message}"
        if execution_id is not None:
            message += f" (execution {execution_id} is kept: a run with its id goes on with it)"
        logger.error("%s", message)
        return {"status": "FAILED", "execution_id": execution_id, "error": message}

    def _workflow(self, workflow_id: str) -> StepWorkflow:
        workflow = self.workflows.get(workflow_id)
        if workflow is not None:
            return workflow
        if not self.workflows:
            raise NotFound(f"there is no workflow '{workflow_id}': this coordinator was given none")
        close = nearest(workflow_id, self.workflows)
        known = ", ".join(sorted(self.workflows))
        hint = f"did you mean '{close}'?" if close else f"there are {known}"
        raise NotFound(f"there is no workflow '{workflow_id}': {hint}")

    @contextlib.contextmanager
    def _serving(self) -> Iterator[_Server]:
        """A worker that runs while at least one thread waits for an execution."""
        with self._lock:
            server = self._server
            if server is None or server.has_ended:
                server = _Server(self.database_url, self._executor, self.queue)
                self._server = server
            server.users += 1
        try:
            yield server
        finally:
            with self._lock:
                server.users -= 1
                is_last = server.users == 0
                if is_last and self._server is server:
                    self._server = None
            if is_last:
                server.stop()


class _Server:
    """A worker on a thread."""

    def __init__(self, url: str, executor: Executor | None, queue: str) -> None:
        self.users = 0
        self.service = OrchestratorService(init_db(url))
        self._worker = Worker(self.service, executor, queues=[queue])
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="durable-monty-coordinator")
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def stop(self) -> None:
        self._worker.stop()
        self._thread.join(STOP_S)
        self.service.engine.dispose()

    def outcome(self, execution_id: str, timeout: float | None) -> RunResult:
        """Waits for an execution, as long as the worker runs."""
        left = timeout
        while True:
            turn = SLICE_S if left is None else min(SLICE_S, left)
            try:
                self.service.wait(execution_id, turn)
                return self._result(execution_id)
            except TimeoutError:
                self._check()
                self._check_status(execution_id)
                if left is not None:
                    left -= turn
                    if left <= 0:
                        raise

    def _check(self) -> None:
        if self.has_ended:
            why = f": {self._failure}" if self._failure else ""
            raise Unavailable(f"the worker that runs the agents has ended{why}")

    def _check_status(self, execution_id: str) -> None:
        info = self.service.get_execution(execution_id)
        if info["status"] is ExecutionStatus.PAUSED:
            raise Unavailable(
                f"execution {execution_id} is paused ({info['error']}): resume it, then run it "
                "again with its id"
            )

    def _result(self, execution_id: str) -> RunResult:
        try:
            output = self.service.get_result(execution_id)
        except ExecutionFailed as failure:
            error = f"{failure.error_type}: {failure.error}"
        except ExecutionCancelled as cancelled:
            error = str(cancelled)
        else:
            return {"status": "SUCCESS", "execution_id": execution_id, "output": output}
        return {"status": "FAILED", "execution_id": execution_id, "error": error}

    def _run(self) -> None:
        try:
            self._worker.run()
        except BaseException as error:
            self._failure = error
            logger.exception("the worker has ended")
