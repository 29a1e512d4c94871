"""Pictures that requests name by URL, from hosts that the operator allows and from no others.

A server that fetches what strangers ask for reaches what they cannot. So a host must be named by the
operator, as must one that it redirects to, which must also have a public address; the connection is made to
the address that was checked; and time and size are bounded.
"""

from __future__ import annotations

import asyncio
import http.client
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import SplitResult, urljoin, urlsplit

from antiphon.server.errors import ApiError

__all__ = ["fetch"]

TIMEOUT_S = 20.0
MAX_REDIRECTS = 3
CHUNK_BYTES = 1 << 16
_THREADS = ThreadPoolExecutor(16, "fetch")
"""Slow hosts keep nothing else waiting."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})


class _Refused(Exception):
    """Why a URL gives no picture, for the client."""


async def fetch(url: str, domains: Sequence[str], max_bytes: int, param: str) -> bytes:
    """The bytes behind an http(s) URL, at most max_bytes. ApiError 400, naming `param`, for one that is not
    allowed or does not answer."""
    getting = _Fetch(tuple(domain.lower().rstrip(".") for domain in domains), max_bytes)
    try:
        loop = asyncio.get_running_loop()
        return await asyncio.wait_for(loop.run_in_executor(_THREADS, getting.run, url), TIMEOUT_S)
    except _Refused as error:
        raise ApiError(400, f"{param}: {error}", param=param, code="invalid_image_url") from error
    except (OSError, http.client.HTTPException, asyncio.TimeoutError) as error:
        message = f"{param}: the picture could not be fetched"
        raise ApiError(400, message, param=param, code="invalid_image_url") from error
    finally:
        getting.cancel()


class _Fetch:
    """One download, in a thread."""

    def __init__(self, domains: tuple[str, ...], max_bytes: int) -> None:
        self._domains = domains
        self._max_bytes = max_bytes
        self._socket: socket.socket | None = None
        self._is_cancelled = False

    def cancel(self) -> None:
        """Have the thread end soon, wherever it is."""
        self._is_cancelled = True
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:  # it is closed already
                return

    def run(self, url: str) -> bytes:
        first = self._checked(url).hostname
        for _ in range(MAX_REDIRECTS + 1):
            parts = self._checked(url)
            found = self._get(parts, is_first=parts.hostname == first)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise _Refused(f"expected at most {MAX_REDIRECTS} redirects, got more")

    def _checked(self, url: str) -> SplitResult:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise _Refused("expected a URL, got something else") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise _Refused("expected a data:, http: or https: URL, got another kind")
        if parts.username is not None or not url.isascii() or any(c <= " " or c == "\x7f" for c in url):
            raise _Refused("expected a URL without a user's name, spaces, and characters beyond ASCII")
        if parts.hostname.rstrip(".") not in self._domains:
            raise _Refused(
                f"pictures are not fetched from {parts.hostname[:200]!a}: this server's operator has not "
                "allowed it (--allowed-media-domains); send the picture as a data: URL"
            )
        return parts

    def _get(self, parts: SplitResult, *, is_first: bool) -> bytes | str:
        """What is at a URL: its bytes, or where it has moved to."""
        assert parts.hostname is not None
        is_tls = parts.scheme == "https"
        port = parts.port or (443 if is_tls else 80)
        connection = http.client.HTTPConnection(parts.hostname, port, timeout=TIMEOUT_S)
        connection.sock = self._connected(parts.hostname, port, is_tls=is_tls, is_first=is_first)
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", path, headers={"Accept": "image/*", "User-Agent": "antiphon"})
            answer = connection.getresponse()
            if answer.status in REDIRECTS:
                return answer.headers.get("Location") or ""
            if answer.status != 200:
                raise _Refused(f"the picture's server answered with status {answer.status}")
            data = bytearray()
            while chunk := answer.read(CHUNK_BYTES):
                data += chunk
                if len(data) > self._max_bytes:
                    raise _Refused(f"expected a picture of at most {self._max_bytes} bytes, found more")
            if answer.length:
                raise _Refused("the picture came to an end too early")
            return bytes(data)
        finally:
            connection.close()

    def _connected(self, host: str, port: int, *, is_tls: bool, is_first: bool) -> socket.socket:
        """A connection to an address that was checked: a second look-up might give another."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        if not is_first and not all(_is_public(str(address[0])) for *_, address in found):
            raise _Refused("the picture's server redirects to an address that is not public")
        for family, kind, protocol, _, address in found:
            connected = self._socket = socket.socket(family, kind, protocol)
            try:
                connected.settimeout(TIMEOUT_S)
                if self._is_cancelled:
                    break
                connected.connect(address)
                if is_tls:
                    context = ssl.create_default_context()
                    connected = self._socket = context.wrap_socket(connected, server_hostname=host)
                return connected
            except OSError:
                connected.close()
        raise OSError("no address answers")


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return found.is_global
