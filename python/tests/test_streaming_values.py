"""What the namespace of trusted Python can hold, and that it comes back as it was."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import pathlib
import re
import types
import uuid
import zoneinfo
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_monty import StreamingPythonExecutor
from durable_monty.checkpoints import CheckpointManager, MemoryCheckpointProvider


def again(*values: Any, **given: Any) -> list[Any]:
    """The values as a process finds them that goes on after another one."""

    async def body() -> list[Any]:
        provider = MemoryCheckpointProvider()

        def manager() -> CheckpointManager:
            return CheckpointManager("e", provider)

        executor = StreamingPythonExecutor(manager())
        names = {f"v{n}": value for n, value in enumerate(values)}
        executor.namespace.update(names)
        await executor.checkpoint()
        back = (await StreamingPythonExecutor.resume(manager())).namespace
        return [back[name] for name in names]

    return asyncio.run(body())


class Color(enum.Enum):
    RED = "r"
    GREEN = object()


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Level(enum.IntEnum):
    LOW = 1


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int = dataclasses.field(default=0, compare=False)
    made: list[str] = dataclasses.field(default_factory=list, init=False, compare=False)

    def __post_init__(self) -> None:
        self.made.append("made")

    @functools.cached_property
    def double(self) -> int:
        return self.x * 2


@dataclasses.dataclass
class Slotted:
    __slots__ = ("x",)
    x: Any


class Order(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    number: int
    points: list[Any] = []
    _hidden: list[int] = pydantic.PrivateAttr(default_factory=list)

    @pydantic.field_validator("number")
    @classmethod
    def _next(cls, value: int) -> int:
        return value + 1


BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
VALUES = [
    *(None, True, 2**70, 1.5, -0.0, 1j, "ü", b"\x00", ..., decimal.Decimal("1.10")),
    dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
    dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc),
    *(dt.date(2026, 1, 1), dt.time(1, 2, fold=1), dt.time(3, tzinfo=BERLIN), BERLIN),
    *(dt.timedelta(1, 2, 3), uuid.UUID(int=7), fractions.Fraction(1, 3), pathlib.Path("a/b")),
    *(pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("a\\b"), re.compile("a+", re.I)),
    *(range(1, 9, 2), slice(1, None), bytearray(b"x"), types.SimpleNamespace(a=[1])),
    *((1, [2]), {1, 2}, {(1, 2), Point(1)}, frozenset({Color.RED}), {1: 2, (1, 2): [3]}),
    *({"$py:name": "os:system"}, {"$tuple": [1]}, {"$py:same": 0}, {"": {"$py:x": {}}}),
    *(collections.deque([1, [2]], 5), collections.Counter("abba")),
    collections.OrderedDict([("b", 1), ("a", [2])]),
    collections.defaultdict(list, {"a": [1]}),
    *(Color.GREEN, Access.READ | Access.WRITE, Access(0), Level.LOW, Pair(1, [2]), Slotted([1])),
    *(int, len, asyncio, asyncio.sleep, Point, {"how": collections.OrderedDict}),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    (back,) = again(value)
    assert back == value
    assert type(back) is type(value)
    assert repr(back) == repr(value)
    if isinstance(value, collections.defaultdict):
        assert back["new"] == []


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.sampled_from(["$py:name", "$py:same", "$dict"]), inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers() | st.tuples(st.integers(), st.text()), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(json_like)
def test_nested_values_come_back(value: Any) -> None:
    (back,) = again(value)
    assert back == value
    assert repr(back) == repr(value)


def test_instances_come_back_with_their_state_and_without_their_constructors() -> None:
    point = Point(1, 2)
    assert point.double == 2
    order = Order(number=1, points=[point], note="extra")
    order._hidden.append(7)
    back_point, back = again(point, order)
    assert back == order
    assert (back_point.made, back.number, back.note, back._hidden) == (["made"], 2, "extra", [7])
    assert back.points[0] is back_point
    assert back.model_fields_set == order.model_fields_set
    assert back_point.double == 2


def test_exceptions_of_python_come_back_with_their_arguments() -> None:
    (back,) = again([KeyError("a"), OSError(2, "gone"), LookupError()])
    assert [repr(one) for one in back] == [
        "KeyError('a')",
        "FileNotFoundError(2, 'gone')",
        "LookupError()",
    ]


def test_what_is_shared_stays_shared() -> None:
    inner: list[Any] = [1]
    point = Point(1)
    a, b, c, d = again(inner, {"x": inner, "y": (inner, point)}, collections.deque([inner]), point)
    assert a is b["x"] is b["y"][0] is c[0]
    assert b["y"][1] is d
    deep: list[Any] = []
    for _ in range(15):
        deep = [deep, deep]
    (back,) = again(deep)
    for _ in range(15):
        assert back[0] is back[1]
        back = back[0]


# numpy and pandas

ARRAYS = [
    np.arange(6).reshape(2, 3),
    np.arange(6).reshape(2, 3).T,
    np.array(["a", "bb"]),
    np.array([1, None, {"x": [1]}], dtype=object),
    np.array(5.5),
    np.zeros((0, 3), dtype="f4"),
    np.array(["2026-01-01"], dtype="M8[D]"),
    np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
]


@pytest.mark.parametrize("array", ARRAYS, ids=repr)
def test_an_array_comes_back_as_it_was(array: Any) -> None:
    (back,) = again(array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert (back == array).all()


def test_an_array_that_can_not_be_written_to_stays_one() -> None:
    array = np.arange(3)
    array.flags.writeable = False
    back, view = again(array, np.frombuffer(b"ab", dtype="u1"))
    assert (back.tolist(), view.tolist()) == ([0, 1, 2], [97, 98])
    assert not back.flags.writeable
    assert not view.flags.writeable


@pytest.mark.parametrize(
    "value", [np.float64(1.5), np.int32(3), np.bool_(True), np.str_("a"), np.datetime64("2026")]
)
def test_a_scalar_of_numpy_stays_one(value: Any) -> None:
    (back,) = again(value)
    assert type(back) is type(value)
    assert back == value


def frame() -> Any:
    when = pd.date_range("2026-03-28", periods=3, tz="Europe/Berlin", name="when")
    frame = pd.DataFrame(
        {
            "n": [1, 2, 3],
            "text": ["x", "y", None],
            "kind": pd.Categorical(["u", "v", "u"], categories=["v", "u"], ordered=True),
            "when": when,
            "maybe": pd.array([1, None, 3], dtype="Int64"),
            "share": [1.5, float("nan"), 2],
            "string": pd.array(["a", None, "c"], dtype="string"),
            "lasts": pd.to_timedelta([1, 2, 3], unit="s"),
            "is": pd.array([True, None, False], dtype="boolean"),
            "any": pd.Series([{"a": 1}, [1], None], dtype=object).values,
        },
        index=when,
    )
    frame.attrs["source"] = "test"
    return frame


FRAMES = [
    frame(),
    frame().reset_index(drop=True).set_index(["n", "text"])[["share"]],
    pd.DataFrame(),
    pd.DataFrame(index=[1, 2]),
    pd.DataFrame([[1, 2]], columns=["a", "a"]),
    pd.DataFrame({1: [1], ("a", 2): [2]}),
    pd.DataFrame({"a": [1]}, index=pd.CategoricalIndex(["x"])),
    pd.DataFrame({"a": [1]}).set_flags(allows_duplicate_labels=False),
]


@pytest.mark.parametrize("value", FRAMES, ids=range(len(FRAMES)))
def test_a_frame_comes_back_as_it_was(value: Any) -> None:
    (back,) = again(value)
    pd.testing.assert_frame_equal(back, value)
    assert back.attrs == value.attrs
    assert back.flags == value.flags
    for column in range(value.shape[1]):
        series = value.iloc[:, column]
        (series_back,) = again(series)
        pd.testing.assert_series_equal(series_back, series)


@pytest.mark.parametrize(
    "index",
    [
        pd.MultiIndex.from_product([[1, 2], ["a", "b"]], names=["n", None])[:1],
        pd.MultiIndex.from_tuples([(1, "a"), (float("nan"), None)]),
        pd.MultiIndex.from_arrays([pd.Categorical(["a"]), pd.to_datetime(["2026"], utc=True)]),
    ],
    ids=range(3),
)
def test_an_index_of_levels_comes_back_with_them(index: Any) -> None:
    (back,) = again(index)
    pd.testing.assert_index_equal(back, index)
    for level, level_back in zip(index.levels, back.levels, strict=True):
        pd.testing.assert_index_equal(level_back, level)


@pytest.mark.parametrize(
    "value",
    [
        pd.Timestamp("2026-01-01 00:00:00.123456789", tz="Europe/Berlin"),
        pd.Timestamp("2026", tz="UTC"),
        pd.Timedelta("1s"),
        pd.NaT,
        pd.NA,
    ],
)
def test_moments_of_pandas_come_back(value: Any) -> None:
    (back,) = again(value)
    assert type(back) is type(value)
    assert repr(back) == repr(value)
    assert getattr(back, "unit", None) == getattr(value, "unit", None)


ARRAY = np.arange(3)
NESTED: list[Any] = functools.reduce(lambda inner, _: [inner], range(200), [])
NOTED = pd.Series([1])
object.__setattr__(NOTED, "note", "mine")
OBJECTS = np.zeros(1, dtype=[("a", "O")])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([pd.Series(pd.period_range("2026", periods=2))], r"v0 has values of the type period"),
        ([pd.Series(pd.arrays.SparseArray([1, 0]))], "v0 has values of the type Sparse"),
        ([[np.ma.array([1])]], r"v0\[0\] is a numpy\.ma\.MaskedArray"),
        ([ARRAY, {"a": ARRAY[1:]}], r"v1\['a'\] shares its memory with v0"),
        ([np.frombuffer(bytearray(2), dtype="u1")], "v0 is a view of a bytearray"),
        ([NOTED], r"v0\.note is an attribute, not data: put it in v0\.attrs"),
        ([dt.timezone(dt.timedelta(microseconds=5))], "v0 is a time zone with a fraction of"),
        ([Pair(1, 10**200_000)], r"v0\['b'\] is an integer of more than"),
        ([["\ud800"]], "v0 holds text that is not Unicode"),
        ([NESTED], r"v0(\[0\])+.* is nested deeper than 120 levels"),
        ([OBJECTS], "v0 is an array of"),
        ([pd.DataFrame({"a": [1, object()]}, dtype=object)], r"v0\['a'\]\.flat\[1\] is a object"),
    ],
)
def test_what_can_not_come_back_as_it_was_is_named(values: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"not saved: {message}"):
        again(*values)
