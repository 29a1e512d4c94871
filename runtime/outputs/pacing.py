"""When a reply's sound may begin, so that a listener hears it without a gap.

Speech is made chunk by chunk, and each chunk is needed when the sound before it has been played. If replies
together need more than is made, somebody hears gaps, however the chunks are ordered. So a reply that asks for
it begins only once the chunks that are left, its own and those of the replies that play already, can each be
made in time at the rate at which speech has been made of late.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Chunk", "Pace", "Player", "Rate", "is_gapless"]

KEPT = 0.5
"""Share of what is known of the rate that the next batch leaves."""
USABLE = 0.65
"""Share of the rate that is counted on: it wavers with what else runs."""


@dataclass(frozen=True)
class Chunk:
    """Speech that is still to be made."""

    units_in_s: float
    """Until the units that it needs are there; 0: they are."""
    sound_s: float
    """Its length."""
    frames: int
    """Mel frames to compute for it."""


@dataclass(frozen=True)
class Player:
    """Somebody who plays a reply, or would if it began now."""

    left_s: float
    """Until the sound that there is has been played; negative: for how long there has been none."""
    chunks: Sequence[Chunk]
    """To come, in order."""


@dataclass(frozen=True)
class Rate:
    """What can be counted on."""

    frames_per_s: float
    """Of one thread."""
    num_threads: int
    """Which make speech side by side, a reply's chunks one after the other."""


class Pace:
    """How fast speech is made."""

    def __init__(self) -> None:
        self._frames = 0.0
        self._busy_s = 0.0

    def made(self, frames: int, busy_s: float) -> None:
        """One thread has computed this number of mel frames in this time."""
        self._frames = KEPT * self._frames + frames
        self._busy_s = KEPT * self._busy_s + busy_s

    @property
    def frames_per_s(self) -> float | None:
        """What a thread can be counted on to compute; None before anything was made."""
        return USABLE * self._frames / self._busy_s if self._busy_s > 0 else None


def is_gapless(players: Iterable[Player], rate: Rate, in_hand: int = 0) -> bool:
    """Whether all chunks can be made in time, if the one that is needed first is made first.

    One whose sound has run out already gets its next chunk as soon as it can be made. in_hand: frames that
    are computed before anything else.
    """
    together = rate.num_threads * rate.frames_per_s
    needed: list[tuple[float, int]] = []
    for player in players:
        needed_s, made_s = player.left_s, 0.0
        for i, chunk in enumerate(player.chunks):
            made_s = max(made_s, chunk.units_in_s) + chunk.frames / rate.frames_per_s
            if not i and needed_s < 0:
                needed_s = max(made_s, (in_hand + chunk.frames) / together)
            if made_s > needed_s:
                return False
            needed.append((needed_s, chunk.frames))
            needed_s += chunk.sound_s
    total = in_hand
    for needed_s, frames in sorted(needed):
        total += frames
        if total > needed_s * together:
            return False
    return True
