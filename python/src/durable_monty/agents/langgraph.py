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
    result messages are plain data. The graph's thread is the step's idempotency key: give `config`
    to have it another way. With a checkpointer, an attempt goes on where an earlier one of the step
    stopped, without a further input; nodes that have finished are not run again. Tokens and model
    of the messages that the run adds are reported.

    A graph that stops at an interrupt fails the attempt: a step has nobody who answers. For the
    same reason it can't be compiled with `interrupt_before` or `interrupt_after`.
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
        if getattr(graph, "interrupt_before_nodes", ()) or getattr(
            graph, "interrupt_after_nodes", ()
        ):
            raise ValueError(
                "the graph stops at interrupt_before or interrupt_after, and a step has nobody who "
                "lets it go on: compile it without"
            )
        self.graph = graph
        self.config = dict(config or {})
        self._input = input
        self._output = output

    async def run(self, payload: dict[str, Any], context: AgentContext) -> dict[str, Any]:
        """Runs the graph to its end."""
        given = payload if self._input is None else self._input(payload)
        before = _ids(given)
        config = self._configured(context)
        if getattr(self.graph, "checkpointer", None):
            kept = await self.graph.aget_state(config)
            before |= _ids(kept.values)
            # What another step has left unfinished in a thread that they share is not ours.
            is_ours = (kept.metadata or {}).get("idempotency_key") == context.idempotency_key
            if kept.next and is_ours:
                given = None
        state = await self.graph.ainvoke(given, config)
        if isinstance(state, dict) and "__interrupt__" in state:
            asked = ", ".join(f"{interrupt.value!r:.200}" for interrupt in state["__interrupt__"])
            raise RuntimeError(
                f"agent '{context.agent}': the graph stopped at an interrupt ({asked}), and a step "
                "has nobody who answers: end the graph there, and go on in another step"
            )
        for message in _messages(state):
            if message.id is None or message.id not in before:
                _report(message, context)
        found = state if self._output is None else self._output(state)
        plain = to_plain(found)
        return plain if isinstance(plain, dict) else {"output": plain}

    def _configured(self, context: AgentContext) -> dict[str, Any]:
        own = self.config.get("configurable", {})
        facts = {
            "execution_id": context.execution_id,
            "attempt": context.attempt,
            "idempotency_key": context.idempotency_key,
        }
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
