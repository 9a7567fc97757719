"""The code blocks of the first documents do what they say, unchanged."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest
import seed_blocks as blocks
from conftest import PATIENCE_S, service_url
from sqlalchemy.orm import Session

import durable_monty
from durable_monty import (
    FUNCTION_REGISTRY,
    Call,
    Execution,
    OrchestratorService,
    Worker,
    from_json,
    register_function,
    resume_execution,
    to_json,
)
from durable_monty.executor import Executor


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def execute(block: str, **names: Any) -> dict[str, Any]:
    exec(compile(block, "<block>", "exec"), names)
    return names


def execute_until_completed(block: str, monkeypatch: pytest.MonkeyPatch, **names: Any) -> Any:
    """Runs a block that ends in `worker.run()`, which would run for ever, and stops the worker
    from another thread once every execution has ended."""
    watchers = []
    begin = Worker._serve

    def watched(worker: Worker, *arguments: Any) -> None:
        def watch() -> None:
            service = worker.service
            for info in service.list():
                service.wait(info["execution_id"], PATIENCE_S)
            worker.stop()

        watchers.append(threading.Thread(target=watch))
        watchers[-1].start()
        begin(worker, *arguments)

    monkeypatch.setattr(Worker, "_serve", watched)
    names = execute(block, **names)
    for watcher in watchers:
        watcher.join(PATIENCE_S)
    return names


def test_quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    names = execute_until_completed(blocks.QUICK_START, monkeypatch)
    result = names["service"].get_result(names["exec_id"])
    assert result == ["encoded_a.mp4", "encoded_b.mp4", "encoded_c.mp4"]
    assert Path("durable_functions.db").exists()


@pytest.mark.parametrize("worker", [blocks.WORKER, blocks.LOCAL_EXECUTOR])
def test_schedule_then_work(worker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = execute(blocks.SCHEDULE)
    assert names["service"].get_execution(names["exec_id"])["status"] == "scheduled"
    names = execute_until_completed(worker, monkeypatch, **names, Worker=Worker)
    assert names["service"].get_result(names["exec_id"]) == 10


def test_custom_executor() -> None:
    made = execute(blocks.CUSTOM_EXECUTOR)["ModalExecutor"]()
    assert isinstance(made, Executor)


def test_real_world_example() -> None:
    names = execute(
        blocks.VIDEO, encoded_path="encoded", thumbnail_path="thumbnail", package_url="package"
    )
    Worker(names["service"]).run(until_complete=True)
    assert names["service"].get_result(names["exec_id"]) == "package"
    with Session(names["service"].engine) as session:
        calls = session.query(Call).order_by(Call.step_order).all()
        assert [call.function_name for call in calls] == (
            ["encode_video"] * 3 + ["generate_thumbnail"] * 3 + ["create_package"]
        )
        assert from_json(calls[0].kwargs) == {"quality": "1080p"}
        assert from_json(calls[6].args) == [["encoded"] * 3, ["thumbnail"] * 3]


def test_api_reference() -> None:
    register_function("add")(lambda a, b: a + b)
    names = execute(blocks.API)
    assert set(names["result"]) == {"execution_id", "status", "output", "pending_calls"}
    assert (names["results"], names["calls"]) == ([], [])
    service, exec_id = names["service"], names["exec_id"]
    service.process_execution(exec_id)
    call_id = service.get_pending_calls(exec_id)[0]["call_id"]
    execute(blocks.COMPLETE, service=service, exec_id=exec_id, call_id=call_id, result=3)
    assert service.poll(exec_id)["output"] == 3


def test_registering() -> None:
    names = execute(blocks.REGISTER)
    assert FUNCTION_REGISTRY["my_function"] is names["my_function"]


def test_simple_example(capsys: pytest.CaptureFixture[str]) -> None:
    names = execute(blocks.SIMPLE)
    assert capsys.readouterr().out == f"Started execution: {names['execution_id']}\n"
    Worker(OrchestratorService(names["engine"])).run(until_complete=True)
    execute(blocks.QUERY, **names, from_json=from_json)
    assert capsys.readouterr().out == "Status: completed\nOutput: 40\n"


def test_application() -> None:
    execute(blocks.REGISTRY_USE, register_function=register_function)
    FUNCTION_REGISTRY["encode_video"] = lambda path: f"encoded_{path}"
    code = """
from asyncio import gather
await create_playlist(await gather(*[encode_video(f) for f in video_files]))
"""
    names = execute(blocks.APPLICATION, my_workflow_code=code)
    service = OrchestratorService(names["engine"])
    Worker(service).run(until_complete=True)
    playlist = ["encoded_a.mp4", "encoded_b.mp4"]
    assert service.get_result(names["execution_id"]) == {"playlist": playlist, "count": 2}


def test_integration_test() -> None:
    names = execute(blocks.TEST_BEGIN, Session=Session)
    Worker(OrchestratorService(names["engine"])).run(once=True)
    execute(blocks.TEST_END, **names, Execution=Execution, from_json=from_json)
    names["session"].close()


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")
def test_the_wrapper_functions_as_they_are_printed(service: OrchestratorService) -> None:
    register_function("add")(lambda a, b: a + b)
    names: dict[str, Any] = {
        **{name: getattr(durable_monty, name) for name in durable_monty.__all__},
        "engine": service.engine,
        "Session": Session,
        "Call": Call,
        "Execution": Execution,
        "FUNCTION_REGISTRY": FUNCTION_REGISTRY,
        "to_json": to_json,
        "datetime": datetime.datetime,
        "resume_execution": resume_execution,
    }
    names = execute(blocks.CHECK_AND_RESUME + blocks.EXECUTE_AND_SAVE, **names)
    execution_id = service.start_execution("await add(await add(1, 2), 3)", ["add"])
    service.process_execution(execution_id)
    run_pending(service, execution_id, names["execute_and_save"])
    assert service.get_result(execution_id) == 6


def test_the_wrapper_functions_of_the_package(service: OrchestratorService) -> None:
    from durable_monty import orchestrator, worker

    @register_function("add")
    def add(a: int, b: int) -> int:
        if a < 0:
            raise ValueError("negative")
        return a + b

    code = """
from asyncio import gather
total = sum(await gather(add(1, 2), add(3, b=4)))
try:
    await add(-1, 0)
except ValueError as e:
    total = (total, str(e))
total
"""
    execution_id = service.start_execution(code, ["add"])
    service.process_execution(execution_id)
    with Session(service.engine) as session:
        pending = {
            call.call_id: {
                "function": call.function_name,
                "args": from_json(call.args),
                "kwargs": from_json(call.kwargs),
            }
            for call in session.query(Call)
        }
    group = f"{execution_id}:1"
    assert not worker.check_and_resume_if_ready(execution_id, group, engine=service.engine)
    for future in worker.enqueue_calls(execution_id, group, pending, engine=service.engine):
        future.result(PATIENCE_S)
    run_pending(
        service,
        execution_id,
        lambda *call: orchestrator.execute_and_save(*call, engine=service.engine),
    )
    assert service.get_result(execution_id) == (10, "negative")


def run_pending(service: OrchestratorService, execution_id: str, execute_and_save: Any) -> None:
    while True:
        with Session(service.engine) as session:
            call = (
                session.query(Call).filter_by(execution_id=execution_id, status="pending").first()
            )
            if call is None:
                return
            parameters = (call.resume_group_id, call.call_id, call.function_name)
            arguments = from_json(call.args)
        execute_and_save(execution_id, *parameters, arguments)


def test_lambda_handler() -> None:
    register_function("add")(lambda a, b: a + b)
    handler = execute(blocks.LAMBDA_HANDLER)["handler"]
    assert handler({"function_name": "add", "args": [1, 2]}, None) == {"result": 3}


# Execution engines


def test_local_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    names = execute(blocks.SCHEDULE)
    names = execute_until_completed(blocks.LOCAL_ENGINE, monkeypatch, **names)
    assert names["service"].get_result(names["exec_id"]) == 10


@pytest.mark.parametrize("block", [blocks.RQ_ENGINE, blocks.RQ_EXECUTOR])
def test_rq_engine(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `rq worker my-queue`, typed as it is printed."""
    monkeypatch.setenv("REDIS_URL", service_url("DURABLE_TEST_REDIS"))
    (tmp_path / "app_tasks.py").write_text(
        "from durable_monty import register_function\n"
        'register_function("add")(lambda a, b: a + b)\n'
    )
    names = execute(blocks.SCHEDULE)
    worker = subprocess.Popen(
        ["rq", "worker", "my-queue"],
        env={
            **os.environ,
            "DURABLE_FUNCTIONS": "app_tasks",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        stderr=subprocess.DEVNULL,
    )
    try:
        names = execute_until_completed(block, monkeypatch, **names, Worker=Worker)
    finally:
        worker.kill()
        worker.wait()
    assert names["service"].get_result(names["exec_id"]) == 10


def test_kinds_of_executors(monkeypatch: pytest.MonkeyPatch) -> None:
    names = execute(blocks.SCHEDULE)
    names = execute_until_completed(
        blocks.EXECUTOR_KINDS, monkeypatch, **names, MyExecutor=ProcessLike
    )
    assert names["service"].get_result(names["exec_id"]) == 10


class ProcessLike(Executor):
    """What a user might write."""

    def __init__(self) -> None:
        self.results: dict[str, Any] = {}

    def submit_call(self, function_name: str, args: Any, kwargs: Any) -> str:  # type: ignore[override]
        job_id = str(len(self.results))
        self.results[job_id] = durable_monty.execute_function(function_name, args, kwargs)
        return job_id

    def check_job(self, job_id: str) -> Any:
        return {"status": "finished", "result": self.results[job_id]}


def test_modal_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Function:
        def __init__(self, body: Any) -> None:
            self.body = body

        def remote(self) -> Any:
            return self.body()

    class App:
        def __init__(self, name: str) -> None:
            assert name == "durable-monty"

        def function(self) -> Any:
            return Function

    modal = types.ModuleType("modal")
    modal.App = App  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modal", modal)
    (tmp_path / "my_executors.py").write_text(blocks.MODAL_ENGINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_executors", raising=False)
    register_function("add")(lambda a, b: a + b)
    service = OrchestratorService(durable_monty.init_db())
    execution_id = service.start_execution("await add(await add(1, 2), 3)", ["add"])
    names = execute_until_completed(blocks.EXECUTOR_USAGE, monkeypatch)
    assert service.get_result(execution_id) == 6
    assert names["executor"].get_stats() == {"submitted": 2}


def test_lambda_engine(service: OrchestratorService, aws: Any) -> None:
    """The executor invokes; the printed handler, run here, tells what it returns."""
    register_function("add")(lambda a, b: a + b)
    handler = execute(blocks.LAMBDA_HANDLER)["handler"]
    executor = execute(blocks.LAMBDA_ENGINE)["LambdaExecutor"]("functions")
    invoke = executor.lambda_client.invoke

    def invoking(**parameters: Any) -> None:
        assert invoke(**parameters)["StatusCode"] == 202
        event = from_json(parameters["Payload"])
        result = handler(event, None)["result"]
        service.complete_call(event["execution_id"], event["call_id"], result)

    executor.lambda_client.invoke = invoking
    execution_id = service.start_execution("await add(await add(1, 2), 3)", ["add"])
    Worker(service, executor).run(until_complete=True)
    assert service.get_result(execution_id) == 6
    assert executor.get_stats() == {"invoked": 2}
