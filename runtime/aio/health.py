"""How an engine behind asyncio is."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Health"]


@dataclass(frozen=True)
class Health:
    """The state of an engine at one moment."""

    alive: bool
    """False: closed, or failed."""
    num_running: int
    num_waiting: int
    """Requests that are being read, wait for their turn, or wait for their users; `max_num_waiting` limits
    these."""
    num_queued: int
    """Of these, requests that could be computed now if there were room."""
    late_audio_s: float
    """Seconds of speech that listeners wait for: how late the next sound of each reply is, added up."""
    kv_cache_usage: float
    """Share of the KV cache's blocks that running requests hold, 0 to 1."""
    uptime_s: float
    error: str | None
    """What the engine died of; None while it is alive, and if it was closed."""
    can_speak: bool
    """Whether units can be made into speech: the engine is alive, and has a codec and no `speech_error`. Each
    request for speech is another try, so this may become true again."""
    speech_error: str | None
    """Why no speech could be made at the last try: its thread died, or could not be started; None once speech
    has been made. If speech fails for a single request, only its completion tells."""
    num_speaking: int = 0
    """Requests whose speech is not complete."""
    vocoders: tuple[int | None, ...] = ()
    """Of each process that makes speech: for how many requests it does so now; None while it is loaded."""
    num_vocoder_restarts: int = 0
    """Processes of these that were started in place of others."""
