"""How values of each kind are packed and made again: fields of instances, parts of collections."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import fractions
import functools
import pathlib
import re
import sys
import types
import uuid
import zoneinfo
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..checkpoints.content import build_model
from ..values import _type_name
from . import arrays

if TYPE_CHECKING:
    from .packing import Packer, Unpacker

__all__ = ["ToTree", "attributes", "find", "make", "no_data"]

ToTree = Callable[["Packer", Any, str, int], Any]


def find(kind: type) -> ToTree | None:
    """How values of a class are packed; None when they are no data."""
    if kind in _PARTS:
        return _pack_parts
    if issubclass(kind, enum.Enum):
        return _pack_enum
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _pack_named_tuple
    if dataclasses.is_dataclass(kind):
        return _pack_dataclass
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and issubclass(kind, pydantic.BaseModel):
        return _pack_model
    if issubclass(kind, BaseException) and _is_plain_exception(kind):
        return _pack_exception
    return arrays.find(kind)


def make(unpacker: Unpacker, tag: str, content: Any) -> Any:
    """The value of a tag and its content. Raises ValueError when it can't be made."""
    makers: dict[str, Callable[[Any, Any], Any]] = {
        "$py:enum": _make_enum,
        "$py:namedtuple": _make_named_tuple,
        "$py:dataclass": _make_dataclass,
        "$py:model": _make_model,
        "$py:exception": _make_exception,
    }
    if tag in makers:
        reference, inner = content
        kind = unpacker.named(reference)
        if not isinstance(kind, type):
            raise ValueError(f"{reference} is no class any more")
        return makers[tag](kind, unpacker.unpack(inner))
    if tag == "$py:made":
        name, parts = content
        maker = _MAKERS.get(name)
        if maker is None:
            raise ValueError(f"nothing here makes a {name!r}")
        return maker(*unpacker.unpack(parts))
    return arrays.make(unpacker, tag, content)


def no_data(value: object, path: str) -> str:
    """What to say of a value that can't be saved."""
    return f"{path} is a {_type_name(type(value))}, which is no data: {_advice(value)}"


def _advice(value: object) -> str:
    if isinstance(value, types.ModuleType) or _is_importable(value):
        return "import it with `import` at the left margin, or give it in `namespace`"
    if isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
        return "define it with `def` at the left margin, or give it in `namespace`"
    if isinstance(value, (types.GeneratorType, types.AsyncGeneratorType)) or (
        hasattr(value, "__next__") and not hasattr(value, "close")
    ):
        return "make a list of it"
    if isinstance(value, BaseException):
        return "keep its text instead"
    if hasattr(value, "__dict__") and type(value).__module__ != "builtins":
        return "make its class a dataclass, make it inside a function, or give it in `namespace`"
    return "make it where it is used, inside a function, or give it in `namespace`"


def _is_importable(value: Any) -> bool:
    if not isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        return False
    module = value.__module__ or ""
    # No module that can be imported has a name with `:`, which that of a program has.
    return ":" not in module and (
        getattr(sys.modules.get(module), value.__qualname__, None) is value
    )


# Collections and the like: a name from a closed list, and what to call it with.


def _date_and_time(naive: dt.datetime, zone: dt.tzinfo | None, fold: int) -> dt.datetime:
    return naive.replace(tzinfo=zone, fold=fold)


def _time(naive: dt.time, zone: dt.tzinfo | None, fold: int) -> dt.time:
    return naive.replace(tzinfo=zone, fold=fold)


def _parts_of_time(value: Any) -> list[Any]:
    return [value.replace(tzinfo=None, fold=0), value.tzinfo, value.fold]


def _parts_of_zone(value: zoneinfo.ZoneInfo) -> list[Any]:
    if value.key is None:
        raise TypeError("a zone without a name can't be saved")
    return [value.key]


_PARTS: dict[type, Callable[[Any], list[Any]]] = {
    range: lambda value: [value.start, value.stop, value.step],
    slice: lambda value: [value.start, value.stop, value.step],
    bytearray: lambda value: [bytes(value)],
    uuid.UUID: lambda value: [str(value)],
    fractions.Fraction: lambda value: [value.numerator, value.denominator],
    re.Pattern: lambda value: [value.pattern, value.flags],
    zoneinfo.ZoneInfo: _parts_of_zone,
    dt.datetime: _parts_of_time,
    dt.time: _parts_of_time,
    collections.deque: lambda value: [list(value), value.maxlen],
    collections.OrderedDict: lambda value: [dict(value)],
    collections.Counter: lambda value: [dict(value)],
    collections.defaultdict: lambda value: [value.default_factory, dict(value)],
    types.SimpleNamespace: lambda value: [vars(value)],
    pathlib.PurePosixPath: lambda value: [str(value)],
    pathlib.PureWindowsPath: lambda value: [str(value)],
}
_MAKERS: dict[str, Callable[..., Any]] = {kind.__name__: kind for kind in _PARTS} | {
    "Pattern": re.compile,
    "datetime": _date_and_time,
    "time": _time,
    "SimpleNamespace": lambda fields: types.SimpleNamespace(**fields),
}


def _pack_parts(packer: Packer, value: Any, path: str, depth: int) -> Any:
    kind = type(value)
    if kind is not types.SimpleNamespace:
        _no_attributes(value, path)
    try:
        parts = _PARTS[kind](value)
    except TypeError as error:
        raise TypeError(f"{path}: {error}") from None
    packed = [
        [packer.pack(item, f"{path}[{n}]", depth + 2) for n, item in enumerate(part)]
        if type(part) is list
        else packer.pack(part, path, depth + 1)
        for part in parts
    ]
    return {"$py:made": [kind.__name__, packed]}


# Instances: the name of their class, and their fields.


def _pack_enum(packer: Packer, value: Any, path: str, depth: int) -> Any:
    content: Any = value.value if isinstance(value, enum.Flag) else value.name
    return {"$py:enum": [packer.class_of(value, path), content]}


def _make_enum(kind: Any, content: Any) -> Any:
    if isinstance(content, int):
        return kind(content)
    try:
        return kind[content]
    except KeyError:
        raise ValueError(f"{kind.__qualname__} has no {content!r} any more") from None


def _pack_named_tuple(packer: Packer, value: Any, path: str, depth: int) -> Any:
    _no_attributes(value, path)
    items = zip(value._fields, value, strict=True)
    fields = {name: packer.pack(item, f"{path}.{name}", depth + 2) for name, item in items}
    return {"$py:namedtuple": [packer.class_of(value, path), fields]}


def _make_named_tuple(kind: Any, fields: dict[str, Any]) -> Any:
    _same_fields(kind, fields, kind._fields)
    return tuple.__new__(kind, [fields[name] for name in kind._fields])


def _pack_dataclass(packer: Packer, value: Any, path: str, depth: int) -> Any:
    kind = type(value)
    try:
        object.__new__(kind)
    except TypeError:
        raise TypeError(no_data(value, path)) from None
    fields = {}
    for field in dataclasses.fields(value):
        if not hasattr(value, field.name):
            raise TypeError(f"{path}.{field.name} has no value yet")
        fields[field.name] = packer.pack(
            getattr(value, field.name), f"{path}.{field.name}", depth + 2
        )
    for name in attributes(value) - fields.keys():
        if not _is_cached(kind, name):
            raise TypeError(f"{path}.{name} is no field of the dataclass {kind.__qualname__}")
    return {"$py:dataclass": [packer.class_of(value, path), fields]}


def _make_dataclass(kind: type, fields: dict[str, Any]) -> Any:
    if not dataclasses.is_dataclass(kind):
        raise ValueError(f"{kind.__qualname__} is no dataclass any more")
    names = [field.name for field in dataclasses.fields(kind)]
    _same_fields(kind, fields, names)
    value = object.__new__(kind)
    for name in names:
        object.__setattr__(value, name, fields[name])
    return value


def _pack_model(packer: Packer, value: Any, path: str, depth: int) -> Any:
    kind = type(value)
    state = value.__getstate__()
    fields = {}
    for name, field in state.pop("__dict__").items():
        if name in kind.model_fields:
            fields[name] = packer.pack(field, f"{path}.{name}", depth + 4)
        elif not _is_cached(kind, name):
            raise TypeError(f"{path}.{name} is no field of the model {kind.__qualname__}")
    for name in attributes(value) - fields.keys():
        if name not in vars(value) and not name.startswith("__pydantic_"):
            raise TypeError(f"{path}.{name} is no field of the model {kind.__qualname__}")
    rest = {part: packer.pack(one, f"{path}.{part}", depth + 3) for part, one in state.items()}
    return {"$py:model": [packer.class_of(value, path), {"__dict__": fields, **rest}]}


def _is_cached(kind: type, name: str) -> bool:
    """Whether an attribute is computed again when it is not there."""
    return isinstance(getattr(kind, name, None), functools.cached_property)


def _make_model(kind: Any, state: dict[str, Any]) -> Any:
    if not hasattr(kind, "model_fields"):
        raise ValueError(f"{kind.__qualname__} is no pydantic model any more")
    _same_fields(kind, state["__dict__"], kind.model_fields)
    return build_model(kind, state)


def attributes(value: object) -> set[str]:
    """The names of what an instance has, wherever its class keeps it."""
    slots = {name for name in _slots(type(value)) if hasattr(value, name)}
    return slots | getattr(value, "__dict__", {}).keys()


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        for name, one in vars(base).items():
            if isinstance(one, types.MemberDescriptorType):
                yield name


def _no_attributes(value: object, path: str) -> None:
    for name in getattr(value, "__dict__", ()):
        raise TypeError(f"{path}.{name} is no part of a {_type_name(type(value))}")


def _same_fields(kind: type, saved: Any, now: Any) -> None:
    if set(saved) != set(now):
        changed = sorted(set(saved) ^ set(now))
        raise ValueError(
            f"{kind.__qualname__} has other fields than when it was saved ({', '.join(changed)})"
        )


def _pack_exception(packer: Packer, value: Any, path: str, depth: int) -> Any:
    reference = packer.class_of(value, path)
    arguments = [
        packer.pack(one, f"{path}.args[{n}]", depth + 3) for n, one in enumerate(value.args)
    ]
    try:
        made = _state_of_exception(_exception(type(value), value.args))
    except TypeError as error:
        raise TypeError(f"{path} can't be made of its arguments: {error}") from None
    state = {
        name: packer.pack(one, f"{path}.{name}", depth + 3)
        for name, one in _state_of_exception(value).items()
        if name not in made or one is not made[name]
    }
    content = {"args": arguments, "state": state} if state else arguments
    return {"$py:exception": [reference, content]}


def _is_plain_exception(kind: type) -> bool:
    """Whether an exception is made by its arguments, and by attributes that are set."""
    own = [one for one in kind.__mro__ if one.__module__ != "builtins"]
    return not any({"__init__", "__new__", "__slots__"} & vars(one).keys() for one in own)


def _state_of_exception(value: BaseException) -> dict[str, Any]:
    """What it has beside its arguments; not its traceback, and not what only its making sets."""
    names = {"__cause__", "__context__", *_slots(type(value))} - {"message", "exceptions"}
    return {name: getattr(value, name) for name in sorted(names)} | vars(value)


def _exception(kind: Any, arguments: Any) -> BaseException:
    value: BaseException = kind(*arguments)
    value.args = tuple(arguments)
    return value


def _make_exception(kind: Any, content: Any) -> Any:
    if not issubclass(kind, BaseException):
        raise ValueError(f"{kind.__qualname__} is no exception")
    if isinstance(content, list):
        return _exception(kind, content)
    value = _exception(kind, content["args"])
    for name, one in content["state"].items():
        setattr(value, name, one)
    return value
