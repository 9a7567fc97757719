"""What a checkpoint says of the program beside its variables."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from ..checkpoints import Checkpoint, InvalidCheckpoint
from .definitions import Definition

__all__ = ["InFlight", "Record", "Resumed"]

KEY = "streaming"
"""Where it stands in the execution state."""

FORMAT = 1


@dataclass(frozen=True)
class InFlight:
    """A statement that was begun."""

    number: int
    """Which statement of the execution it is, from 1."""
    response: int
    line: int
    source: str
    passes: int = 0
    """How many passes of it have ended, if it is a loop: these do not run again."""


@dataclass(frozen=True)
class Resumed:
    """From where an executor goes on."""

    checkpoint_id: str
    response: int
    """The response that is under way, from 1."""
    statements: int
    """How many statements of the execution have ended. They are not run again."""
    in_flight: InFlight | None
    """The statement that had begun and is not known to have ended: it runs again, a loop from the
    first pass that is not known to have ended, so that what it did may be done twice."""
    rest: str
    """The code that was received and has not run; it begins with the statement in flight."""
    lost: dict[str, str]
    """The variables that could not be saved, and why."""


@dataclass
class Record:
    """The part of the execution state that is the executor's."""

    program: str = ""
    response: int = 1
    statements: int = 0
    received: str = ""
    """The code of this response so far."""
    finished_chars: int = 0
    """How much of it has ended."""
    executed_code: str = ""
    line: int = 1
    """The line on which the rest begins."""
    in_flight: InFlight | None = None
    loop: dict[str, Any] | None = None
    """Where the `for` in flight is, as packed."""
    failure: str | None = None
    """The error that ended the response."""
    definitions: list[Definition] = field(default_factory=list)
    defined: list[str] = field(default_factory=list)
    """The names that the definitions give a value."""
    given: list[str] = field(default_factory=list)
    """The names of what the host has to give again."""
    offered: list[str] = field(default_factory=list)
    """All names that the host gave."""
    unsaved: dict[str, str] = field(default_factory=dict)

    def to_state(self) -> dict[str, Any]:
        """As it stands in the execution state."""
        return {KEY: {"format": FORMAT, **dataclasses.asdict(self)}}

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Record:
        """The record in a checkpoint. Raises `InvalidCheckpoint` when it has none that can be
        read here."""
        name = checkpoint["checkpoint_id"]
        stored = checkpoint["execution_state"].get(KEY)
        if not isinstance(stored, dict) or "format" not in stored:
            raise InvalidCheckpoint(f"{name} was not saved by a StreamingPythonExecutor")
        if stored["format"] != FORMAT:
            raise InvalidCheckpoint(
                f"{name} has the format {stored['format']!r}, and this version reads {FORMAT}"
            )
        parts = {key: value for key, value in stored.items() if key != "format"}
        try:
            record = cls(**parts)
            record.definitions = [Definition(**one) for one in parts["definitions"]]
            if parts["in_flight"] is not None:
                record.in_flight = InFlight(**parts["in_flight"])
        except (TypeError, KeyError) as error:
            raise InvalidCheckpoint(f"{name} can't be read: {error}") from None
        return record
