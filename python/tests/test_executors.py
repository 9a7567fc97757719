"""Executors that users write: jobs that run somewhere else."""

from __future__ import annotations

import itertools
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from conftest import PATIENCE_S, Serve
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from durable_monty import (
    Call,
    ExecutionCancelled,
    ExecutionFailed,
    LocalExecutor,
    OrchestratorService,
    Unavailable,
    Worker,
    from_json,
)
from durable_monty.executor import Executor
from durable_monty.executors.base import CallRequest, Outcome, Outcomes, ReportingExecutor

pytestmark = pytest.mark.filterwarnings("ignore:not registered in this process")


class Queue(Executor):
    """Jobs that end when the test says so."""

    def __init__(self) -> None:
        self.jobs: dict[str, tuple[str, list[Any], dict[str, Any]]] = {}
        self.answers: dict[str, dict[str, Any]] = {}
        self.submitted = threading.Event()

    def submit_call(self, function_name: str, args: Any, kwargs: Any) -> str:  # type: ignore[override]
        job_id = f"job-{len(self.jobs)}"
        self.jobs[job_id] = (function_name, args, kwargs)
        self.submitted.set()
        return job_id

    def check_job(self, job_id: str) -> Any:
        return self.answers.get(job_id, {"status": "queued"})

    def names(self) -> list[str]:
        return [function_name for function_name, _, _ in self.jobs.values()]

    def get_stats(self) -> dict[str, Any]:
        return {"jobs": len(self.jobs)}


class Immediate(Queue):
    """Jobs that have ended as soon as they are submitted."""

    def check_job(self, job_id: str) -> Any:
        function_name, args, _ = self.jobs[job_id]
        if function_name == "fail":
            return {"status": "failed", "error": f"ValueError: {args[0]}"}
        return {"status": "finished", "result": [function_name, args]}


def test_submitting_by_name(service: OrchestratorService, serve: Serve) -> None:
    queue = Queue()
    with serve(queue, poll_interval=0.01):
        execution_id = service.start_execution("await f(1, (2,), x='y')", ["f"])
        assert queue.submitted.wait(PATIENCE_S)
        assert queue.jobs == {"job-0": ("f", [1, (2,)], {"x": "y"})}
        queue.answers["job-0"] = {"status": "finished", "result": {"a": (1,)}}
        assert service.result(execution_id, PATIENCE_S) == {"a": (1,)}


def test_a_jobs_name_is_stored(service: OrchestratorService) -> None:
    execution_id = service.start_execution("await f()", ["f"])
    Worker(service, Queue()).run(once=True)
    [call] = service.get_pending_calls(execution_id)
    assert call["status"] == "submitted"
    with service.engine.connect() as connection:
        row = connection.exec_driver_sql("SELECT job_id, status FROM execution_steps").one()
    assert tuple(row) == ("job-0", "SUBMITTED")


def test_the_next_worker_asks_about_the_same_job(service: OrchestratorService) -> None:
    execution_id = service.start_execution("await f()", ["f"])
    queue = Queue()
    Worker(service, queue).run(once=True)
    Worker(service, queue).run(once=True)
    queue.answers["job-0"] = {"status": "finished", "result": 7}
    Worker(service, queue).run(once=True)
    Worker(service, queue).run(until_complete=True)
    assert service.get_result(execution_id) == 7
    assert len(queue.jobs) == 1


def test_the_poll_interval_is_only_a_ceiling(service: OrchestratorService) -> None:
    code = "from asyncio import gather\nawait gather(*[f(i) for i in range(20)])"
    execution_id = service.start_execution(code, ["f"])
    Worker(service, Immediate(), poll_interval=3600).run(until_complete=True)
    assert service.get_result(execution_id) == [["f", [i]] for i in range(20)]


def test_a_failed_job_raises_in_the_workflow(service: OrchestratorService) -> None:
    code = "try:\n    await fail('no price')\nexcept ValueError as e:\n    r = str(e)\nr"
    execution_id = service.start_execution(code, ["fail"])
    Worker(service, Immediate(), poll_interval=0).run(until_complete=True)
    assert service.get_result(execution_id) == "no price"


def test_an_executors_exception_fails_that_call_only(service: OrchestratorService) -> None:
    class Broken(Immediate):
        def submit_call(self, function_name: str, args: Any, kwargs: Any) -> str:
            if function_name == "unsubmittable":
                raise ConnectionError("no queue")
            return super().submit_call(function_name, args, kwargs)

        def check_job(self, job_id: str) -> Any:
            if self.jobs[job_id][0] == "uncheckable":
                raise KeyError("no such job")
            if self.jobs[job_id][0] == "odd":
                return {"status": "sleeping"}
            return super().check_job(job_id)

    names = ["unsubmittable", "uncheckable", "odd", "fine"]
    ids = {name: service.start_execution(f"await {name}()", [name]) for name in names}
    Worker(service, Broken(), poll_interval=0).run(until_complete=True)
    assert service.get_result(ids["fine"]) == ["fine", []]
    for name, message in [
        ("unsubmittable", "ConnectionError: no queue"),
        ("uncheckable", "no such job"),
        ("odd", "returned the status 'sleeping'"),
    ]:
        with pytest.raises(ExecutionFailed, match=message):
            service.get_result(ids[name])


class Together(ReportingExecutor):
    """Jobs that have ended as soon as they are submitted, told of from another thread."""

    def __init__(self) -> None:
        self.ended: queue.SimpleQueue[CallRequest | None] = queue.SimpleQueue()
        self.calls: list[CallRequest] = []

    def attach(self, outcomes: Outcomes) -> None:
        def tell() -> None:
            while (call := self.ended.get()) is not None:
                outcomes.report({call.job_id: self.outcome_of(call)})

        self.teller = threading.Thread(target=tell)
        self.teller.start()

    def detach(self) -> None:
        self.ended.put(None)
        self.teller.join(PATIENCE_S)

    def names(self) -> list[str]:
        return [call.function_name for call in self.calls]

    def outcome_of(self, call: CallRequest) -> Outcome:
        return Outcome(call.args)

    def submit_calls(self, calls: Sequence[CallRequest]) -> Sequence[str | None]:
        for call in calls:
            self.calls.append(call)
            self.ended.put(call)
        return [call.job_id for call in calls]


def every_other_query_fails(service: OrchestratorService, *, naming: str, but: str = "-") -> None:
    """Has queries that name a column fail as when the database is restarted: the first of them,
    the third, and so on."""
    numbers = itertools.count()

    def fail(connection: Any, cursor: Any, query: str, parameters: Any, *_: Any) -> None:
        if naming in query and but not in query and next(numbers) % 2 == 0:
            raise OperationalError(query, parameters, Exception("server closed the connection"))

    event.listen(service.engine, "before_cursor_execute", fail)


@pytest.mark.parametrize("kind", [Together, Immediate])
def test_calls_outlast_a_database_that_is_away(
    service: OrchestratorService, serve: Serve, kind: type[Executor]
) -> None:
    every_other_query_fails(service, naming="job_id")
    with serve(kind()):
        # The first call comes to the thread of the worker, the others follow from reports.
        execution_id = service.start_execution("[len(await f(i)) for i in range(4)]", ["f"])
        assert len(service.result(execution_id, PATIENCE_S)) == 4


def test_calls_are_let_go_of_when_the_database_is_back(
    service: OrchestratorService, serve: Serve
) -> None:
    class Held(Together):
        def __init__(self) -> None:
            super().__init__()
            self.cancelled = threading.Event()
            self.begun = threading.Event()

        def submit_calls(self, calls: Sequence[CallRequest]) -> Sequence[str | None]:
            if calls[0].function_name == "f":
                return super().submit_calls(calls)
            self.begun.set()
            return [None for _ in calls]

        def release_call(self, call: CallRequest) -> None:
            raise SystemExit("a fault of this executor")

        def cancel_call(self, call: CallRequest) -> None:
            self.cancelled.set()

    every_other_query_fails(service, naming="attempts", but="job_id")
    executor = Held()
    with serve(executor):
        execution_id = service.start_execution("await held()", ["held"])
        assert executor.begun.wait(PATIENCE_S)
        service.cancel(execution_id)
        assert executor.cancelled.wait(PATIENCE_S)
        again = service.start_execution("await f(1)", ["f"])
        assert service.result(again, PATIENCE_S) == [1]


def test_an_executor_that_is_away_is_tried_again(service: OrchestratorService) -> None:
    class Away(Immediate):
        tries = 0

        def is_away(self) -> bool:
            self.tries += 1
            return self.tries % 3 != 0

        def submit_call(self, function_name: str, args: Any, kwargs: Any) -> str:
            if self.is_away():
                raise Unavailable("no broker")
            return super().submit_call(function_name, args, kwargs)

        def check_job(self, job_id: str) -> Any:
            if self.is_away():
                raise Unavailable("no broker")
            return super().check_job(job_id)

    execution_id = service.start_execution("await f(1)", ["f"])
    executor = Away()
    Worker(service, executor, poll_interval=0).run(until_complete=True)
    assert service.get_result(execution_id) == ["f", [1]]
    assert executor.tries == 6
    again = service.start_execution("await f(2)", ["f"])
    Worker(service, executor, poll_interval=0).run(once=True)
    assert len(executor.jobs) == 2, "once waits until every call was submitted"
    Worker(service, executor, poll_interval=0).run(until_complete=True)
    assert service.get_result(again) == ["f", [2]]


@pytest.mark.parametrize("kind", [Together, Immediate])
def test_what_ended_while_an_executor_was_away_is_not_submitted(
    service: OrchestratorService, serve: Serve, kind: Any
) -> None:
    is_back, tried = threading.Event(), threading.Event()

    class Away(kind):  # type: ignore[misc]
        def submit_call(self, *call: Any) -> Any:
            return self.submit(super().submit_call, *call)

        def submit_calls(self, *calls: Any) -> Any:
            return self.submit(super().submit_calls, *calls)

        def submit(self, submit: Any, *arguments: Any) -> Any:
            tried.set()
            if not is_back.is_set():
                raise Unavailable("no broker")
            return submit(*arguments)

    executor = Away()
    with serve(executor):
        ended = service.start_execution("await late()", ["late"])
        assert tried.wait(PATIENCE_S)
        service.cancel(ended)
        with pytest.raises(ExecutionCancelled):
            service.result(ended, PATIENCE_S)
        is_back.set()
        execution_id = service.start_execution("await f(1)", ["f"])
        service.result(execution_id, PATIENCE_S)
    assert executor.names() == ["f"]


def test_whatever_an_executor_does_its_call_ends(
    service: OrchestratorService, serve: Serve
) -> None:
    class Exits(Queue):
        def submit_call(self, function_name: str, args: Any, kwargs: Any) -> str:
            raise SystemExit("out")

    class ExitsLater(Immediate):
        def check_job(self, job_id: str) -> Any:
            raise SystemExit("out")

    class ExitsTogether(Together):
        def submit_calls(self, calls: Sequence[CallRequest]) -> Sequence[str | None]:
            raise SystemExit("out")

    class TellsTooLittle(Together):
        def submit_calls(self, calls: Sequence[CallRequest]) -> Sequence[str | None]:
            return []

    class TellsNoUnicode(Together):
        def outcome_of(self, call: CallRequest) -> Outcome:
            return Outcome('"\udce9"')

    class TellsNoFailure(Together):
        def outcome_of(self, call: CallRequest) -> Outcome:
            return Outcome(None, ())  # type: ignore[arg-type]

    cases: dict[type[Executor], str] = {
        Exits: "out",
        ExitsLater: "out",
        ExitsTogether: "out",
        TellsTooLittle: "zip",
        TellsNoUnicode: "TellsNoUnicode reported what can't be stored: ",
        TellsNoFailure: "TellsNoFailure reported what can't be stored: ",
    }
    for kind, message in cases.items():
        with serve(kind()):
            for _ in range(2):
                execution_id = service.start_execution("await f()", ["f"])
                with pytest.raises(ExecutionFailed, match=message):
                    service.result(execution_id, PATIENCE_S)


class ByCall(Executor):
    """As older code writes it: one argument, nothing returned, results reported from outside."""

    def __init__(self, service: OrchestratorService) -> None:
        self.service = service
        self.stats = {"submitted": 0}

    def submit_call(self, call: Call) -> None:  # type: ignore[override]
        args = from_json(call.args)
        thread = threading.Thread(
            target=self.service.complete_call, args=(call.execution_id, call.call_id, sum(args))
        )
        thread.start()
        self.stats["submitted"] += 1

    def get_stats(self) -> dict[str, Any]:
        return self.stats


def test_submitting_by_call(service: OrchestratorService) -> None:
    execution_id = service.start_execution("await f(await f(1, 2), 3)", ["f"])
    executor = ByCall(service)
    Worker(service, executor).run(until_complete=True)
    assert service.get_result(execution_id) == 6
    assert executor.get_stats() == {"submitted": 2}


def test_a_local_executor_with_its_own_way_is_used_that_way(service: OrchestratorService) -> None:
    class Never(LocalExecutor):
        def submit_call(self, *call: Any) -> str:
            return "j"

        def check_job(self, job_id: str) -> Any:
            return {"status": "started"}

    execution_id = service.start_execution("await f(1)", ["f"])
    Worker(service, Never(), poll_interval=0).run(once=True)
    assert service.get_execution(execution_id)["status"] == "waiting"


def test_a_subclass_that_only_adds(service: OrchestratorService) -> None:
    seen = []

    class Telling(LocalExecutor):
        def submit_call(self, function_name: str, args: Any, kwargs: Any = None) -> str:
            seen.append(function_name)
            return super().submit_call(function_name, args, kwargs)

    execution_id = service.start_execution("await join('a', 'b')", ["os.path.join"])
    Worker(service, Telling(), poll_interval=0.01).run(until_complete=True)
    assert service.get_result(execution_id) == "a/b"
    assert seen == ["os.path.join"]


def test_the_interface() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Executor()  # type: ignore[abstract]

    class Least(Executor):
        def submit_call(self, *call: Any) -> str:
            return "j"

    assert Least().check_job("j") == {"status": "started"}
    assert Least().get_stats() == {}


def test_everything_is_imported_when_it_is_used() -> None:
    """A process that only runs functions starts without SQLAlchemy and the engine."""
    code = (
        "import sys, durable_monty; from durable_monty import register_function, current_call\n"
        "import durable_monty.executors.rq_job, durable_monty.executors.aws_lambda\n"
        "found = {'sqlalchemy', 'durable_monty._internal', 'boto3'} & set(sys.modules)\n"
        "assert not found, found\n"
        "for name in durable_monty.__all__: getattr(durable_monty, name)\n"
        "assert set(durable_monty.__all__) <= set(dir(durable_monty))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
