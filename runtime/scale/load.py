"""How much speech is waited for: what replicas are routed and scaled by."""

from __future__ import annotations

from antiphon.aio.health import Health

__all__ = ["waiting_audio_s"]


def waiting_audio_s(health: Health, mean_audio_s: float) -> float:
    """Seconds of speech that listeners wait for at one engine: by how much the sound of replies is late, and
    the whole length of replies for which there is no room yet.

    mean_audio_s: how long replies have been lately.
    """
    return health.late_audio_s + health.num_queued * mean_audio_s
