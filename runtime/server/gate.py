"""What every request passes before it is read: its id, its key, and the size of its body.

An answer that comes before its request was read reaches clients that send all of it first: the gate goes on
reading for a while, and only then has the connection closed.
"""

from __future__ import annotations

import asyncio
import hmac
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from antiphon.server.errors import ApiError, error_response
from antiphon.server.handshake import SECRET_PREFIX, given_key, is_allowed
from antiphon.server.log import log_access
from antiphon.server.page_routes import PAGE_PATHS
from antiphon.server.request_body import RequestBody

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Gate"]

OPEN_PATHS = frozenset({"/health", "/ready", "/ping"}) | PAGE_PATHS
"""What needs no key: those who ask whether a server is there have none, and the page asks for it."""
REQUEST_ID = b"x-request-id"
MAX_ID_CHARS = 128


class _TooLarge(Exception):
    """The body is longer than allowed."""


class Gate:
    """ASGI middleware: refuses clients without a key and bodies that are too large, numbers what it lets
    through, and logs how it was answered."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Sequence[str],
        max_body_bytes: int,
        origins: Sequence[str] = (),
        find_secret: Callable[[str], object | None] = lambda _: None,
    ) -> None:
        """origins: those whose pages may open WebSockets, beside the server's own. find_secret: finds a key
        that opens WebSockets alone."""
        self._app = app
        self._origins = origins
        self._find_secret = find_secret
        self._keys = [key.encode() for key in keys]
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._let_in(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = _given_id(headers) or f"req_{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = request_id
        begun_s, status, has_begun, has_ended = time.perf_counter(), 0, False, False
        answered_s: float | None = None
        is_too_large = False
        body = RequestBody(headers, receive)

        async def numbered(message: Message) -> None:
            nonlocal status, has_begun, has_ended, answered_s
            if is_too_large and has_begun:  # the application's own answer to a body that it could not read
                return
            if message["type"] == "http.response.start":
                status, has_begun = message["status"], True
                added = [(REQUEST_ID, request_id.encode())]
                if not body.has_ended:
                    added.append((b"connection", b"close"))
                message["headers"] = [*message.get("headers", []), *added]
            elif not message.get("more_body", False):
                answered_s = time.perf_counter()
                if not body.has_ended:  # the server closes the connection once it has the answer's end
                    await send({**message, "more_body": True})
                    await body.discard()
                    message = {"type": "http.response.body"}
            await send(message)
            has_ended = answered_s is not None

        async def refuse() -> None:
            if not has_begun:
                await error_response(self._too_large())(scope, receive, numbered)

        async def counted() -> Message:
            nonlocal is_too_large
            message = await body.receive()
            if body.num_bytes > self._max_body_bytes:
                await refuse()
                is_too_large = True
                raise _TooLarge
            return message

        try:
            if (refused := self._refusal(scope["path"], headers)) is not None:
                await error_response(refused)(scope, receive, numbered)
                return
            await self._app(scope, counted, numbered)
        except _TooLarge:
            pass  # it is answered
        except (ClientDisconnect, asyncio.CancelledError):  # how an application gives up what nobody awaits
            if not body.has_left:
                raise
        except Exception as error:  # a framework inside has answered, and raised it again
            if not has_begun:
                await error_response(error)(scope, receive, numbered)
            elif not has_ended:
                raise  # closes the connection
        finally:
            seconds = (answered_s or time.perf_counter()) - begun_s
            log_access(request_id, scope["method"], scope["path"], status, seconds)

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> ApiError | None:
        if path not in OPEN_PATHS and self._keys and not self._knows(headers.get(b"authorization", b"")):
            return _no_key()
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_body_bytes:
            return self._too_large()
        return None

    def _knows(self, authorization: bytes) -> bool:
        """In the same time for every key, right or wrong."""
        scheme, _, given = authorization.partition(b" ")
        return self._is_key(given.strip()) and scheme.lower() == b"bearer"

    def _is_key(self, given: bytes) -> bool:
        matches = [hmac.compare_digest(given, key) for key in self._keys]
        return any(matches)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket, which is refused before it is accepted."""
        headers = dict(scope["headers"])
        request_id = _given_id(headers) or f"req_{uuid.uuid4().hex}"
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        begun_s, status = time.perf_counter(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "websocket.accept":
                status = 101
            elif message["type"] == "websocket.http.response.start":
                status = message["status"]
            await send(message)

        refused = None
        if not is_allowed(headers, self._origins):
            message = (
                "pages of this origin may not connect: the operator has not allowed it (--allowed-origins)"
            )
            refused = ApiError(403, message, code="origin_not_allowed")
        else:
            key = given_key(headers, scope.get("subprotocols", []))
            state["secret"] = secret = self._find_secret(key)
            if (
                secret is None
                and (key.startswith(SECRET_PREFIX) or self._keys)
                and not self._is_key(key.encode())
            ):
                refused = _no_key()
        try:
            if refused is not None:
                await error_response(refused)(scope, receive, noted)
            else:
                await self._app(scope, receive, noted)
        finally:
            log_access(request_id, "WEBSOCKET", scope["path"], status, time.perf_counter() - begun_s)

    def _too_large(self) -> ApiError:
        message = f"the body: expected at most {self._max_body_bytes} bytes, got more"
        return ApiError(413, message, code="request_too_large")


def _no_key() -> ApiError:
    return ApiError(
        401,
        "an API key is needed: send it as `Authorization: Bearer KEY`",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _given_id(headers: dict[bytes, bytes]) -> str | None:
    """The client's own id, where it is one that a log can hold."""
    given = headers.get(REQUEST_ID, b"")[: MAX_ID_CHARS + 1]
    text = given.decode("latin-1")
    is_fine = text.isascii() and text.isprintable() and " " not in text
    return text if 0 < len(text) <= MAX_ID_CHARS and is_fine else None
