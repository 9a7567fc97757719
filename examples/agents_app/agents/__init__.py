"""The application's agents, by the names that workflows use.

An agent is anything with `run(payload, context) -> dict`: a class or its path, an object, or a
function.
"""

from durable_monty.agents import list_agents, register_agent

__all__ = ["list_agents", "register_agent"]

register_agent("summarize", "agents.summarize.SummarizeAgent")
register_agent("entity", "agents.entity.EntityAgent")
