"""The functions that workflows may call: a registry by name, and import by dotted path."""

from __future__ import annotations

import contextvars
import dataclasses
import importlib
import inspect
import json
import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from .errors import InvalidWorkflow
from .failures import error_type_name

__all__ = [
    "FUNCTION_REGISTRY",
    "RetryPolicy",
    "execute_function",
    "get_function",
    "register_function",
]

Function = TypeVar("Function", bound=Callable[..., Any])

FUNCTION_REGISTRY: dict[str, Callable[..., Any]] = {}
"""Functions by name. `register_function` fills it; assigning to it is just as good."""

AGENT_PREFIX = "agent:"
"""What the names of agents begin with among them."""


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """How often and at what distance a failing call is tried again.

    The wait before the second attempt is `initial_interval` seconds; each further wait is
    `backoff` times longer, up to `max_interval`. `jitter` is the share of a wait that is drawn
    at random. Errors whose type name stands in `non_retryable` fail the call at once.
    """

    max_attempts: int = 3
    initial_interval: float = 1.0
    backoff: float = 2.0
    max_interval: float = 100.0
    jitter: float = 0.1
    non_retryable: tuple[str | type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts is {self.max_attempts}, it must be at least 1")
        if self.initial_interval < 0 or self.max_interval < 0:
            raise ValueError("an interval of a retry policy can't be negative")
        if not 1 <= self.backoff < float("inf"):
            raise ValueError(f"backoff is {self.backoff}, it must be at least 1")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is {self.jitter}, it must lie between 0 and 1")

    def _to_wire(self) -> dict[str, Any]:
        return {
            "max_attempts": self.max_attempts,
            "initial_interval_ms": round(self.initial_interval * 1000),
            "backoff_coefficient": float(self.backoff),
            "max_interval_ms": round(self.max_interval * 1000),
            "jitter": float(self.jitter),
            "non_retryable": [
                error_type_name(error) if isinstance(error, type) else error
                for error in self.non_retryable
            ],
        }


_options: dict[str, dict[str, Any]] = {}
"""What `register_function` was told beside the function, in the engine's words."""


def options_of(name: str) -> dict[str, Any]:
    """What was said about how to run a registered function, in the engine's words."""
    return _options.get(name, {})


def register_function(
    name: str, *, retry: RetryPolicy | None = None, timeout: float | None = None
) -> Callable[[Function], Function]:
    """Makes a function, sync or `async def`, callable from workflows under a name.

    `retry` says what happens when it raises (by default the workflow gets the exception at
    once), `timeout` how many seconds one attempt may take.

    >>> @register_function("add")
    ... def add(a, b):
    ...     return a + b
    """
    if not isinstance(name, str):
        raise TypeError('register_function needs a name: @register_function("add")')
    if timeout is not None and timeout <= 0:
        raise ValueError(f"timeout is {timeout}, it must be more than 0 seconds")

    def register(function: Function) -> Function:
        FUNCTION_REGISTRY[name] = function
        options: dict[str, Any] = {}
        if retry is not None:
            options["retry"] = retry._to_wire()
        if timeout is not None:
            options["timeout_ms"] = max(1, round(timeout * 1000))
        _options[name] = options
        return function

    return register


def get_function(path: str) -> Callable[..., Any]:
    """The function registered under a name, or found by a dotted path such as `myapp.tasks.add`.

    Raises KeyError when there is none.
    """
    function = FUNCTION_REGISTRY.get(path)
    if function is not None:
        return function
    if path.startswith(AGENT_PREFIX):
        raise KeyError(_no_agent(path))
    if "." not in path:
        raise KeyError(
            f"Invalid function path '{path}': no function is registered under this name, and a "
            f"full import path has a dot, like 'myapp.tasks.{path}'"
        )
    try:
        found = _import(path)
    except (ImportError, AttributeError) as error:
        raise KeyError(
            f"Could not import function '{path}': {error}. Is the module on this process's path, "
            "and the function defined in it?"
        ) from error
    if not callable(found):
        raise KeyError(f"Could not import function '{path}': it is a {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def execute_function(
    path: str, args: Iterable[Any], kwargs: Mapping[str, Any] | None = None
) -> Any:
    """Calls a function by name or dotted path and returns its result, also that of an
    `async def`, which has an event loop of its own. All a remote worker needs; no database."""
    return finished(get_function(path)(*args, **(kwargs or {})))


def finished(result: Any) -> Any:
    """What a function returned, once it is there: a coroutine is run to its end."""
    if not inspect.iscoroutine(result):
        return result
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(result)
    # A thread has one loop at a time, and that of the caller waits for us.
    context = contextvars.copy_context()
    with ThreadPoolExecutor(1, "durable-monty-function") as thread:
        return thread.submit(context.run, asyncio.run, result).result()


def _import(path: str) -> Any:
    module_name, _, attribute = path.rpartition(".")
    main = sys.modules.get("__main__")
    # A script's own functions: importing the script again would run it twice.
    is_script = main is not None and module_name not in sys.modules
    if is_script and _module_of_main(main) == module_name and hasattr(main, attribute):
        return getattr(main, attribute)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # `pkg.module.Class.method`: the class is no module.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        if "." not in module_name:
            raise
        return getattr(_import(module_name), attribute)
    return getattr(module, attribute)


def importable_module(module: str) -> str:
    """The name under which a module could be imported, also when it is the running script."""
    if module != "__main__":
        return module
    return _module_of_main(sys.modules["__main__"]) or module


def _module_of_main(main: Any) -> str | None:
    """The name under which the running script could be imported."""
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    if file is None:
        return None
    script = Path(file).resolve()
    for entry in sys.path:
        try:
            parts = script.relative_to(Path(entry or ".").resolve()).with_suffix("").parts
        except ValueError:
            continue
        if all(part.isidentifier() for part in parts):
            return ".".join(parts)
    return None


def function_path(function: Callable[..., Any]) -> str:
    """The name by which any worker finds a function: its registered one, or its import path."""
    name = getattr(function, "__name__", "")
    if FUNCTION_REGISTRY.get(name) is function:
        return name
    for registered, other in FUNCTION_REGISTRY.items():
        if other is function:
            return registered
    module_name = getattr(function, "__module__", None)
    qualified = getattr(function, "__qualname__", "")
    if not qualified or module_name is None or "<" in qualified:
        raise InvalidWorkflow(
            f"{function!r} can't be imported by name: give it one with @register_function(…)"
        )
    if module_name == "__main__":
        module_name = _module_of_main(sys.modules["__main__"])
        if module_name is None:
            raise InvalidWorkflow(
                f"'{qualified}' is defined in a script that can't be imported from sys.path: "
                "give it a name with @register_function(…), or move it to a module"
            )
    return f"{module_name}.{qualified}"


def module_of(name: str) -> str | None:
    """The module whose import registers a function under a name, as far as this process knows."""
    module = getattr(FUNCTION_REGISTRY.get(name), "__module__", None)
    return _module_of_main(sys.modules["__main__"]) if module == "__main__" else module


def import_listed() -> None:
    """Imports the modules that the environment variable DURABLE_FUNCTIONS lists."""
    for module in os.environ.get("DURABLE_FUNCTIONS", "").split(","):
        if module.strip():
            importlib.import_module(module.strip())


def find_function(name: str, module: str | None) -> Callable[..., Any]:
    """A function, in a process that may not have imported it yet.

    A name that is not registered is looked for in the modules of the environment variable
    DURABLE_FUNCTIONS (separated by commas), then in `module`. Raises KeyError when it is in none
    of them, and whatever importing them raises.
    """
    if name not in FUNCTION_REGISTRY and "." not in name:
        import_listed()
        if name not in FUNCTION_REGISTRY and module is not None:
            importlib.import_module(module)
        if name not in FUNCTION_REGISTRY and not name.startswith(AGENT_PREFIX):
            raise KeyError(
                f"no function is registered under the name '{name}' in this process: name the "
                "modules that register functions in DURABLE_FUNCTIONS"
            )
    return get_function(name)


def _no_agent(path: str) -> str:
    return (
        f"no agent is registered under the name '{path.removeprefix(AGENT_PREFIX)}' in this "
        "process: import the module that registers it, or name that module in DURABLE_FUNCTIONS"
    )


def declare_functions(
    external_functions: Iterable[str | Callable[..., Any]],
) -> tuple[str, Collection[str]]:
    """The functions of a program as the engine wants them (JSON, options by name), and the names.

    An entry is a registered name, a dotted import path (called by its last part), `agent:` and the
    name of an agent (called by that), or a function.
    Raises InvalidWorkflow for an entry that is none of these. Warns about a bare name that is not
    registered here: its worker may be another process.
    """
    if isinstance(external_functions, str):
        raise InvalidWorkflow(
            f"external_functions is the string {external_functions!r}, it must be a list"
        )
    declared: dict[str, dict[str, Any]] = {}
    unknown = []
    for entry in external_functions:
        name, target = _name_and_target(entry)
        options = _options.get(target, {})
        if target != name:
            options = {"target": target, **options}
        elif name not in FUNCTION_REGISTRY:
            unknown.append(name)
        if declared.setdefault(name, options) != options:
            raise InvalidWorkflow(
                f"two of the external functions are called '{name}': {target} and "
                f"{declared[name].get('target', name)}"
            )
    if unknown:
        warnings.warn(
            f"not registered in this process: {', '.join(unknown)}. Calls will fail unless the "
            "process that runs the worker registers them",
            UserWarning,
            stacklevel=4,
        )
    return json.dumps(declared), declared.keys()


def _name_and_target(entry: str | Callable[..., Any]) -> tuple[str, str]:
    if isinstance(entry, str):
        name = entry if entry in FUNCTION_REGISTRY else entry.rpartition(".")[2]
        if entry.startswith(AGENT_PREFIX):
            name = entry.removeprefix(AGENT_PREFIX).partition("@")[0].replace("-", "_")
        target = entry
    elif callable(entry):
        target = function_path(entry)
        name = getattr(inspect.unwrap(entry), "__name__", target.rpartition(".")[2])
        if target in FUNCTION_REGISTRY:
            # Called by its own name, found by the registered one.
            name = target if target.isidentifier() else name
    else:
        raise InvalidWorkflow(
            f"{entry!r} in external_functions is neither a name, a dotted path nor a function"
        )
    if not name.isidentifier():
        raise InvalidWorkflow(f"{entry!r} in external_functions is no name that code can call")
    return name, target
