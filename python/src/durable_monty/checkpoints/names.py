"""Names of executions and ids of checkpoints, as every provider takes them."""

from __future__ import annotations

import re

from .provider import InvalidCheckpoint

__all__ = ["parse_checkpoint_id", "parse_execution_id"]

MAX_NAME_CHARS = 200

_name = re.compile(r"[A-Za-z0-9_][A-Za-z0-9\-_.:@+=,]*", re.ASCII).fullmatch
_id = re.compile(r"(.+)_ckpt_([1-9][0-9]{0,11})", re.ASCII | re.DOTALL).fullmatch


def parse_execution_id(execution_id: str) -> str:
    """The id, if it can be one: safe as a name of a file, and told apart from a checkpoint's.

    >>> parse_execution_id("order-7")
    'order-7'
    """
    if len(execution_id) > MAX_NAME_CHARS or "_ckpt_" in execution_id or not _name(execution_id):
        raise InvalidCheckpoint(
            f"{execution_id[:40]!r} can't be the id of an execution: expected 1 to "
            f"{MAX_NAME_CHARS} letters, digits and -_.:@+=, that begin with a letter, a digit or _ "
            "and hold no '_ckpt_'"
        )
    return execution_id


def parse_checkpoint_id(checkpoint_id: str) -> tuple[str, int]:
    """The execution and the number in the id of a checkpoint.

    >>> parse_checkpoint_id("order-7_ckpt_12")
    ('order-7', 12)
    """
    found = _id(checkpoint_id)
    if found is None:
        raise InvalidCheckpoint(
            f"{checkpoint_id[:60]!r} is no id of a checkpoint: expected <execution>_ckpt_<number>, "
            "counted from 1"
        )
    return parse_execution_id(found[1]), int(found[2])
