"""What can be seen of an execution at the places where it has waited."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from .values import decode

if TYPE_CHECKING:
    from . import _internal

__all__ = ["Assignment", "Checkpoint", "Frame", "InspectedCheckpoint", "Opaque", "OpenCall"]

_OPAQUE = "$py:repr"
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Opaque:
    """A variable whose value has no JSON form."""

    words: str
    """A few words on what it is."""


@dataclass(frozen=True)
class OpenCall:
    """A call or timer that is waited for."""

    call_id: int
    name: str
    """What the workflow calls it; the name of a step."""
    line: int
    """Where in the workflow it was asked for."""
    column: int


@dataclass(frozen=True)
class Assignment:
    """A variable that a fork was given another value for."""

    task: int
    """Which of the stacks it belongs to, from 0."""
    depth: int
    """Which frame of the stack, from 0 for the outermost."""
    function: str
    """The frame's function; `<module>` for the program's own text."""
    name: str
    value: Any


@dataclass(frozen=True)
class Checkpoint:
    """A place at which an execution has waited."""

    number: int
    """Which checkpoint of the execution it is, from 1."""
    id: str
    """Its name: the execution's id and its number."""
    execution_id: str
    time: datetime
    """When it was reached, in UTC."""
    sequence: int
    """The last event before it."""
    waits_for: list[OpenCall]
    """In the order in which they were asked for."""
    label: str | None
    """What the program called it with `__checkpoint__(...)`."""
    set: list[Assignment]
    """The variables that were given other values there, in a fork."""


@dataclass(frozen=True)
class Frame:
    """A function that has been entered and not left."""

    function: str
    """Its name; `<module>` for the program's own text."""
    line: int
    column: int
    variables: dict[str, Any]
    """What has no JSON form, such as a function, is an `Opaque`."""


@dataclass(frozen=True)
class InspectedCheckpoint(Checkpoint):
    """A checkpoint, and what the program was there."""

    source: str
    stacks: list[list[Frame]]
    """One for each task, from the outermost function to the one that waits."""

    @property
    def variables(self) -> dict[str, Any]:
        """Those of the program's own text, outside of its functions."""
        frames = (frame for stack in self.stacks for frame in stack)
        return next((frame.variables for frame in frames if frame.function == "<module>"), {})

    @property
    def waiting_lines(self) -> list[int]:
        """The lines of `source` that wait, from 1."""
        return sorted({stack[-1].line for stack in self.stacks if stack})


def checkpoint_of(row: _internal.CheckpointDict) -> Checkpoint:
    """A checkpoint as the engine tells of it."""
    return Checkpoint(**_fields(row))


def inspected_of(row: _internal.InspectedCheckpointDict) -> InspectedCheckpoint:
    """A checkpoint that was looked into, as the engine tells of it."""
    stacks = [[_frame(frame) for frame in stack] for stack in row["stacks"]]
    return InspectedCheckpoint(**_fields(row), source=row["source"], stacks=stacks)


def shown(value: str) -> Any:
    """A variable as the engine shows it."""
    plain = json.loads(value)
    if isinstance(plain, dict) and plain.keys() == {_OPAQUE}:
        return Opaque(plain[_OPAQUE])
    return decode(value)


def _fields(row: _internal.CheckpointDict) -> dict[str, Any]:
    return {
        "number": row["number"],
        "id": row["id"],
        "execution_id": row["execution_id"],
        "time": _EPOCH + timedelta(milliseconds=row["at_ms"]),
        "sequence": row["sequence"],
        "waits_for": [OpenCall(**call) for call in row["waits_for"]],
        "label": row["label"],
        "set": [Assignment(**{**one, "value": decode(one["value"])}) for one in row["set"]],
    }


def _frame(frame: _internal.FrameDict) -> Frame:
    variables = {name: shown(value) for name, value in frame["variables"].items()}
    return Frame(frame["function"], frame["line"], frame["column"], variables)
