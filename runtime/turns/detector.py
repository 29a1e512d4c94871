"""Where turns begin and end in a user's audio."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from antiphon.plain import integer
from antiphon.sound.arrays import AudioArray
from antiphon.sound.resample import StreamingResampler
from antiphon.turns.activity import VoiceActivity
from antiphon.turns.events import (
    IdleTimeout,
    SpeechEnded,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    TurnEvent,
)
from antiphon.turns.finished import Completeness, completeness
from antiphon.turns.frames import Frames
from antiphon.turns.loudness import Loudness
from antiphon.turns.settings import TurnDetection
from antiphon.types import UNITS_PER_S

__all__ = ["TurnDetector"]

HYSTERESIS = 0.15
"""Once there is speech, it lasts until its probability is this much below the threshold, or half of it."""
START_MS = 64
"""Speech that is shorter starts no turn: clicks, knocks."""
RESUME_MS = 64
"""And ends no pause."""
PAUSE_MS = 96
"""Silence that is shorter lies within a word. The audio of a turn goes on for this long after its speech,
which may end in a quiet consonant."""
WAITS_MS = {
    "low": {Completeness.FINISHED: 800, Completeness.OPEN: 2000, Completeness.UNFINISHED: 8000},
    "medium": {Completeness.FINISHED: 350, Completeness.OPEN: 1200, Completeness.UNFINISHED: 4000},
    "high": {Completeness.FINISHED: 250, Completeness.OPEN: 700, Completeness.UNFINISHED: 2000},
}
"""For "semantic_vad": the silence that ends a turn, by eagerness and by how the transcript reads."""
UNSETTLED_MS = 150
"""Added for a finished transcript while it may still change."""
SETTLED_UNITS = 2
"""A transcript is settled when this number of blanks has followed its last label, or it is that of all."""
LAG_MS = 80
"""The model may have read this much less than what was said, and know the last word nevertheless."""


@dataclass(frozen=True)
class _Heard:
    """What the model has read of the turn so far."""

    completeness: Completeness
    num_trailing_blanks: int
    num_units: int


class TurnDetector:
    """Finds the turns of one user.

    A turn begins with 64 ms of speech, and pauses with 96 ms of silence. For "server_vad" it ends when the
    silence has lasted `silence_duration_ms`. For "semantic_vad" the silence that ends it depends on what the
    model has heard: a fraction of a second if that reads as finished, and the model reads nothing but blanks
    by now or has read all up to the pause; seconds if more has to follow. The silence that ends a turn is
    counted from where its sound fades, of which voice activity lets go some frames later (see `Loudness`).

    Time is counted in samples alone, so the same sound gives the same events, however it is cut into pieces.
    Audio outside of turns, from `SpeechStarted.at` to `SpeechEnded.at`, is not for the model.
    """

    def __init__(self, settings: TurnDetection, activity: VoiceActivity, rate_hz: int) -> None:
        """activity: of this user alone. rate_hz: of the audio. Raises InvalidRequest."""
        self.settings = settings
        self.rate_hz = integer("rate_hz", rate_hz, 1)
        self._activity = activity
        self._frames = Frames(activity.frame_samples)
        self._loudness = Loudness()
        self._resampler = StreamingResampler(self.rate_hz, activity.rate_hz)
        self._low = max(settings.threshold - HYSTERESIS, settings.threshold / 2)
        self._padding = settings.prefix_padding_ms * self.rate_hz // 1000
        eagerness = "medium" if settings.eagerness == "auto" else settings.eagerness
        self._waits_ms = WAITS_MS[eagerness]
        self._num_samples = 0
        self._num_frames = 0
        self._num_speech = 0
        """Frames of speech without a frame of silence up to now."""
        self._speech_end = 0
        """In frames: where the speech ended that is part of the turn."""
        self._sound_end = 0.0
        """In frames: where its sound had faded."""
        self._is_speech = False
        self._started_at: int | None = None
        self._paused_at: int | None = None
        self._floor = 0
        """Where the next turn may begin."""
        self._heard: _Heard | None = None
        self._idle_since: int | None = 0
        """In frames."""

    @property
    def num_samples(self) -> int:
        """The samples pushed."""
        return self._num_samples

    @property
    def num_judged(self) -> int:
        """Those of them in frames that have been judged: during speech, all of them belong to the turn."""
        return self._at(self._num_frames)

    @property
    def started_at(self) -> int | None:
        """Where the turn began that has not ended; None between turns."""
        return self._started_at

    @property
    def paused_at(self) -> int | None:
        """Where this turn ends if its present pause ends it; None during speech, and between turns."""
        return self._paused_at

    def push(self, samples: AudioArray) -> list[TurnEvent]:
        """Take the next samples, finite mono float32 (n,), n >= 0, and report what they show."""
        self._num_samples += len(samples)
        resampled = self._resampler.push(np.asarray(samples, np.float32))
        events: list[TurnEvent] = []
        frames = list(self._frames.push(resampled))
        for probability, frame in zip(self._activity.push(resampled), frames, strict=True):
            events += self._end_within(frame)
            events += self._frame(probability, frame)
        return events + self._end_within(self._frames.rest)

    def heard(self, text: str, num_trailing_blanks: int, num_units: int) -> list[TurnEvent]:
        """Take what the model has read of this turn, the whole of it, and report what that shows.

        text: the transcript. num_units: the units it was read from, the first of which begins at
        `SpeechStarted.at`. num_trailing_blanks: how many of their labels at the end are blanks. Between turns
        it changes nothing.
        """
        if self._started_at is None:
            return []
        self._heard = _Heard(completeness(text), num_trailing_blanks, num_units)
        return self._end_if_over() or self._end_within(self._frames.rest)

    def end(self) -> list[TurnEvent]:
        """End the turn now, if there is one: the caller knows that it is over, or the audio is."""
        if self._started_at is None:
            return []
        events: list[TurnEvent] = []
        if self._paused_at is None:
            events.append(self._pause(self._num_samples))
        return [*events, self._finish()]

    def drop(self) -> None:
        """Forget the turn, if there is one, and all audio so far: the next turn begins later."""
        self._started_at = self._paused_at = self._heard = None
        self._floor = self._num_samples
        self._num_speech = 0
        self._is_speech = False
        self._loudness.new_turn()
        self.watch_idle()

    def watch_idle(self, is_watched: bool = True) -> None:
        """Count the time without speech from now on anew, or not at all, as while a reply is being played.
        It is counted from the start, and from the end of each turn; each count ends in one `IdleTimeout`."""
        self._idle_since = self._num_frames if is_watched else None

    def _frame(self, probability: float, frame: AudioArray) -> list[TurnEvent]:
        self._num_frames += 1
        was_speech = self._is_speech
        self._is_speech = probability >= (self._low if was_speech else self.settings.threshold)
        self._loudness.add(frame, self._is_speech)
        self._num_speech = self._num_speech + 1 if self._is_speech else 0
        begin = self._num_frames - self._num_speech
        if self._started_at is None:
            if self._lasts(self._num_speech, START_MS):
                return [self._start(begin)]
            return self._idle()
        if self._paused_at is not None:
            if self._lasts(self._num_speech, RESUME_MS):
                at = max(self._at(begin), self._paused_at)
                self._paused_at = None
                self._speech_end = self._num_frames
                return [SpeechResumed(at)]
            return self._end_if_over()
        if self._is_speech:
            self._speech_end = self._num_frames
            return []
        if was_speech:
            self._sound_end = self._speech_end - self._loudness.late_frames()
        if self._lasts(self._num_frames - self._speech_end, PAUSE_MS):
            return [self._pause(self._at(self._num_frames)), *self._end_if_over()]
        return []

    def _start(self, frame: int) -> SpeechStarted:
        self._started_at = max(self._at(frame) - self._padding, self._floor)
        self._speech_end = self._num_frames
        self._idle_since = None
        return SpeechStarted(self._started_at)

    def _pause(self, at: int) -> SpeechPaused:
        assert self._started_at is not None
        self._paused_at = max(at, self._started_at)
        return SpeechPaused(self._paused_at)

    def _end_if_over(self) -> list[TurnEvent]:
        """The end of the turn if it pauses and the silence has lasted long enough."""
        if self._paused_at is None or self._num_speech:  # speech, but of a moment: it may be a knock
            return []
        silence = self._num_frames - self._sound_end
        return [self._finish()] if self._lasts(silence, self._wait_ms()) else []

    def _end_within(self, samples: AudioArray) -> list[TurnEvent]:
        """The end of the turn if it comes within the next frame, which begins with these samples, and they
        are as quiet as the pause so far."""
        if self._paused_at is None or self._num_speech:
            return []
        waited = (self._num_frames - self._sound_end) * self._activity.frame_samples
        left = math.ceil(self._wait_ms() * self._activity.rate_hz / 1000 - waited)
        is_over = 0 < left <= len(samples) and self._loudness.is_quiet(samples[:left])
        return [self._finish()] if is_over else []

    def _finish(self) -> SpeechEnded:
        assert self._paused_at is not None
        at = self._floor = self._paused_at
        self._started_at = self._paused_at = self._heard = None
        self._loudness.new_turn()
        self.watch_idle()
        return SpeechEnded(at)

    def _idle(self) -> list[TurnEvent]:
        limit_ms = self.settings.idle_timeout_ms
        if limit_ms is None or self._idle_since is None or self._num_speech:
            return []
        if not self._lasts(self._num_frames - self._idle_since, limit_ms):
            return []
        self._idle_since = None
        self._floor = self._at(self._num_frames)
        return [IdleTimeout(self._floor)]

    def _wait_ms(self) -> int:
        """The silence that ends the turn."""
        if self.settings.kind == "server_vad":
            return self.settings.silence_duration_ms
        if self._heard is None or self._is_behind(self._heard):
            return self._waits_ms[Completeness.OPEN]
        wait_ms = self._waits_ms[self._heard.completeness]
        is_settled = self._heard.num_trailing_blanks >= SETTLED_UNITS or self._has_read_all(self._heard)
        if self._heard.completeness is Completeness.FINISHED and not is_settled:
            wait_ms += UNSETTLED_MS
        return wait_ms

    def _is_behind(self, heard: _Heard) -> bool:
        """Whether the model has not yet read all that was said."""
        assert self._started_at is not None
        said_s = (self._at(self._speech_end) - self._started_at) / self.rate_hz
        return heard.num_units / UNITS_PER_S < said_s - LAG_MS / 1000

    def _has_read_all(self, heard: _Heard) -> bool:
        """Whether the model has read the turn up to the pause, as if it ended there."""
        assert self._started_at is not None and self._paused_at is not None
        length_s = (self._paused_at - self._started_at) / self.rate_hz
        return heard.num_units + 1 > length_s * UNITS_PER_S

    def _lasts(self, frames: float, least_ms: int) -> bool:
        """Whether a number of frames lasts `least_ms`; any lasts 0 ms if it is not 0."""
        samples = frames * self._activity.frame_samples
        return frames > 0 and samples * 1000 >= least_ms * self._activity.rate_hz

    def _at(self, frame: float) -> int:
        """The sample of the input at which a frame begins."""
        return int(frame * self._activity.frame_samples) * self.rate_hz // self._activity.rate_hz
