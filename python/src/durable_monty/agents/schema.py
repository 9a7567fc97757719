"""What an agent takes and gives, checked at its border by pydantic models."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from ..errors import InvalidWorkflow

__all__ = ["Model", "check", "model_of"]


@runtime_checkable
class Model(Protocol):
    """A pydantic model class, as far as it is needed here."""

    def model_validate(self, obj: Any, /) -> Any: ...
    def model_json_schema(self) -> dict[str, Any]: ...


def model_of(agent: Any, attribute: str, given: Any) -> type[Any] | None:
    """The model that was given, else the one that the agent declares; None when there is none.

    Raises InvalidWorkflow for one that is no pydantic model.
    """
    model = getattr(agent, attribute, None) if given is None else given
    if model is None:
        return None
    if not isinstance(model, type) or not isinstance(model, Model):
        raise InvalidWorkflow(f"{attribute} of {agent!r} is {model!r}, not a pydantic model class")
    return model


def check(model: Any, value: dict[str, Any], what: str) -> dict[str, Any]:
    """The value as the model understands it, as plain data.

    Raises ValueError that names every field that does not fit.
    """
    try:
        found = model.model_validate(value)
    except ValueError as error:
        raise ValueError(f"{what} does not fit {model.__name__}: {_problems(error)}") from None
    plain: dict[str, Any] = found.model_dump(mode="json")
    return plain


def _problems(error: ValueError) -> str:
    errors = getattr(error, "errors", None)
    if errors is None:
        return str(error)
    problems = []
    for one in errors():
        place = ".".join(str(part) for part in one["loc"])
        problems.append(f"{place}: {one['msg']}" if place else str(one["msg"]))
    return "; ".join(problems)
