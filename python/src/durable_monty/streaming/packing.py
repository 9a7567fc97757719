"""The data in a namespace, as values that every provider of checkpoints can store.

What `durable_monty.values` writes and reads back as it was stays as it is. The rest becomes dicts
with one key that starts with `$py:`, a prefix that the mapping of docs/VALUES.md reserves. Nothing
is pickled: instances are written as their fields, and classes as their names.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import pathlib
import re
import sys
import types
from collections.abc import Collection, Mapping
from typing import Any

from .. import values
from . import kinds

__all__ = ["Packer", "Unpacker", "is_reference", "pack_namespace"]

TAG = "$py:"

_PLAIN = frozenset(
    (
        type(None),
        bool,
        int,
        float,
        complex,
        str,
        bytes,
        decimal.Decimal,
        dt.date,
        dt.timedelta,
        dt.timezone,
        type(pathlib.Path()),
        type(...),
    )
)
_ATOMS = frozenset((type(None), bool, int, float, str, bytes))
"""What is plain at first sight, so that large data costs little."""

_tags_in_path = re.compile(r"\['\$py:\w+'\](\[1\])?").sub
_CODE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)


def is_reference(tree: Any) -> bool:
    """Whether a stored form is no more than a name."""
    return type(tree) is dict and tree.keys() == {"$py:name"}


def pack_namespace(
    variables: Mapping[str, Any],
    names: Mapping[int, str],
    own_module: str,
    modules: Collection[str] | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The variables as values that can be stored, and why the others can't.

    `names` are those by which objects can be had again, by the ids of the objects; `own_module` is
    that of the program itself, whose classes are had again by these names only. `modules` are
    those that are there when the variables are made again; None for all that are there now.
    """
    unsaved: dict[str, str] = {}
    shared: frozenset[int] = frozenset()
    while True:
        packer = Packer(names, own_module, shared, modules)
        packed: dict[str, Any] = {}
        failed: dict[str, str] = {}
        for name, value in variables.items():
            if name in unsaved:
                continue
            try:
                if name.startswith("__"):
                    raise TypeError(f"{name} begins with two underscores: such names are not kept")
                packed[name] = packer.pack(value, name)
                values.encode(packed[name], name)
            except TypeError as error:
                failed[name] = _tags_in_path("", str(error))
        unsaved.update(failed)
        # What is met twice is only known at the end; what failed has to be forgotten.
        if not failed and packer.met_again <= shared:
            return packed, unsaved
        shared = frozenset(packer.met_again)


class Packer:
    """Packs values that may share parts with each other."""

    def __init__(
        self,
        names: Mapping[int, str] = types.MappingProxyType({}),
        own_module: str = "",
        shared: Collection[int] = (),
        modules: Collection[str] | None = None,
    ) -> None:
        self.met_again: set[int] = set()
        """The ids of objects that were met more than once."""
        self.memory: dict[int, list[tuple[Any, str]]] = {}
        """The arrays that were met and their paths, by the ids of what owns their memory."""
        self._names = names
        self._own_module = own_module
        self._shared = shared
        self._modules = modules
        self._numbers: dict[int, int] = {}
        # The objects themselves, so that none is gone and its id another's.
        self._met: dict[int, tuple[Any, str]] = {}
        self._inside: set[int] = set()
        self._failed: dict[int, str] = {}

    def pack(self, value: Any, path: str, depth: int = 0) -> Any:
        """The stored form of a value. Raises TypeError, which names the place, if it has none."""
        if _is_plain(value):
            return value
        reference = self.reference(value)
        if reference is not None:
            return {"$py:name": reference}
        kind = type(value)
        to_tree = _CONTAINERS.get(kind) or kinds.find(kind)
        if to_tree is None:
            raise TypeError(kinds.no_data(value, path))
        if depth > values.MAX_DEPTH:
            raise TypeError(f"{path[:200]} is nested deeper than {values.MAX_DEPTH} levels")
        key = id(value)
        if key in self._inside:
            raise TypeError(f"{path} contains itself, and what does can't be saved")
        if key in self._failed:
            raise TypeError(f"{path}: {self._failed[key]}")
        if key in self._met and not (kind in (tuple, frozenset) and not value):
            self.met_again.add(key)
            return {"$py:same": self._numbers.get(key, 0)}
        self._met[key] = value, path
        self._inside.add(key)
        try:
            tree = to_tree(self, value, path, depth + 1)
        except TypeError as error:
            self._failed[key] = str(error)
            raise
        finally:
            self._inside.discard(key)
        if key in self._shared:
            number = self._numbers[key] = len(self._numbers)
            return {"$py:shared": [number, tree]}
        return tree

    def parts(self) -> dict[str, Any]:
        """The objects that were packed and can change, by their paths."""
        parts: dict[str, Any] = {}
        for value, path in self._met.values():
            if not isinstance(value, (tuple, frozenset, enum.Enum)):
                parts.setdefault(path, value)
        return parts

    def reference(self, value: Any) -> str | None:
        """The name by which an object can be had again: that of a definition, of something that
        the host gives, or `module:name` of something that can be imported."""
        name = self._names.get(id(value))
        if name is not None or not isinstance(value, _CODE):
            return name
        if isinstance(value, types.ModuleType):
            module, qualname = value.__name__, ""
        else:
            module, qualname = value.__module__ or "", value.__qualname__
        if module == self._own_module or not (self._modules is None or module in self._modules):
            return None
        reference = f"{module}:{qualname}"
        return reference if _imported(reference) is value else None

    def class_of(self, value: Any, path: str) -> str:
        """The name by which the class of an instance can be had again."""
        kind = type(value)
        reference = self.reference(kind)
        if reference is None:
            raise TypeError(
                f"{path} is of a class {kind.__qualname__} that can't be had again: a class has to "
                "be defined by a `class` statement at the left margin and still have its name, or "
                "be imported there"
            )
        return reference


class Unpacker:
    """Makes the values again that `pack_namespace` wrote."""

    def __init__(self, names: Mapping[str, Any], known: Collection[type] = ()) -> None:
        self._names = names
        self._known = {f"{kind.__module__}:{kind.__qualname__}": kind for kind in known}
        self._shared: dict[int, Any] = {}

    def unpack(self, tree: Any) -> Any:
        """The value of a stored form. Raises ValueError for what is none, and for what it names
        and isn't there."""
        kind = type(tree)
        if kind is list:
            return [self.unpack(item) for item in tree]
        if kind is tuple:
            return tuple([self.unpack(item) for item in tree])
        if kind is not dict:
            return tree
        if len(tree) == 1:
            [(tag, content)] = tree.items()
            if isinstance(tag, str) and tag.startswith(TAG):
                return self._tagged(tag, content)
        return {key: self.unpack(item) for key, item in tree.items()}

    def named(self, reference: str) -> Any:
        """What has a name. Nothing is imported for it."""
        if reference in self._known:
            return self._known[reference]
        found = self._names.get(reference)
        if found is None and ":" in reference:
            found = _imported(reference)
        if found is None:
            raise ValueError(
                f"there is no {reference!r} here: import its module before, or give it in "
                "`namespace` or `types`"
            )
        return found

    def _tagged(self, tag: str, content: Any) -> Any:
        if tag == "$py:name":
            return self.named(content)
        if tag == "$py:shared":
            number, inner = content
            value = self._shared[number] = self.unpack(inner)
            return value
        if tag == "$py:same":
            if content not in self._shared:
                raise ValueError("it refers to a value that is not there")
            return self._shared[content]
        if tag in ("$py:set", "$py:frozenset"):
            made = {self.unpack(item) for item in content}
            return made if tag == "$py:set" else frozenset(made)
        if tag == "$py:dict":
            return {self.unpack(key): self.unpack(item) for key, item in content}
        return kinds.make(self, tag, content)


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind in (dt.datetime, dt.time):
        # An offset is all that is written of a zone.
        return not value.fold and (value.tzinfo is None or type(value.tzinfo) is dt.timezone)
    return kind in _PLAIN


def _imported(reference: str) -> Any:
    """What `module:name` stands for among the modules that were imported; None if nothing."""
    module, _, qualname = reference.rpartition(":")
    found: Any = sys.modules.get(module)
    for name in filter(None, qualname.split(".")):
        found = getattr(found, name, None)
    return found


def _pack_list(packer: Packer, value: Any, path: str, depth: int) -> Any:
    if _ATOMS.issuperset(map(type, value)):
        return value[:]
    items = (packer.pack(item, f"{path}[{n}]", depth) for n, item in enumerate(value))
    return type(value)(items)


def _pack_set(packer: Packer, value: Any, path: str, depth: int) -> Any:
    if all(_is_plain(item) for item in value):
        return type(value)(value)
    tag = f"{TAG}{type(value).__name__}"
    return {tag: [packer.pack(item, f"{path}[{n}]", depth) for n, item in enumerate(value)]}


def _pack_dict(packer: Packer, value: dict[Any, Any], path: str, depth: int) -> Any:
    is_reserved = len(value) == 1 and str(next(iter(value))).startswith(TAG)
    if _ATOMS.issuperset(map(type, value.values())) and _ATOMS.issuperset(map(type, value)):
        return {"$py:dict": list(map(list, value.items()))} if is_reserved else value.copy()
    if all(_is_plain(key) for key in value) and not is_reserved:
        return {key: packer.pack(item, f"{path}[{key!r}]", depth) for key, item in value.items()}
    return {
        "$py:dict": [
            [
                packer.pack(key, f"{path}: the key {key!r}", depth),
                packer.pack(item, f"{path}[{key!r}]", depth),
            ]
            for key, item in value.items()
        ]
    }


_CONTAINERS: dict[type, kinds.ToTree] = {
    list: _pack_list,
    tuple: _pack_list,
    set: _pack_set,
    frozenset: _pack_set,
    dict: _pack_dict,
}
