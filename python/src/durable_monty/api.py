"""The HTTP API as an ASGI application. docs/HTTP.md describes it.

The application itself is the one behind `durable serve`: here requests are only passed on to it,
and its answers back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from ._native import native
from .aio import AsyncOrchestratorService
from .service import OrchestratorService

if TYPE_CHECKING:
    from ._internal import Engine, Exchange, HttpApp

__all__ = ["App", "create_app"]

logger = logging.getLogger("durable_monty.api")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_BODY_BYTES = 16 << 20
BODY_TIMEOUT_S = 30.0
GRACE_S = 5.0


def create_app(
    service: OrchestratorService | AsyncOrchestratorService,
    *,
    webhook_secret: str | None = None,
    tasks: bool = False,
) -> App:
    """The HTTP API on a service, for any ASGI server: `uvicorn.run(create_app(service))`.

    `webhook_secret` is what the senders of webhooks show that they know; DURABLE_WEBHOOK_SECRET
    unless it is given. Without one, webhooks are taken from this machine only. The API itself
    needs access tokens (`durable token create`) as soon as there are any; without, it answers
    this machine only.

    With `tasks`, the application runs executions itself and hands their calls to workers that
    claim them over HTTP; there can be no `Worker` on the same service in this process then.
    """
    inner = service.sync if isinstance(service, AsyncOrchestratorService) else service
    return App(inner, webhook_secret or os.environ.get("DURABLE_WEBHOOK_SECRET") or None, tasks)


class App:
    """An ASGI application; see `create_app`."""

    def __init__(
        self, service: OrchestratorService, webhook_secret: str | None, tasks: bool
    ) -> None:
        self.service = service
        self._webhook_secret = webhook_secret
        self._tasks = tasks
        self._lock = threading.Lock()
        self._opened: HttpApp | None = None
        self._engine: Engine | None = None
        """What it was opened on: a store that was closed opens another."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or the lifespan of the server."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        else:
            raise ValueError(f"{scope['type']} is no protocol that is served here")

    def close(self) -> None:
        """Ends followers and long polls, and gives back the executions of `tasks`. The
        application opens again when it is used again."""
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.close(GRACE_S)

    def _app(self) -> HttpApp:
        # Also where the process was forked: that raises ForkError.
        engine = self.service.store.engine
        opened = self._opened
        if opened is not None and engine is self._engine:
            return opened
        with self._lock:
            if self._opened is None or engine is not self._engine:
                app = native().HttpApp.open(engine, self._webhook_secret, self._tasks)
                self._opened, self._engine = app, engine
            return self._opened

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await asyncio.to_thread(self._app)
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.to_thread(self.close)
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app() if self._opened else await asyncio.to_thread(self._app)
        client = scope.get("client")
        exchange = app.request(
            scope["method"].encode(),
            _target(scope),
            [(bytes(name), bytes(value)) for name, value in scope["headers"]],
            await _body(receive),
            client[0] if client else None,
        )
        gone: asyncio.Future[Any] = asyncio.ensure_future(_disconnected(receive))
        try:
            while True:
                piece: asyncio.Future[Any] = _next(exchange)
                await asyncio.wait({piece, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not piece.done():
                    return
                message = _message(*piece.result())
                await send(message)
                if message.get("more_body") is False:
                    return
        finally:
            gone.cancel()
            exchange.cancel()


def _target(scope: Scope) -> bytes:
    """Path and query as they were sent, without what the application is mounted under."""
    raw = scope.get("raw_path") or urllib.parse.quote(scope["path"]).encode()
    path: bytes = bytes(raw).split(b"?", 1)[0]
    root = urllib.parse.quote(scope.get("root_path") or "").encode().rstrip(b"/")
    if root and path.startswith(root + b"/"):
        path = path[len(root) :]
    query = bytes(scope.get("query_string") or b"")
    return path + b"?" + query if query else path


async def _body(receive: Receive) -> bytes | None:
    """The body, or as much of it as shows that it is too large; None when it takes too long."""

    async def read() -> bytes:
        body = bytearray()
        while len(body) <= MAX_BODY_BYTES:
            message = await receive()
            body += message.get("body", b"")
            if message["type"] != "http.request" or not message.get("more_body", False):
                break
        return bytes(body)

    try:
        return await asyncio.wait_for(read(), BODY_TIMEOUT_S)
    except asyncio.TimeoutError:
        return None


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _next(exchange: Exchange) -> asyncio.Future[tuple[str, Any, Any]]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[tuple[str, Any, Any]] = loop.create_future()

    def settle(piece: tuple[str, Any, Any]) -> None:
        if not future.done():
            future.set_result(piece)

    exchange.next(lambda *piece: _tell(loop, settle, piece))
    return future


def _tell(loop: asyncio.AbstractEventLoop, settle: Callable[[Any], None], piece: Any) -> None:
    try:
        loop.call_soon_threadsafe(settle, piece)
    except RuntimeError:  # the loop was closed while the answer was on its way
        logger.debug("an answer came after the end of the event loop")


def _message(kind: str, first: Any, second: Any) -> Message:
    if kind == "head":
        return {"type": "http.response.start", "status": first, "headers": second}
    body = first if kind == "body" else b""
    return {"type": "http.response.body", "body": body, "more_body": kind == "body"}
