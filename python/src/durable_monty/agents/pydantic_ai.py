"""Agents made with pydantic-ai (extra `pydantic-ai`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pydantic_ai

from .context import AgentContext
from .plain import prompt_of, to_plain

__all__ = ["PydanticAIAgent"]


class PydanticAIAgent:
    """Gives a pydantic-ai agent the payload's `prompt`.

    >>> register_agent("assistant", PydanticAIAgent(pydantic_ai.Agent(model)))

    `prompt` makes the prompt of the payload, `deps` the dependencies of payload and context. An
    output that is a model is the result; any other stands in it as `output`. Tokens and model are
    reported.
    """

    def __init__(
        self,
        agent: Any,
        *,
        prompt: Callable[[dict[str, Any]], Any] | None = None,
        deps: Callable[[dict[str, Any], AgentContext], Any] | None = None,
    ) -> None:
        if not isinstance(agent, pydantic_ai.agent.AbstractAgent):
            raise TypeError(f"{agent!r} is no pydantic-ai agent")
        self.agent = agent
        self._prompt = prompt
        self._deps = deps

    async def run(self, payload: dict[str, Any], context: AgentContext) -> dict[str, Any]:
        """Runs the agent to its end."""
        prompt = self._prompt(payload) if self._prompt else prompt_of(payload, context.agent)
        deps = self._deps(payload, context) if self._deps else None
        answer = await self.agent.run(prompt, deps=deps)
        usage = answer.usage
        context.report_usage(
            model=answer.response.model_name,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
        )
        output = to_plain(answer.output)
        return output if isinstance(output, dict) else {"output": output}
