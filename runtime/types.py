"""The types that requests, results and events are made of. Of our own modules, this file imports only
`errors` and `plain`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

from antiphon.errors import InvalidRequest
from antiphon.plain import flag, integer, items, number, string

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "AudioDelta",
    "Completion",
    "Content",
    "Event",
    "FinishReason",
    "Finished",
    "Image",
    "Message",
    "Part",
    "Request",
    "RequestMetrics",
    "SamplingParams",
    "Speech",
    "TextDelta",
    "TranscriptDelta",
    "TranscriptUpdate",
    "UnitDelta",
    "Units",
]

FinishReason = Literal["stop", "length", "abort", "error"]
UNITS_PER_S = 25
"""Units per second of speech."""
MODALITIES = (("text",), ("text", "audio"), ("text", "units"), ("transcript",))
SPOKEN_MODALITIES = frozenset({"audio", "units"})
"""Those of a reply that has units of speech."""
ROLES = ("system", "user", "assistant")

MAX_STOP_STRINGS = 32
MAX_STOP_CHARS = 1000
MAX_SEED = 2**128


# --- what goes in ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Image:
    """A picture.

    ``source`` is a path, the bytes of an image file, a ``data:`` URL, a PIL image, or an array of shape
    (height, width), (height, width, 1), (height, width, 3) or (height, width, 4); a tensor may also be
    (channels, height, width). The engine reads it after the request is added: do not change it until the
    request has its first event.

    The model sees what a person would: upright, whichever way the camera was held (EXIF orientation),
    transparent pixels on white, colours of another profile in sRGB, greys of 16 bits from black to white. If
    a picture has several frames, it sees the first. Numbers beyond bytes are scaled: unsigned 16 bits from 0
    to 65535; other integers as bytes if they fit, else from 0 to 65535 if they fit; floating point from 0 to
    1, else from 0 to 255 if it fits; and what fits none of these from its lowest to its highest value.
    """

    source: Any
    exact: bool = False
    """Read it as the released code does, which drops transparency, orientation and profiles, and cuts off
    what is beyond a byte; arrays must then be uint8."""


@dataclass(frozen=True, eq=False)
class Speech:
    """Spoken input: a path (of a file or a pipe), the bytes of an audio file, a file open for reading bytes,
    or ``(samples, rate_hz)``.

    Files are wav, flac, ogg (Vorbis, Opus, FLAC), mp3, aiff, au, caf and w64; with ``antiphon[audio]`` also
    webm, mkv, mp4, m4a, mov, 3gp, aac, amr and wma. They are read to their end, or refused. ``samples`` is an
    array or tensor of shape (frames,), (frames, channels) or (channels, frames): floating point in [-1, 1],
    or 8-, 16- or 32-bit integers, whose numbers are also accepted as floating point
    (`antiphon.sound.samples` says how). Channels are averaged.
    """

    source: str | os.PathLike[str] | bytes | IO[bytes] | tuple[Any, int]
    trim_silence: bool | None = None
    """Whether silence is cut before it is heard: what comes before and after speech, but for a moment, and
    most of every pause of half a second or more. None: as is usual for the codec (`Codec.trims_silence`): the
    packaged one cuts it, released ones do not."""


@dataclass(frozen=True)
class Units:
    """Speech that was tokenized already: unit numbers from 0, 25 per second."""

    units: Sequence[int]


Part: TypeAlias = str | Image | Speech | Units
Content: TypeAlias = Part | Sequence[Part]


@dataclass(frozen=True)
class Message:
    """One message of a conversation. ``role`` is "system", "user" or "assistant"."""

    role: str
    content: Content


@dataclass(frozen=True)
class SamplingParams:
    """How ids are picked and when to end.

    Temperature, top_p, top_k and ignore_eos apply to units when speech is produced, and to text when
    only text is; the text under speech is always greedy. Picks are a function of (seed, position)
    and the logits, so they do not depend on what else is in the batch.
    """

    temperature: float = 0.0
    """0 picks the most likely id."""
    top_p: float = 1.0
    """Keep the smallest set of ids whose probability reaches this; in (0, 1]."""
    top_k: int = 0
    """Keep this many of the most likely ids; 0 keeps all."""
    seed: int | None = None
    """Its lowest 64 bits count. None: derived from the engine's seed and the order of the requests."""
    max_tokens: int | None = None
    """Limit on text tokens. None: 1024 for a text-only reply; under speech, which ends the text by itself,
    what the model's longest sequence holds."""
    max_units: int = 1500
    """Limit on units, including the stop id; 25 make a second."""
    ignore_eos: bool = False
    """Go on to the limit, whatever stop ids are picked."""
    stop: Sequence[str] = ()
    """Strings that end a text-only reply; they are not part of it. One string, or up to 32, each of 1 to
    1000 characters."""

    def __post_init__(self) -> None:
        read: dict[str, Any] = {
            "temperature": number("SamplingParams.temperature", self.temperature, 0.0),
            "top_p": number("SamplingParams.top_p", self.top_p, 0.0, 1.0, above=True),
            "top_k": integer("SamplingParams.top_k", self.top_k, 0),
            "max_units": integer("SamplingParams.max_units", self.max_units, 1),
            "ignore_eos": flag("SamplingParams.ignore_eos", self.ignore_eos),
            "stop": _stop_strings(self.stop),
        }
        if self.seed is not None:
            read["seed"] = integer("SamplingParams.seed", self.seed, -MAX_SEED, MAX_SEED)
        if self.max_tokens is not None:
            read["max_tokens"] = integer("SamplingParams.max_tokens", self.max_tokens, 1)
        for name, value in read.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Request:
    """One thing to answer: ``content`` (a single user turn) or ``messages`` (a conversation).

    A request with a `Speech` or `Units` part is speech input. ``system=None`` is the model's default
    system message, ``system=""`` leaves it out. ``modalities`` says what is asked for: ``("text",)``;
    ``("text", "audio")``, a spoken reply; ``("text", "units")``, the units of a spoken reply without their
    sound; or ``("transcript",)``, which is what was said, and no reply.
    """

    content: Content | None = None
    modalities: Sequence[str] = ("text",)
    system: str | None = None
    voice: str | None = None
    request_id: str | None = None
    sampling_params: SamplingParams | None = None
    messages: Sequence[Message] | None = field(default=None, kw_only=True)
    say: str | None = field(default=None, kw_only=True)
    """The text of a spoken reply, to be spoken as it stands: the LLM is not run. With it, content and
    messages may both be left out."""
    is_speculative: bool = field(default=False, kw_only=True)
    """Nobody waits for it yet, and perhaps nobody ever will: it is served after all others and makes way
    first, until `Engine.confirm`. Its result is the same."""
    gapless: bool = field(default=False, kw_only=True)
    """Somebody listens as it streams, and would rather wait for its sound than hear gaps: on a machine that
    has too much to say at once, the first sound is held back until the rest is likely to come in time. The
    sound is the same."""


# --- what comes out -------------------------------------------------------------------------------


@dataclass
class RequestMetrics:
    """Times in seconds from the moment the request was added; None for what did not happen.

    For a request that was opened while its user still spoke, they count from the commit, since that is
    when the user begins to wait. For a speculative one they count from `Engine.confirm`, if that is called;
    what happened before is then 0.
    """

    ttft_s: float | None = None
    """To the first text token."""
    ttfu_s: float | None = None
    """To the first unit."""
    ttfa_s: float | None = None
    """To the first audio sample."""
    tpot_s: float | None = None
    """Mean time per generated id after the first: units when speech is produced, else text tokens."""
    e2e_s: float | None = None
    """To the end."""
    audio_s: float | None = None
    """Length of the audio produced."""
    rtf: float | None = None
    """Time to the last audio sample, divided by audio_s."""
    underrun_s: float | None = None
    """How long in all a player that began with the first samples had nothing to play."""
    queue_wait_s: float | None = None
    """How long it waited until it was admitted for the first time."""
    prefill_s: float | None = None
    """From then to the first id: a unit if the text is given. For a transcript, to its end."""
    text_s: float | None = None
    """From the first text token to the last; those that speech follows."""
    units_s: float | None = None
    """From the first unit to the last."""
    codec_s: float | None = None
    """From the first unit to the last audio samples. These stages of a reply overlap."""
    num_prompt_tokens: int = 0
    """Positions of the text track's prompt, including pictures."""
    num_prompt_units: int = 0
    """How many of these are units of speech."""
    num_image_positions: int = 0
    """How many of these are pictures."""
    num_cached_tokens: int = 0
    """How many of the prompt's positions the prefix cache held at first admission. An open request counts
    those known then."""
    num_preemptions: int = 0


@dataclass
class Completion:
    """The whole result of a request."""

    request_id: str
    transcript: str = ""
    """What was heard in the last message that holds speech."""
    no_speech: bool = False
    """Whether nothing was said in that message: it is silence or noise (channels that cancel each other out
    are silence), or the model heard no word in it. The transcript is then empty; `EngineConfig.no_speech`
    says what becomes of the reply."""
    transcript_ids: list[int] = field(default_factory=list)
    """CTC-collapsed ids of all speech in the prompt."""
    transcript_spans: list[tuple[int, int]] = field(default_factory=list)
    """For each of transcript_ids, the twenty-fifths of a second [start, end) in which it was heard, counted
    over all speech in the prompt: the numbers of its units, where units that were cut from recordings as
    silence are counted, too. In a session's audio they are not."""
    text: str = ""
    text_ids: list[int] = field(default_factory=list)
    """Text ids as picked, including the stop id."""
    fusion_ids: list[int] = field(default_factory=list)
    """The text ids that speech attended to."""
    units: list[int] = field(default_factory=list)
    """Unit numbers from 0, without stop ids."""
    unit_ids: list[int] = field(default_factory=list)
    """Ids as picked, including the stop id."""
    spoken_chars: list[int] = field(default_factory=list)
    """For each of units, how many characters of text speech has begun by its end: it never falls, and at
    the last unit of a reply that ended by itself (finish_reason "stop") it is all of them. Speech has begun a
    word when the model reads it back in its own units, which is seldom before it has been said. The last
    unit of any other reply is not read back; it counts what the one before it does."""
    audio: np.ndarray | None = None
    """float32 (samples,) at sample_rate_hz; None if no sound was asked for or no codec is loaded."""
    sample_rate_hz: int | None = None
    finish_reason: FinishReason = "stop"
    error: str | None = None
    metrics: RequestMetrics = field(default_factory=RequestMetrics)


@dataclass(frozen=True)
class TranscriptDelta:
    """More of what was heard; the deltas add up to the completion's transcript."""

    request_id: str
    text: str


@dataclass(frozen=True)
class TranscriptUpdate:
    """What has been heard of an open request's last message: the whole of it, replacing the previous update.
    It comes whenever the message's units have been read as something else than before, even if that leaves
    the text as it was. After the commit, deltas give the final transcript."""

    request_id: str
    text: str
    num_units: int = 0
    """Units of the message, all of which have been read."""
    num_trailing_blanks: int = 0
    """How many of the last of these were read as blank: all of them, if nothing has been heard yet."""


@dataclass(frozen=True)
class TextDelta:
    """More of the reply, in whole characters; the deltas add up to the completion's text."""

    request_id: str
    text: str
    token_ids: tuple[int, ...] = ()
    """The ids picked since the last delta; the stop id, which has no text, is in no delta."""


@dataclass(frozen=True)
class UnitDelta:
    """More units, numbered from 0."""

    request_id: str
    units: tuple[int, ...]
    spoken_chars: tuple[int, ...] = ()
    """For each unit, how many characters of the reply speech had begun by its end, as far as is known when
    it is sent: a unit is read back in the next step, so what it begins itself is told with the unit after it.
    Never more than the text deltas so far hold. `Completion.spoken_chars` is exact."""


@dataclass(frozen=True, eq=False)
class AudioDelta:
    """More sound: float32 (samples,)."""

    request_id: str
    samples: np.ndarray
    sample_rate_hz: int


@dataclass(frozen=True, eq=False)
class Finished:
    """The last event of a request."""

    request_id: str
    completion: Completion


Event: TypeAlias = TranscriptUpdate | TranscriptDelta | TextDelta | UnitDelta | AudioDelta | Finished


def _stop_strings(stop: object) -> tuple[str, ...]:
    where = "SamplingParams.stop"
    is_one = issubclass(type(stop), str)
    given = (stop,) if is_one else items(where, stop, "strings", MAX_STOP_STRINGS, noun="strings")
    texts = tuple(string(where, text, MAX_STOP_CHARS) for text in given)
    if "" in texts:
        raise InvalidRequest(f"{where}: expected strings that are not empty, got ''")
    return texts
