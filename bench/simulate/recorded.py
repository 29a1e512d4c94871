"""The requests of a run as a trace, which a simulation can ask again."""

from __future__ import annotations

import zlib

from antiphon.bench.serving.load import Run
from antiphon.bench.serving.questions import Question
from antiphon.bench.simulate.traffic import Arrival
from antiphon.sound.reading import read_audio
from antiphon.types import UNITS_PER_S

__all__ = ["trace_of"]

CHARS_PER_TOKEN = 4


def trace_of(run: Run, *, realtime: bool = False) -> list[Arrival]:
    """Those that were answered, in order of time. Tokens of what was typed are guessed from its length."""
    arrivals = []
    for question, reply in zip(run.asked, run.replies, strict=True):
        if reply.failure is not None:
            continue
        num_units = round(reply.audio_s * UNITS_PER_S)
        picture = question.picture
        arrivals.append(
            Arrival(
                at_s=max(0.0, reply.due_s - run.begun_s),
                reply_s=reply.audio_s,
                reply_tokens=max(1, (reply.num_tokens or 0) - num_units),
                speech_s=_seconds(question),
                text_tokens=0 if question.text is None else -(-len(question.text) // CHARS_PER_TOKEN),
                pictures=() if picture is None else (f"{zlib.crc32(picture):08x}",),
                prompt=_name(question),
                realtime=realtime,
            )
        )
    return sorted(arrivals, key=lambda arrival: arrival.at_s)


def _seconds(question: Question) -> float:
    if question.sound is None:
        return 0.0
    samples, rate_hz = read_audio(question.sound)
    return len(samples) / rate_hz


def _name(question: Question) -> str:
    """Equal for equal questions."""
    content = (question.sound or b"") + (question.text or "").encode() + (question.picture or b"")
    return f"{question.kind} {zlib.crc32(content):08x}"
