"""Keys that live for minutes, for pages that must not know the server's own."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from antiphon.server.handshake import SECRET_PREFIX
from antiphon.server.realtime.session_config import SessionConfig

__all__ = ["ClientSecrets", "Secret"]

MAX_KEPT = 1000
"""The oldest go first."""


@dataclass(frozen=True)
class Secret:
    """A key, and the session that it opens."""

    value: str
    expires_s: int
    """On the clock of `time.time`."""
    config: SessionConfig


class ClientSecrets:
    """The keys that are valid."""

    def __init__(
        self,
        max_kept: int = MAX_KEPT,
        clock: Callable[[], float] = time.time,
        named: Callable[[str], str] = str,
    ) -> None:
        """named: adds to a key where it is known, see `ServerSettings.named`."""
        self._max_kept = max_kept
        self._clock = clock
        self._named = named
        self._secrets: dict[bytes, Secret] = {}
        """By digests: how long a look-up takes tells nothing of the keys."""

    def __len__(self) -> int:
        return len(self._secrets)

    def make(self, config: SessionConfig, seconds: int) -> Secret:
        """A new key."""
        now = self._clock()
        for digest in [digest for digest, each in self._secrets.items() if each.expires_s <= now]:
            del self._secrets[digest]
        while len(self._secrets) >= self._max_kept:
            del self._secrets[next(iter(self._secrets))]
        value = self._named(SECRET_PREFIX + secrets.token_urlsafe(32))
        secret = Secret(value, int(now + seconds), config)
        self._secrets[_digest(secret.value)] = secret
        return secret

    def find(self, value: str) -> Secret | None:
        """The key, while it is valid."""
        secret = self._secrets.get(_digest(value))
        return secret if secret is not None and self._clock() < secret.expires_s else None


def _digest(value: str) -> bytes:
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).digest()
