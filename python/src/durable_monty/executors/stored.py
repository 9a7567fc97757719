"""What the database knows of calls, for those who submit them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Executable, select, tuple_
from sqlalchemy.engine import Engine as Database
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ..errors import Unavailable
from ..models import Call, CallStatus

if TYPE_CHECKING:
    from .._internal import Task

__all__ = ["jobs_of_earlier_workers", "rows"]


def rows(database: Database, query: Executable) -> Sequence[Any]:
    """What a query finds. Raises Unavailable when the database can't be asked now."""
    try:
        with database.connect() as connection:
            return connection.execute(query).all()
    except SQLAlchemyError as error:
        # Without the text of the query.
        said = error.orig if isinstance(error, DBAPIError) else error
        raise Unavailable(f"the database can't be asked: {said}") from error


def jobs_of_earlier_workers(
    database: Database, tasks: Sequence[Task]
) -> dict[tuple[str, int, int], str]:
    """The jobs that workers before this one made of the very same attempts, by execution, call and
    attempt."""
    noted = select(Call.execution_id, Call.call_id, Call.attempts, Call.job_id).where(
        tuple_(Call.execution_id, Call.call_id).in_(
            [(task.execution_id, task.call_id) for task in tasks]
        ),
        Call.status == CallStatus.SUBMITTED,
        Call.job_id.is_not(None),
    )
    return {
        (execution_id, call_id, attempt): job_id
        for execution_id, call_id, attempt, job_id in rows(database, noted)
    }
