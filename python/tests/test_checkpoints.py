"""Checkpoints: every provider passes the suite that ships with the package; managers, recovery,
damaged files, killed writers, values, the registry and the table `[durability]`."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest
from checkpoints_support import HeldProvider, PlainProvider
from conftest import service_url
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_monty import Conflict, Corrupt, Unavailable
from durable_monty.checkpoints import (
    CheckpointManager,
    CheckpointProvider,
    CheckpointWarning,
    FilesystemCheckpointProvider,
    InvalidCheckpoint,
    MemoryCheckpointProvider,
    PostgresCheckpointProvider,
    RecoveryCoordinator,
    RedisCheckpointProvider,
    S3CheckpointProvider,
    SqliteCheckpointProvider,
)
from durable_monty.checkpoints.conformance import CheckpointProviderTests


def run(body: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(body)


class TestFilesystem(CheckpointProviderTests):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def open_provider(self) -> CheckpointProvider:
        return FilesystemCheckpointProvider(self.folder)

    def damage(self, checkpoint_id: str) -> bool:
        path = file_of(self.folder, checkpoint_id)
        path.write_bytes(path.read_bytes()[:-1])
        return True


class TestSqlite(TestFilesystem):
    def open_provider(self) -> CheckpointProvider:
        return SqliteCheckpointProvider(self.folder / "c.db")

    def damage(self, checkpoint_id: str) -> bool:
        from durable_monty._internal import SqliteConnection

        execution, _, number = checkpoint_id.rpartition("_ckpt_")
        connection = SqliteConnection(str(self.folder / "c.db"), 5.0)
        statement = "UPDATE saved_checkpoints SET stored = x'00' WHERE execution = ? AND number = ?"
        connection.execute(statement, [execution, int(number)])
        connection.close()
        return True


class TestMemory(CheckpointProviderTests):
    has_leases = False  # there is only one of it

    @pytest.fixture(autouse=True)
    def _provider(self) -> None:
        self.provider = MemoryCheckpointProvider()

    def open_provider(self) -> CheckpointProvider:
        return self.provider


class TestPostgres(CheckpointProviderTests):
    def open_provider(self) -> CheckpointProvider:
        return PostgresCheckpointProvider(service_url("DURABLE_TEST_POSTGRES"))


class TestRedis(CheckpointProviderTests):
    def open_provider(self) -> CheckpointProvider:
        return RedisCheckpointProvider(service_url("DURABLE_TEST_REDIS"))

    def damage(self, checkpoint_id: str) -> bool:
        import redis

        execution, _, number = checkpoint_id.rpartition("_ckpt_")
        with redis.Redis.from_url(service_url("DURABLE_TEST_REDIS")) as client:
            key = f"durable:checkpoints:{{{execution}}}:data"
            stored = client.hget(key, number)
            assert isinstance(stored, bytes)
            client.hset(key, number, stored[:-1] + bytes([stored[-1] ^ 1]))
        return True


class TestS3(CheckpointProviderTests):
    """Against moto's server, over HTTP."""

    @pytest.fixture(autouse=True)
    def _bucket(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        pytest.importorskip("flask", reason="moto's server needs Flask")
        import boto3
        from moto.s3.models import s3_backends
        from moto.server import ThreadedMotoServer

        s3_backends.reset()
        server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_REGION": "eu-west-1",
            "AWS_ENDPOINT": f"http://{host}:{port}",
            "AWS_ALLOW_HTTP": "true",
        }.items():
            monkeypatch.setenv(name, value)
        boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT"]).create_bucket(
            Bucket="checkpoints", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
        )
        yield
        server.stop()

    def open_provider(self) -> CheckpointProvider:
        return S3CheckpointProvider("s3://checkpoints/some/prefix")


def file_of(folder: Path, checkpoint_id: str) -> Path:
    execution, _, number = checkpoint_id.rpartition("_ckpt_")
    return folder / execution / f"{int(number):012}.ckpt"


# Names and damage


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_no_name_leaves_the_folder(name: str) -> None:
    async def body(folder: Path) -> None:
        provider = FilesystemCheckpointProvider(folder / "inner")
        try:
            await provider.save_checkpoint(f"{name}_ckpt_1", {}, {"n": 1}, {})
        except InvalidCheckpoint:
            assert not list((folder / "inner").iterdir())
        else:
            assert await provider.list_checkpoints(name) == [f"{name}_ckpt_1"]
        assert [one.name for one in folder.iterdir()] == ["inner"]

    with tempfile.TemporaryDirectory() as folder:
        run(body(Path(folder)))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damage_is_never_taken_for_a_state(data: st.DataObject) -> None:
    # How long a file is depends on the time that stands in it.
    places = st.integers(0, 10_000)

    async def body(folder: Path) -> None:
        manager = CheckpointManager("e", FilesystemCheckpointProvider(folder))
        for n in (1, 2, 3):
            await manager.save_checkpoint(f"n = {n}", {"n": n}, {}, [])
        newest = file_of(folder, "e_ckpt_3")
        good = newest.read_bytes()
        kind = data.draw(st.sampled_from(["cut", "flip", "longer", "swap"]))
        if kind == "cut":
            newest.write_bytes(good[: data.draw(places) % len(good)])
        elif kind == "flip":
            at = data.draw(places) % len(good)
            bit = 1 << data.draw(st.integers(0, 7))
            newest.write_bytes(good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :])
        elif kind == "longer":
            newest.write_bytes(good + data.draw(st.binary(min_size=1, max_size=9)))
        else:
            second = file_of(folder, "e_ckpt_2")
            newest.write_bytes(second.read_bytes())
        with pytest.raises(Corrupt, match="e_ckpt_3"):
            await manager.load_checkpoint("e_ckpt_3")
        with pytest.warns(CheckpointWarning, match="e_ckpt_2 is used instead"):
            latest = await manager.get_latest_checkpoint()
        assert latest is not None
        assert latest["namespace"] == {"n": 2}
        for n in (1, 2):
            file_of(folder, f"e_ckpt_{n}").write_bytes(b"")
        with pytest.raises(Corrupt, match="e_ckpt_1"):
            await manager.get_latest_checkpoint()

    with tempfile.TemporaryDirectory() as folder:
        run(body(Path(folder)))


def test_a_checkpoint_that_is_too_large_is_refused(tmp_path: Path) -> None:
    provider = FilesystemCheckpointProvider(tmp_path, max_size_mb=0.01)
    with pytest.raises(ValueError, match=r"e_ckpt_1 has 0\.02 MB"):
        run(provider.save_checkpoint("e_ckpt_1", {}, {"text": "x" * 20_000}, {}))
    assert run(provider.list_checkpoints("e")) == []


def test_a_sealed_checkpoint_needs_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DURABLE_ENCRYPTION_KEYS", "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
    provider = FilesystemCheckpointProvider(tmp_path)
    run(provider.save_checkpoint("e_ckpt_1", {}, {"password": "hunter2" * 9}, {}))
    assert b"hunter2" not in file_of(tmp_path, "e_ckpt_1").read_bytes()
    assert run(provider.load_checkpoint("e_ckpt_1"))["namespace"] == {"password": "hunter2" * 9}
    monkeypatch.delenv("DURABLE_ENCRYPTION_KEYS")
    with pytest.raises(Unavailable, match="DURABLE_ENCRYPTION_KEYS"):
        run(FilesystemCheckpointProvider(tmp_path).load_checkpoint("e_ckpt_1"))


def test_a_url_with_a_mistake_shows_no_password() -> None:
    for kind in (PostgresCheckpointProvider, RedisCheckpointProvider, S3CheckpointProvider):
        with pytest.raises(ValueError, match="expected") as caught:
            kind("mongodb://ann:s3cret@db")
        assert "s3cret" not in str(caught.value)


# Values


@dataclasses.dataclass
class Point:
    x: int
    y: int
    label: str = dataclasses.field(default="", init=False)


class Order(pydantic.BaseModel):
    number: int
    points: list[dict[str, int]] = []


def test_dataclasses_and_models_come_back_as_themselves_or_alike(tmp_path: Path) -> None:
    point = Point(1, 2)
    point.label = "here"
    namespace = {"point": point, "orders": [Order(number=7), {"last": (Order(number=8),)}]}
    provider = FilesystemCheckpointProvider(tmp_path, types=[Point, Order])
    run(provider.save_checkpoint("e_ckpt_1", {}, namespace, {}))
    assert run(provider.load_checkpoint("e_ckpt_1"))["namespace"] == namespace
    run(provider.release("e"))
    alike = run(FilesystemCheckpointProvider(tmp_path).load_checkpoint("e_ckpt_1"))["namespace"]
    assert (alike["point"].x, alike["point"].label, type(alike["point"]).__name__) == (
        1,
        "here",
        "Point",
    )
    assert alike["orders"][0].number == 7


class Priced(pydantic.BaseModel):
    """Can't be validated from its own fields: it takes another name, and taxes what it takes."""

    net: int = pydantic.Field(alias="netAmount")
    note: str = "none"
    tags: list[Any] = []
    _seen: list[int] = pydantic.PrivateAttr(default_factory=list)

    @pydantic.field_validator("net")
    @classmethod
    def _taxed(cls, net: int) -> int:
        return net + 1

    @functools.cached_property
    def double(self) -> int:
        return 2 * self.net


class Swapped(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    a: int = pydantic.Field(alias="b")
    b: int = pydantic.Field(alias="a")


def test_models_come_back_as_they_were_and_are_not_validated(tmp_path: Path) -> None:
    priced = Priced(netAmount=2, tags=[(1, 2), Order(number=7)])
    assert priced.double == 6
    swapped = Swapped.model_validate({"b": 1, "a": 2, "more": 3})
    provider = FilesystemCheckpointProvider(tmp_path, types=[Priced, Swapped, Order])
    namespace = {"priced": priced, "swapped": swapped}
    run(provider.save_checkpoint("e_ckpt_1", {}, namespace, {}))
    loaded = run(provider.load_checkpoint("e_ckpt_1"))["namespace"]
    assert loaded["priced"].model_dump() == priced.model_dump()
    assert (loaded["priced"]._seen, loaded["priced"].double) == ([], 6)
    assert loaded["swapped"] == swapped


def test_a_class_that_does_not_fit_is_named_and_nothing_older_is_used(tmp_path: Path) -> None:
    def changed(**fields: Any) -> type:
        return pydantic.create_model("Order", **fields)

    async def latest(kind: type) -> Any:
        provider = FilesystemCheckpointProvider(tmp_path, types=[kind])
        checkpoint = await CheckpointManager("e", provider).get_latest_checkpoint()
        assert checkpoint is not None
        return checkpoint["namespace"]["order"]

    async def body() -> None:
        async with CheckpointManager("e", FilesystemCheckpointProvider(tmp_path)) as manager:
            await manager.save_checkpoint("pass", {"order": None}, {}, [])
            await manager.save_checkpoint("pass", {"order": Order(number=7)}, {}, [])
        with_more = changed(number=(int, ...), points=(list, ...), paid=(bool, False))
        assert (await latest(with_more)).paid is False
        strict = pydantic.ConfigDict(extra="forbid")
        fewer = pydantic.create_model("Order", __config__=strict, number=(int, ...))

        @dataclasses.dataclass
        class Plain:
            customer: str

        Plain.__name__ = "Order"
        unlike = [
            (changed(customer=(str, ...)), "customer is missing"),
            (fewer, "it has no points"),
            (Plain, "customer"),
        ]
        for kind, reason in unlike:
            with pytest.raises(InvalidCheckpoint, match=f"e_ckpt_2: no .* can be made .*{reason}"):
                await latest(kind)

    run(body())


def test_names_in_a_namespace_are_text(tmp_path: Path) -> None:
    manager = CheckpointManager("e", FilesystemCheckpointProvider(tmp_path), on_unsaved="warn")
    namespace: Any = {"fine": 1, 5: 6}
    with pytest.raises(InvalidCheckpoint, match="namespace has the name 5, which is no text"):
        run(manager.save_checkpoint("pass", namespace, {}, []))
    assert run(manager.list_checkpoints()) == []


def test_what_can_not_be_saved_is_an_error_or_a_warning(tmp_path: Path) -> None:
    provider = FilesystemCheckpointProvider(tmp_path)
    namespace = {"n": 1, "deep": {"a": [threading.Lock()]}, "os": os, "run": run, "P": Point}
    strict = CheckpointManager("e", provider)
    with pytest.raises(InvalidCheckpoint, match=r"namespace\['deep'\]\['a'\]\[0\] is a _thread"):
        run(strict.save_checkpoint("pass", namespace, {}, []))
    assert run(strict.list_checkpoints()) == []
    lenient = CheckpointManager("e", provider, on_unsaved="warn")
    with pytest.warns(CheckpointWarning, match=r"not saved: namespace\['deep'\]"):
        saved = run(lenient.save_checkpoint("pass", namespace, {}, []))
    loaded = run(provider.load_checkpoint(saved))
    assert loaded["namespace"] == {"n": 1}
    assert list(loaded["metadata"]["unsaved"]) == ["deep"]
    with pytest.raises(InvalidCheckpoint, match=r"execution_state\['lock'\]"):
        run(lenient.save_checkpoint("pass", {}, {"lock": threading.Lock()}, []))
    assert run(lenient.save_checkpoint("pass", {}, {}, [])) == "e_ckpt_2"


# Writers

WRITER = """
import asyncio, sys
from durable_monty.checkpoints import CheckpointManager, {kind}

async def main():
    manager = CheckpointManager("e", {kind}(sys.argv[1]))
    latest = await manager.get_latest_checkpoint()
    n = latest["namespace"]["n"] if latest else 0
    while True:
        n += 1
        saved = await manager.save_checkpoint(f"n = {{n}}", {{"n": n, "text": "x" * n}}, {{}}, [])
        assert saved == f"e_ckpt_{{n}}"
        print(n, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["FilesystemCheckpointProvider", "SqliteCheckpointProvider"])
def test_a_killed_writer_is_followed_at_once_and_loses_nothing_it_was_told(
    kind: str, tmp_path: Path
) -> None:
    place = str(tmp_path / "checkpoints")
    told = 0
    for turn in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER.format(kind=kind), place],
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            assert writer.stdout is not None
            for _ in range(5 + 3 * turn):
                told = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            told = int(([str(told), *writer.stdout.read().split()])[-1])
        provider = globals()[kind](place)
        latest = run(CheckpointManager("e", provider).get_latest_checkpoint())
        assert latest is not None
        n = latest["namespace"]["n"]
        assert told <= n <= told + 1
        assert latest["namespace"]["text"] == "x" * n
        assert len(run(provider.list_checkpoints("e"))) <= 11


def test_a_forked_child_has_no_part_in_the_lease(tmp_path: Path) -> None:
    provider = FilesystemCheckpointProvider(tmp_path)
    run(provider.save_checkpoint("e_ckpt_1", {}, {}, {}))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            provider._store().save("e_ckpt_2", "{}")
        except Conflict:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    run(provider.save_checkpoint("e_ckpt_2", {}, {}, {}))


# Recovery


class State:
    def __init__(self) -> None:
        self.variables: dict[str, Any] = {"kept": 1}
        self.agents: list[str] = []
        self.call_stack: list[Any] = ["stale"]


class Agent:
    def __init__(self) -> None:
        self.state = State()
        self.restored_from_checkpoint = False


def test_an_agent_is_brought_back_to_the_newest_checkpoint(tmp_path: Path) -> None:
    async def body() -> None:
        manager = CheckpointManager("agent-1", FilesystemCheckpointProvider(tmp_path))
        coordinator = RecoveryCoordinator(manager)
        assert not await coordinator.can_recover()
        assert await coordinator.get_recovery_info() is None
        with pytest.raises(ValueError, match="agent-1"):
            await coordinator.recover_execution_state(Agent())
        state = {"variables": {"$n": 2}, "agents": ["two"]}
        await manager.save_checkpoint(
            "n = await f()", {"n": 2}, state, [{"instruction_pointer": "Main:02"}], "text", "n = 1"
        )
        agent = Agent()
        recovered = await coordinator.recover_execution_state(agent)
        assert recovered["namespace"] == {"n": 2}
        assert recovered["metadata"]["llm_response"] == "text"
        assert recovered["metadata"]["executed_code"] == "n = 1"
        assert agent.state.variables == {"kept": 1, "$n": 2}
        assert agent.state.agents == ["two"]
        assert agent.state.call_stack == [{"instruction_pointer": "Main:02"}]
        assert agent.restored_from_checkpoint
        with pytest.raises(TypeError, match="restore_checkpoint"):
            await coordinator.recover_execution_state(object())

        class Own:
            async def restore_checkpoint(self, checkpoint: Any) -> None:
                self.seen = checkpoint["checkpoint_id"]

        own = Own()
        await coordinator.recover_execution_state(own)
        assert own.seen == "agent-1_ckpt_1"

    run(body())


def test_saves_of_one_manager_at_once_have_numbers_of_their_own(tmp_path: Path) -> None:
    async def body() -> None:
        manager = CheckpointManager("e", FilesystemCheckpointProvider(tmp_path, keep_last_n=50))
        saves = (manager.save_checkpoint("pass", {"n": n}, {}, []) for n in range(40))
        saved = await asyncio.gather(*saves)
        assert sorted(saved) == sorted(f"e_ckpt_{n}" for n in range(1, 41))
        assert len(await manager.list_checkpoints()) == 40

    run(body())


# Retention


@pytest.mark.parametrize(
    ("by_provider", "given", "expected"),
    [(4, {}, 4), (4, {"keep_last_n": 2}, 2), (None, {}, 15), (None, {"keep_last_n": None}, 15),
     (None, {"keep_last_n": 12}, 12), ("unknown", {}, 10), ("unknown", {"keep_last_n": None}, 15),
     ("unknown", {"keep_last_n": 12}, 12)],
)  # fmt: skip
def test_as_many_are_kept_as_was_said(by_provider: Any, given: Any, expected: int) -> None:
    async def body() -> None:
        provider: CheckpointProvider = PlainProvider()
        if by_provider != "unknown":
            provider = MemoryCheckpointProvider(keep_last_n=by_provider)
        manager = CheckpointManager("e", provider, **given)
        for _ in range(15):
            await manager.save_checkpoint("pass", {}, {}, [])
        assert len(await manager.list_checkpoints()) == expected

    run(body())


@pytest.mark.parametrize("keep_last_n", [0, 11, None])
def test_a_manager_that_can_not_keep_so_many_is_refused(keep_last_n: Any) -> None:
    with pytest.raises(InvalidCheckpoint, match=f"keep_last_n is {keep_last_n}: .*"):
        CheckpointManager("e", MemoryCheckpointProvider(), keep_last_n=keep_last_n)


# Several writers in one process


def test_a_cancelled_save_is_followed_and_never_overwrites() -> None:
    async def body() -> None:
        provider = HeldProvider()
        manager = CheckpointManager("e", provider)
        await manager.save_checkpoint("pass", {"n": "first"}, {}, [])
        cancelled = asyncio.ensure_future(manager.save_checkpoint("pass", {"n": "held"}, {}, []))
        await asyncio.to_thread(provider.begun.wait, 60)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        waiting = asyncio.ensure_future(manager.save_checkpoint("pass", {"n": "never"}, {}, []))
        newest = asyncio.ensure_future(manager.save_checkpoint("pass", {"n": "new"}, {}, []))
        closing = asyncio.ensure_future(manager.close())
        await asyncio.sleep(0)
        waiting.cancel()
        provider.let_go.set()
        assert await newest == "e_ckpt_3"
        await closing
        assert waiting.cancelled()
        loaded = [await provider.load_checkpoint(f"e_ckpt_{n}") for n in (1, 2, 3)]
        assert [one and one["namespace"]["n"] for one in loaded] == ["first", "held", "new"]
        assert len(await provider.list_checkpoints("e")) == 3

    run(body())


@pytest.mark.parametrize("kind", ["filesystem", "plain"])
def test_of_two_managers_with_one_provider_the_newer_one_writes(kind: str, tmp_path: Path) -> None:
    async def body() -> None:
        provider = (
            FilesystemCheckpointProvider(tmp_path) if kind == "filesystem" else PlainProvider()
        )
        first, second = (CheckpointManager("e", provider) for _ in range(2))
        await first.save_checkpoint("pass", {"by": "first"}, {}, [])
        assert await second.save_checkpoint("pass", {"by": "second"}, {}, []) == "e_ckpt_2"
        for _ in range(2):
            with pytest.raises(Conflict, match=r"somebody else took over .* execution e"):
                await first.save_checkpoint("pass", {"by": "first"}, {}, [])
        await first.close()
        assert await second.save_checkpoint("pass", {"by": "second"}, {}, []) == "e_ckpt_3"
        # Who was replaced may begin again, which replaces the other one.
        assert await first.save_checkpoint("pass", {"by": "first"}, {}, []) == "e_ckpt_4"
        with pytest.raises(Conflict):
            await second.save_checkpoint("pass", {"by": "second"}, {}, [])
        checkpoints = [await provider.load_checkpoint(f"e_ckpt_{n}") for n in (1, 2, 3, 4)]
        writers = [one and one["namespace"]["by"] for one in checkpoints]
        assert writers == ["first", "second", "second", "first"]

    run(body())


def test_a_manager_gives_nobody_elses_lease_away(tmp_path: Path) -> None:
    async def body() -> None:
        provider = FilesystemCheckpointProvider(tmp_path)
        replaced, current, reader = (CheckpointManager("e", provider) for _ in range(3))
        elsewhere = CheckpointManager("e", FilesystemCheckpointProvider(tmp_path))
        await replaced.save_checkpoint("pass", {}, {}, [])
        await current.acquire()
        await replaced.close()
        async with reader:
            assert await reader.get_latest_checkpoint() is not None
        with pytest.raises(Conflict):
            await elsewhere.save_checkpoint("pass", {}, {}, [])
        await current.close()
        assert await elsewhere.save_checkpoint("pass", {}, {}, []) == "e_ckpt_2"

    run(body())


def test_who_takes_over_sees_what_was_being_saved() -> None:
    async def body() -> None:
        provider = HeldProvider()
        first, second = (CheckpointManager("e", provider) for _ in range(2))
        saving = asyncio.ensure_future(first.save_checkpoint("pass", {"n": "held"}, {}, []))
        await asyncio.to_thread(provider.begun.wait, 60)
        taking_over = asyncio.ensure_future(second.acquire())
        provider.let_go.set()
        await taking_over
        latest = await second.get_latest_checkpoint()
        assert latest is not None
        assert latest["checkpoint_id"] == await saving

    run(body())


def test_an_event_loop_that_was_stopped_holds_nobody_up() -> None:
    provider = HeldProvider()
    manager = CheckpointManager("e", provider)
    loop = asyncio.new_event_loop()
    saving = loop.create_task(manager.save_checkpoint("pass", {"n": "held"}, {}, []))
    loop.run_until_complete(asyncio.to_thread(provider.begun.wait, 60))
    assert run(manager.save_checkpoint("pass", {"n": "new"}, {}, [])) == "e_ckpt_2"
    provider.let_go.set()
    assert loop.run_until_complete(saving) == "e_ckpt_1"
    loop.close()
    for n, value in enumerate(("held", "new"), 1):
        assert run(provider.load_checkpoint(f"e_ckpt_{n}"))["namespace"] == {"n": value}


@pytest.mark.parametrize("kind", ["filesystem", "plain"])
def test_what_was_acknowledged_in_any_thread_is_kept(kind: str, tmp_path: Path) -> None:
    filesystem = FilesystemCheckpointProvider(tmp_path, keep_last_n=None)
    provider = filesystem if kind == "filesystem" else PlainProvider()
    acknowledged: list[tuple[str, str]] = []
    together = threading.Barrier(4)

    async def body(name: str) -> None:
        for turn in range(15):
            manager = CheckpointManager("e", provider, keep_last_n=1000)
            for n in range(3):
                value = f"{name} {turn} {n}"
                try:
                    saved = await manager.save_checkpoint("pass", {"value": value}, {}, [])
                except Conflict:
                    break
                acknowledged.append((saved, value))

    def in_thread(name: str) -> None:
        together.wait(60)
        run(body(name))

    threads = [threading.Thread(target=in_thread, args=[name]) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(acknowledged) >= 4 * 15
    for saved, value in acknowledged:
        assert run(provider.load_checkpoint(saved))["namespace"] == {"value": value}
