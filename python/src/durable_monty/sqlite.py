"""A DB-API module over the engine's own SQLite library, for SQLAlchemy.

Python's `sqlite3` brings a second copy of SQLite into the process. Two copies must never open the
same file: POSIX file locks belong to the process, so neither copy sees the locks of the other, and
each drops the other's when it closes a file. The database is then corrupted, or the process dies.
So SQLAlchemy is given this module instead. It behaves like `sqlite3` with its default transaction
control, and raises the exceptions of `sqlite3`.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from sqlite3 import (
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    Warning,  # noqa: A004
)
from typing import TYPE_CHECKING, Any

from ._native import native

if TYPE_CHECKING:
    from ._internal import SqliteConnection

__all__ = [
    "Binary",
    "Connection",
    "Cursor",
    "DataError",
    "DatabaseError",
    "Error",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "NotSupportedError",
    "OperationalError",
    "ProgrammingError",
    "Warning",
    "apilevel",
    "connect",
    "paramstyle",
    "threadsafety",
]

apilevel = "2.0"
threadsafety = 1
paramstyle = "qmark"
# The engine's copy is newer than any that Python brings; SQLAlchemy asks for features by this.
sqlite_version_info = (3, 45, 0)
sqlite_version = "3.45.0"
PARSE_DECLTYPES = sqlite3.PARSE_DECLTYPES
PARSE_COLNAMES = sqlite3.PARSE_COLNAMES
Binary = bytes

Row = tuple[Any, ...]
Parameters = Sequence[Any] | dict[str, Any]

_changes_rows = re.compile(r"\s*(?:INSERT|UPDATE|DELETE|REPLACE)\b", re.IGNORECASE).match


def connect(database: str, timeout: float = 5.0, **_options: Any) -> Connection:
    """Opens a database file."""
    return Connection(database, timeout)


class Connection:
    """One connection. A transaction begins before the first statement that changes rows."""

    def __init__(self, database: str, timeout: float) -> None:
        self.isolation_level: str | None = ""
        self._raw: SqliteConnection = native().SqliteConnection(database, timeout)

    @property
    def in_transaction(self) -> bool:
        return self._raw.in_transaction

    def cursor(self) -> Cursor:
        return Cursor(self)

    def execute(self, sql: str, parameters: Parameters = ()) -> Cursor:
        return self.cursor().execute(sql, parameters)

    def commit(self) -> None:
        self._end("COMMIT")

    def rollback(self) -> None:
        self._end("ROLLBACK")

    def close(self) -> None:
        self._raw.close()

    def create_function(self, *_arguments: Any, **_options: Any) -> None:
        """SQLAlchemy offers an implementation of REGEXP; it is left out."""

    def _end(self, how: str) -> None:
        if self._raw.in_transaction:
            self._raw.execute(how, ())

    def _run(
        self, sql: str, parameters: Parameters
    ) -> tuple[list[str] | None, list[Row], int, int]:
        begins = self.isolation_level is not None and _changes_rows(sql) is not None
        if begins and not self._raw.in_transaction:
            self._raw.execute(f"BEGIN {self.isolation_level}", ())
        return self._raw.execute(sql, parameters)


class Cursor:
    """Runs statements on a connection and holds the rows of the last one."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.arraysize = 1
        self.description: list[tuple[Any, ...]] | None = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self._rows: Iterator[Row] = iter(())

    def execute(self, sql: str, parameters: Parameters = ()) -> Cursor:
        columns, rows, self.rowcount, self.lastrowid = self.connection._run(sql, parameters)
        self.description = columns and [(name, *[None] * 6) for name in columns]  # type: ignore[assignment]
        self._rows = iter(rows)
        return self

    def executemany(self, sql: str, many: Iterable[Parameters]) -> Cursor:
        total = 0
        for parameters in many:
            self.execute(sql, parameters)
            total += max(0, self.rowcount)
        self.rowcount = total
        return self

    def fetchone(self) -> Row | None:
        return next(self._rows, None)

    def fetchmany(self, size: int | None = None) -> list[Row]:
        wanted = self.arraysize if size is None else size
        return [row for row, _ in zip(self._rows, range(wanted), strict=False)]

    def fetchall(self) -> list[Row]:
        return list(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return self._rows

    def close(self) -> None:
        self._rows = iter(())

    def setinputsizes(self, _sizes: Any) -> None:
        """Nothing to prepare."""

    def setoutputsize(self, _size: Any, _column: Any = None) -> None:
        """Nothing to prepare."""
