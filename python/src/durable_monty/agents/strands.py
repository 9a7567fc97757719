"""Agents made with Strands (extra `strands`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import strands

from .context import AgentContext
from .plain import prompt_of

__all__ = ["StrandsAgent"]


class StrandsAgent:
    """Makes a Strands agent for each step and gives it the payload's `prompt`.

    >>> register_agent("assistant", StrandsAgent(lambda: strands.Agent(model=model)))

    `agent` is a function that makes one: a Strands agent remembers its conversation, so steps must
    not share it. `prompt` makes the prompt of the payload. The result has `text`, `stop_reason`
    and, when the agent has an output model, `output`. Tokens and model are reported.
    """

    def __init__(
        self,
        agent: Callable[[], Any],
        *,
        prompt: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        if isinstance(agent, strands.Agent) or not callable(agent):
            raise TypeError(
                f"{type(agent).__name__} is no function that makes an agent: give "
                "StrandsAgent(lambda: strands.Agent(…)), so that each step has a conversation of "
                "its own"
            )
        self._make = agent
        self._prompt = prompt

    async def run(self, payload: dict[str, Any], context: AgentContext) -> dict[str, Any]:
        """Runs a new agent to its end."""
        prompt = self._prompt(payload) if self._prompt else prompt_of(payload, context.agent)
        agent = self._make()
        answer = await agent.invoke_async(prompt)
        usage = answer.metrics.accumulated_usage
        context.report_usage(
            model=_model_of(agent),
            input_tokens=usage.get("inputTokens", 0),
            output_tokens=usage.get("outputTokens", 0),
        )
        blocks = answer.message.get("content", [])
        result: dict[str, Any] = {
            "text": "\n".join(block["text"] for block in blocks if "text" in block),
            "stop_reason": answer.stop_reason,
        }
        if answer.structured_output is not None:
            result["output"] = answer.structured_output.model_dump(mode="json")
        return result


def _model_of(agent: Any) -> str | None:
    config = agent.model.get_config()
    model = config.get("model_id") if isinstance(config, dict) else None
    return None if model is None else str(model)
