"""What the functions and classes of a program hold, to see whether it has changed since."""

from __future__ import annotations

import contextlib
import enum
import functools
import random
import types
from dataclasses import dataclass
from typing import Any

from .. import values
from . import kinds
from .packing import Packer

__all__ = ["Held"]


@dataclass(frozen=True)
class _Itself:
    """Equal to no other object's."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.value is self.value

    __hash__ = None  # type: ignore[assignment]


class Held:
    """What the value of a name holds: defaults, attributes, what it encloses; of a class what its
    methods hold, too. It looks only into what belongs to the program's own module."""

    def __init__(self, name: str, value: object, module: str) -> None:
        self.parts: dict[str, Any] = {}
        """The objects in it, by where they are: `Shop.prices['tea']`."""
        self.iterator: str | None = None
        """Where it holds an iterator: nobody can tell how far that is."""
        self._name = name
        self._module = module
        self._compared: dict[str, Any] = {}
        """What to compare, by where it is below the name."""
        self._seen: set[int] = set()
        if isinstance(value, type):
            self._all(_of_class(value), "")
        else:
            self._look(value, "")

    def changed(self, now: Held) -> str | None:
        """The first place that holds something else now."""
        places = {**self._compared, **now._compared}
        different = (one for one in places if self._compared.get(one) != now._compared.get(one))
        return next(different, None)

    def _all(self, inside: dict[str, Any], where: str) -> None:
        for place, one in inside.items():
            dot = "." if where and not place.startswith("[") else ""
            self._note(one, f"{where}{dot}{place}")

    def _note(self, value: Any, where: str) -> None:
        if value is None or type(value) is types.CodeType:
            self._compared[where] = value
            return
        packer = Packer()
        try:
            if isinstance(value, (types.FunctionType, type, enum.Enum)):
                raise TypeError("it may have attributes")
            # As text: `==` finds 1 and True the same, and nan different from itself.
            self._compared[where] = values.encode(packer.pack(value, f"{self._name}.{where}"))
        except TypeError:
            self._compared[where] = _Itself(value)
            if hasattr(type(value), "__next__"):
                self.iterator = where
            self._look(value, where)
        else:
            self.parts |= packer.parts()

    def _look(self, value: object, where: str) -> None:
        if id(value) not in self._seen:
            self._seen.add(id(value))
            self._all(self._inside(value), where)

    def _inside(self, value: Any) -> dict[str, Any]:
        if isinstance(value, types.FunctionType):
            is_own = value.__globals__.get("__name__") == self._module
            return _of_function(value) | (_of_own_function(value) if is_own else {})
        if isinstance(value, type):
            return _of_class(value) if value.__module__ == self._module else {}
        if isinstance(value, (staticmethod, classmethod, types.MethodType)):
            return {"function": value.__func__}
        if isinstance(value, property):
            return {"getter": value.fget, "setter": value.fset, "deleter": value.fdel}
        if isinstance(value, functools.cached_property):
            return {"getter": value.func}
        if isinstance(value, functools.partial):
            return {"function": value.func, "arguments": value.args, "keywords": value.keywords}
        if type(value) in (list, tuple):
            return {f"[{n}]": one for n, one in enumerate(value)}
        if type(value) is dict:
            return {f"[{key!r}]": one for key, one in value.items()}
        if isinstance(value, random.Random):
            return {"state": value.getstate()}
        return _of_instance(value) if type(value).__module__ == self._module else {}


def _of_instance(value: object) -> dict[str, Any]:
    inside = {name: getattr(value, name) for name in sorted(kinds.attributes(value))}
    if not isinstance(value, enum.Enum):
        return inside
    # An enum keeps what it finds out of its members in names of its own.
    public = {name: one for name, one in inside.items() if not name.startswith("_")}
    return {"value": value.value} | public


def _of_function(value: types.FunctionType) -> dict[str, Any]:
    defaults = {"default": value.__defaults__, "keyword default": value.__kwdefaults__}
    return defaults | vars(value)


def _of_own_function(value: types.FunctionType) -> dict[str, Any]:
    inside: dict[str, Any] = {"name": value.__name__, "doc": value.__doc__, "code": value.__code__}
    cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
    for name, cell in cells:
        with contextlib.suppress(ValueError):  # it has no value yet
            inside[name] = cell.cell_contents
    return inside


def _of_class(value: Any) -> dict[str, Any]:
    # Python and libraries keep what they find out of a class later in names of their own.
    is_enum = issubclass(value, enum.Enum)
    reserved = "_" if is_enum else "__"
    inside = {**vars(value), **(value.__members__ if is_enum else {})}
    return {
        name: one
        for name, one in inside.items()
        if not name.startswith(reserved) or name == "__doc__" or isinstance(one, types.FunctionType)
    }
