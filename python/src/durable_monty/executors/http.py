"""Runs calls behind HTTP."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

from ..errors import Unavailable
from ..webhooks import SIGNATURE_HEADER, secret_or_default, sign, token
from .base import CallRequest, Outcome
from .remote import message_of, outcome_of
from .threads import DEFAULT_MAX_CONCURRENCY, Again, ThreadedExecutor

__all__ = ["HttpExecutor"]

MAX_ANSWER_BYTES = 64 << 20
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

    Requests are signed with `secret`, or DURABLE_WEBHOOK_SECRET: `durable_monty.webhooks.verify`
    is for the receiver. Without a secret they are not signed, and there can be no callback.
    `timeout` is how many seconds the receiver may be silent. Redirects are not followed.
    """

    reported_by_name = True

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
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []

    def name_of(self, call: CallRequest) -> str:
        """The name by which a webhook reports."""
        return call.job_id

    def perform(self, call: CallRequest) -> Outcome | Again:
        """POSTs a call and reads the answer."""
        status, reason, body = self._post(json.dumps(self._message(call)).encode())
        if status == 202:
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

    def _post(self, body: bytes) -> tuple[int, str, bytes]:
        """Status, reason and body of the answer. Raises Unavailable when there is none."""
        headers = {"Content-Type": "application/json", **self.headers}
        if self._secret is not None:
            headers[SIGNATURE_HEADER] = sign(body, self._secret)
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        connection: http.client.HTTPConnection | None = kept or self._connect()
        assert connection is not None
        try:
            connection.request("POST", self._target, body, headers)
            response = connection.getresponse()
            answer = response.read(MAX_ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if kept is not None and not isinstance(error, TimeoutError):
                # The other side may have closed a connection that was kept open.
                return self._post(body)
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

    def detach(self) -> None:
        """Posts nothing any more. Calls that were accepted are reported to the callback."""
        super().detach()
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
