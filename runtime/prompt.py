"""A request as the model reads it: ids, and pictures as tiles. Plain data, shared by all rooms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["IMAGE_ID", "GrowingPrompt", "HeardUnits", "MergePlan", "PreparedImage", "Prompt"]

IMAGE_ID = -200
"""Stands in a prompt where the features of an image go; no tokenizer has a negative id."""


@dataclass(frozen=True)
class MergePlan:
    """Which features of an image's tiles become positions, each tile having side x side of them.

    `grid` None: all of them, tile by tile. Otherwise tile 0, the whole image, comes first; the other
    tiles are laid out as one map of (rows * side, columns * side) features; the rows and columns that
    show padding are dropped; the map is shrunk to `shrunk` if that is given; and the row separator
    follows each of its rows.
    """

    num_tiles: int
    side: int
    grid: tuple[int, int] | None = None
    """(rows, columns) of tiles."""
    kept_rows: tuple[int, int] = (0, 0)
    """First and end."""
    kept_columns: tuple[int, int] = (0, 0)
    shrunk: tuple[int, int] | None = None
    """(rows, columns) of features."""

    @property
    def map_size(self) -> tuple[int, int]:
        """(rows, columns) of the map as it is merged, without separators."""
        if self.shrunk is not None:
            return self.shrunk
        return self.kept_rows[1] - self.kept_rows[0], self.kept_columns[1] - self.kept_columns[0]

    @property
    def num_positions(self) -> int:
        if self.grid is None:
            return self.num_tiles * self.side**2
        rows, columns = self.map_size
        return self.side**2 + rows * (columns + 1)


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """A picture cut into tiles."""

    tiles: np.ndarray
    """uint8 (tiles, tile_size, tile_size, 3), the whole picture first."""
    plan: MergePlan
    """Which of the tiles' features become positions of the prompt."""
    digest: bytes
    """SHA-256 of tiles and plan: equal digests have equal features."""

    @property
    def num_positions(self) -> int:
        """How many positions of the text track the picture takes."""
        return self.plan.num_positions


@dataclass(frozen=True)
class HeardUnits:
    """A recording as units."""

    units: tuple[int, ...]
    places: tuple[int, ...]
    """For each unit, which twenty-fifth of a second of the recording it begins in. They rise, by more than
    one where silence was cut."""
    length: int
    """How many units the recording lasts, silence that was cut counted in."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a request puts on the two tracks before anything is generated.

    The speech track reads `speech_ids`; the text track reads `ids`, each image taking as many
    positions as it has features.
    """

    ids: tuple[int, ...]
    """The whole prompt, with `IMAGE_ID` at each image."""
    images: tuple[PreparedImage, ...] = ()
    """In the order of their marks in `ids`."""
    unit_positions: tuple[int, ...] = ()
    """Where `speech_ids` holds units, ascending."""
    num_last_units: int = 0
    """How many of these, counted from the end, belong to the last message that holds speech."""
    unit_places: tuple[int, ...] = ()
    """For each unit, where it lies in the speech of the prompt as it was said, in twenty-fifths of a second.
    Empty where no silence was cut: each unit then lies at its own number."""
    speaking_ids: tuple[int, ...] | None = None
    """What the speech track reads instead if the input is text and the output speech; else None."""

    no_speech: bool = False
    """Whether the speech in the last message that holds any is silence or noise, by its recordings."""
    reply_ids: tuple[int, ...] = ()
    """The text of the reply if the request gives it, including the end of turn; empty: the LLM picks it."""
    closing: tuple[int, ...] = ()
    """What a `GrowingPrompt` ends with once everything has been said."""

    @property
    def is_growing(self) -> bool:
        """Whether its last message is still being spoken: see `GrowingPrompt`."""
        return False

    @property
    def has_speech(self) -> bool:
        """Whether the input is speech: whether any message holds units."""
        return bool(self.unit_positions)

    @cached_property
    def speech_ids(self) -> tuple[int, ...]:
        """The prompt without its images."""
        return tuple(token_id for token_id in self.ids if token_id != IMAGE_ID)

    @property
    def num_text_positions(self) -> int:
        """Positions of the text track, images included."""
        return len(self.ids) - len(self.images) + sum(image.num_positions for image in self.images)


@dataclass(frozen=True, eq=False)
class GrowingPrompt(Prompt):
    """A prompt whose last message ends in speech that is still being spoken.

        ids    [ what comes before it | units so far ]
        then   [ closing ]    the end of the message, and an open assistant header

    It counts as speech input even before its first unit, since the model will read it as such.
    """

    first_unit_id: int = 0
    num_growing_units: int = 0
    """The ids at the end that may still change."""

    @property
    def is_growing(self) -> bool:
        return True

    @property
    def has_speech(self) -> bool:
        return True

    def with_units(self, units: Sequence[int]) -> GrowingPrompt:
        """The prompt with these units, numbered from 0, as all that has been heard of the growing message."""
        num_kept = len(self.ids) - self.num_growing_units
        num_before = len(self.unit_positions) - self.num_growing_units
        start = len(self.speech_ids) - self.num_growing_units
        return replace(
            self,
            ids=(*self.ids[:num_kept], *(self.first_unit_id + unit for unit in units)),
            unit_positions=(*self.unit_positions[:num_before], *range(start, start + len(units))),
            num_last_units=self.num_last_units - self.num_growing_units + len(units),
            num_growing_units=len(units),
        )

    def committed(self, *, no_speech: bool = False) -> Prompt:
        """The whole prompt, as if it had come at once. no_speech: whether nothing was said in it."""
        return Prompt(
            ids=(*self.ids, *self.closing),
            images=self.images,
            unit_positions=self.unit_positions,
            num_last_units=self.num_last_units,
            no_speech=no_speech,
        )
