"""Python values as JSON text and back, in the mapping of docs/VALUES.md.

Ordinary JSON stays ordinary JSON. What JSON has no word for becomes an object with exactly one
key, a tag that starts with `$`: `{"$tuple": [1, 2]}`, `{"$bytes": "aGk="}`.
"""

from __future__ import annotations

import base64
import builtins
import collections
import dataclasses
import datetime as dt
import decimal
import functools
import json
import math
import pathlib
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

__all__ = ["decode", "decode_object", "encode", "encode_object", "from_json", "to_json"]

MAX_DEPTH = 120
"""Deepest nesting of arrays and objects in the JSON text, tags included."""

_MAX_INT = 2**63 - 1
_MIN_INT = -(2**63)
_MAX_INT_DIGITS = 100_000

_dump = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
).encode
_quote = json.encoder.encode_basestring
_parse = json.JSONDecoder().decode
_scan: Callable[[str, int], tuple[Any, int]] = vars(json.JSONDecoder())["scan_once"]

_SCALARS = frozenset({str, int, float, bool, type(None)})
_STRINGS = frozenset({str})
_LONG_NUMBER = b"0" * 19
_digits_as_0 = bytes(ord("0" if chr(byte) in "0123456789" else " ") for byte in range(256))


def encode(value: object, name: str = "result") -> str:
    """The JSON text of a value. `name` is what a message calls the value.

    >>> encode({"a": (1, b"hi")})
    '{"a":{"$tuple":[1,{"$bytes":"aGk="}]}}'

    Raises TypeError for a value that has no JSON form, naming its type and its place:
    `result['a'][3] is a socket.socket, …`.
    """
    kind = type(value)
    if kind is int:
        if _MIN_INT <= value <= _MAX_INT:  # type: ignore[operator]
            return repr(value)
    elif kind is str:
        text = _quote(value)  # type: ignore[arg-type]
        return text if text.isascii() else _checked(text, name)
    elif value is None:
        return "null"
    elif kind is bool:
        return "true" if value else "false"
    elif kind is float:
        if math.isfinite(value):  # type: ignore[arg-type]
            return repr(value)
    elif (kind is list or kind is dict) and _is_plain(value, 1):
        try:
            text = _dump(value)
        except ValueError:  # a float that is not finite
            pass
        else:
            if not _has_long_number(text):
                return text if text.isascii() else _checked(text, name)
    return _checked(_dump(_tagged(value, name, 0)), name)


def encode_object(values: dict[str, Any], name: str) -> str:
    """The JSON text of named values (inputs, keyword arguments): an object, never a tag."""
    members = (
        f"{_quote(key)}:{encode(value, f'{name}[{key!r}]')}" for key, value in values.items()
    )
    return "{" + ",".join(members) + "}"


def decode(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for a text that is not in the mapping."""
    if '"$' in text:
        return json.loads(text, object_hook=_untagged)
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        end = 0
    # Blanks around the value, or no JSON at all: `_parse` knows.
    return value if end == len(text) > 0 else _parse(text)


def decode_object(text: str) -> dict[str, Any]:
    """What `encode_object` wrote."""
    if '"$' not in text:
        plain: dict[str, Any] = _parse(text)
        return plain
    return {key: decode(json.dumps(value)) for key, value in json.loads(text).items()}


def to_json(value: object) -> str:
    """The JSON text of a value, as the engine stores it."""
    return encode(value, "value")


def from_json(text: str | None) -> Any:
    """The value of a stored JSON text; None for a column that is empty."""
    return None if text is None else decode(text)


def _is_plain(value: Any, depth: int) -> bool:
    """Whether `_dump` writes a list or dict just as the mapping wants it.

    Not looked at here: integers beyond 64 bits and floats that are not finite.
    """
    if depth > MAX_DEPTH:
        return False
    if type(value) is dict:
        if not _STRINGS.issuperset(map(type, value)):
            return False
        if len(value) == 1 and _is_reserved(next(iter(value))):
            return False
        items: Iterable[Any] = value.values()
    else:
        items = value
    kinds = set(map(type, items)) - _SCALARS
    if not kinds:
        return True
    if not kinds <= {list, dict}:
        return False
    return all(type(item) in _SCALARS or _is_plain(item, depth + 1) for item in items)


def _has_long_number(text: str) -> bool:
    """Whether 19 digits follow each other, as in an integer that may be beyond 64 bits. It takes a
    tenth of the time of a regular expression."""
    return _LONG_NUMBER in text.encode(errors="replace").translate(_digits_as_0)


def _checked(text: str, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TypeError(
            f"{name} holds text that is not Unicode (a lone surrogate, "
            f"U+{ord(text[error.start]):04X}): such text often comes from os.fsdecode"
        ) from None
    return text


def _is_reserved(key: str) -> bool:
    return key.startswith("$") and (key in _FROM_TAG or key.startswith("$py:"))


# From Python


def _tagged(value: Any, path: str, depth: int) -> Any:
    """What to give `_dump` in place of a value."""
    if depth > MAX_DEPTH:
        raise TypeError(
            f"{path[:200]} is nested deeper than {MAX_DEPTH} levels, or contains itself"
        )
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return _record("$namedtuple", value, zip(value._fields, value, strict=True), path, depth)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return _record("$dataclass", value, fields, path, depth)
    if isinstance(value, SimpleNamespace):
        return _record("$object", value, vars(value).items(), path, depth)
    for base in kind.__mro__:
        to_tag = _TO_TAG.get(base)
        if to_tag is not None:
            return to_tag(value, path, depth)
    raise TypeError(
        f"{path} is a {_type_name(kind)}, which has no JSON form: return plain data instead "
        "(numbers, text, bytes, dates, lists, dicts, tuples, sets, dataclasses)"
    )


def _type_name(kind: type) -> str:
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def _record(
    tag: str, value: object, fields: Iterable[tuple[str, Any]], path: str, depth: int
) -> dict[str, Any]:
    members = {name: _tagged(item, f"{path}.{name}", depth + 3) for name, item in fields}
    return {tag: {"name": type(value).__name__, "fields": members}}


def _from_int(value: int, path: str, depth: int) -> Any:
    number = int(value)
    if _MIN_INT <= number <= _MAX_INT:
        return number
    # 3.32 bits a decimal digit.
    if number.bit_length() > _MAX_INT_DIGITS * 10 // 3:
        raise TypeError(f"{path} is an integer of more than {_MAX_INT_DIGITS} digits")
    return {"$int": str(decimal.Decimal(number)) if number.bit_length() > 14_000 else str(number)}


def _from_float(value: float, path: str, depth: int) -> Any:
    number = float(value)
    return number if math.isfinite(number) else {"$float": repr(number)}


def _from_list(value: list[Any], path: str, depth: int) -> Any:
    return [_tagged(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]


def _from_dict(value: dict[Any, Any], path: str, depth: int) -> Any:
    if all(isinstance(key, str) for key in value) and not (
        len(value) == 1 and _is_reserved(next(iter(value)))
    ):
        return {str(k): _tagged(item, f"{path}[{k!r}]", depth + 1) for k, item in value.items()}
    return {
        "$dict": [
            [
                _tagged(key, f"{path}: the key {key!r}", depth + 3),
                _tagged(item, f"{path}[{key!r}]", depth + 3),
            ]
            for key, item in value.items()
        ]
    }


def _from_items(tag: str) -> Callable[[Any, str, int], Any]:
    def to_tag(value: Iterable[Any], path: str, depth: int) -> Any:
        items = [_tagged(item, f"{path}[{i}]", depth + 2) for i, item in enumerate(value)]
        return {tag: items}

    return to_tag


def _from_bytes(value: bytes, path: str, depth: int) -> Any:
    return {"$bytes": base64.b64encode(value).decode("ascii")}


def _from_complex(value: complex, path: str, depth: int) -> Any:
    return {
        "$complex": [_from_float(value.real, path, depth), _from_float(value.imag, path, depth)]
    }


def _zone_name(zone: dt.tzinfo | None) -> str | None:
    """The name of a fixed zone that was given one; other zones are stored by their offset."""
    if not isinstance(zone, dt.timezone):
        return None
    name = zone.tzname(None)
    return None if name == dt.timezone(zone.utcoffset(None)).tzname(None) else name


def _from_datetime(value: dt.datetime, path: str, depth: int) -> Any:
    name = _zone_name(value.tzinfo)
    text = value.isoformat()
    return {"$datetime": text if name is None else [text, name]}


def _from_time(value: dt.time, path: str, depth: int) -> Any:
    name = _zone_name(value.tzinfo)
    text = value.isoformat()
    return {"$time": text if name is None and not value.fold else [text, name, value.fold]}


def _from_timezone(value: dt.timezone, path: str, depth: int) -> Any:
    name = _zone_name(value)
    offset = value.utcoffset(None)
    if offset.microseconds:
        raise TypeError(f"{path} is a time zone with a fraction of a second in its offset")
    seconds = int(offset.total_seconds())
    return {"$timezone": seconds if name is None else [seconds, name]}


def _from_exception(value: BaseException, path: str, depth: int) -> Any:
    return {
        "$exception": {
            "type": _type_name(type(value)),
            "message": str(value) if value.args else None,
        }
    }


_TO_TAG: dict[type, Callable[[Any, str, int], Any]] = {
    bool: lambda value, path, depth: bool(value),
    str: lambda value, path, depth: str.__str__(value),
    int: _from_int,
    float: _from_float,
    complex: _from_complex,
    list: _from_list,
    dict: _from_dict,
    tuple: _from_items("$tuple"),
    set: _from_items("$set"),
    frozenset: _from_items("$frozenset"),
    bytes: _from_bytes,
    decimal.Decimal: lambda value, path, depth: {"$decimal": str(value)},
    dt.datetime: _from_datetime,
    dt.date: lambda value, path, depth: {"$date": value.isoformat()},
    dt.time: _from_time,
    dt.timedelta: lambda value, path, depth: {
        "$timedelta": [value.days, value.seconds, value.microseconds]
    },
    dt.timezone: _from_timezone,
    pathlib.PurePath: lambda value, path, depth: {"$path": str(value)},
    BaseException: _from_exception,
    type(...): lambda value, path, depth: {"$ellipsis": None},
}


# To Python


def _untagged(members: dict[str, Any]) -> Any:
    """What a JSON object stands for; those inside it were looked at before."""
    if len(members) != 1:
        return members
    [(tag, content)] = members.items()
    from_tag = _FROM_TAG.get(tag)
    if from_tag is None:
        if tag.startswith("$py:"):
            raise ValueError(f"the tag {tag} is not known to this version")
        return members
    try:
        return from_tag(content)
    except (TypeError, ValueError, KeyError, ArithmeticError) as error:
        raise ValueError(f"the content of {tag} is malformed: {content!r:.200}") from error


def _to_float(name: str) -> float:
    return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[name]


def _to_int(digits: str) -> int:
    # int() refuses long texts on most versions of Python; Decimal does not.
    return int(digits) if len(digits) < 4_000 else int(decimal.Decimal(digits))


def _zone(offset: dt.timedelta | None, name: str | None) -> dt.timezone:
    if offset is None:
        raise ValueError("a zone name without an offset")
    return dt.timezone(offset) if name is None else dt.timezone(offset, name)


def _to_datetime(content: Any) -> dt.datetime:
    if isinstance(content, str):
        return dt.datetime.fromisoformat(content)
    text, name = content
    value = dt.datetime.fromisoformat(text)
    return value.replace(tzinfo=_zone(value.utcoffset(), name))


def _to_time(content: Any) -> dt.time:
    if isinstance(content, str):
        return dt.time.fromisoformat(content)
    text, name, fold = content
    value = dt.time.fromisoformat(text).replace(fold=fold)
    return value if name is None else value.replace(tzinfo=_zone(value.utcoffset(), name))


def _to_timezone(content: Any) -> dt.timezone:
    offset, name = (content, None) if isinstance(content, int) else content
    return _zone(dt.timedelta(seconds=offset), name)


@functools.lru_cache(maxsize=256)
def _named_tuple_type(name: str, fields: tuple[str, ...]) -> Any:
    return collections.namedtuple(name, fields)


@functools.lru_cache(maxsize=256)
def _dataclass_type(name: str, fields: tuple[str, ...]) -> Any:
    return dataclasses.make_dataclass(name, fields)


@functools.lru_cache(maxsize=256)
def _object_type(name: str) -> Any:
    return type(name, (SimpleNamespace,), {})


def _to_named_tuple(content: dict[str, Any]) -> Any:
    fields = content["fields"]
    return _named_tuple_type(content["name"], tuple(fields))(*fields.values())


def _to_dataclass(content: dict[str, Any]) -> Any:
    fields = content["fields"]
    return _dataclass_type(content["name"], tuple(fields))(**fields)


def _to_object(content: dict[str, Any]) -> Any:
    return _object_type(content["name"])(**content["fields"])


def _to_exception(content: dict[str, Any]) -> BaseException:
    name, message = content["type"], content["message"]
    kind = getattr(builtins, name, None)
    arguments = () if message is None else (message,)
    if isinstance(kind, type) and issubclass(kind, BaseException):
        try:
            return kind(*arguments)
        except TypeError:  # one of the few that want more than a message
            pass
    return RuntimeError(name if message is None else f"{name}: {message}")


_FROM_TAG: dict[str, Callable[[Any], Any]] = {
    "$int": _to_int,
    "$float": _to_float,
    "$complex": lambda parts: complex(*parts),
    "$decimal": decimal.Decimal,
    "$bytes": functools.partial(base64.b64decode, validate=True),
    "$tuple": tuple,
    "$set": set,
    "$frozenset": frozenset,
    "$dict": dict,
    "$date": dt.date.fromisoformat,
    "$datetime": _to_datetime,
    "$time": _to_time,
    "$timedelta": lambda parts: dt.timedelta(*parts),
    "$timezone": _to_timezone,
    "$path": pathlib.Path,
    "$namedtuple": _to_named_tuple,
    "$dataclass": _to_dataclass,
    "$object": _to_object,
    "$exception": _to_exception,
    "$ellipsis": lambda content: ...,
}
