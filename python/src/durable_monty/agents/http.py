"""Agents behind a URL."""

from __future__ import annotations

import http.client
import re
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from .context import AgentContext
from .wire import facts_of, read_result, write_payload

__all__ = ["HttpAgent"]

MAX_ANSWER_BYTES = 16 << 20

_TARGET = re.compile(r"[!-~]+")


class HttpAgent:
    """POSTs the payload as JSON to a URL; the JSON object of a 200 is the result.

    >>> register_agent("classify", HttpAgent("https://agents.example/classify"))

    The request has the headers `Idempotency-Key`, `Durable-Execution`, `Durable-Step`,
    `Durable-Attempt` and, with a timeout, `Durable-Deadline`. The receiver may be silent for
    `timeout` seconds, and never beyond the attempt's deadline. Any other status, and a receiver
    that can't be reached, fails the attempt: say `retry=` when you register it. Redirects are not
    followed.
    """

    def __init__(
        self, url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 60.0
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no http or https URL")
        try:
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{url!r} is no URL: {error}") from None
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not _TARGET.fullmatch(target):
            raise ValueError(
                f"{url!r} is no URL: letters that are not ASCII, and spaces, are written as in %20"
            )
        if timeout <= 0:
            raise ValueError(f"timeout is {timeout}, it must be more than 0 seconds")
        self.url = url
        self.headers = dict(headers or {})
        self.timeout = timeout
        self._parts = parts
        self._port = port
        self._target = target

    def run(self, payload: dict[str, Any], context: AgentContext) -> dict[str, Any]:
        """Asks the receiver."""
        who = f"agent '{context.agent}': {self.url}"
        status, reason, body = self._post(who, write_payload(payload, who), context)
        if status != 200:
            said = body[:500].decode(errors="replace").strip()
            raise RuntimeError(f"{who} answered {status} {reason}: {said}")
        if len(body) > MAX_ANSWER_BYTES:
            raise RuntimeError(f"{who} answered with more than {MAX_ANSWER_BYTES} bytes")
        return read_result(body, f"{who} answered 200 with")

    def _post(self, who: str, body: bytes, context: AgentContext) -> tuple[int, str, bytes]:
        left = context.remaining()
        timeout = self.timeout if left is None else max(0.001, min(self.timeout, left))
        facts = facts_of(context)
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": context.idempotency_key,
            **{f"Durable-{name.title()}": fact for name, fact in facts.items()},
            **self.headers,
        }
        connection = self._connect(timeout)
        try:
            connection.request("POST", self._target, body, headers)
            response = connection.getresponse()
            return response.status, response.reason, response.read(MAX_ANSWER_BYTES + 1)
        except TimeoutError as error:
            raise TimeoutError(f"{who} did not answer within {timeout:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise ConnectionError(f"{who} can't be reached: {said}") from error
        finally:
            connection.close()

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        host = self._parts.hostname or ""
        if self._parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, self._port, timeout=timeout, context=context)
        return http.client.HTTPConnection(host, self._port, timeout=timeout)

    def __repr__(self) -> str:
        # A URL may hold a secret in its query.
        return f"HttpAgent({self.url.partition('?')[0]!r})"
