"""Checkpoints as JSON text and back: the mapping of docs/VALUES.md, and pydantic models."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from .. import values
from ..errors import Corrupt
from .provider import Checkpoint, InvalidCheckpoint

__all__ = ["CheckpointWarning", "build_model", "decode", "encode", "savable"]

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
        if not isinstance(name, str):
            raise InvalidCheckpoint(f"not saved: {what} has the name {name!r}, which is no text")
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
    others become look-alikes with the same name and fields.

    Raises `Corrupt` for what is no text of a checkpoint, and `InvalidCheckpoint` when one of the
    known types can't be made of what was saved: an older checkpoint would be no better.
    """
    by_name = {kind.__name__: kind for kind in known}

    def untagged(members: dict[str, Any]) -> Any:
        if by_name and len(members) == 1:
            [(tag, content)] = members.items()
            if tag in ("$dataclass", "$object") and isinstance(content, dict):
                kind = by_name.get(content.get("name", ""))
                if kind is not None:
                    fields = dict(content["fields"])
                    try:
                        return _revived(kind, fields)
                    except Exception as error:
                        raise InvalidCheckpoint(
                            f"checkpoint {checkpoint_id}: no {kind.__qualname__} can be made of "
                            f"{', '.join(fields) or 'no fields'}: {error}: give the class the "
                            "fields that it had, or leave it out of `types`"
                        ) from error
        return values._untagged(members)

    try:
        parts = json.loads(text, object_hook=untagged)
        state, namespace, metadata = (parts[name] for name in _PARTS)
    except InvalidCheckpoint:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"checkpoint {checkpoint_id} can't be read: {error}") from error
    return Checkpoint(
        checkpoint_id=checkpoint_id,
        execution_state=state,
        namespace=namespace,
        metadata=metadata,
    )


def _revived(kind: Any, fields: dict[str, Any]) -> Any:
    """An instance of a class. Fields that it got since have their defaults."""
    if hasattr(kind, "model_fields"):
        return _revived_model(kind, fields)
    given = {field.name for field in dataclasses.fields(kind) if field.init}
    value = kind(**{name: field for name, field in fields.items() if name in given})
    for name in fields.keys() - given:
        object.__setattr__(value, name, fields[name])
    return value


def _revived_model(kind: Any, fields: dict[str, Any]) -> Any:
    # As it was, and not validated: validators and aliases are for what comes from outside.
    values = {}
    for name, field in kind.model_fields.items():
        if name in fields:
            values[name] = fields[name]
        elif field.is_required():
            raise TypeError(f"{name} is missing")
        else:
            values[name] = field.get_default(call_default_factory=True)
    more = {name: value for name, value in fields.items() if name not in values}
    extra = kind.model_config.get("extra")
    if more and extra == "forbid":
        raise TypeError(f"it has no {', '.join(more)}")
    state = {
        "__dict__": values,
        "__pydantic_fields_set__": fields.keys() & values.keys(),
        "__pydantic_extra__": more if extra == "allow" else None,
        "__pydantic_private__": None,
    }
    value = build_model(kind, state)
    value.model_post_init(None)  # makes private attributes
    return value


def build_model(kind: Any, state: dict[str, Any]) -> Any:
    """The instance of a pydantic model that has this state. No validator runs."""
    value = kind.__new__(kind)
    value.__setstate__(state)
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
        saved = [name for name in type(value).model_fields if name in vars(value)]
        members = {name: vars(value)[name] for name in saved} | (value.model_extra or {})
        return kind(**{name: _without_models(item, depth + 1) for name, item in members.items()})
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
