"""Promises of the service, most of them without a worker."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from conftest import PATIENCE_S, Serve

from durable_monty import (
    CallFailed,
    CallStatus,
    Conflict,
    ExecutionCancelled,
    ExecutionFailed,
    ExecutionStatus,
    InvalidWorkflow,
    NotCompleted,
    NotFound,
    OrchestratorService,
    Worker,
    register_function,
)

NOBODY = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.fixture(autouse=True)
def _functions() -> None:
    @register_function("add")
    def add(a: int, b: int) -> int:
        return a + b

    @register_function("refuse")
    def refuse(message: str) -> None:
        raise ValueError(message)


def run(service: OrchestratorService, code: str, *functions: str, **inputs: Any) -> Any:
    execution_id = service.start_execution(code, functions, inputs)
    Worker(service).run(until_complete=True)
    return service.get_result(execution_id)


def test_starting_only_schedules(service: OrchestratorService) -> None:
    execution_id = service.start_execution("await add(1, 2)", ["add"])
    assert service.get_execution(execution_id) == {
        "execution_id": execution_id,
        "workflow_id": service.get_execution(execution_id)["workflow_id"],
        "status": "scheduled",
        "output": None,
        "error": None,
    }
    assert service.poll(execution_id) == {
        "execution_id": execution_id,
        "status": "pending",
        "output": None,
        "pending_calls": [],
    }


def test_by_hand_without_a_worker(service: OrchestratorService) -> None:
    code = "from asyncio import gather\nsum(await gather(add(1, 2), add(3, b=4)))"
    execution_id = service.start_execution(code, ["add"])
    service.process_execution(execution_id)
    first, second = service.get_pending_calls(execution_id)
    assert (first["function_name"], first["args"], first["kwargs"]) == ("add", [1, 2], {})
    assert (second["args"], second["kwargs"], second["status"]) == ([3], {"b": 4}, "pending")
    service.complete_call(execution_id, first["call_id"], 3)
    polled = service.poll(execution_id)
    assert polled["status"] == "pending"
    assert polled["pending_calls"] == [second]
    service.complete_call(execution_id, second["call_id"], 7)
    assert service.poll(execution_id) == {
        "execution_id": execution_id,
        "status": "completed",
        "output": 10,
        "pending_calls": [],
    }
    assert service.get_result(execution_id) == 10


def test_polling_all_lists_the_waiting_ones(service: OrchestratorService) -> None:
    waiting = [service.start_execution("await add(1, 2)", ["add"]) for _ in range(3)]
    service.start_execution("await add(1, 2)", ["add"])
    for execution_id in waiting:
        service.process_execution(execution_id)
    polled = service.poll()
    assert sorted(result["execution_id"] for result in polled) == sorted(waiting)
    assert all(len(result["pending_calls"]) == 1 for result in polled)


def test_a_late_report_changes_nothing(service: OrchestratorService) -> None:
    execution_id = service.start_execution("await add(1, 2)", ["add"])
    service.process_execution(execution_id)
    [call] = service.get_pending_calls(execution_id)
    service.complete_call(execution_id, call["call_id"], 3)
    with pytest.raises(Conflict):
        service.complete_call(execution_id, call["call_id"], 4)
    with pytest.raises(Conflict):
        service.fail_call(execution_id, call["call_id"], ValueError("late"))
    service.poll(execution_id)
    assert service.get_result(execution_id) == 3


def test_a_result_without_a_json_form_is_refused(service: OrchestratorService) -> None:
    execution_id = service.start_execution("await add(1, 2)", ["add"])
    service.process_execution(execution_id)
    [call] = service.get_pending_calls(execution_id)
    with pytest.raises(TypeError, match=r"result\['lock'\] is a _thread\.lock"):
        service.complete_call(execution_id, call["call_id"], {"lock": threading.Lock()})
    assert service.get_pending_calls(execution_id) == [call]


def test_a_failure_from_outside_reaches_the_workflow(service: OrchestratorService) -> None:
    code = "try:\n    r = await add(1, 2)\nexcept ValueError as e:\n    r = f'caught {e}'\nr"
    execution_id = service.start_execution(code, ["add"])
    service.process_execution(execution_id)
    [call] = service.get_pending_calls(execution_id)
    service.fail_call(execution_id, call["call_id"], ValueError("no"))
    assert service.poll(execution_id)["output"] == "caught no"


def test_unknown_executions_are_not_found(service: OrchestratorService) -> None:
    for nobody in (NOBODY, "no such id"):
        for look in (service.get_execution, service.get_result, service.poll, service.wait):
            with pytest.raises(NotFound, match=nobody):
                look(nobody)
        with pytest.raises(ValueError, match=f"{nobody} not found"):
            service.get_pending_calls(nobody)
    for change in (service.cancel, service.pause, service.resume, service.delete):
        with pytest.raises(NotFound):
            change(NOBODY)
    with pytest.raises(NotFound):
        service.complete_call(NOBODY, 0, 1)
    with pytest.raises(NotFound):
        service.process_execution(NOBODY)


def test_no_result_before_the_end(service: OrchestratorService) -> None:
    execution_id = service.start_execution("await add(1, 2)", ["add"])
    with pytest.raises(ValueError, match="is not completed"):
        service.get_result(execution_id)
    with pytest.raises(NotCompleted):
        service.get_result(execution_id)
    with pytest.raises(TimeoutError, match="is still scheduled after 0"):
        service.wait(execution_id, timeout=0.01)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("await add(1,", "workflow.py:1:13: syntax error"),
        ("await nobody(1)", "nobody"),
        ("x = (yield 1)", "yield"),
    ],
)
def test_code_that_cannot_work_is_refused_at_once(
    service: OrchestratorService, code: str, message: str
) -> None:
    with pytest.raises(InvalidWorkflow, match=message):
        service.start_execution(code, ["add"])
    assert service.list() == []


def test_inputs_are_checked(service: OrchestratorService) -> None:
    with pytest.raises(TypeError, match=r"inputs\['x'\]\[0\] is a function"):
        service.start_execution("x", [], {"x": [lambda: 1]})
    with pytest.raises(InvalidWorkflow, match="no name that code can use"):
        service.start_execution("1", [], {"a-b": 1})
    with pytest.raises(InvalidWorkflow, match="nothing defines 'missing': pass it"):
        service.start_execution("x\n1 + missing", [], {"x": 1})
    with pytest.raises(InvalidWorkflow, match=r"py:2:5: .* 'missing'.*\n    1 \+ missing\n"):
        service.start_execution("'\f\u2028é'\n1 + missing", [])
    with pytest.warns(UserWarning, match="the input 'unused' is not used"):
        service.start_execution("1", [], {"unused": 1})
    with pytest.raises(InvalidWorkflow, match="source text"):
        service.start_execution(b"1", [])  # type: ignore[arg-type]


def test_values_survive_the_way_in_and_out(service: OrchestratorService) -> None:
    value = {"t": (1, 2), "s": {1}, "b": b"x", 5: 2**70, "f": 1.0, "n": None}
    assert run(service, "x", x=value) == value


def test_the_idempotency_key_starts_once(service: OrchestratorService) -> None:
    first = service.start_execution("1", [], idempotency_key="order-7")
    assert service.start_execution("1", [], idempotency_key="order-7") == first
    assert service.start_execution("1", [], idempotency_key="order-8") != first


def test_workflow_id_and_limits(service: OrchestratorService) -> None:
    execution_id = service.start_execution("1", [], workflow_id="nightly")
    assert service.get_execution(execution_id)["workflow_id"] == "nightly"
    with pytest.raises(InvalidWorkflow, match="max_apples"):
        service.start_execution("1", [], limits={"max_apples": 1})
    code = "await add(1, 2)\nawait add(1, 2)"
    bounded = service.start_execution(code, ["add"], limits={"max_calls": 1})
    Worker(service).run(until_complete=True)
    with pytest.raises(ExecutionFailed, match="max_calls"):
        service.get_result(bounded)


def test_many_executions_of_one_code(service: OrchestratorService) -> None:
    ids = service.start_executions("await add(x, 1)", ["add"], [{"x": i} for i in range(50)])
    Worker(service).run(until_complete=True)
    assert [service.get_result(execution_id) for execution_id in ids] == list(range(1, 51))


def test_listing(service: OrchestratorService) -> None:
    # Ids of one millisecond are in no order.
    ids = sorted(service.start_execution("1") for _ in range(5))
    assert [info["execution_id"] for info in service.list()] == ids[::-1]
    page = service.list(limit=2)
    assert [info["execution_id"] for info in page] == ids[:2:-1]
    rest = service.list(before=page[-1]["execution_id"])
    assert [info["execution_id"] for info in rest] == ids[2::-1]
    service.cancel(ids[0])
    assert len(service.list("scheduled")) == 4
    assert [info["execution_id"] for info in service.list(ExecutionStatus.CANCELLED)] == [ids[0]]
    with pytest.raises(ValueError):
        service.list("no such status")


def test_an_uncaught_exception_fails_with_both_tracebacks(service: OrchestratorService) -> None:
    code = "async def workflow():\n    return await refuse('no price')\n\nawait workflow()"
    with pytest.raises(ExecutionFailed) as caught:
        run(service, code, "refuse")
    failure = caught.value
    assert (failure.error_type, failure.error) == ("ValueError", "no price")
    assert "await refuse('no price')" in str(failure)
    assert "line 2" in str(failure)
    cause = failure.__cause__
    assert isinstance(cause, CallFailed)
    assert (cause.function_name, cause.error_type) == ("refuse", "ValueError")
    assert "raise ValueError(message)" in str(cause)
    assert service.get_execution(failure.execution_id)["status"] == "failed"
    assert service.get_execution(failure.execution_id)["error"] == "no price"
    assert service.poll(failure.execution_id)["status"] == "failed"


def test_an_exception_of_the_workflow_itself(service: OrchestratorService) -> None:
    with pytest.raises(ExecutionFailed, match="ZeroDivisionError") as caught:
        run(service, "x = 0\n1 / x")
    assert caught.value.__cause__ is None


def test_cancelling(service: OrchestratorService) -> None:
    execution_id = service.start_execution("await add(1, 2)", ["add"])
    service.process_execution(execution_id)
    [call] = service.get_pending_calls(execution_id)
    service.cancel(execution_id, "not wanted")
    assert service.wait(execution_id, PATIENCE_S)["status"] == "cancelled"
    with pytest.raises(ExecutionCancelled, match="not wanted"):
        service.get_result(execution_id)
    with pytest.raises(Conflict):
        service.complete_call(execution_id, call["call_id"], 3)
    with pytest.raises(Conflict):
        service.cancel(execution_id)


def test_pausing_and_resuming(service: OrchestratorService) -> None:
    execution_id = service.start_execution("await add(1, 2)", ["add"])
    service.pause(execution_id, "later")
    Worker(service).run(until_complete=True)
    assert service.get_execution(execution_id)["status"] == "paused"
    assert service.get_execution(execution_id)["error"] == "later"
    service.resume(execution_id)
    Worker(service).run(until_complete=True)
    assert service.get_result(execution_id) == 3


def test_deleting(service: OrchestratorService) -> None:
    execution_id = service.start_execution("await add(1, 2)", ["add"])
    service.delete(execution_id)
    with pytest.raises(NotFound):
        service.get_execution(execution_id)


def test_waiting_for_the_result(service: OrchestratorService, serve: Serve) -> None:
    with serve():
        execution_id = service.start_execution("await add(1, 2)", ["add"])
        assert service.result(execution_id, PATIENCE_S) == 3
        assert service.wait(execution_id)["status"] == "completed"


def test_statuses_are_the_enums(service: OrchestratorService) -> None:
    execution_id = service.start_execution("await add(1, 2)", ["add"])
    service.process_execution(execution_id)
    assert service.get_execution(execution_id)["status"] is ExecutionStatus.WAITING
    assert service.get_pending_calls(execution_id)[0]["status"] is CallStatus.PENDING


def test_a_failed_execution_is_retried(service: OrchestratorService) -> None:
    broken = True
    ran: list[str] = []

    @register_function("steady")
    def steady() -> int:
        ran.append("steady")
        return 1

    @register_function("fragile")
    def fragile() -> int:
        ran.append("fragile")
        if broken:
            raise OSError("no")
        return 2

    execution_id = service.start_execution("[await steady(), await fragile()]", [steady, fragile])
    Worker(service).run(until_complete=True)
    assert service.get_execution(execution_id)["status"] == "failed"
    broken = False
    service.retry(execution_id)
    with pytest.raises(Conflict, match="only one that failed"):
        service.retry(execution_id)
    Worker(service).run(until_complete=True)
    assert service.get_result(execution_id) == [1, 2]
    assert ran == ["steady", "fragile", "fragile"]
