"""What a WebSocket's first request says of its client: browsers send no key in a header, and send cookies and
the like from any page, so that its origin counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

__all__ = ["SECRET_PREFIX", "given_key", "is_allowed"]

KEY_PROTOCOL = "openai-insecure-api-key."
"""Begins the name of a subprotocol that is a key."""
SECRET_PREFIX = "ek_"
"""Begins the keys that live for minutes."""
PORTS = {"http": 80, "https": 443}


def given_key(headers: Mapping[bytes, bytes], subprotocols: Sequence[str]) -> str:
    """The key that a client sends, by header or as a subprotocol; empty: none."""
    scheme, _, given = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    for name in subprotocols:
        if name.startswith(KEY_PROTOCOL):
            return name.removeprefix(KEY_PROTOCOL)
    return ""


def is_allowed(headers: Mapping[bytes, bytes], origins: Sequence[str]) -> bool:
    """Whether a page of this origin may connect: one of the server itself, or of an origin that the operator
    names. Clients other than browsers send no origin."""
    origin = headers.get(b"origin")
    if origin is None or "*" in origins:
        return True
    named = origin.decode("latin-1")
    if named in origins:
        return True
    try:
        page = urlsplit(named)
        host = urlsplit(f"//{headers.get(b'host', b'').decode('latin-1')}")
        if page.hostname is None or (port := PORTS.get(page.scheme)) is None:
            return False
        return (page.hostname, page.port or port) == (host.hostname, host.port or port)
    except ValueError:
        return False
