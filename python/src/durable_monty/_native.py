"""The compiled module, as this process may use it.

After a fork the child has the parent's copy of it, with open files, and with locks held by threads
that are not there any more. Nothing of that may be touched. So a child loads the module once more,
from a copy of its file: a library of its own that knows nothing of the other.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import os
import shutil
import tempfile
from typing import Any, NamedTuple

from .errors import ForkError

__all__ = ["leak", "native"]

_NAME = "durable_monty._internal"


class _Loaded(NamedTuple):
    pid: int
    module: Any


_loaded: _Loaded | None = None


def native() -> Any:
    """The module `durable_monty._internal` of this process."""
    global _loaded
    pid = os.getpid()
    if _loaded is None:
        _loaded = _Loaded(pid, importlib.import_module(_NAME))
    elif _loaded.pid != pid:
        leak(_loaded.module)
        _loaded = _Loaded(pid, _load_copy(_loaded.module.__file__))
    return _loaded.module


def leak(thing: object) -> None:
    """Keeps an object of the parent's copy from ever being torn down in this process."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _load_copy(file: str) -> Any:
    shared_memory = "/dev/shm"
    parent = shared_memory if os.access(shared_memory, os.W_OK) else None
    try:
        with tempfile.TemporaryDirectory(prefix="durable-monty-", dir=parent) as directory:
            # A link would not do: the same file is the same library.
            copy = shutil.copy(file, directory)
            loader = importlib.machinery.ExtensionFileLoader(_NAME, copy)
            spec = importlib.util.spec_from_loader(_NAME, loader)
            assert spec is not None
            module = importlib.util.module_from_spec(spec)
            loader.exec_module(module)
            # Where interpreter processes find it, and children of this one.
            module.__file__ = file
            return module
    except OSError as error:
        raise ForkError(f"the engine could not be loaded again after fork(): {error}") from error
