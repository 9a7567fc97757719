"""Executors that users write: jobs that run somewhere else."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest
from conftest import PATIENCE_S, Serve

from durable_monty import (
    Call,
    ExecutionFailed,
    LocalExecutor,
    OrchestratorService,
    Worker,
    from_json,
)
from durable_monty.executor import Executor

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
