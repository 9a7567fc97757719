"""A checkpointer for LangGraph on any provider (extra `langgraph`).

>>> saver = DurableSaver(FilesystemCheckpointProvider(".graphs", keep_last_n=None))
>>> graph = builder.compile(checkpointer=saver)

Everything of a thread is a row of entries that only grows: what LangGraph calls a checkpoint is
one, the writes of a task are another. One process at a time writes a thread; others may read it.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
    get_checkpoint_metadata,
)

from .names import parse_checkpoint_id, parse_execution_id
from .provider import CheckpointProvider, InvalidCheckpoint
from .writer import Writer

__all__ = ["DurableSaver"]

_T = TypeVar("_T")
_Entry = dict[str, Any]

PREFIX = "langgraph."
"""What the names of executions begin with that are threads."""


class _Thread:
    """What is known of a thread: its entries by number, which never change."""

    def __init__(self, thread_id: str, provider: CheckpointProvider) -> None:
        self.id = thread_id
        try:
            self.execution = parse_execution_id(PREFIX + thread_id)
        except InvalidCheckpoint:
            digest = hashlib.sha256(thread_id.encode()).hexdigest()
            self.execution = f"{PREFIX}sha256={digest}"
        self.entries: dict[int, _Entry] = {}
        self.writer = Writer(provider, self.execution)

    def puts(self) -> Iterator[_Entry]:
        return (entry for entry in self.entries.values() if entry["kind"] == "checkpoint")

    def find(self, namespace: str, checkpoint_id: str | None) -> _Entry | None:
        """The checkpoint with an id, or the newest one."""
        found = [
            entry
            for entry in self.puts()
            if entry["ns"] == namespace and checkpoint_id in (None, entry["id"])
        ]
        return max(found, key=lambda entry: str(entry["id"]), default=None)

    def writes(self, namespace: str, checkpoint_id: str) -> list[_Entry]:
        """Those of a checkpoint, in the order in which LangGraph applies them."""
        by_place: dict[tuple[str, int], _Entry] = {}
        for number in sorted(self.entries):
            entry = self.entries[number]
            if (entry["kind"], entry["ns"], entry["id"]) != ("writes", namespace, checkpoint_id):
                continue
            for write in entry["writes"]:
                place = (write["task"], write["index"])
                # Of what is written twice the first counts, except of what is special.
                if write["index"] < 0 or place not in by_place:
                    by_place[place] = write
        return sorted(by_place.values(), key=lambda one: (one["path"], one["task"], one["index"]))


class DurableSaver(BaseCheckpointSaver[int]):
    """Keeps LangGraph's checkpoints with a `CheckpointProvider`.

    The provider has to keep everything, with `keep_last_n=None`: LangGraph goes back to older
    checkpoints. `close()`, or `with`, lets other processes write at once. What goes over all
    threads (`list(None)`, `delete_for_runs`) covers those that this saver has used.
    """

    def __init__(self, provider: CheckpointProvider, *, serde: Any = None) -> None:
        kept = getattr(provider, "keep_last_n", None)
        if kept is not None:
            raise InvalidCheckpoint(
                f"the provider keeps the last {kept} entries of a thread, and "
                "LangGraph needs all of them: give it keep_last_n=None"
            )
        super().__init__(serde=serde)
        self.provider = provider
        self._threads: dict[str, _Thread] = {}
        self._loop = asyncio.new_event_loop()
        runner = threading.Thread(target=self._loop.run_forever, name="durable-saver", daemon=True)
        runner.start()
        self._runner = runner

    def __enter__(self) -> DurableSaver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets others write, and ends the saver."""
        if not self._runner.is_alive():
            return
        self._wait(self._release())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._runner.join()
        self._loop.close()

    async def _release(self) -> None:
        for thread in self._threads.values():
            await thread.writer.turn(thread.writer.release)

    # The same work for callers that wait and for those that await

    def _wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _await(self, work: Coroutine[Any, Any, _T]) -> _T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    # Entries

    def _known(self, thread_id: str) -> _Thread:
        thread = self._threads.get(thread_id)
        if thread is None:
            thread = self._threads[thread_id] = _Thread(thread_id, self.provider)
        return thread

    async def _thread(self, thread_id: str) -> _Thread:
        """A thread with everything that is stored of it."""
        thread = self._known(thread_id)
        await thread.writer.turn(lambda: self._refresh(thread))
        return thread

    async def _refresh(self, thread: _Thread) -> None:
        ids = await self.provider.list_checkpoints(thread.execution)
        numbers = {parse_checkpoint_id(entry_id)[1]: entry_id for entry_id in ids}
        for number in thread.entries.keys() - numbers.keys():
            del thread.entries[number]
        for number in sorted(numbers.keys() - thread.entries.keys()):
            loaded = await self.provider.load_checkpoint(numbers[number])
            if loaded is not None:
                thread.entries[number] = loaded["namespace"]

    async def _append(self, thread_id: str, *entries: _Entry) -> None:
        thread = self._known(thread_id)

        async def append() -> None:
            for entry in entries:
                await self._append_one(thread, entry)

        await thread.writer.turn(append)

    async def _append_one(self, thread: _Thread, entry: _Entry) -> None:
        if not thread.writer.is_sole:
            # Numbers of other processes are seen here, and not used again.
            await thread.writer.acquire()
        number = thread.writer.next_number()
        await thread.writer.save(number, {}, entry, {"thread_id": thread.id})
        thread.entries[number] = entry

    async def _remove(self, thread_id: str, places: set[tuple[str, str]]) -> None:
        """Removes the entries of some checkpoints, given by namespace and id."""
        thread = self._known(thread_id)

        async def remove() -> None:
            await thread.writer.acquire()
            await self._refresh(thread)
            numbers = [
                number
                for number, entry in thread.entries.items()
                if (entry["ns"], entry["id"]) in places
            ]
            if max(thread.entries, default=0) in numbers:
                # A number that another process has seen never gets another meaning.
                await self._append_one(thread, {"kind": "mark", "ns": "", "id": ""})
            for number in numbers:
                await self.provider.delete_checkpoint(f"{thread.execution}_ckpt_{number}")
                del thread.entries[number]

        await thread.writer.turn(remove)

    # Reading

    def _tuple(self, thread: _Thread, entry: _Entry) -> CheckpointTuple:
        namespace, checkpoint_id = entry["ns"], entry["id"]

        def config(id_: str) -> RunnableConfig:
            place = {"thread_id": thread.id, "checkpoint_ns": namespace, "checkpoint_id": id_}
            return {"configurable": place}

        return CheckpointTuple(
            config=config(checkpoint_id),
            checkpoint=self.serde.loads_typed(entry["checkpoint"]),
            metadata=self.serde.loads_typed(entry["metadata"]),
            parent_config=config(entry["parent"]) if entry["parent"] else None,
            pending_writes=[
                (write["task"], write["channel"], self.serde.loads_typed(write["value"]))
                for write in thread.writes(namespace, checkpoint_id)
            ],
        )

    async def _get(self, config: RunnableConfig) -> CheckpointTuple | None:
        place = config["configurable"]
        thread = await self._thread(place["thread_id"])
        entry = thread.find(place.get("checkpoint_ns", ""), get_checkpoint_id(config))
        return None if entry is None else self._tuple(thread, entry)

    async def _list(
        self,
        config: RunnableConfig | None,
        filter: dict[str, Any] | None,  # noqa: A002
        before: RunnableConfig | None,
        limit: int | None,
    ) -> list[CheckpointTuple]:
        place = {} if config is None else config["configurable"]
        namespace = place.get("checkpoint_ns")
        only = None if config is None else get_checkpoint_id(config)
        end = None if before is None else get_checkpoint_id(before)
        found: list[CheckpointTuple] = []
        for thread_id in [place["thread_id"]] if place else list(self._threads):
            thread = await self._thread(thread_id)
            for entry in sorted(thread.puts(), key=lambda one: str(one["id"]), reverse=True):
                if namespace is not None and entry["ns"] != namespace:
                    continue
                if (only and entry["id"] != only) or (end and entry["id"] >= end):
                    continue
                if filter:
                    metadata = self.serde.loads_typed(entry["metadata"])
                    if any(metadata.get(key) != value for key, value in filter.items()):
                        continue
                if limit is not None and len(found) >= limit:
                    return found
                found.append(self._tuple(thread, entry))
        return found

    # Writing

    async def _put(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata
    ) -> RunnableConfig:
        place = config["configurable"]
        entry = {
            "kind": "checkpoint",
            "ns": place.get("checkpoint_ns", ""),
            "id": checkpoint["id"],
            "parent": place.get("checkpoint_id"),
            "checkpoint": self.serde.dumps_typed(checkpoint),
            "metadata": self.serde.dumps_typed(get_checkpoint_metadata(config, metadata)),
        }
        await self._append(place["thread_id"], entry)
        saved = {
            "thread_id": place["thread_id"],
            "checkpoint_ns": entry["ns"],
            "checkpoint_id": checkpoint["id"],
        }
        return {"configurable": saved}

    async def _put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task: str, path: str
    ) -> None:
        place = config["configurable"]
        made = [
            {
                "task": task,
                "index": WRITES_IDX_MAP.get(channel, index),
                "path": path,
                "channel": channel,
                "value": self.serde.dumps_typed(value),
            }
            for index, (channel, value) in enumerate(writes)
        ]
        entry = {
            "kind": "writes",
            "ns": place.get("checkpoint_ns", ""),
            "id": place["checkpoint_id"],
            "writes": made,
        }
        await self._append(place["thread_id"], entry)

    async def _delete_for_runs(self, run_ids: Iterable[str]) -> None:
        runs = {str(run_id) for run_id in run_ids}
        if not runs:
            return
        for thread_id in list(self._threads):
            thread = await self._thread(thread_id)
            gone = {
                (entry["ns"], entry["id"])
                for entry in thread.puts()
                if str(self.serde.loads_typed(entry["metadata"]).get("run_id")) in runs
            }
            if gone:
                await self._remove(thread_id, gone)

    async def _copy(self, source_id: str, target_id: str) -> None:
        source = await self._thread(source_id)
        entries = [source.entries[number] for number in sorted(source.entries)]
        await self._append(target_id, *(one for one in entries if one["kind"] != "mark"))

    async def _prune(self, thread_ids: Iterable[str], strategy: str) -> None:
        if strategy not in ("keep_latest", "delete"):
            raise ValueError(f"strategy is {strategy!r}: expected 'keep_latest' or 'delete'")
        for thread_id in thread_ids:
            thread = await self._thread(thread_id)
            kept: set[tuple[str, str]] = set()
            if strategy == "keep_latest":
                for namespace in {entry["ns"] for entry in thread.puts()}:
                    newest = thread.find(namespace, None)
                    if newest is not None:
                        kept.add((namespace, newest["id"]))
            places = {(entry["ns"], entry["id"]) for entry in thread.entries.values()}
            if places - kept:
                await self._remove(thread_id, places - kept)

    # LangGraph's names for all this

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return self._wait(self._get(config))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return await self._await(self._get(config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        yield from self._wait(self._list(config, filter, before, limit))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        for found in await self._await(self._list(config, filter, before, limit)):
            yield found

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return self._wait(self._put(config, checkpoint, metadata))

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return await self._await(self._put(config, checkpoint, metadata))

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        self._wait(self._put_writes(config, writes, task_id, task_path))

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        await self._await(self._put_writes(config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        self._wait(self._prune([thread_id], "delete"))

    async def adelete_thread(self, thread_id: str) -> None:
        await self._await(self._prune([thread_id], "delete"))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        self._wait(self._delete_for_runs(run_ids))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        await self._await(self._delete_for_runs(run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        self._wait(self._copy(source_thread_id, target_thread_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        await self._await(self._copy(source_thread_id, target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        self._wait(self._prune(thread_ids, strategy))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        await self._await(self._prune(thread_ids, strategy))
