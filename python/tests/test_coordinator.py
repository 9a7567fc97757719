"""The coordinator: runs step workflows from beginning to end."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import PATIENCE_S

from durable_monty import (
    Coordinator,
    InvalidWorkflow,
    OrchestratorService,
    Step,
    StepWorkflow,
    init_db,
    register_agent,
)
from durable_monty.agents import AgentContext

ONE = StepWorkflow("one", [Step("only", "it")])


def echo(payload: dict[str, Any], context: AgentContext) -> dict[str, Any]:
    return {"got": payload}


def test_threads_share_one(every_url: str) -> None:
    register_agent("it", echo)
    coordinator = Coordinator(every_url, workflows=[ONE])
    with ThreadPoolExecutor(8) as pool:
        results = list(
            pool.map(lambda n: coordinator.run_execution("one", {"n": n % 4}), range(20))
        )
    assert [result["output"]["only"]["got"]["n"] for result in results] == [0, 1, 2, 3] * 5
    assert len({result["execution_id"] for result in results}) == 20
    service = OrchestratorService(init_db(every_url))
    with service.engine.connect() as connection:
        (locks,) = connection.exec_driver_sql("SELECT COUNT(*) FROM execution_locks").one()
    assert locks == 0
    service.store.close()
    service.engine.dispose()


def test_a_key_is_run_once_and_an_id_can_be_asked_again(url: str) -> None:
    register_agent("it", echo)
    first = Coordinator(url, workflows=[ONE]).run_execution("one", {"n": 1}, idempotency_key="k")
    coordinator = Coordinator(url, workflows=[ONE])
    assert coordinator.run_execution("one", {"n": 2}, idempotency_key="k") == first
    assert coordinator.resume_execution(str(first["execution_id"])) == first
    assert coordinator.resume_execution("no-such")["status"] == "FAILED"


def test_what_takes_too_long_goes_on_with_the_next_run(url: str) -> None:
    begun, released = threading.Event(), threading.Event()

    def run(payload: dict[str, Any], context: AgentContext) -> dict[str, Any]:
        begun.set()
        released.wait(PATIENCE_S)
        return {"attempt": context.attempt}

    register_agent("it", run)
    coordinator = Coordinator(url, workflows=[ONE])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(coordinator.run_execution, "one", {}, timeout=0.2)
        assert begun.wait(PATIENCE_S)
        # It waits for what the agent does when it stops, as any worker does.
        threading.Timer(0.5, released.set).start()
        result = waiting.result(PATIENCE_S)
    assert result["status"] == "FAILED"
    assert "is kept: a run with its id goes on with it" in result["error"]
    again = coordinator.resume_execution(str(result["execution_id"]))
    assert again["output"] == {"only": {"attempt": 1}}


def test_executions_that_somebody_ends_or_pauses(url: str) -> None:
    released = threading.Event()

    def run(payload: dict[str, Any], context: AgentContext) -> dict[str, Any]:
        service = OrchestratorService(init_db(url))
        getattr(service, payload["do"])(context.execution_id, "enough")
        released.wait(PATIENCE_S if payload["do"] == "cancel" else 0)
        return {}

    register_agent("it", run)
    coordinator = Coordinator(url, workflows=[ONE])
    threading.Timer(0.5, released.set).start()
    result = coordinator.run_execution("one", {"do": "cancel"})
    assert result["status"] == "FAILED"
    assert "was cancelled: enough" in result["error"]
    result = coordinator.run_execution("one", {"do": "pause"})
    assert result["status"] == "FAILED"
    assert "is paused (enough)" in result["error"]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("nonsense", "the database URL can't be read"),
        ("postgresql://me:secret@127.0.0.1:port/x", "the database URL can't be read"),
        ("mysql+nosuch://127.0.0.1:1/x", "no driver mysql+nosuch: leave it out for mysql+pymysql"),
        ("oracle://127.0.0.1:1/x", "not in oracle"),
    ],
)
def test_a_database_that_is_none(url: str, why: str) -> None:
    coordinator = Coordinator(url, workflows=[ONE])
    for result in (coordinator.run_execution("one"), coordinator.resume_execution("1")):
        assert (result["status"], result["execution_id"]) == ("FAILED", None)
        assert why in result["error"]
        assert "secret" not in result["error"]


def test_what_never_starts(url: str) -> None:
    coordinator = Coordinator(url)
    result = coordinator.run_execution("one")
    assert result == {
        "status": "FAILED",
        "execution_id": None,
        "error": "there is no workflow 'one': this coordinator was given none",
    }
    coordinator.add_workflow(ONE)
    coordinator.add_workflow(StepWorkflow("one", [Step("only", "it")]))
    with pytest.raises(InvalidWorkflow, match="two workflows with the id 'one'"):
        coordinator.add_workflow(StepWorkflow("one", [Step("other", "it")]))
    result = coordinator.run_execution("one")
    assert (result["status"], result["execution_id"]) == ("FAILED", None)
    assert "there is no agent 'it'" in result["error"]
    register_agent("it", echo)
    result = coordinator.run_execution("one", {"n": object()})
    assert (result["status"], result["execution_id"]) == ("FAILED", None)
    assert "inputs['n']" in result["error"]
