"""What goes wrong in a piece of code, with its place in the code."""

from __future__ import annotations

import linecache
import sys
import traceback
from types import TracebackType
from typing import Any

from ..checks import source_lines
from ..errors import DurableError

__all__ = ["StreamingExecutionError", "described", "show_lines", "traceback_of"]


class StreamingExecutionError(DurableError):
    """A statement failed, or left something that can't be saved.

    `str()` names the line, and shows it with a caret.
    """

    def __init__(
        self,
        message: str,
        original_error: BaseException | None,
        executed_code: str,
        traceback: str | None = None,
    ) -> None:
        super().__init__(message)
        self.original_error = original_error
        """The exception itself; None when it happened in a process that is gone."""
        self.executed_code = executed_code
        """The code of the response that was run before, without the statement that failed."""
        self.traceback = traceback
        """Where it was raised, from the statement on."""


def show_lines(file: str, line: int, text: str) -> None:
    """Lets tracebacks show code that is in no file: from a line on, after those shown before."""
    entry: Any = linecache.cache.get(file)
    lines: list[str] = [] if entry is None else entry[2]
    lines += [""] * (line - 1 - len(lines))
    lines[line - 1 :] = [f"{one}\n" for one in source_lines(text)]
    # No time of change: the entry is never looked up on the disk.
    linecache.cache[file] = (0, None, lines, file)


def described(error: BaseException, files: str) -> str:
    """An exception with its place in the code, which is in files whose names begin with `files`."""
    name = type(error).__name__
    if isinstance(error, SyntaxError) and (error.filename or "").startswith(files):
        file, line, column = error.filename or "", error.lineno or 1, (error.offset or 1) - 1
        summary = f"{name}: {error.msg}"
    else:
        summary = f"{name}: {error}" if str(error) else name
        place = _place(error.__traceback__, files)
        if place is None:
            return summary
        file, line, column = place
    source = linecache.getline(file, line).rstrip("\r\n")
    column = min(max(column, 0), len(source))
    return f"{file}:{line}:{column + 1}: {summary}\n    {source}\n    {' ' * column}^"


def traceback_of(error: BaseException, files: str) -> str:
    """The traceback from the first line of the code on, without those who ran it."""
    at = error.__traceback__
    while at is not None and not at.tb_frame.f_code.co_filename.startswith(files):
        at = at.tb_next
    return "".join(traceback.format_exception(type(error), error, at))


def _place(at: TracebackType | None, files: str) -> tuple[str, int, int] | None:
    """The innermost place in the code: file, line and column."""
    found = None
    while at is not None:
        if at.tb_frame.f_code.co_filename.startswith(files):
            found = at
        at = at.tb_next
    if found is None:
        return None
    file, line = found.tb_frame.f_code.co_filename, found.tb_lineno
    source = linecache.getline(file, line)
    column = len(source) - len(source.lstrip())
    if sys.version_info >= (3, 11):
        positions = list(found.tb_frame.f_code.co_positions())
        start, _, offset, _ = positions[found.tb_lasti // 2]
        if start == line and offset is not None:
            column = len(source.encode()[:offset].decode(errors="replace"))
    return file, line, column
