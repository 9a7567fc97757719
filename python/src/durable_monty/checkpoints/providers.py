"""The providers that come with the package: files, SQLite, Postgres, Redis, S3, memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from .._native import leak, native
from ..errors import InvalidWorkflow
from .content import decode, encode
from .provider import Checkpoint, CheckpointProvider, InvalidCheckpoint

__all__ = [
    "FilesystemCheckpointProvider",
    "MemoryCheckpointProvider",
    "NativeCheckpointProvider",
    "PostgresCheckpointProvider",
    "RedisCheckpointProvider",
    "S3CheckpointProvider",
    "SqliteCheckpointProvider",
]

_T = TypeVar("_T")


class NativeCheckpointProvider(CheckpointProvider):
    """What the providers of this package share.

    `keep_last_n`: how many checkpoints of an execution are kept when another is saved, None for
    all.
    `max_size_mb`: largest checkpoint, before it is compressed.
    `lease_s`: how long a writer that is gone keeps others out. (On its own machine it keeps nobody
    out: others see that it is gone.)
    `encryption_keys`: as DURABLE_ENCRYPTION_KEYS, which is used when this is None.
    `types`: dataclasses and pydantic models that loading makes again; others become look-alikes.
    """

    def __init__(
        self,
        url: str,
        *,
        max_size_mb: float = 10,
        keep_last_n: int | None = 10,
        lease_s: float = 30.0,
        encryption_keys: str | None = None,
        types: Iterable[type] = (),
    ) -> None:
        if keep_last_n is not None and keep_last_n < 1:
            raise InvalidCheckpoint(f"keep_last_n is {keep_last_n}: at least one is kept")
        if not 0 < max_size_mb <= 1024:
            raise InvalidCheckpoint(f"max_size_mb is {max_size_mb}: more than 0, at most 1024")
        if not 0 <= lease_s <= 86_400:
            raise InvalidCheckpoint(f"lease_s is {lease_s}: at least 0, at most a day")
        self.keep_last_n = keep_last_n
        self.types = tuple(types)
        keys = os.environ.get("DURABLE_ENCRYPTION_KEYS") if encryption_keys is None else None
        self._options = (
            url,
            int(max_size_mb * 1024 * 1024),
            keep_last_n,
            float(lease_s),
            encryption_keys or keys or None,
        )
        self._opened: tuple[int, Any] | None = None
        _valid(self._store)

    def _store(self) -> Any:
        """The store of this process: a forked child opens one of its own."""
        pid = os.getpid()
        if self._opened is not None and self._opened[0] != pid:
            leak(self._opened[1])
            self._opened = None
        if self._opened is None:
            self._opened = (pid, native().CheckpointStore(*self._options))
        return self._opened[1]

    async def _run(self, run: Callable[[Any], _T]) -> _T:
        return await asyncio.to_thread(_valid, lambda: run(self._store()))

    @property
    def place(self) -> str:
        """Where the checkpoints are, without secrets."""
        place: str = self._store().place
        return place

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.place}>"

    async def save_checkpoint(
        self,
        checkpoint_id: str,
        execution_state: dict[str, Any],
        namespace: dict[str, Any],
        metadata: dict[str, Any],
    ) -> None:
        content = encode(checkpoint_id, execution_state, namespace, metadata)
        await self._run(lambda store: store.save(checkpoint_id, content))

    async def load_checkpoint(self, checkpoint_id: str) -> Checkpoint | None:
        content = await self._run(lambda store: store.load(checkpoint_id))
        return None if content is None else decode(checkpoint_id, content, self.types)

    async def list_checkpoints(self, execution_id: str) -> list[str]:
        ids: list[str] = await self._run(lambda store: store.list(execution_id))
        return ids

    async def delete_checkpoint(self, checkpoint_id: str) -> None:
        await self._run(lambda store: store.delete(checkpoint_id))

    async def cleanup_old_checkpoints(self, execution_id: str, keep_last_n: int = 10) -> int:
        if keep_last_n < 0:
            raise InvalidCheckpoint(f"keep_last_n is {keep_last_n}: it can't be less than 0")
        removed: int = await self._run(lambda store: store.cleanup(execution_id, keep_last_n))
        return removed

    async def acquire(self, execution_id: str) -> None:
        await self._run(lambda store: store.acquire(execution_id))

    async def release(self, execution_id: str) -> None:
        await self._run(lambda store: store.release(execution_id))


def _valid(run: Callable[[], _T]) -> _T:
    try:
        return run()
    except InvalidWorkflow as error:
        raise InvalidCheckpoint(str(error)) from None


class FilesystemCheckpointProvider(NativeCheckpointProvider):
    """Checkpoints in files below a folder, for the processes of one machine."""

    storage_type = "filesystem"

    def __init__(self, base_path: str | Path = ".checkpoints", **options: Any) -> None:
        super().__init__(f"file:{Path(base_path).absolute()}", **options)


class SqliteCheckpointProvider(NativeCheckpointProvider):
    """Checkpoints in a SQLite file, given by its path or as `sqlite:///file.db`."""

    storage_type = "sqlite"

    def __init__(self, base_path: str | Path = "checkpoints.db", **options: Any) -> None:
        path = Path(str(base_path).removeprefix("sqlite:///")).absolute()
        super().__init__(f"sqlite:///{path}", **options)


class PostgresCheckpointProvider(NativeCheckpointProvider):
    """Checkpoints in a Postgres database: `postgresql://user@host/database`."""

    storage_type = "postgres"

    def __init__(self, base_path: str, **options: Any) -> None:
        super().__init__(_with_scheme(base_path, "postgresql", "postgres"), **options)


class RedisCheckpointProvider(NativeCheckpointProvider):
    """Checkpoints in Redis: `redis://host:port/database`, or `rediss://`."""

    storage_type = "redis"

    def __init__(self, base_path: str, **options: Any) -> None:
        super().__init__(_with_scheme(base_path, "redis", "rediss"), **options)


class S3CheckpointProvider(NativeCheckpointProvider):
    """Checkpoints in a bucket: `s3://bucket/prefix`.

    Region, endpoint and credentials stand in the environment, as for Amazon's own tools.
    """

    storage_type = "s3"

    def __init__(self, base_path: str, **options: Any) -> None:
        super().__init__(_with_scheme(base_path, "s3"), **options)


class MemoryCheckpointProvider(NativeCheckpointProvider):
    """Checkpoints in this object, gone with it: for tests."""

    storage_type = "memory"

    def __init__(self, base_path: str = "", **options: Any) -> None:
        super().__init__("memory:", **options)


def _with_scheme(url: str, *schemes: str) -> str:
    scheme, divider, _ = url.partition("://")
    if not divider or scheme.partition("+")[0] not in schemes:
        # What follows the scheme may hold a password.
        raise InvalidCheckpoint(f"expected a URL that begins with {schemes[0]}://")
    return url
