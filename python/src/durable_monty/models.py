"""SQLAlchemy models of the rows the engine reads and writes.

They map an existing schema; SQLAlchemy never creates it. Statuses read and compare as lower-case
words, instants as UTC datetimes, payloads are JSON text (`from_json`). Reading is always safe.
Closing an open call (`call.status = "completed"; call.result = to_json(x)`) and committing hands
the result to the engine like `complete_call`. Deleting an execution deletes all its rows.
"""

from __future__ import annotations

import datetime as dt
import enum
import json
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    Boolean,
    DateTime,
    Dialect,
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    Text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator, TypeEngine

from .values import from_json, to_json

__all__ = [
    "Call",
    "CallStatus",
    "Event",
    "Execution",
    "ExecutionStatus",
    "Program",
    "Step",
    "Timer",
    "from_json",
    "to_json",
]


class ExecutionStatus(str, enum.Enum):
    """Status of an execution; equal to its lower-case word."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    def __str__(self) -> str:
        return self.value

    @property
    def is_terminal(self) -> bool:
        """Whether nothing will ever happen to such an execution again."""
        return self in (self.COMPLETED, self.FAILED, self.CANCELLED)


class CallStatus(str, enum.Enum):
    """Status of a call; equal to its lower-case word."""

    PENDING = "pending"
    SUBMITTED = "submitted"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    def __str__(self) -> str:
        return self.value


class _Status(TypeDecorator[Any]):
    """A status enum, stored as the upper-case words of the schema."""

    impl = String(16)
    cache_ok = True

    def __init__(self, kind: type[ExecutionStatus] | type[CallStatus]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        if value is None:
            return None
        if value == "resuming":
            # What older code writes to claim an execution before it resumes it. The engine's
            # lease is the claim; until then the execution waits.
            return "WAITING"
        word = self.kind(value).value
        return "SUCCESS" if word == "completed" else word.upper()

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        if value is None:
            return None
        return self.kind("completed" if value == "SUCCESS" else value.lower())

    @property
    def python_type(self) -> type[Any]:
        return self.kind


class Instant(TypeDecorator[dt.datetime]):
    """A UTC datetime, stored as Unix milliseconds; on Postgres as its own kind of instant.

    Naive values are taken as UTC.
    """

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        own: TypeEngine[Any] = DateTime(timezone=True)
        return dialect.type_descriptor(own if dialect.name == "postgresql" else BigInteger())

    def process_bind_param(
        self, value: dt.datetime | None, dialect: Dialect
    ) -> int | dt.datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            value = value.replace(tzinfo=dt.timezone.utc)
        if dialect.name == "postgresql":
            return value
        return (value - _EPOCH) // _MILLISECOND

    def process_result_value(self, value: Any, dialect: Dialect) -> dt.datetime | None:
        if isinstance(value, dt.datetime):
            return value.astimezone(dt.timezone.utc)
        return None if value is None else _EPOCH + value * _MILLISECOND


class _Json(TypeDecorator[str]):
    """JSON as text, as it stands in the row, also where the column's type is JSON."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        # The engine of `init_db` takes and gives the text of it.
        own: TypeEngine[Any] = postgresql.JSON(none_as_null=True)
        return dialect.type_descriptor(own if dialect.name == "postgresql" else Text())


_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
_MILLISECOND = dt.timedelta(milliseconds=1)


class _Base(DeclarativeBase):
    pass


class Program(_Base):
    """A workflow's source with its functions and limits, stored once."""

    __tablename__ = "programs"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    definition: Mapped[str] = mapped_column(_Json)
    created_at: Mapped[dt.datetime] = mapped_column(Instant)


class Execution(_Base):
    """One durable run of a program."""

    __tablename__ = "executions"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    workflow_id: Mapped[str] = mapped_column(Text)
    program_id: Mapped[str] = mapped_column(ForeignKey("programs.id"))
    status: Mapped[ExecutionStatus] = mapped_column(_Status(ExecutionStatus))
    inputs: Mapped[str] = mapped_column("input_payload", _Json)
    output: Mapped[str | None] = mapped_column("output_payload", _Json)
    error_type: Mapped[str | None] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(Text)
    error_traceback: Mapped[str | None] = mapped_column(Text)
    error_call: Mapped[int | None] = mapped_column(Integer)
    idempotency_key: Mapped[str | None] = mapped_column(Text)
    version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[dt.datetime] = mapped_column(Instant)
    started_at: Mapped[dt.datetime | None] = mapped_column(Instant)
    completed_at: Mapped[dt.datetime | None] = mapped_column(Instant)

    calls: Mapped[list[Call]] = relationship(
        back_populates="execution", order_by="Call.step_order", passive_deletes="all"
    )
    events: Mapped[list[Event]] = relationship(order_by="Event.sequence", viewonly=True)
    program: Mapped[Program] = relationship(viewonly=True)

    @property
    def code(self) -> str:
        """Source text of the workflow."""
        return cast("str", json.loads(self.program.definition)["source"])

    @property
    def external_functions(self) -> str:
        """The functions it may call, as JSON: what executors know each by, by name."""
        functions = json.loads(self.program.definition)["functions"]
        return json.dumps(
            {name: options.get("target") or name for name, options in functions.items()}
        )

    def __repr__(self) -> str:
        return f"<Execution {self.id} {self.status}>"


class Step(_Base):
    """One row of `execution_steps`: a call or a timer."""

    __tablename__ = "execution_steps"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    execution_id: Mapped[str] = mapped_column(ForeignKey("executions.id"))
    call_id: Mapped[int] = mapped_column(Integer)
    step_order: Mapped[int] = mapped_column(Integer)
    resume_group_id: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text, default="function")
    step_name: Mapped[str] = mapped_column(Text)
    status: Mapped[CallStatus] = mapped_column(_Status(CallStatus))
    attempts: Mapped[int] = mapped_column(Integer)
    line: Mapped[int] = mapped_column(Integer)
    column: Mapped[int] = mapped_column("column", Integer)
    due_at: Mapped[dt.datetime | None] = mapped_column(Instant)
    applied: Mapped[bool] = mapped_column(Boolean, default=False)
    created_at: Mapped[dt.datetime] = mapped_column(Instant)
    started_at: Mapped[dt.datetime | None] = mapped_column(Instant)
    completed_at: Mapped[dt.datetime | None] = mapped_column(Instant)

    __mapper_args__ = {"polymorphic_on": "kind"}


class Call(Step):
    """One call of a workflow to a registered function."""

    function_name: Mapped[str] = mapped_column("function", Text)
    args: Mapped[str] = mapped_column(_Json)
    kwargs: Mapped[str] = mapped_column(_Json)
    retry_count: Mapped[int] = mapped_column(Integer, default=0)
    job_id: Mapped[str | None] = mapped_column(Text)
    result: Mapped[str | None] = mapped_column(_Json)
    error_type: Mapped[str | None] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(Text)
    error_traceback: Mapped[str | None] = mapped_column(Text)

    execution: Mapped[Execution] = relationship(back_populates="calls")

    __mapper_args__ = {"polymorphic_identity": "function"}

    def __repr__(self) -> str:
        return f"<Call {self.call_id} {self.step_name} of {self.execution_id}: {self.status}>"


class Timer(Step):
    """One `asyncio.sleep` of a workflow."""

    delay_ms: Mapped[int | None] = mapped_column(Integer)

    __mapper_args__ = {"polymorphic_identity": "timer"}


class Event(_Base):
    """One entry of an execution's journal."""

    __tablename__ = "execution_events"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    execution_id: Mapped[str] = mapped_column(ForeignKey("executions.id"))
    sequence: Mapped[int] = mapped_column(Integer)
    transition_number: Mapped[int] = mapped_column(Integer)
    event_type: Mapped[str] = mapped_column(Text)
    event_payload: Mapped[str] = mapped_column(_Json)
    timestamp: Mapped[dt.datetime] = mapped_column(Instant)


class State(_Base):
    """The current snapshot of an execution: opaque, and a cache of its journal."""

    __tablename__ = "execution_state"

    execution_id: Mapped[str] = mapped_column(ForeignKey("executions.id"), primary_key=True)
    state_snapshot: Mapped[bytes | None] = mapped_column(LargeBinary)
    current_step: Mapped[int] = mapped_column(Integer)
    position: Mapped[int] = mapped_column(Integer)
    updated_at: Mapped[dt.datetime] = mapped_column(Instant)
