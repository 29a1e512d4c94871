"""When turns end in recordings, as a conversation would find out while it hears them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from antiphon.bench.turns import Mixed, turn_ends
from antiphon.engine.engine import Engine
from antiphon.errors import AntiphonError
from antiphon.evaluation.answer import Answer
from antiphon.evaluation.cases import Case
from antiphon.evaluation.options import Options
from antiphon.sound.reading import read_audio
from antiphon.turns.activity import ActivityKind, voice_activity
from antiphon.turns.detector import TurnDetector
from antiphon.turns.settings import TurnDetection, TurnKind

__all__ = ["DuplexAnswers"]


class DuplexAnswers:
    """In audio time, as if computing took none."""

    def __init__(self, engine: Engine, options: Options) -> None:
        """Raises InvalidRequest for options that there are not."""
        self._engine = engine
        self._activity: ActivityKind = cast(ActivityKind, options.activity)
        self._settings = TurnDetection(
            cast(TurnKind, options.detection), silence_duration_ms=options.silence_ms
        )
        voice_activity(self._activity)

    def answers(self, cases: Sequence[Case]) -> Iterator[tuple[Case, Answer]]:
        for case in cases:
            try:
                samples, rate_hz = read_audio(case.audio)
                assert case.speech_end_s is not None
                end = round(case.speech_end_s * rate_hz)
                recording = Mixed(samples, rate_hz, end, 0.0, None, case.case_id)
                detector = TurnDetector(self._settings, voice_activity(self._activity), rate_hz)
                reader = self._engine if self._settings.kind == "semantic_vad" else None
                ends = turn_ends(recording, detector, reader)
                yield case, Answer(ends_s=tuple(end / rate_hz for end in ends))
            except AntiphonError as error:
                yield case, Answer(error=str(error))
