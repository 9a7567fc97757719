"""The process behind `ProcessPoolExecutor`: reads a call, runs it, answers, and so on."""

from __future__ import annotations

import json
import os
import sys
from multiprocessing.connection import Connection
from typing import Any

from ..failures import failure_of
from .base import CallRequest
from .remote import run_request

__all__ = ["main"]


def main() -> None:
    """Serves the connection whose file descriptor is the first argument, until it is closed."""
    connection = Connection(int(sys.argv[1]))
    # A process that a function starts must not have it: the worker sees by its end that this one
    # has died.
    os.set_inheritable(connection.fileno(), False)
    os.register_at_fork(after_in_child=connection.close)
    try:
        for entry in json.loads(connection.recv_bytes()):
            if entry not in sys.path:
                sys.path.append(entry)
        while True:
            message = json.loads(connection.recv_bytes())
            connection.send_bytes(json.dumps(_run(message)).encode())
    except (EOFError, OSError, KeyboardInterrupt):
        pass  # the worker has gone


def _run(message: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": run_request(CallRequest(**message["call"]), message["module"])}
    except BaseException as error:
        return {"error": failure_of(error)}
