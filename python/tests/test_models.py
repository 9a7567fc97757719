"""The models read and write the rows the engine uses."""

from __future__ import annotations

import datetime as dt

import pytest
from sqlalchemy import inspect
from sqlalchemy.orm import Session

from durable_monty import (
    Call,
    CallStatus,
    Execution,
    ExecutionStatus,
    OrchestratorService,
    Worker,
    from_json,
    get_session,
    register_function,
    to_json,
)
from durable_monty.models import Event, Step, Timer

CODE = """
from asyncio import gather, sleep
async def rest():
    await sleep(3600)
results = await gather(add(x, 2), add(3, b=4))
sum(results)
"""


@pytest.fixture
def url(every_url: str) -> str:
    return every_url


@pytest.fixture(autouse=True)
def _functions() -> None:
    register_function("add")(lambda a, b: a + b)


@pytest.fixture
def waiting(service: OrchestratorService) -> str:
    execution_id = service.start_execution(CODE, ["add"], {"x": 1})
    service.process_execution(execution_id)
    return execution_id


def test_reading(service: OrchestratorService, waiting: str) -> None:
    with get_session(service.engine) as session:
        execution = session.query(Execution).filter_by(id=waiting).one()
        assert execution.status == "waiting"
        assert execution.status is ExecutionStatus.WAITING
        assert str(execution.status) == "waiting"
        assert execution.code == CODE
        assert from_json(execution.external_functions) == {"add": "add"}
        assert from_json(execution.inputs) == {"x": 1}
        assert (execution.output, execution.error, execution.completed_at) == (None, None, None)
        age = dt.datetime.now(dt.timezone.utc) - execution.created_at
        assert dt.timedelta(seconds=-1) < age < dt.timedelta(minutes=5)
        first, second = execution.calls
        assert first.execution is execution
        assert (first.function_name, from_json(first.args)) == ("add", [1, 2])
        assert (from_json(second.args), from_json(second.kwargs)) == ([3], {"b": 4})
        assert first.resume_group_id == second.resume_group_id
        assert first.status == "pending"
        assert (first.job_id, first.result, first.error) == (None, None, None)
        assert next(event.event_type for event in execution.events) == "EXECUTION_STARTED"
        assert session.query(Event).count() == len(execution.events)


def test_filtering_by_status(service: OrchestratorService, waiting: str) -> None:
    service.start_execution("1")
    with Session(service.engine) as session:
        for status in ("waiting", ExecutionStatus.WAITING):
            assert [e.id for e in session.query(Execution).filter_by(status=status)] == [waiting]
        assert session.query(Call).filter(Call.status == CallStatus.PENDING).count() == 2


def test_a_call_closed_by_the_orm_is_taken_in(service: OrchestratorService, waiting: str) -> None:
    with Session(service.engine) as session:
        for call in session.query(Call).filter_by(execution_id=waiting):
            call.status = "completed"  # type: ignore[assignment]
            call.result = to_json(sum(from_json(call.args)))
            call.completed_at = dt.datetime(2026, 1, 1)
        session.commit()
    assert service.poll(waiting)["output"] == 6
    with Session(service.engine) as session:
        execution = session.get_one(Execution, waiting)
        assert execution.status == "completed"
        assert from_json(execution.output) == 6
        assert execution.calls[0].completed_at == dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)


def test_a_call_failed_by_the_orm_raises(service: OrchestratorService, waiting: str) -> None:
    with Session(service.engine) as session:
        call = session.query(Call).filter_by(execution_id=waiting).first()
        assert call is not None
        call.status = "failed"  # type: ignore[assignment]
        call.error = "no disk"
        session.commit()
    Worker(service).run(until_complete=True)
    with Session(service.engine) as session:
        execution = session.get_one(Execution, waiting)
        assert execution.status == "failed"
        assert execution.error is not None
        assert "no disk" in execution.error


def test_deleting_an_execution_deletes_its_rows(service: OrchestratorService, waiting: str) -> None:
    with Session(service.engine) as session:
        session.delete(session.get_one(Execution, waiting))
        session.commit()
        assert session.query(Step).count() == 0
        assert session.query(Event).count() == 0


def test_timers_are_steps_but_no_calls(service: OrchestratorService) -> None:
    execution_id = service.start_execution(CODE + "await rest()", ["add"], {"x": 1})
    Worker(service).run(once=True)
    with Session(service.engine) as session:
        assert session.query(Call).count() == 2
        timer = session.query(Timer).one()
        assert (timer.execution_id, timer.delay_ms) == (execution_id, 3_600_000)
        assert timer.due_at is not None
        assert timer.due_at > dt.datetime.now(dt.timezone.utc)


def test_the_index_on_groups_and_the_view_of_calls(
    service: OrchestratorService, waiting: str
) -> None:
    inspector = inspect(service.engine)
    indexes = [index["column_names"] for index in inspector.get_indexes("execution_steps")]
    assert ["resume_group_id", "status"] in indexes
    with service.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM calls").scalar() == 2


def test_a_status_that_is_none_is_refused(service: OrchestratorService, waiting: str) -> None:
    with Session(service.engine) as session, pytest.raises(Exception, match="no such status"):
        session.query(Execution).filter_by(status="no such status").first()
