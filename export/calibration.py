"""What int8 is calibrated on: utterances as the codec gets them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from antiphon.assets.embedded import EMBEDDED_CODEC
from antiphon.codec import Codec
from antiphon.codec.flow.flow import FlowInput
from antiphon.errors import ConfigError, InvalidRequest
from antiphon.export.replies import CALIBRATION, questions_in, replies

__all__ = ["Calibration"]

UNITS = re.compile(r"[\d\s,]+")
MAX_FILE_BYTES = 2**24
SHORT = (1, 3)
"""Units of pieces"""
NUM_SHORT = 4


@dataclass(frozen=True)
class Calibration:
    folder: Path
    """The codec's."""
    file: Path | None = None
    """A line is an utterance: its units, or a text, which the packaged model answers. None: the texts that
    come with the package."""
    report: Callable[[str], None] = lambda _: None
    """Is told what is being done."""

    def inputs(self) -> list[FlowInput]:
        """The utterances, in the codec's voice, and pieces of a few units: norms over so few frames give
        numbers that longer ones do not, and a codec that has not seen them is off by 1 in the log-mel there.

        Raises ConfigError, naming the file, for what cannot be one.
        """
        codec = Codec.from_pretrained(self.folder, "cpu")
        voice = codec.voice(None)
        made = []
        utterances = self._utterances(codec)
        pieces = [units[len(units) // 2 :][:size] for size in SHORT for units in utterances[:NUM_SHORT]]
        for number, units in enumerate([*utterances, *pieces]):
            try:
                made.append(codec.decoder.flow_input(units, voice, seed=number))
            except InvalidRequest as error:
                raise ConfigError(f"{self.file or CALIBRATION}: utterance {number + 1}: {error}") from error
        return made

    def _utterances(self, codec: Codec) -> list[Sequence[int]]:
        path = self.file or CALIBRATION
        lines = questions_in(_text(path))
        if not lines:
            raise ConfigError(f"{path}: expected utterances, one in each line, found none")
        is_text = [UNITS.fullmatch(line) is None for line in lines]
        texts = [line for line, is_one in zip(lines, is_text, strict=True) if is_one]
        is_packaged = self.folder.resolve() == EMBEDDED_CODEC.resolve()
        if texts and not is_packaged and codec.tokenizer is None:
            raise ConfigError(
                f"{path}: expected units alone, one utterance in each line, since {self.folder} has no "
                f"speech tokenizer that could hear what texts sound like; got {texts[0]!r:.60}"
            )
        total = len(texts)
        said = iter(replies(texts, lambda n: self.report(f"reply {n} of {total}")) if texts else [])
        utterances: list[Sequence[int]] = []
        for line, is_one in zip(lines, is_text, strict=True):
            if not is_one:
                utterances.append([int(unit) for unit in re.findall(r"\d+", line)])
                continue
            reply = next(said)
            heard = reply.units if is_packaged else codec.tokenize(reply.sound, reply.rate_hz)
            utterances.append(heard)
        return [units for units in utterances if len(units)]


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: expected a file of utterances: {error.strerror or error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: expected at most {MAX_FILE_BYTES} bytes, found more")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected text in UTF-8: {error.reason}") from error
