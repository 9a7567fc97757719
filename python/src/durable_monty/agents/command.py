"""Agents that are programs of this machine."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from .context import AgentContext
from .wire import facts_of, read_result, write_payload

__all__ = ["CommandAgent"]

MAX_OUTPUT_BYTES = 16 << 20
KEPT_STDERR_BYTES = 4 << 10
CHUNK_BYTES = 1 << 16
REST_S = 1.0


class CommandAgent:
    """Runs a program with the payload as JSON on its standard input; the JSON object that it
    writes to its standard output is the result.

    >>> register_agent("classify", CommandAgent(["node", "classify.mjs"], timeout=30))

    Its environment has DURABLE_IDEMPOTENCY_KEY, DURABLE_EXECUTION, DURABLE_STEP, DURABLE_ATTEMPT
    and, with a timeout, DURABLE_DEADLINE, beside that of this process (or `env`). After `timeout`
    seconds, or at the attempt's deadline, it is killed. With it ends what it started, except what
    has a session of its own (`setsid`, a daemon): that is left alone. An exit code other than 0
    fails the attempt; the end of its standard error stands in the message. Unix only.
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
        self.code = 0
        self._process = process
        self._payload = memoryview(payload)
        self._output = bytearray()
        self._errors = b""
        self._has_ended = False
        self._selector = selectors.DefaultSelector()

    @property
    def stderr(self) -> str:
        """The end of its standard error."""
        return self._errors.decode(errors="replace").strip()

    def finish(self, deadline: float | None) -> bytes:
        """Waits for the end, or brings it about. What was written, at most one chunk more than is
        allowed."""
        process = self._process
        end, tell = os.pipe()
        pipes: list[tuple[IO[bytes], int, Callable[[], bool]]] = [
            (os.fdopen(end, "rb", 0), selectors.EVENT_READ, self._note_end),
            (_of(process.stdin), selectors.EVENT_WRITE, self._feed),
            (_of(process.stdout), selectors.EVENT_READ, self._read),
            (_of(process.stderr), selectors.EVENT_READ, self._listen),
        ]
        waiter = threading.Thread(target=self._tell_end, args=(tell,), daemon=True)
        waiter.start()
        try:
            for pipe, event, serve in pipes:
                os.set_blocking(pipe.fileno(), False)
                self._selector.register(pipe, event, serve)
            self._serve(deadline)
            self._read_rest()
        finally:
            self._kill()
            waiter.join()
            # Not reaped before: until here nobody else can have its number.
            self.code = process.wait()
            self._selector.close()
            for pipe, _, _ in pipes:
                pipe.close()
        return bytes(self._output)

    def _serve(self, deadline: float | None) -> None:
        """Until the program has ended."""
        while True:
            self._turn(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if self._has_ended:
                return
            if deadline is not None and time.monotonic() >= deadline:
                self.is_late = True
                self._kill()
                deadline = None

    def _read_rest(self) -> None:
        """What the program wrote before its end is in the pipes. Whoever else holds them, from a
        session of his own, is not waited for."""
        self._kill()
        until = time.monotonic() + REST_S
        while self._turn(0) and time.monotonic() < until:
            pass

    def _turn(self, timeout: float | None) -> bool:
        """Serves the pipes that are ready, and closes those that are done; whether any was."""
        ready = self._selector.select(timeout)
        for key, _ in ready:
            has_more = key.data()
            if not has_more:
                pipe: Any = key.fileobj
                self._selector.unregister(pipe)
                pipe.close()
        return bool(ready)

    def _feed(self) -> bool:
        try:
            written = os.write(_of(self._process.stdin).fileno(), self._payload[:CHUNK_BYTES])
        except BlockingIOError:
            return True
        except OSError:
            return False  # it did not want to read it all
        self._payload = self._payload[written:]
        return bool(self._payload)

    def _read(self) -> bool:
        chunk = os.read(_of(self._process.stdout).fileno(), CHUNK_BYTES)
        self._output += chunk
        if len(self._output) > MAX_OUTPUT_BYTES:
            self._kill()
            return False
        return bool(chunk)

    def _listen(self) -> bool:
        chunk = os.read(_of(self._process.stderr).fileno(), CHUNK_BYTES)
        self._errors = (self._errors + chunk)[-KEPT_STDERR_BYTES:]
        return bool(chunk)

    def _note_end(self) -> bool:
        self._has_ended = True
        return False

    def _tell_end(self, tell: int) -> None:
        with os.fdopen(tell, "wb", 0) as pipe:
            try:
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
            finally:
                # Closing it would not do: a child that was forked meanwhile may have it as well.
                pipe.write(b".")

    def _kill(self) -> None:
        """Ends the program with all of its session."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # there is nobody left in it


def _of(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
