"""Requests to prompts. Whatever a user may get wrong about the input is found here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np

from antiphon.config import InputLimits, ModelConfig
from antiphon.errors import CheckpointError, InvalidRequest
from antiphon.inputs.chat import DEFAULT_SYSTEM, ChatLayout, Turn
from antiphon.inputs.checks import CheckedMessage, at, check_request
from antiphon.inputs.copies import plain_request, plain_speech, plain_units
from antiphon.inputs.images import possible_sizes, prepare_image
from antiphon.inputs.tiles import Tiler
from antiphon.inputs.turns import Turns
from antiphon.plain import reading, shown
from antiphon.prompt import IMAGE_ID, GrowingPrompt, HeardUnits, PreparedImage, Prompt
from antiphon.text.tokenizer import Tokenizer
from antiphon.types import SPOKEN_MODALITIES, UNITS_PER_S, Image, Message, Request, Speech, Units

__all__ = ["InputProcessor", "Recording", "SpeechTokenizer"]


MAX_LISTED_VOICES = 20
SPARE_UNITS = 2
"""What a tokenizer may find beyond a recording's length."""


class SpeechTokenizer(Protocol):
    """What the processor needs from a codec."""

    @property
    def voices(self) -> Sequence[str]:
        """The names of its voices."""
        ...

    def hear(self, samples: np.ndarray, rate_hz: int, *, trim_silence: bool | None) -> HeardUnits:
        """The unit numbers, from 0, of mono float32 samples (frames,), and where they lie.

        trim_silence: whether silence is cut; None: as is usual for it.
        """
        ...


@dataclass(frozen=True, eq=False)
class Recording:
    """Speech as it was read: mono float32 (frames,)."""

    samples: np.ndarray
    rate_hz: int
    trim_silence: bool | None = None

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate_hz

    @property
    def num_units(self) -> int:
        """The least number of units that a tokenizer will find."""
        return max(1, int(self.seconds * UNITS_PER_S))

    @property
    def has_speech(self) -> bool:
        from antiphon.sound.activity import has_speech

        return has_speech(self.samples, self.rate_hz)


class InputProcessor:
    """Turns requests into prompts.

    Every fault in a request is an `InvalidRequest` that begins with its place, such as
    `messages[1].content[0]`. A request's form is checked before any file is read.
    """

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Tokenizer,
        codec: SpeechTokenizer | None,
        limits: InputLimits,
        *,
        max_model_len: int | None = None,
    ) -> None:
        """codec: None if speech comes only as units. max_model_len: positions of the longest sequence; None:
        no limit. `CheckpointError` if the tokenizer does not fit the config, or if a setting in the config
        is unknown."""
        if tokenizer.max_text_id >= config.text_vocab_size:
            raise CheckpointError(
                f"tokenizer.json: expected ids of text below text_vocab_size {config.text_vocab_size}, "
                f"found {tokenizer.max_text_id}"
            )
        self._config = config
        self._codec = codec
        self._limits = limits
        self._max_model_len = max_model_len
        self._layout = ChatLayout(tokenizer, config)
        self._sharing = Turns()
        self._tiler = Tiler(config) if config.vision is not None else None
        self._num_image_positions: WeakKeyDictionary[Image, int] = WeakKeyDictionary()

    def plain(self, request: Request) -> Request:
        """A copy of the request, made of plain values only; see `antiphon.inputs.copies`."""
        return plain_request(request, self._limits, self._config.max_position_embeddings)

    def units(self, units: Sequence[int]) -> tuple[int, ...]:
        """Units as plain values; `InvalidRequest` for too many of them, or for numbers that are not units."""
        numbers = plain_units("units", units, self._config.max_position_embeddings)
        self._check_units("units", numbers)
        return numbers

    def process(self, request: Request) -> Prompt:
        """The prompt of one request, its files read."""
        request = self.plain(request)
        messages = check_request(request)
        images, recordings = self._read(request, messages)
        heard = self._hear_all(recordings)
        openings, turns = self._turns(request, messages, {where: each.units for where, each in heard.items()})
        spoken = [turn.num_units for turn in turns if turn.num_units]
        speaks_from_text = not spoken and not SPOKEN_MODALITIES.isdisjoint(request.modalities)
        speaking_ids = self._layout.speaking_ids(openings) if speaks_from_text else None
        if turns or speaking_ids is None:
            ids = self._layout.prompt_ids([*openings, *turns])
        else:
            ids = speaking_ids
        if request.modalities == ("transcript",):
            ids, images = self._up_to_last_unit(ids), ()
        return Prompt(
            ids=tuple(ids),
            images=images,
            unit_positions=self._unit_positions(ids),
            num_last_units=spoken[-1] if spoken else 0,
            unit_places=_unit_places(messages, heard),
            no_speech=self._has_no_speech(messages, recordings),
            speaking_ids=None if speaking_ids is None else tuple(speaking_ids),
            reply_ids=() if request.say is None else tuple(self._layout.reply_ids(request.say)),
        )

    def num_positions(self, messages: Sequence[Message]) -> int:
        """How many positions of the text track a prompt of plain messages without recordings takes; the
        speech track takes no more. It reads no files, and takes pictures for as large as they may be (see
        `num_image_positions`). `InvalidRequest` for text that cannot be read."""
        turns, images = [], []
        for index, message in enumerate(messages):
            content = message.content
            parts = list(content) if isinstance(content, (list, tuple)) else [content]
            pieces: list[str | tuple[int, ...]] = []
            for part in parts:
                if isinstance(part, Image):
                    images.append(part)
                elif isinstance(part, Units):
                    pieces.append(tuple(part.units))
                elif isinstance(part, str):
                    pieces.append(part)
            where = f"messages[{index}].content"
            turns.append(Turn(message.role, tuple(pieces), len(parts) - len(pieces), where))
        if not turns or turns[0].role != "system":
            turns.insert(0, Turn("system", (DEFAULT_SYSTEM,), where="system"))
        if not any(turns[0].pieces):
            del turns[0]
        ids = self._layout.prompt_ids(turns)
        return len(ids) - len(images) + sum(map(self.num_image_positions, images))

    def num_image_positions(self, image: Image) -> int:
        """The most positions that a picture may take. It is exact, but for how the camera was held, where
        the size of the picture can be told without reading a file; the answer is remembered."""
        if self._tiler is None:
            return 0
        found = self._num_image_positions.get(image)
        if found is None:
            sizes: list[tuple[int, int]] = []
            with suppress(InvalidRequest), reading("image"):
                sizes = possible_sizes(image.source, self._limits)
            plans = [self._tiler.plan(*size).num_positions for size in sizes]
            found = self._num_image_positions[image] = max(plans, default=self._tiler.most_positions)
        return found

    def recording(self, speech: Speech) -> Recording:
        """A recording that is to be heard in pieces, of up to `max_transcribed_s`."""
        limits = replace(self._limits, max_audio_s=self._limits.max_transcribed_s)
        plain = plain_speech("speech", speech, limits)
        if self._codec is None:
            raise InvalidRequest("speech: no codec is loaded to read speech with")
        return self._recording("speech", plain, 0.0, limits)

    @property
    def longest_piece_s(self) -> float:
        """How long the recording of a request may be that holds nothing else."""
        if self._max_model_len is None:
            return math.inf
        request = Request(Units((0,)))
        openings, turns = self._turns(request, check_request(request), {})
        others = len(self._layout.prompt_ids([*openings, *turns])) - 1
        return max(0, self._max_model_len - 1 - others - SPARE_UNITS) / UNITS_PER_S

    def process_growing(self, request: Request) -> GrowingPrompt:
        """The prompt of a request whose last part, `Units`, is what has been heard of its last message."""
        request = self.plain(request)
        messages = check_request(request, is_growing=True)
        images, recordings = self._read(request, messages)
        heard = self._hear_all(recordings)
        openings, turns = self._turns(request, messages, {where: each.units for where, each in heard.items()})
        closing = self._layout.closing_ids()
        ids = self._layout.prompt_ids([*openings, *turns])[: -len(closing)]
        if request.modalities == ("transcript",):
            images, closing = (), []
            ids = [token_id for token_id in ids if token_id != IMAGE_ID]
        growing = messages[-1].parts[-1].part
        assert isinstance(growing, Units), "a request that ends in anything else is refused"
        return GrowingPrompt(
            ids=tuple(ids),
            images=images,
            unit_positions=self._unit_positions(ids),
            num_last_units=turns[-1].num_units,
            first_unit_id=self._config.first_unit_id,
            closing=tuple(closing),
            num_growing_units=len(growing.units),
        )

    def with_speech(self, prompt: GrowingPrompt, units: Sequence[int]) -> GrowingPrompt:
        """A growing prompt with these units as all that has been heard; `InvalidRequest` if they are not
        units."""
        return prompt.with_units(self.units(units))

    def _read(
        self, request: Request, messages: Sequence[CheckedMessage]
    ) -> tuple[tuple[PreparedImage, ...], dict[str, Recording]]:
        """The pictures and, by their places, the recordings; refuses more than there is room for."""
        self._check_supported(request, messages)
        recordings: dict[str, Recording] = {}
        seconds = 0.0
        for placed in (placed for message in messages for placed in message.parts):
            if isinstance(placed.part, Speech):
                recordings[placed.where] = recording = self._recording(placed.where, placed.part, seconds)
                seconds += recording.seconds
        images = tuple(self._images(messages))
        if recordings and self._max_model_len is not None:
            self._check_room(request, messages, images, recordings, self._max_model_len)
        return images, recordings

    def _check_room(
        self,
        request: Request,
        messages: Sequence[CheckedMessage],
        images: Sequence[PreparedImage],
        recordings: Mapping[str, Recording],
        max_model_len: int,
    ) -> None:
        """`InvalidRequest` for more speech than the longest sequence holds, before any of it is tokenized:
        its length gives the least number of units that it can have."""
        lengths = {
            placed.where: recordings[placed.where].num_units
            if isinstance(placed.part, Speech)
            else len(placed.part.units)
            for message in messages
            for placed in message.parts
            if isinstance(placed.part, (Speech, Units))
        }
        # Laid out with one unit for each recording; everything else has its final length.
        openings, turns = self._turns(request, messages, dict.fromkeys(recordings, (0,)))
        ids = self._layout.prompt_ids([*openings, *turns])
        others = len(ids) - len(images) + sum(image.num_positions for image in images)
        others -= sum(lengths.values()) - sum(recordings[where].num_units - 1 for where in recordings)
        room, total = max_model_len - 1 - others, 0
        for where, num_units in lengths.items():
            total += num_units
            if total > room:
                everything = sum(lengths.values()) / UNITS_PER_S
                raise InvalidRequest(
                    f"{where}: expected at most {max(0, room) / UNITS_PER_S:.1f} s of speech beside {others} "
                    f"positions of other content (max_model_len is {max_model_len}, a second takes "
                    f"{UNITS_PER_S}), got {everything:.1f} s"
                )

    def _turns(
        self,
        request: Request,
        messages: Sequence[CheckedMessage],
        units: Mapping[str, tuple[int, ...]],
    ) -> tuple[list[Turn], list[Turn]]:
        """The system message, if there is one, and the other messages. units: those of the recordings."""
        if messages and messages[0].role == "system":
            opening, messages = self._turn(messages[0], units), messages[1:]
        else:
            system = DEFAULT_SYSTEM if request.system is None else request.system
            opening = Turn("system", (system,), where="system")
        # An empty system message is left out, header and all.
        return [opening] if any(opening.pieces) else [], [self._turn(message, units) for message in messages]

    def _check_supported(self, request: Request, messages: Sequence[CheckedMessage]) -> None:
        """`InvalidRequest` for what other checkpoints or codecs could serve, but these cannot."""
        voices = None if self._codec is None else self._codec.voices
        if voices is not None and request.voice is not None and request.voice not in voices:
            raise InvalidRequest(
                f"voice: expected one of {', '.join(voices[:MAX_LISTED_VOICES])}, got {shown(request.voice)}"
            )
        for placed in (placed for message in messages for placed in message.parts):
            if isinstance(placed.part, Image) and self._tiler is None:
                raise InvalidRequest(f"{placed.where}: this model has no vision tower and takes no images")
            if isinstance(placed.part, Speech) and self._codec is None:
                raise InvalidRequest(
                    f"{placed.where}: no codec is loaded to read speech with; give its units as Units([...])"
                )
            if isinstance(placed.part, Units):
                self._check_units(placed.where, placed.part.units)

    def _check_units(self, where: str, units: Sequence[int]) -> None:
        num_units = self._config.audio_vocab_size
        wrong = next((unit for unit in units if not 0 <= unit < num_units), None)
        if wrong is not None:
            raise InvalidRequest(
                f"{where}: expected unit numbers from 0 to {num_units - 1}, got {shown(wrong)}"
            )

    def _turn(self, message: CheckedMessage, units: Mapping[str, tuple[int, ...]]) -> Turn:
        pieces: list[str | tuple[int, ...]] = []
        for placed in message.parts:
            if isinstance(placed.part, Speech):
                pieces.append(units[placed.where])
            elif isinstance(placed.part, Units):
                pieces.append(tuple(placed.part.units))
            elif isinstance(placed.part, str):
                pieces.append(placed.part)
        return Turn(message.role, tuple(pieces), len(message.parts) - len(pieces), message.where)

    def _recording(
        self, where: str, speech: Speech, before_s: float, limits: InputLimits | None = None
    ) -> Recording:
        # The first request that brings sound loads the sound libraries.
        from antiphon.sound.reading import read_audio

        with at(where), reading("audio"):
            sound = read_audio(speech.source, limits or self._limits, before_s=before_s)
        return Recording(*sound, speech.trim_silence)

    def _hear_all(self, recordings: Mapping[str, Recording]) -> dict[str, HeardUnits]:
        """The units of each recording."""
        return {where: self._hear(where, recording) for where, recording in recordings.items()}

    def _hear(self, where: str, recording: Recording) -> HeardUnits:
        assert self._codec is not None, "speech is refused where there is no codec"
        with at(where):
            heard = self._codec.hear(
                recording.samples, recording.rate_hz, trim_silence=recording.trim_silence
            )
        if not heard.units:
            raise InvalidRequest(f"{where}: expected speech of at least one unit, got none")
        self._check_units(where, heard.units)
        return heard

    def _has_no_speech(self, messages: Sequence[CheckedMessage], recordings: Mapping[str, Recording]) -> bool:
        """Whether all the speech in the last message that holds any is silence or noise."""
        for message in reversed(messages):
            spoken = [placed for placed in message.parts if isinstance(placed.part, (Speech, Units))]
            if spoken:
                return not any(
                    isinstance(placed.part, Units) or recordings[placed.where].has_speech for placed in spoken
                )
        return False

    def _images(self, messages: Sequence[CheckedMessage]) -> Iterator[PreparedImage]:
        for placed in (placed for message in messages for placed in message.parts):
            if isinstance(placed.part, Image):
                assert self._tiler is not None, "images are refused where there is no vision tower"
                with at(placed.where), reading("image"), self._sharing.of(placed.part.source):
                    picture = prepare_image(
                        placed.part.source, self._tiler, self._limits, exact=placed.part.exact
                    )
                yield picture

    def _up_to_last_unit(self, ids: Sequence[int]) -> list[int]:
        """What a transcript depends on: the ids without images, as far as there are units."""
        speech_ids = [token_id for token_id in ids if token_id != IMAGE_ID]
        units = self._unit_positions(speech_ids)
        if not units:
            raise InvalidRequest("modalities: a transcript is of speech, got a request without any")
        return speech_ids[: units[-1] + 1]

    def _unit_positions(self, ids: Sequence[int]) -> tuple[int, ...]:
        units = range(self._config.first_unit_id, self._config.first_unit_id + self._config.audio_vocab_size)
        speech_ids = (token_id for token_id in ids if token_id != IMAGE_ID)
        return tuple(i for i, token_id in enumerate(speech_ids) if token_id in units)


def _unit_places(messages: Sequence[CheckedMessage], heard: Mapping[str, HeardUnits]) -> tuple[int, ...]:
    """See `Prompt.unit_places`."""
    places: list[int] = []
    length = 0
    for placed in (placed for message in messages for placed in message.parts):
        if isinstance(placed.part, Speech):
            places += [length + place for place in heard[placed.where].places]
            length += heard[placed.where].length
        elif isinstance(placed.part, Units):
            places += range(length, length + len(placed.part.units))
            length += len(placed.part.units)
    return tuple(places) if places and places[-1] >= len(places) else ()
