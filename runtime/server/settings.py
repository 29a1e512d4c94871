"""What an operator can set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from antiphon.errors import ConfigError

__all__ = ["REPLICA_MARK", "ReferenceSettings", "ServerSettings"]

MB = 1 << 20
REPLICA_MARK = ".at-"
"""Stands between a secret and the name of the server that knows it; neither holds a dot."""


@dataclass(frozen=True)
class ReferenceSettings:
    """The ports of the released code's protocol; 0 takes any that is free."""

    controller_port: int = 10000
    codec_worker_port: int = 21003
    worker_port: int = 40000
    wav_dir: Path | None = None
    """Where speech is written; None: a private folder, which is removed at the end."""
    allow_external_workers: bool = False
    """Whether workers of other processes may register. The server then sends requests to any URL that a
    client registers."""

    def __post_init__(self) -> None:
        for name in ("controller_port", "codec_worker_port", "worker_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise ConfigError(f"{name}: expected 0 to 65535, got {getattr(self, name)}")


@dataclass(frozen=True)
class ServerSettings:
    """How a server answers; the engine has settings of its own. Times are in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    """The address to listen on. The default answers this machine alone."""
    port: int = 8000
    """0 takes any that is free."""
    api_keys: tuple[str, ...] = ()
    """Keys of which a client must send one; none: every client is served."""
    served_model_name: str | None = None
    """The name that clients know the model by; None: the name of its folder."""
    allowed_media_domains: tuple[str, ...] = ()
    """Hosts that pictures may be fetched from; none: nothing is fetched."""
    allowed_origins: tuple[str, ...] = ()
    """Origins whose pages may call the server from a browser."""
    max_body_bytes: int = 64 * MB
    request_timeout_s: float = 600.0
    """After this a request is aborted, and what there is of its reply is sent; a reply of a conversation then
    ends as failed."""
    send_timeout_s: float = 60.0
    """How long a client may read nothing of what waits for it before its connection is broken off."""
    drain_timeout_s: float = 30.0
    """How long a server that is to end waits for its requests before it aborts them."""
    audio_expiry_s: float = 3600.0
    """How long a spoken reply can be referred to by its id."""
    max_kept_audio_bytes: int = 256 * MB
    """What all of these replies may take; the oldest go first."""
    realtime_max_sessions: int = 64
    """Conversations at a time; more are turned away."""
    realtime_session_s: float = 3600.0
    """How long a conversation may last."""
    realtime_resume_s: float = 20.0
    """How long a conversation waits for a client whose connection has dropped."""
    realtime_max_message_bytes: int = 16 * MB
    """The largest event of a client."""
    restart: bool = False
    """Whether a fresh engine takes over from one that has failed; otherwise the server ends."""
    log_format: str = "text"
    """"text" or "json"."""
    replica: str | None = None
    """The name of this server among several behind one address, letters and digits; what its clients show to
    come back ends in it, see `named`. None: it is alone."""
    reference: ReferenceSettings | None = None
    """The ports of the released code's protocol; None: they are not opened."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port: expected 0 to 65535, got {self.port}")
        for name in (
            "max_body_bytes",
            "request_timeout_s",
            "send_timeout_s",
            "audio_expiry_s",
            "realtime_session_s",
        ):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}: expected more than 0, got {getattr(self, name)}")
        for name in ("drain_timeout_s", "max_kept_audio_bytes", "realtime_resume_s"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: expected at least 0, got {getattr(self, name)}")
        for name in ("realtime_max_sessions", "realtime_max_message_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if any(not key or key != key.strip() or not key.isascii() for key in self.api_keys):
            raise ConfigError("api_keys: expected keys of ASCII characters without spaces around them")
        if self.replica is not None and not (self.replica.isascii() and self.replica.isalnum()):
            raise ConfigError(f"replica: expected letters and digits, got {self.replica!a}")
        if self.log_format not in ("text", "json"):
            raise ConfigError(f"log_format: expected 'text' or 'json', got {self.log_format!r}")

    def named(self, secret: str) -> str:
        """A secret that only this server knows, with the server's name, so that what stands before several
        can tell where it belongs."""
        return secret if self.replica is None else f"{secret}{REPLICA_MARK}{self.replica}"
