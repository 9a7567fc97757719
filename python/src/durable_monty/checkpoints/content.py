"""Checkpoints as JSON text and back: the mapping of docs/VALUES.md, and pydantic models."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from .. import values
from ..errors import Corrupt
from .provider import Checkpoint, InvalidCheckpoint

__all__ = ["CheckpointWarning", "decode", "encode", "savable"]

Policy = Literal["error", "warn"]

_CODE = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
)
_PARTS = ("execution_state", "namespace", "metadata")


class CheckpointWarning(UserWarning):
    """Something was not saved, or not read, and the warning names it."""


def savable(
    namespace: Mapping[str, Any], policy: Policy, what: str = "namespace"
) -> tuple[dict[str, Any], dict[str, str]]:
    """What of a namespace can be saved, and why the rest can't.

    Code (modules, functions, classes) and names with two leading underscores are no state and left
    out, functions and classes included. What else has no JSON form is an error, or by policy a
    warning.
    """
    kept: dict[str, Any] = {}
    unsaved: dict[str, str] = {}
    for name, value in namespace.items():
        if isinstance(value, _CODE) or name.startswith("__"):
            continue
        try:
            _text(value, f"{what}[{name!r}]")
        except TypeError as error:
            unsaved[name] = str(error)
        else:
            kept[name] = value
    if unsaved:
        message = "not saved: " + "; ".join(unsaved.values())
        if policy == "error":
            raise InvalidCheckpoint(message)
        warnings.warn(message, CheckpointWarning, stacklevel=4)
    return kept, unsaved


def encode(
    checkpoint_id: str,
    execution_state: dict[str, Any],
    namespace: dict[str, Any],
    metadata: dict[str, Any],
) -> str:
    """The JSON text of a checkpoint."""
    members = (execution_state, namespace, metadata)
    try:
        texts = (
            f'"{name}":{_text(dict(part), name)}'
            for name, part in zip(_PARTS, members, strict=True)
        )
        return "{" + ",".join(texts) + "}"
    except TypeError as error:
        raise InvalidCheckpoint(f"checkpoint {checkpoint_id}: {error}") from None


def decode(checkpoint_id: str, text: str, known: Iterable[type] = ()) -> Checkpoint:
    """The checkpoint of a JSON text. Dataclasses and models of the known types become those again,
    others become look-alikes with the same name and fields."""
    by_name = {kind.__name__: kind for kind in known}

    def untagged(members: dict[str, Any]) -> Any:
        if by_name and len(members) == 1:
            [(tag, content)] = members.items()
            if tag in ("$dataclass", "$object") and isinstance(content, dict):
                kind = by_name.get(content.get("name", ""))
                if kind is not None:
                    return _revived(kind, content["fields"])
        return values._untagged(members)

    try:
        parts = json.loads(text, object_hook=untagged)
        state, namespace, metadata = (parts[name] for name in _PARTS)
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"checkpoint {checkpoint_id} can't be read: {error}") from error
    return Checkpoint(
        checkpoint_id=checkpoint_id,
        execution_state=state,
        namespace=namespace,
        metadata=metadata,
    )


def _revived(kind: type, fields: dict[str, Any]) -> Any:
    validate: Callable[..., Any] | None = getattr(kind, "model_validate", None)
    if validate is not None:
        return validate(fields)
    given = {field.name for field in dataclasses.fields(kind) if field.init}
    value = kind(**{name: field for name, field in fields.items() if name in given})
    for name in fields.keys() - given:
        object.__setattr__(value, name, fields[name])
    return value


def _text(value: Any, name: str) -> str:
    try:
        return values.encode(value, name)
    except TypeError:
        # Looked for only when there is something: most checkpoints hold no models.
        plain = _without_models(value)
        if plain is value:
            raise
        return values.encode(plain, name)


def _is_model(value: Any) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(value, pydantic.BaseModel)


def _without_models(value: Any, depth: int = 0) -> Any:
    """The value with pydantic models as plain objects; the same value when it holds none."""
    if depth > values.MAX_DEPTH:
        return value
    if _is_model(value):
        kind: Any = types.new_class(type(value).__name__, (types.SimpleNamespace,))
        return kind(**{name: _without_models(item, depth + 1) for name, item in value})
    if type(value) is dict:
        items = {key: _without_models(item, depth + 1) for key, item in value.items()}
        return items if any(items[key] is not value[key] for key in items) else value
    if type(value) in (list, tuple):
        parts = [_without_models(item, depth + 1) for item in value]
        changed = any(new is not old for new, old in zip(parts, value, strict=True))
        return type(value)(parts) if changed else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: _without_models(getattr(value, field.name), depth + 1)
            for field in dataclasses.fields(value)
        }
        if all(getattr(value, name) is item for name, item in fields.items()):
            return value
        return values._dataclass_type(type(value).__name__, tuple(fields))(**fields)
    return value
