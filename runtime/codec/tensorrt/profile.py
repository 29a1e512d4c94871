"""The sizes that an engine takes: boxes of rows and frames (or units, tokens, ...), each with memory and
kernels of its own.

One box wide enough for everything costs the memory of its far corner, where many rows meet many frames,
though nobody goes there: 16 utterances at a time are chunks of streams, and an utterance of half a minute
comes alone. So the flow has two: one for chunks, alone and in batches, one for whole utterances. Those of the
other networks are in `antiphon.export`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from antiphon.errors import ConfigError
from antiphon.plain import shown

__all__ = ["LONG", "PROFILES", "SHORT", "Profile", "Shape", "Span"]

MAX_SIZE, MAX_ROWS = 2**16, 2**10
TEXT = re.compile(r"\d{1,6}:\d{1,6}:\d{1,6}(x\d{1,6}:\d{1,6}:\d{1,6}){0,3}")

Shape = Sequence[str | int]
"""Of a tensor. An axis that varies by its name"""


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
    """One box. Written as its sizes and its rows, each least:usual:most: 1:256:320x1:2:32."""

    sizes: tuple[Span, ...]
    """Of the axes that vary beside the rows, such as frames; those of units and of frames, if both do"""
    rows: Span
    """Of the network. Guidance of the flow takes two for each utterance."""

    def __post_init__(self) -> None:
        for span in self.sizes:
            span.check("profile: sizes", MAX_SIZE)
        self.rows.check("profile: rows", MAX_ROWS)

    @property
    def frames(self) -> Span:
        """Of a network in which nothing else varies but the rows."""
        (span,) = self.sizes
        return span

    @classmethod
    def parse(cls, text: object) -> Profile:
        """Raises ConfigError for what is not written as a profile is."""
        if not isinstance(text, str) or TEXT.fullmatch(text) is None:
            raise ConfigError(
                "profile: expected sizes and rows, each least:usual:most, such as "
                f"{SHORT} for frames and rows, got {shown(text)}"
            )
        *sizes, rows = (Span(*map(int, part.split(":"))) for part in text.split("x"))
        return cls(tuple(sizes), rows)

    def __str__(self) -> str:
        return "x".join(str(span) for span in (*self.sizes, self.rows))

    def check_axes(self, axes: Sequence[str]) -> None:
        """Raises ConfigError unless it has a span for each of these axes, the last of which is the rows."""
        if len(axes) != len(self.sizes) + 1:
            raise ConfigError(
                f"profile: expected {' x '.join(axes)}, each least:usual:most, got {str(self)!r:.60}"
            )

    def spans(self, axes: Sequence[str]) -> dict[str, Span]:
        """By the name of the axis."""
        return dict(zip(axes, (*self.sizes, self.rows), strict=True))

    def shapes(self, axes: Sequence[str], shape: Shape) -> list[tuple[int, ...]]:
        """The least, the usual and the largest shape of a tensor."""
        spans = self.spans(axes)
        return [
            tuple(getattr(spans[size], which) if isinstance(size, str) else size for size in shape)
            for which in ("least", "usual", "most")
        ]

    def holds(self, axes: Sequence[str], shape: Shape, found: Sequence[int]) -> bool:
        """Whether a tensor of this shape may be of the size that is found."""
        spans = self.spans(axes)
        return len(shape) == len(found) and all(
            own in spans[size] if isinstance(size, str) else own == size
            for size, own in zip(shape, found, strict=True)
        )

    @staticmethod
    def options(profiles: Sequence[Profile]) -> str:
        """The options of `antiphon export` that ask for these."""
        return " ".join(f"--profile {profile}" for profile in profiles)


SHORT = Profile((Span(1, 256, 320),), Span(1, 2, 32))
"""Chunks of streams, the longest of which has 288 frames without a cloned voice, and short utterances."""
LONG = Profile((Span(1, 1024, 3000),), Span(1, 2, 2))
"""Whole utterances of up to 34 s, one at a time."""
PROFILES = (SHORT, LONG)
"""Of the flow."""
