"""Cuts silence: what comes before and after speech, and most of every long pause in it.

A model that has heard little silence in training mishears what lies beside it. What is kept has as much of it
as such a model knows, and nothing that may be speech is cut: what is loud depends on the sound's own
background and on its loudest moments (`antiphon.sound.loudness`), and every stretch of it keeps a margin.
"""

from __future__ import annotations

from antiphon.sound.activity import has_speech
from antiphon.sound.arrays import AudioArray
from antiphon.sound.loudness import HOP_S, levels_of, loud_runs

__all__ = ["LEAD_S", "PAUSE_S", "REST_S", "Stretch", "without_silence"]

LEAD_S = 0.15
"""How much is kept of the silence before speech: a soft beginning lies there."""
REST_S = 0.25
"""How much is kept of it after speech: a soft end, and the moment that a model takes to be sure of the last
word. A pause that is cut keeps both."""
LEFT_S = 0.45
"""What is no longer than this at either end of the sound is left as it is."""
PAUSE_S = 0.5
"""Shorter pauses are left as they are."""

Stretch = tuple[int, int]
"""Samples [start, end)."""


def without_silence(samples: AudioArray, rate_hz: int) -> list[Stretch]:
    """The stretches of mono float32 (n,), n > 0, that are to be kept, in order and apart; none if there is no
    speech in it."""
    if not has_speech(samples, rate_hz):
        return []
    hop = max(1, round(HOP_S * rate_hz))
    num = len(samples)
    lead, rest, left = (int(seconds * rate_hz) for seconds in (LEAD_S, REST_S, LEFT_S))
    stretches: list[Stretch] = []
    for first, last in loud_runs(levels_of(samples, hop), rate_hz / hop, PAUSE_S):
        start = 0 if first * hop <= left else first * hop - lead
        end = num if num - last * hop <= left else last * hop + rest
        stretches.append((start, end))
    return stretches
