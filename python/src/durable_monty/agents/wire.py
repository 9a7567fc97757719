"""What agents outside of this process are told, and how their answer is read."""

from __future__ import annotations

import json
from typing import Any

from .context import AgentContext

__all__ = ["facts_of", "read_result", "write_payload"]


def facts_of(context: AgentContext) -> dict[str, str]:
    """The facts of a context as text, but for the idempotency key."""
    facts = {
        "execution": context.execution_id or None,
        "step": context.step,
        "attempt": str(context.attempt),
        "deadline": None if context.deadline is None else f"{context.deadline:.3f}",
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def write_payload(payload: dict[str, Any], who: str) -> bytes:
    """A payload as plain JSON. Raises TypeError for what plain JSON has no word for."""
    try:
        return json.dumps(payload, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise TypeError(f"{who} takes plain JSON, which the payload is not: {error}") from error


def read_result(text: bytes, who: str) -> dict[str, Any]:
    """The JSON object of an answer. Raises ValueError, or TypeError when it is no object."""
    try:
        result = json.loads(text)
    except ValueError as error:
        shown = text[:200].decode(errors="replace").strip()
        raise ValueError(f"{who} what is no JSON ({error}): {shown!r}") from None
    if not isinstance(result, dict):
        raise TypeError(f"{who} a JSON {type(result).__name__}, it must be an object")
    return result
