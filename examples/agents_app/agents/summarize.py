"""Summaries. The one that is shipped needs no model; put yours here."""

from durable_monty.agents import SummarizeAgent

__all__ = ["SummarizeAgent"]
