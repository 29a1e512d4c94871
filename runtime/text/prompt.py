"""A request as the model is to read it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from antiphon.text.chat import IMAGE_ID
from antiphon.text.images import PreparedImage

__all__ = ["Prompt"]


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
    """How many of these, counted from the end, are of the last message that holds speech."""
    speaking_ids: tuple[int, ...] | None = None
    """What the speech track reads instead where the input is text and the output speech; else None."""

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
