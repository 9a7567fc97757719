"""Arrays of numpy and frames of pandas: bytes in numpy's own format, without pickle."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .kinds import ToTree
    from .packing import Packer, Unpacker

__all__ = ["find", "make"]

_BY_ITEMS = frozenset(
    (
        *("boolean", "string", "str", "Float32", "Float64"),
        *("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64"),
    )
)
"""Types of pandas whose columns are stored item by item."""

_INDEXES = ("Index", "RangeIndex", "DatetimeIndex", "TimedeltaIndex", "CategoricalIndex")


def find(kind: type) -> ToTree | None:
    """How values of a class are packed; None when it is none of numpy's and pandas'."""
    numpy: Any = sys.modules.get("numpy")
    pandas: Any = sys.modules.get("pandas")
    if numpy is not None:
        if kind is numpy.ndarray:
            return _pack_array
        if issubclass(kind, numpy.generic):
            return _pack_scalar
    if pandas is not None:
        if kind is pandas.DataFrame:
            return _pack_frame
        if kind is pandas.Series:
            return _pack_series
        if kind is pandas.MultiIndex or kind in [getattr(pandas, name) for name in _INDEXES]:
            return _pack_index
        if kind in (pandas.Timestamp, pandas.Timedelta):
            return _pack_moment
        if kind in (type(pandas.NA), type(pandas.NaT)):
            return _pack_missing
    return None


def make(unpacker: Unpacker, tag: str, content: Any) -> Any:
    """The value of a tag and its content. Raises ValueError when it can't be made."""
    maker = _MAKERS.get(tag)
    if maker is None:
        raise ValueError(f"the tag {tag} is not known to this version")
    return maker(unpacker, content)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(f"it needs {name}, which is not installed here") from None


# numpy


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    _module("numpy").save(file, array, allow_pickle=False)
    return file.getvalue()


def _from_npy(content: bytes) -> Any:
    return _module("numpy").load(io.BytesIO(content), allow_pickle=False)


def _pack_array(packer: Packer, value: Any, path: str, depth: int) -> Any:
    numpy: Any = sys.modules["numpy"]
    owner = value
    while owner.base is not None and type(owner.base) is type(value):
        owner = owner.base
    if isinstance(owner.base, bytearray) or isinstance(getattr(owner.base, "obj", 0), bytearray):
        raise TypeError(f"{path} is a view of a bytearray, which would be lost: make it a .copy()")
    place = packer.reference(owner)
    if place is not None:
        raise TypeError(f"{path} is a view of {place}, which would be lost: make it a .copy()")
    met = packer.memory.setdefault(id(owner), [])
    for other, other_path in met:
        if numpy.may_share_memory(other, value):
            raise TypeError(
                f"{path} shares its memory with {other_path}, which would be lost: make "
                "it a .copy()"
            )
    met.append((value, path))
    if value.flags.writeable:
        return {"$py:array": _array(packer, value, path, depth)}
    return {"$py:array": {"read-only": _array(packer, value, path, depth + 1)}}


def _array(packer: Packer, value: Any, path: str, depth: int) -> Any:
    if not value.dtype.hasobject:
        return _npy(value)
    if value.dtype != object:
        raise TypeError(f"{path} is an array of {value.dtype}, which holds Python objects")
    items = enumerate(value.ravel().tolist())
    packed = [packer.pack(item, f"{path}.flat[{n}]", depth + 2) for n, item in items]
    return {"shape": list(value.shape), "items": packed}


def _make_array(unpacker: Unpacker, content: Any) -> Any:
    if isinstance(content, bytes):
        return _from_npy(content)
    if "read-only" in content:
        array = _make_array(unpacker, content["read-only"])
        array.flags.writeable = False
        return array
    flat = _module("numpy").empty(len(content["items"]), dtype=object)
    for n, item in enumerate(content["items"]):
        flat[n] = unpacker.unpack(item)
    return flat.reshape(content["shape"])


def _pack_scalar(packer: Packer, value: Any, path: str, depth: int) -> Any:
    array = sys.modules["numpy"].asarray(value)
    if array.dtype.hasobject or array.shape:
        raise TypeError(f"{path} is a {type(value).__name__} that holds Python objects")
    return {"$py:scalar": _npy(array)}


# pandas


def _pack_column(packer: Packer, values: Any, path: str, depth: int) -> Any:
    """The values of a series or an index."""
    pandas: Any = sys.modules["pandas"]
    numpy: Any = sys.modules["numpy"]
    dtype = values.dtype
    if isinstance(dtype, numpy.dtype):
        return {"array": _array(packer, numpy.asarray(values), path, depth)}
    if isinstance(dtype, pandas.CategoricalDtype):
        return {
            "categories": _pack_index(packer, dtype.categories, path, depth + 1),
            "codes": _npy(numpy.asarray(values.array.codes)),
            "ordered": bool(dtype.ordered),
        }
    if isinstance(dtype, pandas.DatetimeTZDtype):
        moments = numpy.asarray(values.array.tz_convert(None))
        return {"utc": _npy(moments), "zone": _zone(dtype.tz, path)}
    if str(dtype) in _BY_ITEMS:
        items = enumerate(values.array.astype(object).tolist())
        return {
            "type": str(dtype),
            "items": [packer.pack(item, f"{path}[{n}]", depth + 2) for n, item in items],
        }
    raise TypeError(f"{path} has values of the type {dtype}, which can't be saved")


def _make_column(unpacker: Unpacker, content: Any) -> Any:
    pandas = _module("pandas")
    if "array" in content:
        return _make_array(unpacker, content["array"])
    if "codes" in content:
        categories = unpacker.unpack(content["categories"])
        return pandas.Categorical.from_codes(
            _from_npy(content["codes"]), categories=categories, ordered=content["ordered"]
        )
    if "utc" in content:
        moments = pandas.DatetimeIndex(_from_npy(content["utc"]))
        return moments.tz_localize("UTC").tz_convert(content["zone"]).array
    return pandas.array([unpacker.unpack(one) for one in content["items"]], dtype=content["type"])


def _zone(zone: Any, path: str) -> str:
    """The name of a time zone, if it is all that there is to it."""
    pandas = sys.modules["pandas"]
    try:
        if str(pandas.Timestamp(0, tz=str(zone)).tz) == str(zone):
            return str(zone)
    except (ValueError, KeyError, TypeError):
        pass
    raise TypeError(f"{path} has the time zone {zone}, which has no name that can be saved")


def _pack_index(packer: Packer, value: Any, path: str, depth: int) -> Any:
    pandas = sys.modules["pandas"]
    where, inner = f"{path}.index", depth + 2
    content: dict[str, Any] = {}
    content["names"] = [packer.pack(name, f"{where}.names", inner) for name in value.names]
    if isinstance(value, pandas.RangeIndex):
        content["range"] = [value.start, value.stop, value.step]
    elif isinstance(value, pandas.MultiIndex):
        content["levels"] = [_pack_index(packer, level, where, inner) for level in value.levels]
        content["codes"] = [_npy(sys.modules["numpy"].asarray(codes)) for codes in value.codes]
    else:
        content["values"] = _pack_column(packer, value, where, inner)
        if getattr(value, "freq", None) is not None:
            content["freq"] = value.freqstr
    return {"$py:index": content}


def _make_index(unpacker: Unpacker, content: Any) -> Any:
    pandas = _module("pandas")
    names = unpacker.unpack(content["names"])
    if "range" in content:
        return pandas.RangeIndex(*content["range"], name=names[0])
    if "levels" in content:
        levels = [unpacker.unpack(level) for level in content["levels"]]
        codes = [_from_npy(one) for one in content["codes"]]
        return pandas.MultiIndex(levels, codes, names=names)
    values = _make_column(unpacker, content["values"])
    index = pandas.Index(values, dtype=values.dtype, name=names[0])
    if "freq" in content:
        index.freq = content["freq"]
    return index


def _pack_series(packer: Packer, value: Any, path: str, depth: int) -> Any:
    return {
        "$py:series": {
            "values": _pack_column(packer, value, path, depth + 1),
            "index": packer.pack(value.index, f"{path}.index", depth + 1),
            "name": packer.pack(value.name, f"{path}.name", depth + 1),
            **_pack_extras(packer, value, path, depth + 1),
        }
    }


def _pack_extras(packer: Packer, value: Any, path: str, depth: int) -> dict[str, Any]:
    """What a series or a frame has beside its data."""
    for name in vars(value):
        # pandas' own are private; Python's attributes are none of its data.
        if not name.startswith("_"):
            raise TypeError(f"{path}.{name} is an attribute, not data: put it in {path}.attrs")
    return {
        "attrs": packer.pack(value.attrs, f"{path}.attrs", depth),
        "unique": not value.flags.allows_duplicate_labels,
    }


def _set_extras(unpacker: Unpacker, value: Any, content: Any) -> Any:
    value.attrs = unpacker.unpack(content["attrs"])
    if content["unique"]:
        value.flags.allows_duplicate_labels = False
    return value


def _make_series(unpacker: Unpacker, content: Any) -> Any:
    pandas = _module("pandas")
    values = _make_column(unpacker, content["values"])
    index, name = unpacker.unpack(content["index"]), unpacker.unpack(content["name"])
    series = pandas.Series(values, dtype=values.dtype, index=index, name=name)
    return _set_extras(unpacker, series, content)


def _pack_frame(packer: Packer, value: Any, path: str, depth: int) -> Any:
    columns = range(value.shape[1])
    return {
        "$py:frame": {
            "columns": packer.pack(value.columns, f"{path}.columns", depth + 1),
            "values": [
                _pack_column(packer, value.iloc[:, n], f"{path}[{value.columns[n]!r}]", depth + 2)
                for n in columns
            ],
            "index": packer.pack(value.index, f"{path}.index", depth + 1),
            **_pack_extras(packer, value, path, depth + 1),
        }
    }


def _make_frame(unpacker: Unpacker, content: Any) -> Any:
    pandas = _module("pandas")
    # In the order in which they were packed: the later may share parts with the earlier.
    columns = unpacker.unpack(content["columns"])
    values = [_make_column(unpacker, column) for column in content["values"]]
    index = unpacker.unpack(content["index"])
    series = [pandas.Series(one, dtype=one.dtype, index=index) for one in values]
    frame = pandas.DataFrame(dict(enumerate(series)), index=index)
    frame.columns = columns
    return _set_extras(unpacker, frame, content)


def _pack_moment(packer: Packer, value: Any, path: str, depth: int) -> Any:
    zone = getattr(value, "tz", None)
    naive = value if zone is None else value.tz_convert(None)
    kind = type(value).__name__
    return {"$py:moment": [kind, _npy(naive.asm8), None if zone is None else _zone(zone, path)]}


def _pack_missing(packer: Packer, value: Any, path: str, depth: int) -> Any:
    return {"$py:missing": "NA" if value is sys.modules["pandas"].NA else "NaT"}


def _make_moment(unpacker: Unpacker, content: Any) -> Any:
    kind, moment, zone = content
    if kind not in ("Timestamp", "Timedelta"):
        raise ValueError(f"nothing here makes a {kind!r}")
    value = getattr(_module("pandas"), kind)(_from_npy(moment)[()])
    return value if zone is None else value.tz_localize("UTC").tz_convert(zone)


_MAKERS: dict[str, Callable[[Unpacker, Any], Any]] = {
    "$py:array": _make_array,
    "$py:scalar": lambda unpacker, content: _from_npy(content)[()],
    "$py:index": _make_index,
    "$py:series": _make_series,
    "$py:frame": _make_frame,
    "$py:moment": _make_moment,
    "$py:missing": lambda unpacker, content: {
        "NA": _module("pandas").NA,
        "NaT": _module("pandas").NaT,
    }[content],
}
