"""What every `CheckpointProvider` has to do, as tests for pytest.

    from durable_monty.checkpoints.conformance import CheckpointProviderTests

    class TestMyProvider(CheckpointProviderTests):
        def open_provider(self):
            return MyProvider(...)

`open_provider` may be called more than once in a test: all it opens see the same checkpoints.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
import warnings
from collections.abc import Coroutine
from typing import Any

from ..errors import Conflict, Corrupt
from .manager import CheckpointManager
from .provider import CheckpointProvider
from .recovery import RecoveryCoordinator

__all__ = ["CheckpointProviderTests"]

BAD_IDS = [
    "",
    "x",
    "_ckpt_1",
    "../x_ckpt_1",
    "x/y_ckpt_1",
    "x\\y_ckpt_1",
    "x\x00y_ckpt_1",
    "x\ny_ckpt_1",
    "x_ckpt_1_ckpt_2",
    "x_ckpt_",
    "x_ckpt_0",
    "x_ckpt_-1",
    "x_ckpt_one",
    "x" * 5000 + "_ckpt_1",
]
"""Ids that every provider refuses."""

_STATE: dict[str, Any] = {
    "variables": {"$n": 3, "text": "häß\n", "none": None, "pi": 3.25, "big": 2**70},
    "agents": ["one", "two"],
}
_NAMESPACE: dict[str, Any] = {
    "pair": (1, b"\x00\xff"),
    "when": dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc),
    "nested": {"a": [{"b": {1, 2}}]},
}


class CheckpointProviderTests:
    """Subclass it, with a name that pytest finds, and say how to open your provider."""

    has_leases = True
    """Whether two providers can't both write the checkpoints of one execution."""

    def open_provider(self) -> CheckpointProvider:
        """A provider; all that one test opens see the same checkpoints."""
        raise NotImplementedError("say how to open your provider")

    def execution(self) -> str:
        """The id of an execution that nothing is known of."""
        return f"t-{uuid.uuid4()}"

    def test_what_was_saved_can_be_loaded(self) -> None:
        async def body() -> None:
            provider, execution = self.open_provider(), self.execution()
            checkpoint_id = f"{execution}_ckpt_1"
            metadata = {"statement": "x = 1", "timestamp": 1.5}
            await provider.save_checkpoint(checkpoint_id, _STATE, _NAMESPACE, metadata)
            for other in (provider, self.open_provider()):
                loaded = await other.load_checkpoint(checkpoint_id)
                assert loaded is not None
                assert loaded["checkpoint_id"] == checkpoint_id
                assert loaded["execution_state"] == _STATE
                assert loaded["namespace"] == _NAMESPACE
                assert loaded["metadata"] == metadata

        _run(body())

    def test_what_is_not_there_is_none(self) -> None:
        async def body() -> None:
            provider, execution = self.open_provider(), self.execution()
            assert await provider.load_checkpoint(f"{execution}_ckpt_1") is None
            assert await provider.list_checkpoints(execution) == []
            await provider.delete_checkpoint(f"{execution}_ckpt_1")
            assert await provider.cleanup_old_checkpoints(execution, 3) == 0

        _run(body())

    def test_checkpoints_are_listed_by_their_numbers(self) -> None:
        async def body() -> None:
            provider, execution = self.open_provider(), self.execution()
            for number in (10, 9, 1, 2):
                await provider.save_checkpoint(f"{execution}_ckpt_{number}", {}, {}, {})
            expected = [f"{execution}_ckpt_{number}" for number in (1, 2, 9, 10)]
            assert await provider.list_checkpoints(execution) == expected

        _run(body())

    def test_executions_are_apart(self) -> None:
        async def body() -> None:
            provider, execution = self.open_provider(), self.execution()
            await provider.save_checkpoint(f"{execution}_ckpt_1", {}, {"of": 1}, {})
            await provider.save_checkpoint(f"{execution}-2_ckpt_1", {}, {"of": 2}, {})
            assert await provider.list_checkpoints(execution) == [f"{execution}_ckpt_1"]
            await provider.cleanup_old_checkpoints(f"{execution}-2", 0)
            loaded = await provider.load_checkpoint(f"{execution}_ckpt_1")
            assert loaded is not None
            assert loaded["namespace"] == {"of": 1}

        _run(body())

    def test_a_save_replaces(self) -> None:
        async def body() -> None:
            provider, execution = self.open_provider(), self.execution()
            checkpoint_id = f"{execution}_ckpt_1"
            await provider.save_checkpoint(checkpoint_id, {}, {"text": "long" * 100}, {})
            await provider.save_checkpoint(checkpoint_id, {}, {"text": "short"}, {})
            loaded = await provider.load_checkpoint(checkpoint_id)
            assert loaded is not None
            assert loaded["namespace"] == {"text": "short"}
            assert await provider.list_checkpoints(execution) == [checkpoint_id]

        _run(body())

    def test_cleanup_keeps_the_last(self) -> None:
        async def body() -> None:
            provider, execution = self.open_provider(), self.execution()
            ids = [f"{execution}_ckpt_{number}" for number in range(1, 6)]
            for checkpoint_id in ids:
                await provider.save_checkpoint(checkpoint_id, {}, {}, {})
            assert await provider.cleanup_old_checkpoints(execution, 2) == 3
            assert await provider.list_checkpoints(execution) == ids[3:]
            await provider.delete_checkpoint(ids[4])
            assert await provider.list_checkpoints(execution) == ids[3:4]

        _run(body())

    def test_bad_ids_are_refused(self) -> None:
        async def body() -> None:
            provider = self.open_provider()
            for bad in BAD_IDS:
                for refused in (
                    provider.save_checkpoint(bad, {}, {}, {}),
                    provider.load_checkpoint(bad),
                    provider.delete_checkpoint(bad),
                ):
                    assert await _raises(ValueError, refused), f"{bad!r:.60} was not refused"

        _run(body())

    def test_what_has_no_form_is_named_and_nothing_is_saved(self) -> None:
        async def body() -> None:
            provider, execution = self.open_provider(), self.execution()
            namespace = {"fine": 1, "lock": asyncio.Lock()}
            error = await _raises(
                ValueError, provider.save_checkpoint(f"{execution}_ckpt_1", {}, namespace, {})
            )
            assert error is not None, "it was saved, or lost"
            assert "lock" in str(error)
            assert await provider.list_checkpoints(execution) == []

        _run(body())

    def test_one_of_two_writers_is_refused(self) -> None:
        if not self.has_leases:
            return

        async def body() -> None:
            execution = self.execution()
            first, second = self.open_provider(), self.open_provider()
            await first.save_checkpoint(f"{execution}_ckpt_1", {}, {"by": "first"}, {})
            for number in (1, 2):
                saved = second.save_checkpoint(f"{execution}_ckpt_{number}", {}, {"by": "x"}, {})
                assert await _raises(Conflict, saved), "two writers of one execution"
            await first.release(execution)
            await second.acquire(execution)
            await second.save_checkpoint(f"{execution}_ckpt_2", {}, {"by": "second"}, {})
            assert await _raises(
                Conflict, first.save_checkpoint(f"{execution}_ckpt_3", {}, {}, {})
            ), "two writers of one execution"
            loaded = await first.load_checkpoint(f"{execution}_ckpt_1")
            assert loaded is not None
            assert loaded["namespace"] == {"by": "first"}

        _run(body())

    def test_numbers_go_on_after_a_restart_and_the_newest_is_recovered(self) -> None:
        async def body() -> None:
            execution = self.execution()
            async with CheckpointManager(execution, self.open_provider()) as manager:
                for n in (1, 2):
                    state = {"variables": {"n": n}}
                    saved = await manager.save_checkpoint(f"n = {n}", {"n": n}, state, [])
                    assert saved == f"{execution}_ckpt_{n}"
            async with CheckpointManager(execution, self.open_provider()) as manager:
                recovery = RecoveryCoordinator(manager)
                assert await recovery.can_recover()
                info = await recovery.get_recovery_info()
                assert info is not None
                assert (info["statement"], info["counter"]) == ("n = 2", 2)
                agent: dict[str, Any] = {}
                await recovery.recover_execution_state(agent)
                assert agent == {"n": 2}
                assert await manager.save_checkpoint("n = 3", {}, {}, []) == f"{execution}_ckpt_3"

        _run(body())

    def test_retention_runs_on_save(self) -> None:
        async def body() -> None:
            execution = self.execution()
            async with CheckpointManager(execution, self.open_provider(), keep_last_n=3) as manager:
                for _ in range(7):
                    await manager.save_checkpoint("pass", {}, {}, [])
                expected = [f"{execution}_ckpt_{number}" for number in (5, 6, 7)]
                assert await manager.list_checkpoints() == expected

        _run(body())

    def damage(self, checkpoint_id: str) -> bool:
        """Damages what is kept under an id; False when a provider has no way to do it."""
        return False

    def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(self) -> None:
        async def body() -> None:
            execution = self.execution()
            manager = CheckpointManager(execution, self.open_provider())
            for n in (1, 2):
                await manager.save_checkpoint(f"n = {n}", {"n": n}, {}, [])
            newest = f"{execution}_ckpt_2"
            if not self.damage(newest):
                return
            error = await _raises(Corrupt, manager.load_checkpoint(newest))
            assert error is not None
            assert newest in str(error)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                latest = await manager.get_latest_checkpoint()
            assert latest is not None
            assert latest["namespace"] == {"n": 1}
            assert any(newest in str(one.message) for one in caught), "nobody was told"

        _run(body())


def _run(body: Coroutine[Any, Any, None]) -> None:
    asyncio.run(body)


async def _raises(
    kind: type[BaseException], body: Coroutine[Any, Any, object]
) -> BaseException | None:
    try:
        await body
    except kind as error:
        return error
    return None
