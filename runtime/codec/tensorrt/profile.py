"""The sizes that an engine takes: boxes of rows and frames, each with memory and kernels of its own.

One box wide enough for everything costs the memory of its far corner, where many rows meet many frames,
though nobody goes there: 16 utterances at a time are chunks of streams, and an utterance of half a minute
comes alone. So there are two: one for chunks, alone and in batches, one for whole utterances.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from antiphon.errors import ConfigError
from antiphon.plain import shown

__all__ = ["LONG", "PROFILES", "SHORT", "Profile", "Span"]

MAX_FRAMES, MAX_ROWS = 2**16, 2**10
TEXT = re.compile(r"(\d{1,6}):(\d{1,6}):(\d{1,6})x(\d{1,6}):(\d{1,6}):(\d{1,6})")


@dataclass(frozen=True)
class Span:
    """From `least` to `most`; kernels are chosen for `usual`."""

    least: int
    usual: int
    most: int

    def check(self, name: str, most: int) -> None:
        """Raises ConfigError unless 1 <= least <= usual <= most, the last of them within bounds."""
        if not 1 <= self.least <= self.usual <= self.most <= most:
            raise ConfigError(
                f"{name}: expected 1 <= least <= usual <= most <= {most}, "
                f"got {self.least}, {self.usual} and {self.most}"
            )

    def __str__(self) -> str:
        return f"{self.least}:{self.usual}:{self.most}"

    def __contains__(self, value: int) -> bool:
        return self.least <= value <= self.most


@dataclass(frozen=True)
class Profile:
    """One box. Written as its frames and rows, each least:usual:most: 1:256:320x1:2:32."""

    frames: Span
    rows: Span
    """Of the network. Guidance takes two for each utterance."""

    def __post_init__(self) -> None:
        self.frames.check("profile: frames", MAX_FRAMES)
        self.rows.check("profile: rows", MAX_ROWS)

    @classmethod
    def parse(cls, text: object) -> Profile:
        """Raises ConfigError for what is not written as a profile is."""
        found = TEXT.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise ConfigError(
                "profile: expected frames and rows, each least:usual:most, such as "
                f"{SHORT}, got {shown(text)}"
            )
        sizes = [int(each) for each in found.groups()]
        return cls(Span(*sizes[:3]), Span(*sizes[3:]))

    def __str__(self) -> str:
        return f"{self.frames}x{self.rows}"

    @staticmethod
    def options(profiles: Sequence[Profile]) -> str:
        """The options of `antiphon export` that ask for these."""
        return " ".join(f"--profile {profile}" for profile in profiles)


SHORT = Profile(frames=Span(1, 256, 320), rows=Span(1, 2, 32))
"""Chunks of streams, the longest of which has 288 frames without a cloned voice, and short utterances."""
LONG = Profile(frames=Span(1, 1024, 3000), rows=Span(1, 2, 2))
"""Whole utterances of up to 34 s, one at a time."""
PROFILES = (SHORT, LONG)
