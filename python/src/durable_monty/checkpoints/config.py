"""The table `[durability]`: in a file, in the environment, and as arguments."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..suggest import nearest
from .provider import InvalidCheckpoint

if TYPE_CHECKING:
    from .manager import CheckpointManager
    from .provider import CheckpointProvider

__all__ = ["DisabledManager", "DurabilityConfig", "open_manager"]

FILES = ("durable.toml", "playbooks.toml")
"""Where the table is looked for when no file is named: the first that has one."""

PREFIX = "DURABLE_DURABILITY_"
"""What the names of environment variables begin with: `DURABLE_DURABILITY_STORAGE_PATH`."""

_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclasses.dataclass(frozen=True)
class DurabilityConfig:
    """Whether and where checkpoints are kept."""

    enabled: bool = False
    storage_type: str = "filesystem"
    storage_path: str = ".checkpoints"
    """A folder or a file, or the URL of a database, a Redis or a bucket."""
    max_checkpoint_size_mb: float = 10
    keep_last_n: int = 10

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> DurabilityConfig:
        """Reads the table: arguments count more than the environment, which counts more than the
        file. Without a path, `durable.toml` or `playbooks.toml` in the working directory is read,
        if it is there.

        Raises `InvalidCheckpoint` (a ValueError) for what it does not know, with the nearest name
        that it does, and for values of the wrong kind.
        """
        values: dict[str, Any] = {}
        for file, table in _tables(path):
            for key, value in table.items():
                where = f"{file}: [durability] {key}"
                values[key] = _checked(_known(key, where), value, where)
        variables = os.environ if environment is None else environment
        for variable, text in variables.items():
            if variable.startswith(PREFIX):
                key = _known(variable[len(PREFIX) :].lower(), variable)
                values[key] = _checked(key, _read(key, text, variable), variable)
        for key, value in arguments.items():
            if value is not None:
                values[key] = _checked(_known(key, "an argument"), value, key)
        return cls(**values)

    def open_provider(self) -> CheckpointProvider | None:
        """The provider that the table names; None when it says `enabled = false`.

        One that knows no `keep_last_n` leaves it to its manager: `open_manager` passes it on.
        Raises `InvalidCheckpoint` for a `max_checkpoint_size_mb` that the provider can't heed.
        """
        if not self.enabled:
            return None
        from .registry import get_checkpoint_provider, takes_option

        options: dict[str, Any] = {}
        if takes_option(self.storage_type, "keep_last_n"):
            options["keep_last_n"] = self.keep_last_n
        if takes_option(self.storage_type, "max_size_mb"):
            options["max_size_mb"] = self.max_checkpoint_size_mb
        elif self.max_checkpoint_size_mb != type(self).max_checkpoint_size_mb:
            raise InvalidCheckpoint(
                f"max_checkpoint_size_mb is {self.max_checkpoint_size_mb}, and the provider of "
                f"{self.storage_type!r} bounds no sizes: its constructor takes no max_size_mb"
            )
        return get_checkpoint_provider(self.storage_type, self.storage_path, **options)


class DisabledManager:
    """What `open_manager` gives when nothing is to be kept: it does nothing."""

    async def acquire(self) -> None:
        return None

    async def save_checkpoint(self, *_: Any, **__: Any) -> None:
        return None

    async def load_checkpoint(self, checkpoint_id: str) -> None:
        return None

    async def list_checkpoints(self) -> list[str]:
        return []

    async def get_latest_checkpoint(self) -> None:
        return None

    async def cleanup_old_checkpoints(self, keep_last_n: int = 10) -> int:
        return 0

    async def close(self) -> None:
        return None

    async def __aenter__(self) -> DisabledManager:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


_DISABLED = DisabledManager()


def open_manager(
    execution_id: str, config: DurabilityConfig | None = None
) -> CheckpointManager | DisabledManager:
    """The manager of an execution's checkpoints, as `[durability]` has it."""
    config = DurabilityConfig.load() if config is None else config
    provider = config.open_provider()
    if provider is None:
        return _DISABLED
    from .manager import CheckpointManager

    return CheckpointManager(execution_id, provider, keep_last_n=config.keep_last_n)


_FIELDS = {field.name: field for field in dataclasses.fields(DurabilityConfig)}


def _tables(path: str | Path | None) -> list[tuple[Path, dict[str, Any]]]:
    if path is not None:
        file = Path(path)
        if not file.is_file():
            raise InvalidCheckpoint(f"{file}: there is no such file")
        return [(file, _table(file))]
    for file in map(Path, FILES):
        if file.is_file() and (table := _table(file)):
            return [(file, table)]
    return []


def _table(file: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        table = tomllib.loads(file.read_text("utf-8")).get("durability", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidCheckpoint(f"{file}: {error}") from None
    if not isinstance(table, dict):
        raise InvalidCheckpoint(f"{file}: durability is no table: write [durability]")
    return table


def _known(key: str, where: str) -> str:
    if key in _FIELDS:
        return key
    near = nearest(key, _FIELDS)
    hint = f"did you mean {near!r}?" if near else f"there are {', '.join(_FIELDS)}"
    raise InvalidCheckpoint(f"{where}: there is no {key!r}: {hint}")


def _read(key: str, text: str, where: str) -> Any:
    """The value of an environment variable."""
    kind: type = type(_FIELDS[key].default)
    try:
        if kind is bool:
            return _BOOLEANS[text.strip().lower()]
        if key == "keep_last_n":
            return int(text)
        if key == "max_checkpoint_size_mb":
            return float(text)
    except (KeyError, ValueError):
        expected = "true or false" if kind is bool else "a number"
        raise InvalidCheckpoint(f"{where} is {text!r}: expected {expected}") from None
    return text


def _checked(key: str, value: Any, where: str) -> Any:
    if key == "storage_path" and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if key == "enabled":
        fits, expected = isinstance(value, bool), "true or false"
    elif key == "keep_last_n":
        fits = type(value) is int and value >= 1
        expected = "a whole number, at least 1"
    elif key == "max_checkpoint_size_mb":
        fits = type(value) in (int, float) and 0 < value <= 1024
        expected = "a number, more than 0 and at most 1024"
    else:
        fits, expected = isinstance(value, str) and value != "", "text"
    if not fits:
        raise InvalidCheckpoint(f"{where} is {value!r}: expected {expected}")
    return value
