"""Exceptions as the engine stores them: a type, a message, a traceback."""

from __future__ import annotations

import builtins
import traceback
from typing import NamedTuple

__all__ = ["Failure", "error_type_name", "failure_of", "split_error"]


class Failure(NamedTuple):
    """Why an attempt failed."""

    error_type: str
    message: str
    traceback: str | None = None


def error_type_name(kind: type[BaseException]) -> str:
    """How the engine names an exception type: `ValueError`, `myapp.errors.NoPrice`."""
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def failure_of(error: BaseException) -> Failure:
    """Type, message and traceback of what a function raised, as the engine stores them.

    Workflow code knows builtin exceptions only. An exception of another type that derives from
    one more telling than `Exception` arrives as that one: `except ValueError` catches a
    `json.JSONDecodeError`.
    """
    kind = type(error)
    # Without this module's own frame.
    shown = "".join(
        traceback.format_exception(kind, error, error.__traceback__ and error.__traceback__.tb_next)
    )
    message = str(error.args[0]) if kind is KeyError and error.args else str(error)
    for base in kind.__mro__:
        if base.__module__ == "builtins":
            break
    if base is kind:
        return Failure(kind.__name__, message, shown)
    name = error_type_name(kind)
    if base in (Exception, BaseException):
        return Failure(name, message, shown)
    return Failure(base.__name__, f"{name}: {message}" if message else name, shown)


def split_error(text: str) -> tuple[str, str]:
    """Type and message of an error told as text: the last line of a traceback, if it is one."""
    text = str(text).strip()
    line = text.rsplit("\n", 1)[-1] if text.startswith("Traceback ") else text
    name, _, message = line.partition(":")
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        return name, message.strip()
    return "RuntimeError", line
