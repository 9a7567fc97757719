"""Runs calls behind HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlsplit

from ..errors import Unavailable
from ..webhooks import SIGNATURE_HEADER, secret_or_default, sign, token
from .base import CallRequest, Outcome
from .remote import message_of, outcome_of
from .threads import DEFAULT_MAX_CONCURRENCY, Again, ThreadedExecutor

__all__ = ["HttpExecutor"]

MAX_ANSWER_BYTES = 64 << 20
KEEP_ALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
TRY_AGAIN = frozenset({408, 425, 429, 502, 503, 504})


class HttpExecutor(ThreadedExecutor):
    """POSTs each call as JSON to a URL, at most `max_concurrency` at once.

    >>> Worker(service, HttpExecutor("https://functions.example/run")).run()

    The receiver answers 200 with `{"result": …}` or `{"error": {"type", "message"}}`, or 202 and
    reports later to `callback_url` (`POST /webhook/complete`), with the token that the call
    carries. What can't be reached, or answers that it is busy (408, 425, 429, 502, 503, 504), is
    tried again with the same idempotency key until the call's own timeout; any other answer fails
    the attempt. A call that was answered with 202 and is not reported within `resubmit_after`
    seconds is posted again.

    An answer may take as long as somebody waits for the call: until its timeout, or without end.
    TCP finds out, within a minute, that the receiver's machine is gone. `timeout` is how many
    seconds it may take to connect and to send the call.

    Requests are signed with `secret`, or DURABLE_WEBHOOK_SECRET: `durable_monty.webhooks.verify`
    is for the receiver. Without a secret they are not signed, and there can be no callback.
    Redirects are not followed.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | bytes | None = None,
        callback_url: str | None = None,
        max_concurrency: int = DEFAULT_MAX_CONCURRENCY,
        timeout: float = 60.0,
        resubmit_after: float = 600.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(max_concurrency)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no http or https URL")
        self.url = url
        self.callback_url = callback_url
        self.timeout = timeout
        self.resubmit_after = resubmit_after
        self.headers = dict(headers or {})
        self._parts = parts
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._secret = secret_or_default(secret)
        if callback_url is not None and self._secret is None:
            raise ValueError(
                "a callback needs a secret for its tokens: give one, or set DURABLE_WEBHOOK_SECRET"
            )
        self.reported_by_name = callback_url is not None
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        self._awaited: dict[socket.socket, str] = {}
        """The jobs whose answers are awaited, by where."""

    def name_of(self, call: CallRequest) -> str | None:
        """The name by which a webhook reports."""
        return call.job_id if self.reported_by_name else None

    def perform(self, call: CallRequest) -> Outcome | Again:
        """POSTs a call and reads the answer."""
        status, reason, body = self._post(call, json.dumps(self._message(call)).encode())
        if status == 202:
            self.named(call, call.job_id)
            return Again(self.resubmit_after)
        if status in TRY_AGAIN:
            raise Unavailable(f"{self.url} answered {status} {reason}")
        if status != 200:
            said = body[:500].decode(errors="replace").strip()
            raise RuntimeError(f"{self.url} answered {status} {reason}: {said}")
        try:
            return outcome_of(json.loads(body))
        except (ValueError, TypeError) as error:
            raise RuntimeError(f"{self.url} answered 200, but: {error}") from error

    def _message(self, call: CallRequest) -> dict[str, object]:
        message = message_of(call)
        if self.callback_url is not None and self._secret is not None:
            message["callback_url"] = self.callback_url
            message["token"] = token(call.job_id, self._secret)
        return message

    def _post(self, call: CallRequest, body: bytes) -> tuple[int, str, bytes]:
        """Status, reason and body of the answer. Raises Unavailable when there is none."""
        headers = {"Content-Type": "application/json", **self.headers}
        if self._secret is not None:
            headers[SIGNATURE_HEADER] = sign(body, self._secret)
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        connection: http.client.HTTPConnection | None = kept or self._connect()
        assert connection is not None
        try:
            with self._awaiting(call, _open(connection)) as sock:
                sock.settimeout(self.timeout)
                connection.request("POST", self._target, body, headers)
                sock.settimeout(None)
                response = connection.getresponse()
                answer = response.read(MAX_ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            is_stale = kept is not None and not isinstance(error, TimeoutError)
            if is_stale and self.is_wanted(call):
                # The other side may have closed a connection that was kept open.
                return self._post(call, body)
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise Unavailable(f"{self.url}: {said}") from error
        if len(answer) > MAX_ANSWER_BYTES:
            connection.close()
            raise RuntimeError(f"{self.url} answered with more than {MAX_ANSWER_BYTES} bytes")
        with self._lock:
            if self._outcomes is not None and not response.will_close:
                self._idle.append(connection)
                connection = None
        if connection is not None:
            connection.close()
        return response.status, response.reason, answer

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=self.timeout, context=context)
        return http.client.HTTPConnection(host, port, timeout=self.timeout)

    @contextlib.contextmanager
    def _awaiting(self, call: CallRequest, sock: socket.socket) -> Iterator[socket.socket]:
        """Lets the connection be cut while the block runs."""
        with self._lock:
            self._awaited[sock] = call.job_id
        try:
            if not self.is_wanted(call):
                raise OSError("nobody waits for the call any more")
            yield sock
        finally:
            with self._lock:
                del self._awaited[sock]

    def release_call(self, call: CallRequest) -> None:
        """Does not await its answer any more."""
        super().release_call(call)
        self._hang_up(lambda job_id: job_id == call.job_id)

    def detach(self) -> None:
        """Posts nothing any more. Calls that were accepted are reported to the callback."""
        super().detach()
        self._hang_up(lambda _: True)
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _hang_up(self, is_meant: Callable[[str], bool]) -> None:
        with self._lock:
            for sock, job_id in self._awaited.items():
                if is_meant(job_id):
                    with contextlib.suppress(OSError):
                        # That of the connection below TLS: it wakes whoever reads.
                        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _open(connection: http.client.HTTPConnection) -> socket.socket:
    """The socket of a connection, on which TCP asks now and then whether the other machine is
    still there."""
    opened: socket.socket | None = connection.sock
    if opened is not None:
        return opened
    connection.connect()
    sock: socket.socket = connection.sock
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return sock
