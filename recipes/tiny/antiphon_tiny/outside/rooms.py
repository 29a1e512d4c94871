"""What a microphone adds to a question: silence before, within and after it, and the sound of a room."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from antiphon.sound.loudness import HOP_S, levels_of, smooth

__all__ = ["RATE_HZ", "Room", "joined", "paused"]

RATE_HZ = 16000
GAP_HOPS = 5
"""A pause is put in where a twentieth of a second is quietest."""
MIDDLE = (0.3, 0.7)


@dataclass(frozen=True)
class Room:
    before_s: float = 0.0
    after_s: float = 0.0
    pause_s: float = 0.0
    """In the middle of what is said, between two words."""
    snr_db: float | None = None
    """How far the question lies above the room's noise; None: the room is silent."""

    def heard(self, sound: np.ndarray, seed: int) -> np.ndarray:
        """float32 (n,) at 16 kHz to the same, longer by the silence. seed: of the noise."""
        inner = paused(sound, self.pause_s)
        whole = np.pad(inner, (int(self.before_s * RATE_HZ), int(self.after_s * RATE_HZ)))
        if self.snr_db is None:
            return whole
        noise = np.random.default_rng(seed).normal(0, 1, len(whole) + 1)
        noise = noise[1:] + 0.9 * noise[:-1]  # rooms are louder in the low
        level = np.sqrt(np.square(sound).mean() / np.square(noise).mean()) * 10 ** (-self.snr_db / 20)
        out: np.ndarray = (whole + level * noise).astype(np.float32)
        return out


def paused(sound: np.ndarray, seconds: float) -> np.ndarray:
    """With a pause where it is quietest in its middle."""
    if not seconds:
        return sound
    hop = int(HOP_S * RATE_HZ)
    levels = smooth(10 ** (levels_of(sound, hop) / 10), GAP_HOPS)
    first, last = (int(share * len(levels)) for share in MIDDLE)
    at = (first + int(np.argmin(levels[first : last + 1]))) * hop + hop // 2
    return np.concatenate([sound[:at], np.zeros(int(seconds * RATE_HZ), np.float32), sound[at:]])


def joined(sounds: list[np.ndarray], gap_s: float = 0.7) -> np.ndarray:
    """Sentences one after another, with silence between them."""
    gap = np.zeros(int(gap_s * RATE_HZ), np.float32)
    return np.concatenate([part for sound in sounds for part in (sound, gap)])
