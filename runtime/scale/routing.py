"""Which replica a request goes to: plain functions, which Serve's routers call."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["by_waiting", "replica_of"]

# REPLICA_MARK of the server's settings, which a router that knows nothing of servers need not import
NAMED = re.compile(rb"\.at-([0-9A-Za-z]{1,64})")
"""A secret of a replica, which ends in its name."""
SHOWN_IN = (b"authorization", b"sec-websocket-protocol")
"""Headers that carry keys."""


def replica_of(scope: Mapping[str, Any]) -> str | None:
    """The replica that knows the secret which a WebSocket's client shows, by its name: the client comes back
    to its conversation, or has a key that lives for minutes. None: it shows none.

    scope: as in ASGI.
    """
    if scope.get("type") != "websocket":
        return None
    headers = [value for name, value in scope.get("headers", ()) if name.lower() in SHOWN_IN]
    for text in (scope.get("query_string", b""), *headers):
        if (found := NAMED.search(text)) is not None:
            return found[1].decode()
    return None


def by_waiting(waiting_s: Sequence[float], spill_s: float) -> list[int]:
    """The order in which the replicas of a conversation are asked, as indices.

    waiting_s: the seconds of speech that listeners wait for at each, in the order of preference. spill_s: up
    to this much, a replica keeps its conversations; those with more are asked after those with less.
    """
    return sorted(range(len(waiting_s)), key=lambda i: waiting_s[i] > spill_s)
