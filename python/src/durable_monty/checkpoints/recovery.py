"""Bringing an agent back to its newest checkpoint."""

from __future__ import annotations

import inspect
from collections.abc import MutableMapping
from typing import Any

from ..errors import NotFound
from .manager import CheckpointManager
from .provider import Checkpoint

__all__ = ["RecoveryCoordinator"]


class RecoveryCoordinator:
    """Finds the newest good checkpoint of an execution, and puts an agent into that state."""

    def __init__(self, checkpoint_manager: CheckpointManager) -> None:
        self.checkpoint_manager = checkpoint_manager

    async def can_recover(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return await self.checkpoint_manager.get_latest_checkpoint() is not None

    async def get_recovery_info(self) -> dict[str, Any] | None:
        """Where it would go on: `checkpoint_id`, `statement`, `counter`, `timestamp`; None when
        there is no checkpoint."""
        latest = await self.checkpoint_manager.get_latest_checkpoint()
        if latest is None:
            return None
        metadata = latest["metadata"]
        info = {name: metadata.get(name) for name in ("statement", "counter", "timestamp")}
        return {"checkpoint_id": latest["checkpoint_id"], **info}

    async def recover_execution_state(self, agent: Any = None) -> Checkpoint:
        """Puts an agent into the state of the newest checkpoint; that checkpoint.

        An agent with a method `restore_checkpoint(checkpoint)`, sync or async, does it itself. Of
        another, `agent.state.variables` (or `agent.variables`, or the agent, if it is a mapping)
        is updated with the checkpoint's variables, `agent.state.agents` and `.call_stack` are set
        if they are there, and `agent.restored_from_checkpoint` becomes True. With None only the
        checkpoint is given back. Raises `NotFound` (a ValueError) when there is no checkpoint.
        """
        latest = await self.checkpoint_manager.get_latest_checkpoint()
        if latest is None:
            raise NotFound(
                f"there is no checkpoint of execution {self.checkpoint_manager.execution_id}"
            )
        if agent is not None:
            restore = getattr(agent, "restore_checkpoint", None)
            if restore is None:
                _restore(agent, latest)
            else:
                answer = restore(latest)
                if inspect.isawaitable(answer):
                    await answer
        return latest


def _restore(agent: Any, checkpoint: Checkpoint) -> None:
    execution_state = checkpoint["execution_state"]
    variables = execution_state.get("variables", {})
    state = getattr(agent, "state", agent)
    target = state if isinstance(state, MutableMapping) else getattr(state, "variables", None)
    if not isinstance(target, MutableMapping):
        raise TypeError(
            f"a {type(agent).__name__} has nothing to restore into: expected a method "
            "restore_checkpoint(checkpoint), or a mapping in .state.variables or .variables"
        )
    target.update(variables)
    if isinstance(state, MutableMapping):
        return
    if "agents" in execution_state and hasattr(state, "agents"):
        state.agents = execution_state["agents"]
    if isinstance(getattr(state, "call_stack", None), list):
        state.call_stack[:] = checkpoint["metadata"].get("call_stack") or []
    agent.restored_from_checkpoint = True
