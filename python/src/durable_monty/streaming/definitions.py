"""Statements that define rather than do: they are run again where a checkpoint is resumed."""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..checks import global_names
from .held import Held

__all__ = ["Before", "Definition", "Definitions", "bound_names", "is_definition", "names_read"]

_ALWAYS_THERE = frozenset(vars(builtins)) | {"__name__"}

_Function = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Definition:
    """The source of statements that define, and where it stands."""

    source: str
    response: int
    line: int


class Before(NamedTuple):
    """What was there before a statement."""

    names: dict[str, Any]
    modules: frozenset[str]

    @classmethod
    def of(cls, namespace: Mapping[str, Any]) -> Before:
        """What is there now."""
        return cls(dict(namespace), frozenset(sys.modules))


def is_definition(statement: ast.stmt) -> bool:
    """Whether a statement is an import, a `def` or a `class`; or an `if`, a `try` or a
    `with suppress(…)` of nothing but those, of `pass` and of constants that are given a name."""
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
    """The statements directly in an `if`, a `try` or a `with suppress(…)`."""
    if isinstance(statement, ast.If):
        return [*statement.body, *statement.orelse]
    if isinstance(statement, ast.Try):
        handled = [part for handler in statement.handlers for part in handler.body]
        return [*statement.body, *handled, *statement.orelse, *statement.finalbody]
    if isinstance(statement, ast.With) and all(map(_suppresses, statement.items)):
        return statement.body
    return []


def _suppresses(item: ast.withitem) -> bool:
    call = item.context_expr
    if not isinstance(call, ast.Call) or item.optional_vars is not None:
        return False
    name = getattr(call.func, "id", None) or getattr(call.func, "attr", None)
    return name == "suppress"


def _imported_modules(statement: ast.stmt, names: Collection[str]) -> Iterable[str]:
    """The modules that the imports in a definition load where they are not loaded yet, as far as
    `names` shows that they were run."""
    if not isinstance(statement, (ast.Import, ast.ImportFrom)):
        return [path for part in _parts(statement) for path in _imported_modules(part, names)]
    if not bound_names(statement) - {"*"} <= set(names):
        return []
    package = f"{statement.module}." if isinstance(statement, ast.ImportFrom) else ""
    paths = [f"{package}{one.name}" for one in statement.names]
    parts = [path.split(".") for path in paths]
    return [".".join(one[: n + 1]) for one in parts for n in range(len(one))]


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

    def __init__(self, module: str) -> None:
        """`module` is the one in which they are run."""
        self.made: list[Definition] = []
        self.modules = set(sys.modules)
        """The modules that are there when the definitions are run again: those of the host, and
        what they import."""
        self._module = module
        self._bound: dict[str, Any] = {}
        self._held: dict[str, Held] = {}
        self._refused: dict[str, tuple[Any, str]] = {}
        self._used: dict[str, frozenset[str]] = {}
        """The global names that what a name defines uses when it is called."""

    def take(
        self,
        definition: Definition,
        statements: list[ast.stmt],
        before: Before,
        after: Mapping[str, Any],
        outside: Callable[[str], bool],
    ) -> None:
        """Notes what definitions bound that were just run, between two states of the namespace.
        `outside` says of a name whether its value comes from the host, as the next one's does."""
        old = before.names
        parts = [names_read(one) for one in statements]
        read = {name for part, _ in parts for name in part}
        read |= self._used_by({name for _, called in parts for name in called})
        reads = sorted(
            name
            for name in read - _ALWAYS_THERE
            if name in old and not self.defines(name, old[name]) and not outside(name)
        )
        bound = {name for one in statements for name in bound_names(one)}
        imports = (ast.Import, ast.ImportFrom)
        mine = [one for one in statements if not isinstance(one, imports)]
        own = {name for one in mine for name in bound_names(one)}
        if "*" in bound:
            bound |= {name for name in after if after[name] is not old.get(name, before)}
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
                self._held.pop(name, None)
                if name in own:
                    self._held[name] = Held(name, after[name], self._module)
        if not reads:
            self.made.append(definition)
            self.modules |= sys.modules.keys() - before.modules
            for one in statements:
                self.modules.update(_imported_modules(one, after))

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

    def parts(self) -> dict[str, Any]:
        """The objects in what they bound, as it was bound, by where they are: `Shop.prices`."""
        return {place: part for held in self._held.values() for place, part in held.parts.items()}

    def check(self, name: str, value: object) -> tuple[str | None, dict[str, Any]]:
        """Why a value can't be had by defining it again, if a definition made it; and if it can,
        the objects in it, by where they are."""
        refused = self._refused.get(name)
        if refused is not None and refused[0] is value:
            return refused[1], {}
        if name not in self._held or not self.defines(name, value):
            return None, {}
        now = Held(name, value, self._module)
        if now.iterator is not None:
            reason = f"holds an iterator as {now.iterator!r}, whose place can't be saved"
            return f"{reason}: make it where it is used, inside a function", {}
        place = self._held[name].changed(now)
        if place is None:
            return None, now.parts
        reason = (
            f"has another {place!r} than its definition gave it, and would be defined again "
            "without it: keep that in a variable"
        )
        return reason, {}
