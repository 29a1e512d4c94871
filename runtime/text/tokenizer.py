"""Text to ids and back, over a byte-level BPE `tokenizer.json` (the Llama 3 format)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import tokenizers

from antiphon.errors import CheckpointError, InvalidRequest
from antiphon.plain import one_line
from antiphon.text.tokenizer_file import TRIAL_TEXTS, read_tokenizer

__all__ = ["Tokenizer"]

_UNIT_TOKEN = re.compile(r"<Audio_\d+>")
# A token can be spoken if its text holds a word character or one of these thirteen marks: other
# characters and white space give speech nothing to say.
_SPOKEN = re.compile(r"""[\w。，,'.、“”"！？!?]""")


class Tokenizer:
    """A checkpoint's tokenizer.

    Ids are those of the file. Decoding joins the bytes of the tokens and reads them as UTF-8, invalid
    sequences becoming U+FFFD, and does not clean up spaces. So text can be decoded piece by piece
    (see `IncrementalDetokenizer`), and the pieces add up to the whole.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        """Takes over `tokenizer`; `ValueError` if its decoder is not the byte-level one, or if it fails."""
        if not isinstance(tokenizer.decoder, tokenizers.decoders.ByteLevel):
            raise ValueError(f"decoder: expected ByteLevel, found {tokenizer.decoder}")
        # What users write is text: "<|eot_id|>" in it must not end their turn. And all of it is
        # encoded, whatever limits a training script has left in the file.
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        vocab = tokenizer.get_vocab(with_added_tokens=True)
        added = tokenizer.get_added_tokens_decoder()
        self._tokens = {token_id: token for token, token_id in vocab.items()}
        self._special_ids = frozenset(i for i, token in added.items() if token.special)
        self._unit_ids = frozenset(i for i, token in added.items() if _UNIT_TOKEN.fullmatch(token.content))
        self._byte_of_char = _byte_level_alphabet()
        self._token_bytes: dict[int, bytes] = {}
        self._carries_speech: dict[int, bool] = {}
        for text in TRIAL_TEXTS:
            self._encode(text)

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], content: tokenizers.Tokenizer | None = None
    ) -> Tokenizer:
        """Read `tokenizer.json` of a checkpoint folder; `CheckpointError` if it is missing or unusable.

        content: that of the file, if it has been read already.
        """
        path = Path(folder) / "tokenizer.json"
        tokenizer = read_tokenizer(path) if content is None else content
        try:
            return cls(tokenizer)
        except ValueError as error:
            raise CheckpointError(f"{path}: {one_line(error)}") from error

    @property
    def max_text_id(self) -> int:
        """The largest id that `encode` can give."""
        return max(self._tokens.keys() - self._special_ids - self._unit_ids, default=-1)

    def token_id(self, token: str) -> int | None:
        """The id of a token by its name, such as "<|eot_id|>"; None if there is no such token."""
        token_id: int | None = self._tokenizer.token_to_id(token)
        return token_id

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, with nothing added. Special tokens written in it are text like any other.

        `InvalidRequest` if the text names a unit (units are not text: they go into `Units`) or is not
        valid Unicode.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            char = ascii(text[error.start])
            raise InvalidRequest(
                f"expected valid Unicode text, found a lone surrogate {char} at character {error.start}"
            ) from error
        try:
            ids = self._encode(text)
        except ValueError as error:
            raise InvalidRequest(f"expected text that the tokenizer can read: {one_line(error)}") from error
        if not self._unit_ids.isdisjoint(ids):
            unit = next(self._tokens[i] for i in ids if i in self._unit_ids)
            raise InvalidRequest(
                f"expected text without unit tokens, found {unit!r}; give units as Units([...])"
            )
        return ids

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of ids, as it is: not stripped, spaces untouched. Unknown ids are skipped."""
        return b"".join(self.token_bytes(i, skip_special_tokens) for i in ids).decode("utf-8", "replace")

    def token_bytes(self, token_id: int, skip_special_tokens: bool = True) -> bytes:
        """What one token adds to the text, as UTF-8 that may begin or end within a character."""
        if skip_special_tokens and token_id in self._special_ids:
            return b""
        data = self._token_bytes.get(token_id)
        if data is None:
            data = self._token_bytes[token_id] = self._bytes_of(self._tokens.get(token_id, ""))
        return data

    def carries_speech(self, token_id: int) -> bool:
        """Whether speech attends to this token: whether its own text holds something to say.

        That is a word character (Unicode, underscore included) or one of `。，,'.、“”"！？!?`. An end of
        turn counts, because of its name; a lone newline or `#` does not, nor does part of a character.
        """
        carries = self._carries_speech.get(token_id)
        if carries is None:
            text = self.decode([token_id], skip_special_tokens=False)
            carries = self._carries_speech[token_id] = _SPOKEN.search(text) is not None
        return carries

    def _encode(self, text: str) -> list[int]:
        """`ValueError` if the library fails; it panics on cases that it does not foresee."""
        try:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # it raises nothing more specific
            raise ValueError(f"the tokenizer fails: {one_line(error)}") from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":
                raise
            raise ValueError(f"the tokenizer fails: {one_line(error)}") from error
        return ids

    def _bytes_of(self, token: str) -> bytes:
        try:
            return bytes(self._byte_of_char[char] for char in token)
        except KeyError:  # an added token, stored as it is: its characters are not in the alphabet
            return token.encode()


def _byte_level_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level token stands for (as in GPT-2).

    Visible Latin-1 characters stand for their own byte; the characters from U+0100 for the other bytes.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = sorted(set(range(256)).difference(visible))
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}
