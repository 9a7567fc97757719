"""The module in which statements run, and running them."""

from __future__ import annotations
import __future__

import ast
import builtins
import inspect
import itertools
import linecache
import sys
import types
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import show_lines
from .splitter import Statement

__all__ = ["Compiled", "Program"]

_FUTURES = 0
for _name in __future__.all_feature_names:
    _FUTURES |= getattr(__future__, _name).compiler_flag

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Compiled:
    """A statement that is ready to run."""

    statement: Statement
    nodes: list[ast.stmt]
    codes: list[types.CodeType]
    gives_value: bool
    """Whether the last of it is an expression."""

    @property
    def awaits(self) -> bool:
        return any(code.co_flags & inspect.CO_COROUTINE for code in self.codes)


class Output:
    """What a program prints, up to a length."""

    def __init__(self, max_chars: int) -> None:
        self._parts: list[str] = []
        self._room = self._max_chars = max_chars

    def print(self, *values: Any, file: Any = None, **options: Any) -> None:
        """The `print` of the program."""
        print(*values, file=self if file is None else file, **options)

    def write(self, text: str) -> int:
        if self._room >= 0:
            self._parts.append(text)
            self._room -= len(text)
        return len(text)

    def flush(self) -> None: ...

    def text(self) -> str:
        """What was printed so far."""
        text = "".join(self._parts)
        return text if self._room >= 0 else f"{text[: self._max_chars]}… (more was printed)\n"

    def clear(self) -> None:
        self._parts, self._room = [], self._max_chars


class Program:
    """A module whose statements come one by one. `print` without a file is captured.

    Modules of the same name replace each other, as after a resume within one process.
    """

    def __init__(self, name: str | None, namespace: Mapping[str, Any], max_printed: int) -> None:
        self.name = f"streamed:{name or next(_numbers)}"
        self.files = f"<{self.name.partition(':')[2]}, response "
        self.output = Output(max_printed)
        self._module = types.ModuleType(self.name)
        self.namespace: dict[str, Any] = vars(self._module)
        self.own_names = frozenset(self.namespace) | {
            "__builtins__",
            "__annotations__",
            "__annotate__",
            "__conditional_annotations__",
            "__warningregistry__",
        }
        """The names that every module has, or is given by Python."""
        self.namespace["__builtins__"] = {**vars(builtins), "print": self.output.print}
        self.namespace.update(namespace)
        self._flags = 0
        self._shown: set[str] = set()
        # Where dataclasses and typing look for the module of a class.
        sys.modules[self.name] = self._module
        self.close = weakref.finalize(
            self, _forget, self.name, weakref.ref(self._module), self._shown
        )
        """Takes the module and the lines of its code back; so it ends when nobody has it."""

    def file(self, response: int) -> str:
        """What the code of a response is called in tracebacks."""
        return f"{self.files}{response}>"

    def show(self, response: int, line: int, text: str) -> None:
        """Gives tracebacks the lines of a response from a line on."""
        show_lines(self.file(response), line, text)
        self._shown.add(self.file(response))

    def hide(self, response: int) -> None:
        """Takes the lines of a response back."""
        linecache.cache.pop(self.file(response), None)
        self._shown.discard(self.file(response))

    def compile(self, statement: Statement, response: int) -> Compiled:
        """Raises SyntaxError, and ValueError or RecursionError for what no parser takes."""
        file = self.file(response)
        try:
            parsed = self._compile(statement.text, file, ast.PyCF_ONLY_AST)
        except SyntaxError as error:
            for part in ("lineno", "end_lineno"):
                if getattr(error, part) is not None:
                    setattr(error, part, getattr(error, part) + statement.line - 1)
            raise
        except MemoryError:
            raise RecursionError("it is nested too deeply") from None
        nodes = ast.increment_lineno(parsed, statement.line - 1).body
        parts: list[ast.Module | ast.Expression] = []
        last = nodes[-1] if nodes else None
        gives_value = isinstance(last, ast.Expr)
        if nodes[: -1 if gives_value else None]:
            parts.append(ast.Module(nodes[: -1 if gives_value else None], []))
        if isinstance(last, ast.Expr):
            parts.append(ast.Expression(last.value))
        codes = [self.compile_part(part, file) for part in parts]
        return Compiled(statement, nodes, codes, gives_value)

    async def run(self, compiled: Compiled) -> Any:
        """Runs it; the value of its last expression, None without one."""
        value = None
        for code in compiled.codes:
            value = await self.run_code(code)
        self._note_futures(compiled)
        return value if compiled.gives_value else None

    async def run_code(self, code: types.CodeType) -> Any:
        """Runs a code object; the value of an expression."""
        value = eval(code, self.namespace)
        return await value if code.co_flags & inspect.CO_COROUTINE else value

    def compile_part(self, part: ast.Module | ast.Expression, file: str) -> types.CodeType:
        """The code of a part of a statement, in which `await` stands at the left margin."""
        code: types.CodeType = self._compile(part, file, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        return code

    def run_now(self, compiled: Compiled) -> None:
        """Runs what does not await."""
        for code in compiled.codes:
            eval(code, self.namespace)
        self._note_futures(compiled)

    def _compile(self, source: Any, file: str, flags: int) -> Any:
        mode = "eval" if isinstance(source, ast.Expression) else "exec"
        return compile(source, file, mode, flags | self._flags, dont_inherit=True)

    def _note_futures(self, compiled: Compiled) -> None:
        for code in compiled.codes:
            self._flags |= code.co_flags & _FUTURES


def _forget(name: str, module: weakref.ref[types.ModuleType], files: set[str]) -> None:
    # Not if another of the same name has come since.
    if sys.modules.get(name, _forget) is module():
        del sys.modules[name]
        for file in files:
            linecache.cache.pop(file, None)
