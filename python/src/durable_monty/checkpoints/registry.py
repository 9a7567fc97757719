"""Providers by their `storage_type`, also those of other installed packages."""

from __future__ import annotations

import importlib.metadata
import inspect
import warnings
from typing import Any

from ..suggest import nearest
from . import providers
from .content import CheckpointWarning
from .provider import CheckpointProvider, InvalidCheckpoint

__all__ = ["checkpoint_providers", "get_checkpoint_provider", "register_checkpoint_provider"]

GROUPS = ("durable_monty.extensions", "playbooks.extensions")
"""The groups of entry points that are looked at."""

ENTRY_POINT = "checkpoint_provider"
"""What an entry point of a provider is called, or what its name begins with."""

_BUILT_IN: tuple[type[CheckpointProvider], ...] = (
    providers.FilesystemCheckpointProvider,
    providers.SqliteCheckpointProvider,
    providers.PostgresCheckpointProvider,
    providers.RedisCheckpointProvider,
    providers.S3CheckpointProvider,
    providers.MemoryCheckpointProvider,
)
_providers: dict[str, type[CheckpointProvider]] = {kind.storage_type: kind for kind in _BUILT_IN}
_found = False


def register_checkpoint_provider(
    provider: type[CheckpointProvider], storage_type: str | None = None, *, replace: bool = False
) -> None:
    """Makes a provider known under a `storage_type`, its own unless another is given.

    Raises ValueError when that is taken by another provider, unless it is to be replaced.
    """
    name = storage_type or getattr(provider, "storage_type", "")
    if not (inspect.isclass(provider) and issubclass(provider, CheckpointProvider)):
        raise TypeError(f"{provider!r} is no subclass of CheckpointProvider")
    if not name:
        raise ValueError(f"{_name(provider)} has no storage_type: give one")
    _discover()
    _register(provider, name, replace)


def checkpoint_providers() -> dict[str, type[CheckpointProvider]]:
    """Every provider that is known, by its `storage_type`."""
    _discover()
    return dict(_providers)


def get_checkpoint_provider(
    storage_type: str = "filesystem", storage_path: str | None = None, **options: Any
) -> CheckpointProvider:
    """Opens the provider of a `storage_type`.

    `storage_path` is what it is given first: a folder, a file, or a URL. Raises `InvalidCheckpoint`
    for a type that is not known, and for an option that the provider's constructor does not take.
    """
    kind = _kind(storage_type)
    for name in options:
        if not takes_option(storage_type, name):
            raise InvalidCheckpoint(f"the checkpoint provider {_name(kind)} takes no {name}")
    arguments = () if storage_path is None else (storage_path,)
    return kind(*arguments, **options)


def takes_option(storage_type: str, name: str) -> bool:
    """Whether the constructor of a provider has a parameter."""
    parameters = inspect.signature(_kind(storage_type)).parameters
    return name in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def _kind(storage_type: str) -> type[CheckpointProvider]:
    _discover()
    kind = _providers.get(storage_type)
    if kind is None:
        near = nearest(storage_type, _providers)
        hint = f"did you mean {near!r}?" if near else f"there are {', '.join(sorted(_providers))}"
        raise InvalidCheckpoint(f"there is no checkpoint provider {storage_type!r}: {hint}")
    return kind


def _name(provider: type) -> str:
    return f"{provider.__module__}.{provider.__qualname__}"


def _register(provider: type[CheckpointProvider], name: str, replace: bool) -> None:
    before = _providers.get(name)
    if before is not None and before is not provider and not replace:
        raise ValueError(
            f"the storage_type {name!r} is that of {_name(before)}: {_name(provider)} needs "
            "another, or replace=True"
        )
    _providers[name] = provider


def _discover() -> None:
    """Registers the providers of installed packages, once."""
    global _found
    if _found:
        return
    _found = True
    for group in GROUPS:
        for entry in importlib.metadata.entry_points(group=group):
            prefix, _, rest = entry.name.partition(":")
            if prefix == ENTRY_POINT:
                _load(entry, rest)


def _load(entry: importlib.metadata.EntryPoint, name: str) -> None:
    """One broken package breaks nothing but itself."""
    package = entry.dist.name if entry.dist is not None else entry.value.partition(":")[0]
    try:
        provider = entry.load()
        if not inspect.isclass(provider):
            raise TypeError(f"{entry.value} is no class")
        if not issubclass(provider, CheckpointProvider):
            missing = [part for part in _METHODS if not callable(getattr(provider, part, None))]
            if missing:
                raise TypeError(f"{entry.value} has no {', '.join(missing)}")
            # Made for the original's base class, which has the same methods.
            provider = type(provider.__name__, (provider, CheckpointProvider), {})
        # Only what it says itself: a type that it got by inheritance is another one's.
        name = name or vars(provider).get("storage_type") or provider.storage_type or package
        taken = _providers.get(name)
        if taken is not None and taken is not provider:
            other = f"{package}:{name}"
            warnings.warn(
                f"the checkpoint provider {entry.value} of {package} has the storage_type "
                f"{name!r} of {_name(taken)}: it is known as {other!r}",
                CheckpointWarning,
                stacklevel=4,
            )
            name = other
        _register(provider, name, replace=False)
    except Exception as error:
        warnings.warn(
            f"the checkpoint provider {entry.value} of {package} can't be used: "
            f"{type(error).__name__}: {error}",
            CheckpointWarning,
            stacklevel=4,
        )


_METHODS = (
    "save_checkpoint",
    "load_checkpoint",
    "list_checkpoints",
    "delete_checkpoint",
    "cleanup_old_checkpoints",
)
