"""Agents that are programs of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from .context import AgentContext
from .wire import facts_of, read_result, write_payload

__all__ = ["CommandAgent"]

MAX_OUTPUT_BYTES = 16 << 20
KEPT_STDERR_BYTES = 4 << 10
CHUNK_BYTES = 1 << 16


class CommandAgent:
    """Runs a program with the payload as JSON on its standard input; the JSON object that it
    writes to its standard output is the result.

    >>> register_agent("classify", CommandAgent(["node", "classify.mjs"], timeout=30))

    Its environment has DURABLE_IDEMPOTENCY_KEY, DURABLE_EXECUTION, DURABLE_STEP, DURABLE_ATTEMPT
    and, with a timeout, DURABLE_DEADLINE, beside that of this process (or `env`). After `timeout`
    seconds, or at the attempt's deadline, it is killed together with what it started. An exit code
    other than 0 fails the attempt; the end of its standard error stands in the message. Unix only.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        timeout: float | None = None,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        if isinstance(command, str) or not command:
            raise ValueError(f"command is {command!r}, it must be a list: program and arguments")
        if timeout is not None and timeout <= 0:
            raise ValueError(f"timeout is {timeout}, it must be more than 0 seconds")
        self.command = [str(part) for part in command]
        self.timeout = timeout
        self.cwd = cwd
        self.env = None if env is None else dict(env)

    def run(self, payload: dict[str, Any], context: AgentContext) -> dict[str, Any]:
        """Runs the program to its end."""
        who = f"agent '{context.agent}': {self.command[0]}"
        given = write_payload(payload, who)
        run = _Run(self._start(who, context), given)
        output = run.finish(self._deadline(context))
        said = f": {run.stderr}" if run.stderr else ""
        if run.is_late:
            raise TimeoutError(f"{who} took longer than it may and was killed{said}")
        if len(output) > MAX_OUTPUT_BYTES:
            raise RuntimeError(f"{who} wrote more than {MAX_OUTPUT_BYTES} bytes and was killed")
        if run.code:
            how = (
                f"exit code {run.code}"
                if run.code > 0
                else f"signal {-run.code} ({signal.Signals(-run.code).name})"
            )
            raise RuntimeError(f"{who} ended with {how}{said}")
        return read_result(output, f"{who} wrote")

    def _start(self, who: str, context: AgentContext) -> subprocess.Popen[bytes]:
        facts = {f"DURABLE_{name.upper()}": fact for name, fact in facts_of(context).items()}
        try:
            return subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self.cwd,
                env={
                    **(os.environ if self.env is None else self.env),
                    "DURABLE_IDEMPOTENCY_KEY": context.idempotency_key,
                    **facts,
                },
                start_new_session=True,
            )
        except OSError as error:
            raise RuntimeError(f"{who} can't be started: {error}") from error

    def _deadline(self, context: AgentContext) -> float | None:
        """On the monotonic clock."""
        times = [left for left in (self.timeout, context.remaining()) if left is not None]
        return time.monotonic() + min(times) if times else None

    def __repr__(self) -> str:
        return f"CommandAgent({self.command[:1]!r}…)"


class _Run:
    """One run of a program."""

    def __init__(self, process: subprocess.Popen[bytes], payload: bytes) -> None:
        self.is_late = False
        self.stderr = ""
        self.code = 0
        self._process = process
        self._helpers = [
            threading.Thread(target=self._feed, args=(payload,), daemon=True),
            threading.Thread(target=self._listen, daemon=True),
            threading.Thread(target=self._end, daemon=True),
        ]

    def finish(self, deadline: float | None) -> bytes:
        """Waits for the end, or brings it about. What was written, at most one chunk more than is
        allowed."""
        timer = None
        if deadline is not None:
            timer = threading.Timer(max(0.0, deadline - time.monotonic()), self._stop_late)
            timer.start()
        for helper in self._helpers:
            helper.start()
        try:
            return self._read()
        finally:
            for helper in self._helpers:
                helper.join()
            if timer is not None:
                timer.cancel()
                timer.join()
            # Not reaped before: until here nobody else can have its number.
            self.code = self._process.wait()
            for pipe in (self._process.stdout, self._process.stderr):
                _of(pipe).close()

    def _read(self) -> bytes:
        chunks, size = [], 0
        while chunk := os.read(_of(self._process.stdout).fileno(), CHUNK_BYTES):
            chunks.append(chunk)
            size += len(chunk)
            if size > MAX_OUTPUT_BYTES:
                self._kill()
                break
        return b"".join(chunks)

    def _feed(self, payload: bytes) -> None:
        try:
            with _of(self._process.stdin) as stdin:
                stdin.write(payload)
        except OSError:
            pass  # it did not want to read it all

    def _listen(self) -> None:
        kept = b""
        while chunk := os.read(_of(self._process.stderr).fileno(), CHUNK_BYTES):
            kept = (kept + chunk)[-KEPT_STDERR_BYTES:]
        self.stderr = kept.decode(errors="replace").strip()

    def _end(self) -> None:
        """Ends, with the program, what it started and left behind: that may hold the pipes."""
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        self._kill()

    def _stop_late(self) -> None:
        self.is_late = True
        self._kill()

    def _kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # there is nobody left in its session


def _of(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
