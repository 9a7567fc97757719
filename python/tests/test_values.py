"""The mapping of docs/VALUES.md."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import pathlib
import socket
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_monty import from_json, to_json
from durable_monty.values import decode, decode_object, encode, encode_object

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.datetimes(timezones=st.none() | st.just(dt.timezone.utc), allow_imaginary=False)
    | st.timedeltas()
    | st.times()
)
hashable = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
keys = st.text(max_size=4) | st.sampled_from(["$int", "$py:x", "$ref"])
values = st.recursive(
    hashable,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=3)
        | st.sets(hashable, max_size=3)
    ),
    max_leaves=8,
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text().filter(lambda key: not key.startswith("$")), inner)
    ),
)


def same(left: Any, right: Any) -> bool:
    """Equal and of the same types all the way down (1 == True == 1.0 otherwise)."""
    return bool(left == right) and shape(left) == shape(right)


def shape(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value), [shape(item) for item in value]
    if isinstance(value, dict):
        return type(value), [(shape(key), shape(item)) for key, item in value.items()]
    if isinstance(value, (set, frozenset)):
        return type(value), len(value)
    return type(value)


@given(values)
def test_what_goes_in_comes_out(value: Any) -> None:
    assert same(decode(encode(value)), value)


@given(plain)
def test_plain_json_stays_plain(value: Any) -> None:
    assert json.loads(encode(value)) == value


@given(st.dictionaries(st.text(), values, max_size=4))
def test_named_values_are_never_a_tag(value: dict[str, Any]) -> None:
    assert same(decode_object(encode_object(value, "inputs")), value)


@given(values)
def test_the_text_is_json_without_extensions(value: Any) -> None:
    json.loads(encode(value), parse_constant=pytest.fail)


class Point(NamedTuple):
    x: int
    y: Any


@dataclasses.dataclass
class Box:
    size: int
    inside: Any = None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (2**63 - 1, "9223372036854775807"),
        (2**63, '{"$int":"9223372036854775808"}'),
        ([-(2**63) - 1], '[{"$int":"-9223372036854775809"}]'),
        (1.0, "1.0"),
        (math.inf, '{"$float":"inf"}'),
        ([math.nan], '[{"$float":"nan"}]'),
        (1 + 2j, '{"$complex":[1.0,2.0]}'),
        ("\N{SNOWMAN}\n", '"\N{SNOWMAN}\\n"'),
        (b"hi", '{"$bytes":"aGk="}'),
        ((1, (2,)), '{"$tuple":[1,{"$tuple":[2]}]}'),
        ({1}, '{"$set":[1]}'),
        (frozenset(), '{"$frozenset":[]}'),
        ({"a": [1, "b"]}, '{"a":[1,"b"]}'),
        ({1: "a"}, '{"$dict":[[1,"a"]]}'),
        ({"$int": "5"}, '{"$dict":[["$int","5"]]}'),
        ({"$py:new": 1}, '{"$dict":[["$py:new",1]]}'),
        ({"$ref": "#/x"}, '{"$ref":"#/x"}'),
        ({"$int": 1, "b": 2}, '{"$int":1,"b":2}'),
        (dt.date(2026, 1, 31), '{"$date":"2026-01-31"}'),
        (dt.datetime(2026, 1, 31, 12, 0, 0, 1), '{"$datetime":"2026-01-31T12:00:00.000001"}'),
        (
            dt.datetime(2026, 1, 31, tzinfo=dt.timezone(dt.timedelta(hours=2), "CEST")),
            '{"$datetime":["2026-01-31T00:00:00+02:00","CEST"]}',
        ),
        (dt.time(12), '{"$time":"12:00:00"}'),
        (dt.time(12, fold=1), '{"$time":["12:00:00",null,1]}'),
        (dt.timedelta(days=1, microseconds=-1), '{"$timedelta":[0,86399,999999]}'),
        (dt.timezone.utc, '{"$timezone":0}'),
        (dt.timezone(dt.timedelta(hours=1), "CET"), '{"$timezone":[3600,"CET"]}'),
        (decimal.Decimal("1.10"), '{"$decimal":"1.10"}'),
        (pathlib.PurePosixPath("a/b"), '{"$path":"a/b"}'),
        (Point(1, (2,)), '{"$namedtuple":{"name":"Point","fields":{"x":1,"y":{"$tuple":[2]}}}}'),
        (Box(1), '{"$dataclass":{"name":"Box","fields":{"size":1,"inside":null}}}'),
        (ValueError("no"), '{"$exception":{"type":"ValueError","message":"no"}}'),
        (..., '{"$ellipsis":null}'),
    ],
)
def test_the_table(value: Any, text: str) -> None:
    assert encode(value) == text
    assert encode(decode(text)) == text


def test_records_come_back_with_their_fields() -> None:
    point = decode(encode(Point(1, 2)))
    assert (point, type(point).__name__, point.y) == ((1, 2), "Point", 2)
    box = decode(encode(Box(1, Box(2))))
    assert (type(box).__name__, box.inside.size) == ("Box", 2)
    thing = decode('{"$object":{"name":"Thing","fields":{"a":1}}}')
    assert (type(thing).__name__, thing.a) == ("Thing", 1)


def test_exceptions_come_back_as_builtin_ones() -> None:
    error = decode(encode(KeyError("k")))
    assert isinstance(error, KeyError)
    unknown = decode('{"$exception":{"type":"app.NoPrice","message":"x"}}')
    assert (type(unknown), str(unknown)) == (RuntimeError, "app.NoPrice: x")


def test_subclasses_count_as_what_they_derive_from() -> None:
    class Colour(str, enum.Enum):
        RED = "red"

    given = collections.OrderedDict(a=collections.Counter("x"), b=Colour.RED)
    assert decode(encode(given)) == {"a": {"x": 1}, "b": "red"}


def test_an_unserializable_value_is_named_with_its_place() -> None:
    with socket.socket() as connection:
        with pytest.raises(TypeError, match=r"^result\['a'\]\[3\] is a socket\.socket, "):
            encode({"a": [1, 2, 3, connection]})
        with pytest.raises(TypeError, match=r"^inputs\['x'\] is a socket\.socket, "):
            encode_object({"x": connection}, "inputs")
    with pytest.raises(TypeError, match=r"^result\.inside\[0\] is a function, "):
        encode(Box(1, [lambda: None]))


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TypeError, match="contains itself"):
        encode(loop)


def test_text_that_is_not_unicode_is_refused() -> None:
    for value in ("\udc80", ["\udc80"], {"\udc80": 1}, ("\udc80",)):
        with pytest.raises(TypeError, match=r"lone surrogate, U\+DC80"):
            encode(value)


@pytest.mark.parametrize(
    "text",
    ['{"$date":"x"}', '{"$int":[]}', '{"$py:new":1}', '{"$bytes":"?"}', '{"$float":"x"}', "[", ""],
)
def test_malformed_text_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        decode(text)


def test_stored_columns() -> None:
    assert from_json(None) is None
    assert from_json(to_json((1, 2))) == (1, 2)
