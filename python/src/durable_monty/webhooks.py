"""Signed requests between workers and whoever runs functions behind HTTP.

A request of `HttpExecutor` carries `X-Durable-Signature: t=<unix seconds>,v1=<signature>`, where
the signature is the HMAC-SHA256, in hex, of the time, a dot and the body. A receiver that can't
answer at once reports to the callback with a token that is good for that one job.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from collections.abc import Mapping
from typing import Any

__all__ = ["SIGNATURE_HEADER", "answer", "sign", "token", "verify"]

SIGNATURE_HEADER = "X-Durable-Signature"
TOLERANCE_S = 300


def sign(body: bytes | str, secret: bytes | str, at: int | None = None) -> str:
    """The value of the signature header for a body sent now, or at a time in Unix seconds.

    >>> sign("{}", "secret", 1)[:12]
    't=1,v1=f4d9e'
    """
    moment = int(time.time()) if at is None else at
    return f"t={moment},v1={_digest(secret, b'%d.%b' % (moment, _bytes(body)))}"


def verify(
    headers: Mapping[str, str],
    body: bytes | str,
    secret: bytes | str | None = None,
    *,
    tolerance: float = TOLERANCE_S,
) -> bool:
    """Whether a request comes from somebody who knows the secret, and was signed at most
    `tolerance` seconds ago. The secret is DURABLE_WEBHOOK_SECRET unless it is given.

    >>> verify({"x-durable-signature": sign("{}", "secret")}, "{}", "secret")
    True
    """
    known = secret_or_default(secret)
    if known is None:
        raise ValueError("there is no secret: give one, or set DURABLE_WEBHOOK_SECRET")
    name = SIGNATURE_HEADER.lower()
    header = next((value for key, value in headers.items() if key.lower() == name), "")
    parts = [part.strip().partition("=") for part in header.split(",")]
    times = [value for key, _, value in parts if key == "t"]
    if len(times) != 1 or not times[0].isascii() or not times[0].isdigit() or len(times[0]) > 12:
        return False
    if abs(time.time() - int(times[0])) > tolerance:
        return False
    expected = _digest(known, times[0].encode() + b"." + _bytes(body)).encode()
    given = [value.encode() for key, _, value in parts if key == "v1"]
    return any(hmac.compare_digest(expected, one) for one in given)


def token(job_id: str, secret: bytes | str) -> str:
    """What proves that a report on a job comes from whoever was given the job."""
    return _digest(secret, f"webhook:{job_id}".encode())


def answer(
    headers: Mapping[str, str], body: bytes | str, secret: bytes | str | None = None
) -> tuple[int, dict[str, Any]]:
    """Serves a request of `HttpExecutor` by running the function it names in this process: the
    status and the JSON to answer with.

    It waits for the function, also for an `async def`: a coroutine gives it to a thread, as with
    `asyncio.to_thread`, to let others go on meanwhile."""
    from .executors.remote import answer_of, request_of

    if not verify(headers, body, secret):
        return 401, {"error": {"type": "PermissionError", "message": "the signature is not valid"}}
    try:
        message = json.loads(body)
        request_of(message)
    except (ValueError, TypeError) as error:
        said = f"the body is no call: {error}"
        return 422, {"error": {"type": "ValueError", "message": said}}
    return 200, answer_of(message)


def secret_or_default(secret: bytes | str | None) -> bytes | str | None:
    """A secret, or else the one in the environment; None when there is neither."""
    return secret if secret is not None else os.environ.get("DURABLE_WEBHOOK_SECRET") or None


def _digest(secret: bytes | str, message: bytes) -> str:
    return hmac.new(_bytes(secret), message, hashlib.sha256).hexdigest()


def _bytes(text: bytes | str) -> bytes:
    return text.encode() if isinstance(text, str) else text
