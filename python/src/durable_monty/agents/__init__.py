"""Agents: what the steps of a step workflow run, and how it is found, run and checked.

>>> from durable_monty.agents import invoke_agent, register_agent
>>> register_agent("summarize", "durable_monty.agents.SummarizeAgent")
>>> invoke_agent("summarize", {"text": "One sentence."})["summary"]
'One sentence.'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .context import AgentContext
from .invoke import ainvoke_agent, invoke_agent
from .registry import Agent, AgentInfo, describe_agent, list_agents, register_agent

if TYPE_CHECKING:
    from .command import CommandAgent
    from .http import HttpAgent
    from .langgraph import LangGraphAgent
    from .pydantic_ai import PydanticAIAgent
    from .strands import StrandsAgent
    from .text import EntityAgent, SummarizeAgent

__all__ = [
    "Agent",
    "AgentContext",
    "AgentInfo",
    "CommandAgent",
    "EntityAgent",
    "HttpAgent",
    "LangGraphAgent",
    "PydanticAIAgent",
    "StrandsAgent",
    "SummarizeAgent",
    "ainvoke_agent",
    "describe_agent",
    "invoke_agent",
    "list_agents",
    "register_agent",
]

# What is imported when it is first used: each wants packages of its own.
_HOME_OF = {
    "CommandAgent": "command",
    "EntityAgent": "text",
    "HttpAgent": "http",
    "LangGraphAgent": "langgraph",
    "PydanticAIAgent": "pydantic_ai",
    "StrandsAgent": "strands",
    "SummarizeAgent": "text",
}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
