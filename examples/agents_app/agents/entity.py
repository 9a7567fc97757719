"""Entities. The agent that is shipped needs no model; put yours here."""

from durable_monty.agents import EntityAgent

__all__ = ["EntityAgent"]
