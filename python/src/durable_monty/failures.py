"""Exceptions as the engine stores them: a type, a message, a traceback."""

from __future__ import annotations

import builtins
import traceback
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Failure", "error_type_name", "failure_of", "split_error"]


class _Texts(NamedTuple):
    error_type: str
    message: str
    traceback: str | None


class Failure(_Texts):
    """Why an attempt failed.

    Its texts can be stored: a lone surrogate, as in the name of a file that is not UTF-8, becomes
    its escape.
    """

    __slots__ = ()

    def __new__(cls, error_type: str, message: str, traceback: str | None = None) -> Failure:
        shown = None if traceback is None else _unicode(traceback)
        return super().__new__(cls, _unicode(error_type), _unicode(message), shown)


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
    # Without the caller's own frame.
    stack = error.__traceback__ and error.__traceback__.tb_next
    shown = _told(lambda: "".join(traceback.format_exception(kind, error, stack)))
    message = _told(lambda: str(error.args[0] if kind is KeyError and error.args else error))
    for base in kind.__mro__:
        if base.__module__ == "builtins":
            break
    if base is kind:
        return Failure(kind.__name__, message, shown)
    name = error_type_name(kind)
    if base in (Exception, BaseException):
        return Failure(name, message, shown)
    return Failure(base.__name__, f"{name}: {message}" if message else name, shown)


def _told(tell: Callable[[], str]) -> str:
    """What an exception says of itself, which runs code of its own."""
    try:
        return tell()
    except BaseException as error:
        return f"<can't be shown: {error_type_name(type(error))}>"


def _unicode(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def split_error(text: str) -> Failure:
    """An error that was told as text: the last line of a traceback, if it is one."""
    text = str(text).strip()
    line = text.rsplit("\n", 1)[-1] if text.startswith("Traceback ") else text
    name, _, message = line.partition(":")
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        return Failure(name, message.strip())
    return Failure("RuntimeError", line)
