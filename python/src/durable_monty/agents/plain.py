"""What frameworks return, as plain data."""

from __future__ import annotations

from typing import Any

__all__ = ["prompt_of", "to_plain"]


def to_plain(value: Any) -> Any:
    """Pydantic models become dicts, everywhere in a value."""
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    dump = getattr(value, "model_dump", None)
    return value if dump is None or isinstance(value, type) else dump(mode="json")


def prompt_of(payload: dict[str, Any], agent: str) -> Any:
    """The `prompt` of a payload. Raises ValueError when it has none."""
    if "prompt" not in payload:
        given = ", ".join(sorted(payload)) or "nothing"
        raise ValueError(
            f"agent '{agent}' needs 'prompt' in its payload, which has {given}: or say prompt= "
            "when you make it"
        )
    return payload["prompt"]
