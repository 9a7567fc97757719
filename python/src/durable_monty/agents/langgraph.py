"""Agents that are LangGraph graphs (extra `langgraph`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.messages import BaseMessage

from .context import AgentContext
from .plain import to_plain

__all__ = ["LangGraphAgent"]


class LangGraphAgent:
    """Runs a compiled graph. The payload is its input, its final state is the result.

    >>> register_agent("assistant", LangGraphAgent(builder.compile()))

    `input` makes the graph's input of the payload, `output` the result of the final state. In the
    result messages are plain data. The graph's thread is the step's idempotency key, so that with a
    checkpointer a further attempt goes on where the last one was: give `config` to have it another
    way. Tokens and model of the messages that the run adds are reported.
    """

    def __init__(
        self,
        graph: Any,
        *,
        input: Callable[[dict[str, Any]], Any] | None = None,  # noqa: A002 (LangGraph's word)
        output: Callable[[Any], dict[str, Any]] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        if not callable(getattr(graph, "ainvoke", None)):
            raise TypeError(f"{graph!r} is no compiled graph: call .compile() on the builder")
        self.graph = graph
        self.config = dict(config or {})
        self._input = input
        self._output = output

    async def run(self, payload: dict[str, Any], context: AgentContext) -> dict[str, Any]:
        """Runs the graph to its end."""
        given = payload if self._input is None else self._input(payload)
        before = _ids(given)
        state = await self.graph.ainvoke(given, self._configured(context))
        for message in _messages(state):
            if message.id is None or message.id not in before:
                _report(message, context)
        found = state if self._output is None else self._output(state)
        plain = to_plain(found)
        return plain if isinstance(plain, dict) else {"output": plain}

    def _configured(self, context: AgentContext) -> dict[str, Any]:
        own = self.config.get("configurable", {})
        facts = {"execution_id": context.execution_id, "attempt": context.attempt}
        return {
            **self.config,
            "configurable": {"thread_id": context.idempotency_key, **own},
            "metadata": {**facts, **self.config.get("metadata", {})},
        }


def _messages(state: Any) -> list[BaseMessage]:
    members = state.values() if isinstance(state, dict) else vars(state).values()
    lists = [member for member in members if isinstance(member, list)]
    return [item for members in lists for item in members if isinstance(item, BaseMessage)]


def _ids(given: Any) -> set[str | None]:
    return {message.id for message in _messages(given)} if isinstance(given, dict) else set()


def _report(message: BaseMessage, context: AgentContext) -> None:
    usage = getattr(message, "usage_metadata", None)
    model = message.response_metadata.get("model_name")
    if usage or model:
        usage = usage or {}
        context.report_usage(
            model=model,
            input_tokens=usage.get("input_tokens", 0),
            output_tokens=usage.get("output_tokens", 0),
        )
