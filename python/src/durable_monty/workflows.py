"""Workflows written as ordinary `async def` functions of a module.

>>> @workflow
... async def order(item):
...     price = await quote(item)
...     return await charge(price)
>>> execution_id = order.start(service, "pen")

Its source runs in the sandbox as an ordinary execution, stored at every `await`, in loops as well:
after a crash it continues there. `quote` and `charge`, which the function sees as globals, are the
functions it calls; other workflows that it calls become part of its code.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import textwrap
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar, overload

from .checks import global_names, source_lines
from .errors import InvalidWorkflow
from .functions import FUNCTION_REGISTRY
from .service import OrchestratorService

__all__ = ["Workflow", "playbook", "workflow"]

P = ParamSpec("P")
R = TypeVar("R")


class Workflow(Generic[P, R]):
    """An `async def` that runs durably.

    `code` and `functions` are what `start_execution` takes; `code` has the function's source and
    calls it with the input variables. Called, it runs here and now, without being stored.
    """

    def __init__(
        self,
        function: Callable[P, Coroutine[Any, Any, R]],
        functions: Iterable[str | Callable[..., Any]] = (),
        name: str | None = None,
    ) -> None:
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"{function!r} is no async def: only what awaits can be a workflow")
        functools.update_wrapper(self, function)
        self.function = function
        self.name = name or function.__name__
        self._declared = tuple(functions)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<workflow {self.name}>"

    def start(self, service: OrchestratorService, *args: P.args, **kwargs: P.kwargs) -> str:
        """Starts an execution with these arguments; its id. A worker runs it."""
        inputs = self.inputs(*args, **kwargs)
        return service.start_execution(
            self.code, self.functions, inputs=inputs, workflow_id=self.name
        )

    def inputs(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        """The arguments by name, as inputs of `code`."""
        bound = inspect.signature(self.function).bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)

    @property
    def code(self) -> str:
        """The program: this function, the workflows it calls, and the call of it."""
        parameters = inspect.signature(self.function).parameters.values()
        closure = self._closure()
        imports = _imports(closure)
        taken = _meanings(closure)
        words = []
        for one in parameters:
            if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD, one.POSITIONAL_ONLY):
                raise InvalidWorkflow(
                    f"the workflow {self.name} has the parameter {one}: only parameters with a "
                    "name can be inputs"
                )
            if one.name in taken:
                raise InvalidWorkflow(
                    f"the workflow {self.name} has the parameter {one.name}, and its program "
                    f"has {_shown(taken[one.name])} of this name: rename one of them"
                )
            words.append(f"{one.name}={one.name}")
        call = f"await {self.function.__name__}({', '.join(words)})\n"
        return "\n\n".join([*imports, *(_parts(one.function).source for one in closure), call])

    @property
    def functions(self) -> list[str | Callable[..., Any]]:
        """The functions that the program may call."""
        found: dict[str, str | Callable[..., Any]] = {}
        for one in self._closure():
            for entry in one._declared:
                found[entry if isinstance(entry, str) else entry.__name__] = entry
            for name, value in _globals(one.function).items():
                if not isinstance(value, Workflow) and inspect.isroutine(value):
                    if name in FUNCTION_REGISTRY:
                        found.setdefault(name, name)
                        continue
                    if value.__name__ != name:
                        raise InvalidWorkflow(
                            f"the workflow {self.name} calls {value.__name__} by the name {name}: "
                            "call it by its own"
                        )
                    found.setdefault(name, value)
        return list(found.values())

    def _closure(self) -> list[Workflow[Any, Any]]:
        """This one and the workflows that it calls, directly or not."""
        found: list[Workflow[Any, Any]] = []
        waiting: list[Workflow[Any, Any]] = [self]
        while waiting:
            one = waiting.pop()
            if one in found:
                continue
            found.append(one)
            called = _globals(one.function).values()
            waiting += [value for value in called if isinstance(value, Workflow)]
        return found


@overload
def workflow(function: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
@overload
def workflow(
    *, functions: Iterable[str | Callable[..., Any]] = (), name: str | None = None
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Workflow[P, R]]: ...
def workflow(
    function: Callable[..., Any] | None = None,
    /,
    *,
    functions: Iterable[str | Callable[..., Any]] = (),
    name: str | None = None,
) -> Any:
    """Makes a workflow of an `async def`.

    `functions` adds to those that it sees as globals: registered names, dotted paths, callables.
    """
    if function is not None:
        return Workflow(function, functions, name)
    return lambda function: Workflow(function, functions, name)


playbook = workflow
"""The same under the name that Playbooks has for it."""


class _Parts(NamedTuple):
    source: str
    reads: frozenset[str]
    """The global names that it uses."""
    default_reads: frozenset[str]
    """Those that its defaults use."""


@functools.lru_cache(maxsize=1024)
def _parts(function: Callable[..., Any]) -> _Parts:
    """The source of a function without its decorators, and the global names it uses."""
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError) as error:
        raise InvalidWorkflow(
            f"the source of the workflow {function.__qualname__} can't be read ({error}): it has "
            "to be in a file"
        ) from None
    if function.__code__.co_freevars:
        names = ", ".join(function.__code__.co_freevars)
        raise InvalidWorkflow(
            f"the workflow {function.__qualname__} uses {names} of the function around it: pass "
            "them as arguments"
        )
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.AsyncFunctionDef)
    kept = []
    # From the end, so that what is replaced moves nothing that is still to come.
    for node, value in reversed(_defaults(tree.args, function)):
        written = ast.unparse(node)
        literal = _literal(value)
        if literal is None:
            kept.append(written)
        elif _reads(written):
            source = _replaced(source, node, literal)
    source = "\n".join(source_lines(source)[tree.lineno - 1 :])
    return _Parts(source, _reads(source), _reads("\n".join(kept)))


def _reads(code: str) -> frozenset[str]:
    names = global_names(code)
    assert names is not None, "it was parsed before"
    return names.read


def _defaults(arguments: ast.arguments, function: Callable[..., Any]) -> list[tuple[ast.expr, Any]]:
    """What stands there as a default and what it came to, in the order of the source."""
    by_place = zip(arguments.defaults, function.__defaults__ or (), strict=True)
    by_name = function.__kwdefaults__ or {}
    keywords = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return [*by_place, *((node, by_name[one.arg]) for one, node in keywords if node is not None)]


def _literal(value: Any) -> str | None:
    """How a value is written without any name; None when it can't be."""
    text = repr(value)
    try:
        return text if ast.literal_eval(text) == value else None
    except (ValueError, SyntaxError):
        return None


def _replaced(source: str, node: ast.expr, text: str) -> str:
    """The source with other text in the place of a node. Columns count bytes."""
    lines = source.encode().splitlines(keepends=True)
    assert node.end_lineno is not None
    before = b"".join(lines[: node.lineno - 1]) + lines[node.lineno - 1][: node.col_offset]
    after = lines[node.end_lineno - 1][node.end_col_offset :] + b"".join(lines[node.end_lineno :])
    return (before + text.encode() + after).decode()


def _globals(function: Callable[..., Any]) -> dict[str, Any]:
    """What a function sees of its module, by name."""
    around = function.__globals__
    used = sorted(_parts(function).reads)
    return {
        name: around[name]
        for name in used
        if name in around and not _is_builtin(name, around[name])
    }


def _is_builtin(name: str, value: Any) -> bool:
    return name in vars(builtins) and vars(builtins)[name] is value


def _meanings(workflows: Iterable[Workflow[Any, Any]]) -> dict[str, Any]:
    """What the globals of the program are, by name: it has one module for all its workflows."""
    found: dict[str, Any] = {}
    for one in workflows:
        for name, value in {one.function.__name__: one, **_globals(one.function)}.items():
            if found.setdefault(name, value) is not value:
                raise InvalidWorkflow(
                    f"the name {name} is {_shown(found[name])} and, in the workflow {one.name}, "
                    f"{_shown(value)}: rename one of them"
                )
    return found


def _shown(value: Any) -> str:
    if isinstance(value, Workflow):
        return f"the workflow {value.__module__}.{value.name}"
    home = getattr(value, "__module__", None)
    path = f"{home}.{value.__name__}" if home else value.__name__
    return f"the {type(value).__name__} {path}"


def _imports(workflows: Iterable[Workflow[Any, Any]]) -> list[str]:
    """What the program imports: the modules that its functions use."""
    lines = set()
    for one in workflows:
        for name, value in _globals(one.function).items():
            if inspect.ismodule(value):
                path = value.__name__
                lines.add(f"import {path}" if path == name else f"import {path} as {name}")
            elif not inspect.isroutine(value) and not isinstance(value, Workflow):
                module = getattr(value, "__module__", None)
                if inspect.isclass(value) and module in _MODULES:
                    lines.add(f"from {module} import {value.__name__} as {name}")
                else:
                    where, instead = "", "pass it as an argument"
                    if name in _parts(one.function).default_reads:
                        where, instead = "a default of ", "write a value there"
                    raise InvalidWorkflow(
                        f"{where}the workflow {one.name} uses the global {name}, which is a "
                        f"{type(value).__name__}: {instead}"
                    )
    return sorted(lines)


_MODULES = ("datetime", "dataclasses", "typing")
"""Whose classes programs import."""
