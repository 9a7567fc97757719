"""Loops at the left margin, pass by pass, so that each pass can be followed by a checkpoint."""

from __future__ import annotations

import ast
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from .program import Compiled, Program

__all__ = ["Loop", "Progress"]

_BY_INDEX = (list, tuple, range, str)
_AT_ONCE: tuple[type, ...] = (
    dict,
    set,
    frozenset,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
)
"""What may not change while a loop goes over it: its items are taken at the beginning."""

_ITEM, _FELL, _OVER = "__streamed_item__", "__streamed_fell__", "__streamed_over__"


@dataclass
class Progress:
    """Where a loop is."""

    passes: int = 0
    """How many passes have ended."""
    over: Any = None
    """What a `for` goes over; None while that is not known."""
    first: int | None = None
    """What its `enumerate` counts from."""


class Loop:
    """A `while` or a `for` that awaits."""

    def __init__(self, program: Program, compiled: Compiled, file: str) -> None:
        self._program = program
        self._file = file
        node: Any = compiled.nodes[0]
        self._node = node
        program.own_names |= {_ITEM, _FELL, _OVER}
        # One turn of a loop of its own: `continue` ends it, `break` does not come to the `else`.
        fell = ast.Assign([ast.Name(_FELL, ast.Store())], ast.Constant(True))
        over = ast.Tuple([ast.Name(_ITEM, ast.Load())], ast.Load())
        target = getattr(node, "target", None) or ast.Name(_ITEM, ast.Store())
        self._pass = self._statement(self._here(ast.For(target, over, node.body, [fell])))

    @staticmethod
    def is_one(compiled: Compiled) -> bool:
        """Whether a statement is a loop that awaits."""
        return compiled.awaits and all(
            isinstance(one, (ast.For, ast.While)) for one in compiled.nodes
        )

    async def run(self, progress: Progress, save: Callable[[], Awaitable[None]]) -> None:
        """Goes on from where it is; `save` is called after each pass."""
        names = self._program.namespace
        try:
            if isinstance(self._node, ast.While):
                goes_on = self._while(progress, save)
            else:
                goes_on = self._for(progress, save)
            if await goes_on:
                for statement in self._node.orelse:
                    await self._program.run_code(self._statement(statement))
        finally:
            for name in (_ITEM, _FELL, _OVER):
                names.pop(name, None)

    async def _while(self, progress: Progress, save: Callable[[], Awaitable[None]]) -> bool:
        test = self._expression(self._node.test)
        while await self._program.run_code(test):
            if not await self._one_pass(None):
                return False
            progress.passes += 1
            await save()
        return True

    async def _for(self, progress: Progress, save: Callable[[], Awaitable[None]]) -> bool:
        if progress.over is None:
            over: Any
            over, progress.first = await self._begin()
            if issubclass(type(over), _AT_ONCE):
                over = list(over)
            if type(over) not in _BY_INDEX:
                return await self._without_passes(over)
            progress.over = over
        # As a `for` does it: the length is looked at before each pass.
        while progress.passes < len(progress.over):
            item = progress.over[progress.passes]
            if progress.first is not None:
                item = (progress.first + progress.passes, item)
            if not await self._one_pass(item):
                return False
            progress.passes += 1
            await save()
        return True

    async def _one_pass(self, item: Any) -> bool:
        """Whether the loop goes on after it."""
        names = self._program.namespace
        names[_ITEM], names[_FELL] = item, False
        await self._program.run_code(self._pass)
        return bool(names[_FELL])

    async def _begin(self) -> tuple[Any, int | None]:
        """What the loop goes over; and of `enumerate(values, first)` these two."""
        call, names = self._node.iter, self._program.namespace
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and call.func.id == "enumerate"
            and "enumerate" not in names
            and len(call.args) == 1
            and all(keyword.arg == "start" for keyword in call.keywords)
            and not isinstance(call.args[0], ast.Starred)
        ):
            over = await self._program.run_code(self._expression(call.args[0]))
            first = 0
            for keyword in call.keywords:
                first = await self._program.run_code(self._expression(keyword.value))
            if type(over) in (*_BY_INDEX, *_AT_ONCE) and type(first) is int:
                return over, first
            return enumerate(over, first), None
        return await self._program.run_code(self._expression(call)), None

    async def _without_passes(self, over: Any) -> bool:
        """An iterator can't be saved: the loop is run as one."""
        self._program.namespace[_OVER] = over
        fell = ast.Assign([ast.Name(_FELL, ast.Store())], ast.Constant(True))
        self._program.namespace[_FELL] = False
        whole = ast.For(self._node.target, ast.Name(_OVER, ast.Load()), self._node.body, [fell])
        await self._program.run_code(self._statement(self._here(whole)))
        return bool(self._program.namespace[_FELL])

    def _here(self, node: ast.For) -> ast.For:
        """A statement of this file's making, at the place of the loop."""
        return ast.fix_missing_locations(ast.copy_location(node, self._node))

    def _statement(self, node: ast.stmt) -> Any:
        return self._program.compile_part(ast.Module([node], []), self._file)

    def _expression(self, node: ast.expr) -> Any:
        return self._program.compile_part(ast.Expression(node), self._file)
