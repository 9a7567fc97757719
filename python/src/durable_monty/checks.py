"""What is checked before an execution is stored, beside what the engine checks itself."""

from __future__ import annotations

import ast
import builtins
import functools
import re
import symtable
import warnings
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import InvalidWorkflow

if TYPE_CHECKING:
    from ._internal import Engine

__all__ = ["check_inputs", "global_names", "source_lines"]

# The last one marks a place among the checkpoints.
_ALWAYS_THERE = frozenset({*vars(builtins), "__name__", "__file__", "__doc__", "__checkpoint__"})

_end_of_line = re.compile(r"\r\n?|\n")
# As in the engine, which never evaluates them.
_UNREAD_ANNOTATIONS = "from __future__ import annotations\n"


class _Names(NamedTuple):
    read: frozenset[str]
    unbound: frozenset[str]


def check_inputs(
    engine: Engine,
    code: str,
    functions: str,
    function_names: Collection[str],
    inputs: dict[str, Any],
) -> None:
    """Raises InvalidWorkflow for a name the code reads and nobody gives it. Warns about an input
    that it never reads."""
    if not isinstance(code, str):
        raise InvalidWorkflow(f"code is a {type(code).__name__}, it must be source text")
    for name in inputs:
        if not isinstance(name, str) or not name.isidentifier():
            raise InvalidWorkflow(f"the input {name!r} is no name that code can use")
    names = global_names(code)
    if names is None:
        return
    missing = names.unbound.difference(function_names, inputs)
    if missing:
        raise InvalidWorkflow("\n".join(_undefined(code, missing)))
    for name in inputs:
        if name not in names.read:
            warnings.warn(
                f"the input '{name}' is not used by the workflow", UserWarning, stacklevel=4
            )


def _undefined(code: str, missing: Collection[str]) -> Iterator[str]:
    """Where each missing name is read first, as the engine shows places."""
    lines = source_lines(code)
    told = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name) and node.id in missing and node.id not in told:
            told.add(node.id)
            line = lines[node.lineno - 1]
            column = len(line.encode()[: node.col_offset].decode())
            yield (
                f"workflow.py:{node.lineno}:{column + 1}: nothing defines '{node.id}': pass it in "
                "inputs, or in external_functions if it is a function"
                f"\n    {line}\n    {' ' * column}^"
            )


def source_lines(code: str) -> list[str]:
    """The lines of source text as Python counts them, without their ends. `str.splitlines` also
    ends lines at form feeds, U+2028 and the like, which may stand in a string.

    >>> source_lines("a = '\\f'\\r\\nb\\n")
    ["a = '\\x0c'", 'b']
    """
    lines = _end_of_line.split(code)
    return lines if lines[-1] else lines[:-1]


@functools.lru_cache(maxsize=256)
def global_names(code: str) -> _Names | None:
    """The global names that code reads, and those of them that it never binds. None when this
    version of Python can't parse it: the engine's own parser has the last word."""
    try:
        top = symtable.symtable(_UNREAD_ANNOTATIONS + code, "workflow.py", "exec")
    except (SyntaxError, ValueError, RecursionError):
        return None
    read, bound = set(), set()
    tables = [top]
    while tables:
        table = tables.pop()
        tables.extend(table.get_children())
        for symbol in table.get_symbols():
            if table is not top and not symbol.is_global():
                continue
            if symbol.is_referenced():
                read.add(symbol.get_name())
            if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace():
                bound.add(symbol.get_name())
    return _Names(frozenset(read), frozenset(read - bound - _ALWAYS_THERE))
