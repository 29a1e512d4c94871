"""Transcripts in the forms that OpenAI's clients read."""

from __future__ import annotations

import zlib
from collections.abc import Collection
from typing import Literal

from pydantic import BaseModel

from antiphon.outputs.transcription import Segment, Transcription
from antiphon.server.openai.transcription_request import Granularity

__all__ = [
    "TokenUsage",
    "TranscriptDeltaEvent",
    "TranscriptDoneEvent",
    "TranscriptionJson",
    "TranscriptionVerbose",
    "srt",
    "vtt",
]


class TokenDetails(BaseModel):
    """What was read, by kind."""

    audio_tokens: int
    text_tokens: int


class TokenUsage(BaseModel):
    """What it took, in units and tokens."""

    type: Literal["tokens"] = "tokens"
    input_tokens: int
    input_token_details: TokenDetails
    output_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, num_prompt: int, num_units: int, num_output: int) -> TokenUsage:
        """num_prompt: all positions that were read, of which num_units are speech."""
        return cls(
            type="tokens",
            input_tokens=num_prompt,
            input_token_details=TokenDetails(audio_tokens=num_units, text_tokens=num_prompt - num_units),
            output_tokens=num_output,
            total_tokens=num_prompt + num_output,
        )


class DurationUsage(BaseModel):
    """What it took, in seconds of sound."""

    type: Literal["duration"] = "duration"
    seconds: float


class TranscriptionJson(BaseModel):
    """The text."""

    text: str
    usage: TokenUsage


class VerboseSegment(BaseModel):
    """What was said between two pauses. The model gives no probabilities: `avg_logprob` and `no_speech_prob`
    are always 0."""

    id: int
    seek: int
    """Where it starts, in hundredths of a second."""
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float
    no_speech_prob: float = 0.0

    @classmethod
    def of(cls, index: int, segment: Segment) -> VerboseSegment:
        data = segment.text.encode()
        return cls(
            id=index,
            seek=int(100 * segment.start_s),
            start=_rounded(segment.start_s),
            end=_rounded(segment.end_s),
            text=segment.text,
            tokens=list(segment.tokens),
            compression_ratio=_rounded(len(data) / len(zlib.compress(data))),
        )


class VerboseWord(BaseModel):
    """A word, and when it was heard."""

    word: str
    start: float
    end: float


class TranscriptionVerbose(BaseModel):
    """The text with times."""

    task: Literal["transcribe"] = "transcribe"
    language: str = "english"
    duration: float
    text: str
    segments: list[VerboseSegment] | None = None
    """Null unless their times were asked for."""
    words: list[VerboseWord] | None = None
    usage: DurationUsage

    @classmethod
    def of(cls, said: Transcription, granularities: Collection[Granularity]) -> TranscriptionVerbose:
        segments = [VerboseSegment.of(index, segment) for index, segment in enumerate(said.segments)]
        words = [
            VerboseWord(word=word.text, start=_rounded(word.start_s), end=_rounded(word.end_s))
            for word in said.words
        ]
        return cls(
            duration=said.duration_s,
            text=said.text,
            segments=segments if "segment" in granularities else None,
            words=words if "word" in granularities else None,
            usage=DurationUsage(seconds=said.duration_s),
        )


class TranscriptDeltaEvent(BaseModel):
    """More of the text."""

    type: Literal["transcript.text.delta"]
    delta: str


class TranscriptDoneEvent(BaseModel):
    """All of it: the last event."""

    type: Literal["transcript.text.done"]
    text: str
    usage: TokenUsage


def srt(said: Transcription) -> str:
    """Subtitles for players: SubRip."""
    return "".join(
        f"{number}\n{_time(segment.start_s, ',')} --> {_time(segment.end_s, ',')}\n{segment.text}\n\n"
        for number, segment in enumerate(said.segments, 1)
    )


def vtt(said: Transcription) -> str:
    """Subtitles for browsers: WebVTT."""
    cues = (
        f"{_time(segment.start_s, '.')} --> {_time(segment.end_s, '.')}\n{_escaped(segment.text)}\n\n"
        for segment in said.segments
    )
    return "WEBVTT\n\n" + "".join(cues)


def _escaped(text: str) -> str:
    """For WebVTT, which has markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _time(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{point}{rest % 1000:03}"


def _rounded(value: float) -> float:
    return round(value, 3)
