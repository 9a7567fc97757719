"""Running an agent, whatever it is made with."""

from __future__ import annotations

import inspect
from typing import Any

from ..functions import finished
from .context import AgentContext
from .registry import find_agent

__all__ = ["ainvoke_agent", "invoke_agent"]


def invoke_agent(
    name: str, payload: dict[str, Any], context: AgentContext | None = None
) -> dict[str, Any]:
    """Runs the agent registered under a name (`name` or `name@version`) and returns its result.

    This is what a step does. The payload and the result are checked; what the agent reported about
    its run stands in the result under `agent_metadata`. Without a context it gets that of the call
    that is served, or one of its own.

    Raises KeyError for an unknown agent, ValueError for a payload or result that does not fit the
    agent's models, TypeError for a result that is no dict, and whatever the agent raises. Waits
    for an `async def` agent: in coroutines use `ainvoke_agent`.
    """
    result: dict[str, Any] = finished(_invoke(name, payload, context))
    return result


async def ainvoke_agent(
    name: str, payload: dict[str, Any], context: AgentContext | None = None
) -> dict[str, Any]:
    """`invoke_agent` for coroutines."""
    result = _invoke(name, payload, context)
    if inspect.isawaitable(result):
        result = await result
    found: dict[str, Any] = result
    return found


def _invoke(name: str, payload: dict[str, Any], context: AgentContext | None) -> Any:
    return find_agent(name).invoke(payload, context or AgentContext.of_call(name))
