"""Agents by name."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import inspect
import re
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable
from types import CoroutineType
from typing import Any, Protocol, TypeVar, overload

from ..errors import Conflict, InvalidWorkflow
from ..functions import AGENT_PREFIX as PREFIX
from ..functions import FUNCTION_REGISTRY, RetryPolicy, importable_module, register_function
from ..suggest import nearest
from .context import METADATA, AgentContext
from .schema import check, model_of

__all__ = ["Agent", "AgentInfo", "describe_agent", "list_agents", "register_agent"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

Kind = TypeVar("Kind", bound=Callable[..., Any])


class Agent(Protocol):
    """Anything with a `run`, sync or `async def`.

    It may run more than once for one step (after a crash, or when it is retried), always with the
    same `context.idempotency_key`. What it raises fails the attempt.
    """

    def run(
        self, payload: dict[str, Any], context: AgentContext
    ) -> dict[str, Any] | Awaitable[dict[str, Any]]: ...


@dataclasses.dataclass(frozen=True)
class AgentInfo:
    """What is known about an agent."""

    name: str
    version: str
    """Of the one that is used when none is asked for."""
    versions: tuple[str, ...]
    """All that are registered, in the order in which they were."""
    path: str
    """Where it comes from."""
    input_schema: dict[str, Any] | None
    """JSON schema of the payload, when it declares one."""
    output_schema: dict[str, Any] | None
    """JSON schema of the result, when it declares one."""


@overload
def register_agent(
    name: str,
    agent: None = None,
    *,
    version: str = "1",
    input_model: Any = None,
    output_model: Any = None,
    retry: RetryPolicy | None = None,
    timeout: float | None = None,
    replace: bool = False,
) -> Callable[[Kind], Kind]: ...


@overload
def register_agent(
    name: str,
    agent: str | type[Any] | Agent | Callable[..., Any],
    *,
    version: str = "1",
    input_model: Any = None,
    output_model: Any = None,
    retry: RetryPolicy | None = None,
    timeout: float | None = None,
    replace: bool = False,
) -> None: ...


def register_agent(
    name: str,
    agent: Any = None,
    *,
    version: str = "1",
    input_model: Any = None,
    output_model: Any = None,
    retry: RetryPolicy | None = None,
    timeout: float | None = None,
    replace: bool = False,
) -> Any:
    """Makes an agent known under a name, for steps and for `invoke_agent`.

    `agent` is a class (made once, without arguments, when it is first needed), the dotted path of
    one (imported then), an object with `run(payload, context)`, or a function of these two. Left
    out, this is a decorator.

    >>> register_agent("summarize", "durable_monty.agents.SummarizeAgent")
    >>> @register_agent("greet")
    ... def greet(payload, context):
    ...     return {"greeting": f"Hello {payload['name']}"}

    A step that names `summarize` gets the version registered last, `summarize@1` just that one.
    `input_model` and `output_model` are pydantic models for payload and result, over those that a
    class declares in attributes of these names. `retry` and `timeout` (seconds of an attempt) hold
    for steps that say nothing else.

    Raises Conflict when another agent has this name and version, unless `replace` is true, and
    InvalidWorkflow for a name or an agent that can't be one.
    """
    home = sys._getframe(1).f_globals.get("__name__", "__main__")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidWorkflow(
            f"{name!r} can't be the name of an agent: letters, digits, '_' and '-' can be in it"
        )
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise InvalidWorkflow(
            f"{version!r} can't be a version of agent '{name}': a text of letters, digits, '_' "
            "and '-' can"
        )

    def register(agent: Any) -> Any:
        function = AgentFunction(name, version, agent, home, (input_model, output_model))
        known = FUNCTION_REGISTRY.get(f"{PREFIX}{name}@{version}")
        if known is not None and not replace:
            if isinstance(known, AgentFunction) and known.identity == function.identity:
                return agent
            raise Conflict(
                f"agent '{name}' version {version} is registered already, as {_shown(known)}: "
                "give this one another version, or say replace=True"
            )
        for target in (f"{PREFIX}{name}@{version}", f"{PREFIX}{name}"):
            register_function(target, retry=retry, timeout=timeout)(function)
        return agent

    if agent is None:
        return register
    register(agent)
    return None


def list_agents() -> list[str]:
    """The names of all agents that this process knows."""
    return sorted({function.name for function in _registered()})


def describe_agent(name: str) -> AgentInfo:
    """What is known about an agent (`name` or `name@version`); imports it.

    Raises KeyError, with the names there are, when it is not known.
    """
    function = find_agent(name)
    versions = {one.version: None for one in _registered() if one.name == function.name}
    schemas = [model and model.model_json_schema() for model in function.models()]
    return AgentInfo(
        name=function.name,
        version=function.version,
        versions=tuple(versions),
        path=function.path,
        input_schema=schemas[0],
        output_schema=schemas[1],
    )


def find_agent(name: str) -> AgentFunction:
    """The agent of a name. Raises KeyError when it is not known."""
    function = FUNCTION_REGISTRY.get(PREFIX + name)
    if isinstance(function, AgentFunction):
        return function
    raise KeyError(unknown_agent(name))


def unknown_agent(name: str) -> str:
    """What to tell somebody who asked for an agent that is not there."""
    known = list_agents()
    if not known:
        there = "no agent is registered in this process: import the module that does"
    else:
        close = nearest(name, known)
        there = f"did you mean '{close}'?" if close else f"there are {', '.join(known)}"
    return f"there is no agent '{name}': {there}"


def names_with_versions() -> Iterable[str]:
    """Every name that a step may ask for."""
    # Also functions that were registered as `agent:NAME`.
    targets = [target for target in FUNCTION_REGISTRY if target.startswith(PREFIX)]
    return [target.removeprefix(PREFIX) for target in targets]


def _registered() -> Iterable[AgentFunction]:
    return [one for one in FUNCTION_REGISTRY.values() if isinstance(one, AgentFunction)]


def _shown(function: Any) -> str:
    return function.path if isinstance(function, AgentFunction) else repr(function)


class AgentFunction:
    """An agent as a function that executors can call with a payload."""

    def __init__(
        self, name: str, version: str, agent: Any, home: str, models: tuple[Any, Any]
    ) -> None:
        self.name = name
        self.version = version
        self.path, self.identity = _identified(name, agent)
        # As a decorated function has them: who registers it, for processes that must import that.
        self.__name__ = name
        self.__module__ = home
        self._agent = agent
        self._given_models = models
        self._ready: tuple[Callable[..., Any], Any, Any] | None = None
        self._making = threading.RLock()

    def __call__(self, payload: Any) -> Any:
        """Runs the agent for the call that is served. A coroutine, when the agent is one."""
        return self.invoke(payload, AgentContext.of_call(self.name))

    def models(self) -> tuple[Any, Any]:
        """The pydantic models of payload and result, None where there is none."""
        _, takes, gives = self._ready or self._prepare()
        return takes, gives

    def invoke(self, payload: Any, context: AgentContext) -> Any:
        """Runs the agent. What comes back is its result, checked, or a coroutine of that."""
        run, takes, _ = self._ready or self._prepare()
        if not isinstance(payload, dict):
            raise TypeError(
                f"the payload of agent '{self.name}' is a {type(payload).__name__}, it must be a "
                "dict"
            )
        if takes is not None:
            payload = check(takes, payload, f"the payload of agent '{self.name}'")
        result = run(payload, context)
        if type(result) is CoroutineType or inspect.isawaitable(result):
            return self._finish(result, context)
        return self._checked(result, context)

    async def _finish(self, result: Awaitable[Any], context: AgentContext) -> dict[str, Any]:
        left = context.remaining()
        if left is None:
            return self._checked(await result, context)
        try:
            found = await asyncio.wait_for(result, left)
        except asyncio.TimeoutError:
            if not context.remaining():
                late = f"agent '{self.name}' did not return before its deadline and was cancelled"
                raise TimeoutError(late) from None
            raise
        return self._checked(found, context)

    def _checked(self, result: Any, context: AgentContext) -> dict[str, Any]:
        gives = self._ready[2] if self._ready else None
        is_checked = gives is not None and isinstance(result, gives)
        if is_checked:
            result = result.model_dump(mode="json")
        if not isinstance(result, dict):
            raise TypeError(
                f"agent '{self.name}' returned {_article(result)}, it must return a dict"
            )
        if gives is not None and not is_checked:
            metadata = result.get(METADATA)
            result = check(gives, result, f"the result of agent '{self.name}'")
            if metadata is not None:
                result[METADATA] = metadata
        return self._with_metadata(result, context.metadata())

    def _with_metadata(self, result: dict[str, Any], reported: dict[str, Any]) -> dict[str, Any]:
        own = result.get(METADATA, {})
        if not isinstance(own, dict):
            raise TypeError(
                f"agent '{self.name}' returned {_article(own)} as '{METADATA}', it must be a dict"
            )
        return {**result, METADATA: {**own, **reported}} if reported else result

    def _prepare(self) -> tuple[Callable[..., Any], Any, Any]:
        agent = self._agent
        if isinstance(agent, str):
            agent = _imported(self.name, agent)
        takes = model_of(agent, "input_model", self._given_models[0])
        gives = model_of(agent, "output_model", self._given_models[1])
        # Not while it is imported: whoever imports may wait for another thread's import.
        with self._making:
            if self._ready is None:
                self._ready = (self._made(agent), takes, gives)
            return self._ready

    def _made(self, agent: Any) -> Callable[..., Any]:
        """What is called to run the agent."""
        if isinstance(agent, type):
            try:
                agent = agent()
            except TypeError as error:
                raise InvalidWorkflow(
                    f"{self.path}, the class of agent '{self.name}', can't be made without "
                    f"arguments ({error}): register an instance"
                ) from error
        run = getattr(agent, "run", None)
        return run if callable(run) else agent  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"<agent {self.name}@{self.version} {self.path}>"


def _identified(name: str, agent: Any) -> tuple[str, Any]:
    """Where an agent comes from, and what is equal for the same one only."""
    if isinstance(agent, str):
        if "." not in agent or not all(part.isidentifier() for part in agent.split(".")):
            raise InvalidWorkflow(
                f"{agent!r} can't be the agent '{name}': the path of a class has a dot, like "
                "'myapp.agents.Summarize'"
            )
        return agent, agent
    is_agent = isinstance(agent, type) or inspect.isroutine(agent)
    if isinstance(agent, type) and not callable(getattr(agent, "run", None)):
        raise InvalidWorkflow(f"{agent!r} can't be the agent '{name}': it has no method run")
    if is_agent:
        path = f"{importable_module(agent.__module__)}.{agent.__qualname__}"
        # What is defined within a function is another one each time.
        return path, id(agent) if "<" in path else path
    if not callable(getattr(agent, "run", None)):
        raise InvalidWorkflow(
            f"{agent!r} can't be the agent '{name}': give an object with a method run, its class, "
            "the class's dotted path, or a function"
        )
    return f"an instance of {type(agent).__module__}.{type(agent).__qualname__}", id(agent)


def _imported(name: str, path: str) -> Any:
    module, _, attribute = path.rpartition(".")
    try:
        agent = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InvalidWorkflow(f"agent '{name}' can't be imported from {path}: {error}") from error
    if not callable(agent) and not callable(getattr(agent, "run", None)):
        raise InvalidWorkflow(f"agent '{name}': {path} is {_article(agent)}, which has no run")
    return agent


def _article(value: Any) -> str:
    if value is None:
        return "None"
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
