"""Functions over a SQLAlchemy session, for code that has no use for a service object.

They do what `OrchestratorService` does, and nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypedDict

from sqlalchemy import select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from .db import only_engine
from .errors import Conflict, NotFound
from .functions import execute_function
from .models import Call, CallStatus, Execution
from .service import OrchestratorService
from .values import encode

__all__ = [
    "check_and_resume_if_ready",
    "enqueue_calls",
    "execute_and_save",
    "resume_execution",
    "start_execution",
]


class CallInfo(TypedDict, total=False):
    """What `enqueue_calls` needs to know of a call."""

    function: str
    args: list[Any]
    kwargs: dict[str, Any]


def start_execution(
    session: Session,
    code: str,
    inputs: Mapping[str, Any] | None = None,
    external_functions: Iterable[str | Callable[..., Any]] = (),
) -> str:
    """Checks and stores an execution on the session's database and returns its id.

    It is stored at once, not with the session's next commit. A worker runs it.
    """
    return _service(session).start_execution(code, external_functions, inputs)


def resume_execution(
    session: Session, execution_id: str, resume_group_id: str | None = None
) -> None:
    """Advances an execution by the results that have arrived. Does nothing when a worker holds
    it or it has ended: then somebody else does, or did."""
    session.commit()  # or the session's own open transaction would stand in the way
    try:
        _service(session).process_execution(execution_id, resume_group_id)
    except Conflict:
        pass
    session.expire_all()


def enqueue_calls(
    execution_id: str,
    resume_group_id: str,
    pending_calls: Mapping[int, CallInfo],
    *,
    engine: Engine | None = None,
) -> list[Future[None]]:
    """Runs calls by `execute_and_save` on threads of this process and returns at once."""
    threads = _threads()
    return [
        threads.submit(
            execute_and_save,
            execution_id,
            resume_group_id,
            call_id,
            call["function"],
            call.get("args", []),
            call.get("kwargs"),
            engine=engine,
        )
        for call_id, call in pending_calls.items()
    ]


def execute_and_save(
    execution_id: str,
    resume_group_id: str,
    call_id: int,
    function_name: str,
    args: Iterable[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    engine: Engine | None = None,
) -> None:
    """Runs the function of a call, reports what came of it, and advances the execution if it
    waits for nothing else.

    A call that has ended in the meantime keeps the result it has. `engine` may be left out in a
    process that has one database open.
    """
    database = engine or only_engine()
    service = OrchestratorService(database)
    failure: Exception | None = None
    text = ""
    try:
        text = encode(execute_function(function_name, args, kwargs))
    except Exception as error:
        failure = error
    try:
        if failure is None:
            service.store.engine.complete_call(execution_id, call_id, text)
        else:
            service.fail_call(execution_id, call_id, failure)
    except Conflict:
        return
    check_and_resume_if_ready(execution_id, resume_group_id, engine=database)


def check_and_resume_if_ready(
    execution_id: str, resume_group_id: str, *, engine: Engine | None = None
) -> bool:
    """Advances an execution if every call of a resume group has ended; whether that was so.

    A call that failed raises its exception in the workflow, which may handle it.
    """
    database = engine or only_engine()
    is_open = select(Call.id).where(
        Call.execution_id == execution_id,
        Call.resume_group_id == resume_group_id,
        Call.status.in_([CallStatus.PENDING, CallStatus.SUBMITTED]),
    )
    with Session(database) as session:
        if session.get(Execution, execution_id) is None:
            raise NotFound(f"Execution {execution_id} not found")
        if session.scalars(is_open.limit(1)).first() is not None:
            return False
        resume_execution(session, execution_id, resume_group_id)
    return True


def _service(session: Session) -> OrchestratorService:
    return OrchestratorService(session.get_bind().engine)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="durable-monty-call")
