"""The Llama 3 chat layout, from messages to the ids of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from antiphon.config import ModelConfig
from antiphon.errors import CheckpointError
from antiphon.inputs.checks import at
from antiphon.prompt import IMAGE_ID
from antiphon.text.tokenizer import Tokenizer

__all__ = ["DEFAULT_SYSTEM", "ChatLayout", "Turn"]

DEFAULT_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that "
    "the user provides, and assist the user with a variety of tasks using natural language."
)
"""The system message that the released model was trained with."""


@dataclass(frozen=True)
class Turn:
    """One message as it is laid out: its images first, then its pieces, joined with nothing in between."""

    role: str
    pieces: tuple[str | tuple[int, ...], ...]
    """Text, or unit numbers from 0."""
    num_images: int = 0
    where: str = "content"
    """Its place in the request, for errors."""

    @property
    def num_units(self) -> int:
        return sum(len(piece) for piece in self.pieces if not isinstance(piece, str))


class ChatLayout:
    """Begin-of-text, then `<|start_header_id|>ROLE<|end_header_id|>\\n\\nCONTENT<|eot_id|>` for each message,
    then an open assistant header. Content is not trimmed; an image is followed by a newline."""

    def __init__(self, tokenizer: Tokenizer, config: ModelConfig) -> None:
        """`CheckpointError` if the tokenizer has no tokens for the headers."""
        self._tokenizer = tokenizer
        self._bos = config.bos_token_id
        self._eot = config.eot_token_id
        self._first_unit_id = config.first_unit_id
        self._start_header = _needed_id(tokenizer, "<|start_header_id|>")
        self._end_header = _needed_id(tokenizer, "<|end_header_id|>")

    def prompt_ids(self, turns: Sequence[Turn]) -> list[int]:
        """Ids of a whole prompt, with `IMAGE_ID` at each image.

        `InvalidRequest`, with its place, if a part is not text (see `Tokenizer.encode`).
        """
        ids = [self._bos]
        for turn in turns:
            with at(turn.where):
                ids += [*self._header(turn.role), *self._content(turn), self._eot]
        return [*ids, *self.closing_ids()[1:]]

    def closing_ids(self) -> list[int]:
        """What follows the content of the last message: its end, and an open assistant header."""
        return [self._eot, *self._header("assistant"), *self._tokenizer.encode("\n\n")]

    def speaking_ids(self, opening: Sequence[Turn]) -> list[int]:
        """The prompt that speech starts from when the input is text: the system message, if `opening`
        has one, and a user turn of one space."""
        return self.prompt_ids([*opening, Turn("user", (" ",))])

    def _header(self, role: str) -> list[int]:
        return [self._start_header, *self._tokenizer.encode(role), self._end_header]

    def _content(self, turn: Turn) -> list[int]:
        ids: list[int] = []
        # Text between two images, units or ends of the message is tokenized in one piece, since merges
        # reach across parts and into the header's newlines.
        text = ["\n\n"]
        for _ in range(turn.num_images):
            ids += [*self._tokenizer.encode("".join(text)), IMAGE_ID]
            text = ["\n"]
        for piece in turn.pieces:
            if isinstance(piece, str):
                text.append(piece)
            else:
                ids += self._tokenizer.encode("".join(text))
                ids += [self._first_unit_id + unit for unit in piece]
                text = []
        return ids + self._tokenizer.encode("".join(text))


def _needed_id(tokenizer: Tokenizer, token: str) -> int:
    token_id = tokenizer.token_id(token)
    if token_id is None:
        raise CheckpointError(f"tokenizer.json: expected a token {token!r}, found none")
    return token_id
