"""Statements that define rather than do: they are run again where a checkpoint is resumed."""

from __future__ import annotations

import ast
import builtins
import enum
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..checks import global_names
from .packing import Packer

__all__ = ["Definition", "Definitions", "bound_names", "is_definition", "names_read"]

_ALWAYS_THERE = frozenset(vars(builtins)) | {"__name__"}

_Function = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Definition:
    """The source of statements that define, and where it stands."""

    source: str
    response: int
    line: int


def is_definition(statement: ast.stmt) -> bool:
    """Whether a statement is an import, a `def` or a `class`; or an `if` or a `try` of nothing but
    those, of `pass` and of constants that are given a name."""
    if isinstance(statement, (ast.Import, ast.ImportFrom, ast.ClassDef, *_Function)):
        return True
    parts = _parts(statement)
    defines = any(not _is_constant(part) for part in parts)
    return defines and all(_is_constant(part) or is_definition(part) for part in parts)


def _is_constant(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Assign)
        and all(isinstance(target, ast.Name) for target in statement.targets)
        and isinstance(statement.value, ast.Constant)
    )


def bound_names(statement: ast.stmt) -> set[str]:
    """The names that a definition binds; `*` for whatever `import *` does."""
    if isinstance(statement, (ast.ClassDef, *_Function)):
        return {statement.name}
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {one.asname or one.name.partition(".")[0] for one in statement.names}
    if isinstance(statement, ast.Assign):
        return {target.id for target in statement.targets if isinstance(target, ast.Name)}
    return {name for part in _parts(statement) for name in bound_names(part)}


def _parts(statement: ast.stmt) -> list[ast.stmt]:
    """The statements directly in an `if` or a `try`."""
    if isinstance(statement, ast.If):
        return [*statement.body, *statement.orelse]
    if isinstance(statement, ast.Try):
        handled = [part for handler in statement.handlers for part in handler.body]
        return [*statement.body, *handled, *statement.orelse, *statement.finalbody]
    return []


def names_read(statement: ast.stmt) -> tuple[set[str], set[str]]:
    """The names whose values a definition uses when it is run, not when what it defines is; and
    those of them that it calls.

    >>> read, called = names_read(ast.parse("@d\\ndef f(x=n): return x + m").body[0])
    >>> sorted(read), sorted(called)
    (['d', 'n'], ['d'])
    """
    reader = _Reader()
    reader.visit(statement)
    return reader.read, reader.called


class _Reader(ast.NodeVisitor):
    def __init__(self) -> None:
        self.read: set[str] = set()
        self.called: set[str] = set()
        self._bound: set[str] = set()

    def visit_Name(self, node: ast.Name) -> None:
        # Of what a class binds itself only the functions are known not to be read from outside.
        if isinstance(node.ctx, ast.Load) and node.id not in self._bound:
            self.read.add(node.id)

    def visit_Call(self, node: ast.Call) -> None:
        self._calls(node.func)
        self.generic_visit(node)

    def _calls(self, node: ast.expr) -> None:
        self.called.update(one.id for one in ast.walk(node) if isinstance(one, ast.Name))

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self.read.add(node.target.id)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._decorators(node)
        self.visit(node.args)
        if node.returns is not None:
            self.visit(node.returns)
        self._bound.add(node.name)

    def _decorators(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        for decorator in node.decorator_list:
            self._calls(decorator)
            self.visit(decorator)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.args)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._decorators(node)
        self._all([*node.bases, *node.keywords])
        before = set(self._bound)
        self._all(node.body)
        self._bound = before | {node.name}

    def _comprehension(self, node: Any) -> None:
        before = set(self._bound)
        for part in node.generators:
            self.visit(part)
        for name in ("key", "value", "elt"):
            if hasattr(node, name):
                self.visit(getattr(node, name))
        self._bound = before

    visit_ListComp = _comprehension  # noqa: N815
    visit_SetComp = _comprehension  # noqa: N815
    visit_DictComp = _comprehension  # noqa: N815
    visit_GeneratorExp = _comprehension  # noqa: N815

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self.visit(node.iter)
        stored = (one for one in ast.walk(node.target) if isinstance(one, ast.Name))
        self._bound.update(one.id for one in stored)
        self._all(node.ifs)

    def _all(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)


class Definitions:
    """What the definitions of a program have bound, as long as it is as they left it."""

    def __init__(self) -> None:
        self.made: list[Definition] = []
        self._bound: dict[str, Any] = {}
        self._hidden: dict[str, dict[str, Any]] = {}
        self._refused: dict[str, tuple[Any, str]] = {}
        self._used: dict[str, frozenset[str]] = {}
        """The global names that what a name defines uses when it is called."""

    def take(
        self,
        definition: Definition,
        statements: list[ast.stmt],
        before: Mapping[str, Any],
        after: Mapping[str, Any],
        outside: Callable[[str], bool],
    ) -> None:
        """Notes what definitions bound that were just run, between two states of the namespace.
        `outside` says of a name whether its value comes from the host, as the next one's does."""
        parts = [names_read(one) for one in statements]
        read = {name for part, _ in parts for name in part}
        read |= self._used_by({name for _, called in parts for name in called})
        reads = sorted(
            name
            for name in read - _ALWAYS_THERE
            if name in before and not self.defines(name, before[name]) and not outside(name)
        )
        bound = {name for one in statements for name in bound_names(one)}
        imports = (ast.Import, ast.ImportFrom)
        mine = [one for one in statements if not isinstance(one, imports)]
        own = {name for one in mine for name in bound_names(one)}
        if "*" in bound:
            bound |= {name for name in after if after[name] is not before.get(name, before)}
        names = global_names(definition.source)
        for name in bound & after.keys():
            self._used[name] = frozenset() if names is None else names.read
            self._bound.pop(name, None)
            self._refused.pop(name, None)
            if reads:
                reason = (
                    f"is defined on line {definition.line} of response {definition.response} with "
                    f"the value of {reads[0]!r}, which may be another one when it is defined again"
                )
                self._refused[name] = (after[name], reason)
            else:
                self._bound[name] = after[name]
                self._hidden.pop(name, None)
                if name in own:
                    self._hidden[name] = _hidden(after[name])
        if not reads:
            self.made.append(definition)

    def _used_by(self, called: set[str]) -> set[str]:
        """The global names that are used when some are called, directly or through others."""
        used: set[str] = set()
        left = list(called)
        while left:
            new = self._used.get(left.pop(), frozenset()) - used
            used |= new
            left += new
        return used

    def defines(self, name: str, value: object) -> bool:
        """Whether a definition made this the value of the name."""
        return self._bound.get(name, self) is value

    def why_not(self, name: str, value: object) -> str | None:
        """Why a value can't be had by defining it again, if a definition made it."""
        refused = self._refused.get(name)
        if refused is not None and refused[0] is value:
            return refused[1]
        if name in self._hidden and self.defines(name, value):
            now, then = _hidden(value), self._hidden[name]
            changed = [key for key in {**then, **now} if now.get(key) != then.get(key)]
            if changed:
                return (
                    f"has another {changed[0]!r} than its definition gave it, and would be defined "
                    "again without it: keep that in a variable"
                )
        return None


@dataclass(frozen=True)
class _Itself:
    """Equal to no other object's."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.value is self.value

    __hash__ = None  # type: ignore[assignment]


def _hidden(value: object) -> dict[str, Any]:
    """What a function or a class of the program holds, to see whether it has changed."""
    held: dict[str, Any] = {}
    if isinstance(value, types.FunctionType):
        held = {"default": value.__defaults__, "keyword default": value.__kwdefaults__}
        held.update(vars(value))
    elif isinstance(value, type) and not issubclass(value, enum.Enum):
        held = {name: one for name, one in vars(value).items() if not name.startswith("__")}
    packed = {}
    for name, one in held.items():
        try:
            packed[name] = Packer().pack(one, name)
        except TypeError:  # no data, a method for example
            packed[name] = _Itself(one)
    return packed
