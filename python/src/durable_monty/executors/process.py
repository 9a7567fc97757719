"""Runs calls in processes of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from multiprocessing import Pipe

from ..failures import Failure
from ..functions import module_of
from .base import CallRequest, Outcome
from .remote import read_outcome
from .threads import ThreadedExecutor

__all__ = ["ProcessPoolExecutor"]

_CHILD = "from durable_monty.executors.process_child import main; main()"
STOP_S = 5.0


class ProcessPoolExecutor(ThreadedExecutor):
    """Runs calls in `max_workers` processes of this machine, one call at a time in each.

    For functions that need the processor to themselves, that may crash, or that must be stopped:
    a call that takes longer than its timeout, or whose execution was cancelled, is killed with its
    process; a process that dies fails the call it ran and no other.

    Processes are started when they are needed, and run many calls. They find functions by
    importing the modules that register them, or those listed in DURABLE_FUNCTIONS; a script's own
    functions by importing the script, which therefore should start nothing unless it is
    `__main__`. Unix only.
    """

    runs_here = True

    def __init__(self, max_workers: int | None = None) -> None:
        super().__init__(max_workers or os.cpu_count() or 1)
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._running: dict[str, _Child] = {}

    def perform(self, call: CallRequest) -> Outcome:
        """Runs a call in a process that is free."""
        with self._lock:
            child = self._idle.pop() if self._idle else None
        child = child or _Child()
        with self._lock:
            self._running[call.job_id] = child
        outcome = None
        try:
            outcome = child.run(call)
        finally:
            with self._lock:
                del self._running[call.job_id]
                is_kept = outcome is not None and self._outcomes is not None
                if is_kept:
                    self._idle.append(child)
            if not is_kept:
                child.end()
        if outcome is None:
            return Outcome(None, child.failure(call))
        return outcome

    def cancel_call(self, call: CallRequest) -> None:
        """Kills the process that runs the call, if it has begun."""
        with self._lock:
            child = self._running.get(call.job_id)
            if child is not None:
                child.kill()

    def detach(self) -> None:
        """Kills the processes."""
        super().detach()
        with self._lock:
            idle, self._idle = self._idle, []
            running = [*self._running.values()]
        for child in idle:
            child.end()
        for child in running:
            child.kill()


class _Child:
    """A process that runs one call after another."""

    def __init__(self) -> None:
        self._connection, other = Pipe()
        self._is_late = False
        self._killing = threading.Lock()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(other.fileno())],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            other.close()
        self._connection.send_bytes(json.dumps(sys.path).encode())

    def run(self, call: CallRequest) -> Outcome | None:
        """The outcome of a call; None when the process died of it or was too late."""
        message = {"call": vars(call), "module": module_of(call.function_name)}
        try:
            self._connection.send_bytes(json.dumps(message).encode())
            if not self._connection.poll(call.timeout_ms and call.timeout_ms / 1000):
                self._is_late = True
                return None
            answer = self._connection.recv_bytes()
        except (OSError, EOFError):
            return None
        return read_outcome(answer)

    def failure(self, call: CallRequest) -> Failure:
        """Why there was no outcome."""
        if self._is_late:
            return Failure("TimeoutError", f"the attempt took longer than its {call.timeout_ms} ms")
        code = self._process.wait(STOP_S)
        how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        return Failure("RuntimeError", f"the process that ran {call.function_name} died: {how}")

    def kill(self) -> None:
        """Ends the process, and those that it started in its session, which may outlive it."""
        with self._killing:
            if self._process.returncode is None:
                # Not reaped yet, dead or alive, so that nobody else can have this number.
                with contextlib.suppress(PermissionError):  # on macOS, when all of them are dead
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(STOP_S)

    def end(self) -> None:
        """Ends the process when nobody waits for an answer of it."""
        self.kill()
        self._connection.close()
