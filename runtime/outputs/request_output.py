"""Turns a request's ids, as they become known, into its events and its completion."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from antiphon.config import ModelConfig, NoSpeech
from antiphon.outputs.spoken_text import SpokenText
from antiphon.outputs.transcript import Hypothesis, Transcript
from antiphon.sched.request import RequestState
from antiphon.text.detokenizer import IncrementalDetokenizer
from antiphon.text.tokenizer import Tokenizer
from antiphon.types import (
    AudioDelta,
    Completion,
    Event,
    FinishReason,
    RequestMetrics,
    TextDelta,
    TranscriptDelta,
    UnitDelta,
)

__all__ = ["OutputState"]

NO_SPEECH = "no speech was heard in what was to be speech"


class OutputState:
    """What has been reported of one request. `poll` gives what is new after a pass, and `stop` says whether
    the reply is over; the caller ends the request."""

    def __init__(
        self,
        request: RequestState,
        tokenizer: Tokenizer,
        config: ModelConfig,
        arrived_s: float | None = None,
        sample_rate_hz: int | None = None,
        no_speech: NoSpeech = "answer",
    ) -> None:
        """arrived_s: when the request came, on the clock of `time.perf_counter`; None: now.
        sample_rate_hz: that of its speech; None if no sound is made. no_speech: see `EngineConfig`."""
        self.request = request
        self.error: str | None = None
        """Why it ended with "error"."""
        self.no_speech = False
        """Whether its speech has all been read, and says nothing."""
        self._on_no_speech = no_speech
        self._sample_rate_hz = sample_rate_hz
        self._audio: list[np.ndarray] = []
        self._audio_times: list[tuple[float, float]] = []
        """Of each piece of `_audio`: when it was made, and how long it is."""
        self._plays_until_s = 0.0
        """When playback ends, if it began with the first samples and pauses when there are none."""
        self.transcript = ""
        self.text = ""
        self._config = config
        self._tokenizer = tokenizer
        self._hypothesis = (
            Hypothesis(request, tokenizer, config.blank_token_id) if request.is_growing else None
        )
        self._heard = Transcript(request, tokenizer, config.blank_token_id)
        self._detokenizer = IncrementalDetokenizer(tokenizer, () if request.speaks else request.params.stop)
        self._num_text = 0
        self._held_ids: list[int] = []
        """Ids whose text has not been sent yet: parts of a character, or white space."""
        self._num_units = 0
        self._spoken = SpokenText(request, tokenizer, config.blank_token_id)
        self._num_taken = 0
        """Units that `new_units` has handed out to be made into speech."""
        self._added_s = time.perf_counter() if arrived_s is None else arrived_s
        self._metrics = RequestMetrics()
        self._last_text_s = self._last_unit_s = 0.0
        """When the last ids were reported, since the request was added."""

    @property
    def has_news(self) -> bool:
        """Whether `poll` would find anything. It seldom would after a pass of a stack that others wait for,
        and with many requests asking costs less than looking."""
        request = self.request
        if self._hypothesis is not None or not self._heard.is_read or self._says_nothing:
            return True
        num_shown = len(request.text_ids) if request.speaking is None else request.speaking.num_consumed
        return num_shown > self._num_text or len(request.unit_ids) > self._num_units

    def poll(self) -> Iterator[Event]:
        """Events for everything that became known since the last call."""
        request = self.request
        if self._hypothesis is not None:
            if (update := self._hypothesis.changed()) is not None:
                yield update
            return
        if (heard := self._heard.advance()) and not request.prompt.no_speech:
            self.transcript += heard
            yield TranscriptDelta(request.request_id, heard)
        if self._heard.is_complete:
            self.no_speech = request.prompt.no_speech or not self.transcript.strip()
        if self._says_nothing:
            if not request.finished and self._on_no_speech == "error":
                self.error = NO_SPEECH
            return
        num_shown = len(request.text_ids) if request.speaking is None else request.speaking.num_consumed
        if num_shown > self._num_text:
            new = request.text_ids[self._num_text : num_shown]
            self._num_text = num_shown
            self._held_ids += new
            self._last_text_s = self._now_s()
            if self._metrics.ttft_s is None:
                self._metrics.ttft_s = self._last_text_s
            if text := self._detokenizer.push(new):
                yield self._text_delta(text)
        if len(request.unit_ids) > self._num_units:
            self._spoken.advance()
            units, spoken_chars = self._spoken_units(self._num_units)
            self._num_units = len(request.unit_ids)
            self._last_unit_s = self._now_s()
            if self._metrics.ttfu_s is None:
                self._metrics.ttfu_s = self._last_unit_s
            if units:
                yield UnitDelta(request.request_id, tuple(units), tuple(spoken_chars))

    @property
    def makes_sound(self) -> bool:
        """Whether speech is made of its units."""
        return self._sample_rate_hz is not None

    @property
    def stop(self) -> FinishReason | None:
        """Why the reply is over, judging by what has been reported of it; None: only its ids can say."""
        if self._says_nothing:
            return "stop" if self._on_no_speech == "empty" else "error"
        return "stop" if self._detokenizer.stopped else None

    def new_units(self) -> list[int]:
        """Unit numbers to make speech of that were not returned before. They have all been reported."""
        first, self._num_taken = self._num_taken, self._num_units
        return self._numbers(self.request.unit_ids[first : self._num_units])

    def commit(self, committed_s: float) -> None:
        """The request is no longer open: from now on its user waits, and the final transcript is sent."""
        self._added_s = committed_s
        self._hypothesis = None
        self._heard = Transcript(self.request, self._tokenizer, self._config.blank_token_id)

    def confirm(self, confirmed_s: float) -> None:
        """Somebody waits for it from now on, or since an earlier moment: what happened before that took them
        no time."""
        earlier_s, self._added_s = self._added_s - confirmed_s, confirmed_s
        metrics = self._metrics
        if metrics.ttft_s is not None:
            metrics.ttft_s = max(0.0, metrics.ttft_s + earlier_s)
        if metrics.ttfu_s is not None:
            metrics.ttfu_s = max(0.0, metrics.ttfu_s + earlier_s)
        self._last_text_s = max(0.0, self._last_text_s + earlier_s)
        self._last_unit_s = max(0.0, self._last_unit_s + earlier_s)
        metrics.ttfa_s = None
        for made_s, seconds in self._audio_times:
            self._play(made_s, seconds)

    def close(self) -> Iterator[Event]:
        """The rest of the text, once the request has ended."""
        yield from self.poll()
        if self._says_nothing:
            return
        if rest := self._detokenizer.finish():
            yield self._text_delta(rest)
        if (rest := self._heard.finish()) and not self.request.prompt.no_speech:
            self.transcript += rest
            yield TranscriptDelta(self.request.request_id, rest)

    def completion(self) -> Completion:
        request, is_empty = self.request, self._says_nothing
        metrics = self._metrics
        metrics.e2e_s = self._now_s()
        metrics.num_prompt_tokens = request.num_text_prompt
        metrics.num_prompt_units = len(request.prompt.unit_positions)
        metrics.num_image_positions = sum(span.end - span.start for span in request.image_spans)
        metrics.num_cached_tokens = request.num_cached_tokens or 0
        metrics.num_preemptions = request.num_preemptions
        self._note_stages()
        first_s = metrics.ttfu_s if request.speaks else metrics.ttft_s
        last_s = self._last_unit_s if request.speaks else self._last_text_s
        picked = len(request.unit_ids if request.speaks else request.text_ids)
        if first_s is not None and picked > 1:
            metrics.tpot_s = (last_s - first_s) / (picked - 1)
        return Completion(
            request.request_id,
            transcript=self.transcript,
            no_speech=self.no_speech,
            transcript_ids=self._heard.ids,
            transcript_spans=self._heard.spans(),
            text=self.text,
            text_ids=[] if is_empty else list(request.shown_text_ids),
            fusion_ids=list(request.speaking.fusion_ids) if request.speaking and not is_empty else [],
            units=[] if is_empty else self.units(),
            unit_ids=[] if is_empty else list(request.unit_ids),
            spoken_chars=[] if is_empty else self._all_spoken_chars(),
            audio=np.concatenate(self._audio) if self._audio else None,
            sample_rate_hz=self._sample_rate_hz,
            finish_reason=self._finish_reason(),
            error=self.error,
            metrics=metrics,
        )

    @property
    def _says_nothing(self) -> bool:
        """Whether there is no reply, since nothing was said."""
        return self.no_speech and self._on_no_speech != "answer"

    def _finish_reason(self) -> FinishReason:
        """Speech that ends by itself has said less than it should have if its text reached its limit."""
        reason = self.request.finish_reason or "error"
        return "length" if reason == "stop" and self.request.has_cut_text else reason

    def _text_delta(self, text: str) -> TextDelta:
        self.text += text
        ids, self._held_ids = tuple(self._held_ids), []
        return TextDelta(self.request.request_id, text, ids)

    def units(self) -> list[int]:
        """Unit numbers so far, without stop ids."""
        return self._numbers(self.request.unit_ids)

    def add_audio(self, samples: np.ndarray) -> AudioDelta:
        """More of its sound was made: float32 (n,), not empty."""
        assert self._sample_rate_hz is not None, "sound comes only if it was asked for"
        self._audio.append(samples)
        made_s, seconds = time.perf_counter(), len(samples) / self._sample_rate_hz
        self._audio_times.append((made_s, seconds))
        self._play(made_s, seconds)
        return AudioDelta(self.request.request_id, samples, self._sample_rate_hz)

    def _play(self, made_s: float, seconds: float) -> None:
        """Count a piece of its sound."""
        now, metrics = max(0.0, made_s - self._added_s), self._metrics
        if metrics.ttfa_s is None:
            metrics.ttfa_s, metrics.underrun_s, metrics.audio_s = now, 0.0, 0.0
            self._plays_until_s = now
        assert metrics.underrun_s is not None and metrics.audio_s is not None
        metrics.underrun_s += max(0.0, now - self._plays_until_s)
        self._plays_until_s = max(self._plays_until_s, now) + seconds
        metrics.audio_s += seconds
        metrics.rtf = now / metrics.audio_s
        if metrics.ttfu_s is not None:
            metrics.codec_s = now - metrics.ttfu_s

    def _note_stages(self) -> None:
        request, metrics = self.request, self._metrics
        if request.admitted_s is None:
            return
        metrics.queue_wait_s = wait_s = max(0.0, request.admitted_s - self._added_s)
        is_given = bool(request.prompt.reply_ids)
        first_s = metrics.ttfu_s if is_given else metrics.ttft_s
        if request.transcribes:
            first_s = metrics.e2e_s
        if first_s is not None:
            metrics.prefill_s = first_s - wait_s
        if metrics.ttft_s is not None and not is_given:
            metrics.text_s = self._last_text_s - metrics.ttft_s
        if metrics.ttfu_s is not None:
            metrics.units_s = self._last_unit_s - metrics.ttfu_s

    def _now_s(self) -> float:
        return max(0.0, time.perf_counter() - self._added_s)

    def _spoken_units(self, start: int = 0) -> tuple[list[int], list[int]]:
        """The numbers of the units from here on, without stop ids, and the characters begun by the end of
        each, as far as is known."""
        units: list[int] = []
        spoken_chars: list[int] = []
        first, count = self._config.first_unit_id, self._config.audio_vocab_size
        for unit, unit_id in enumerate(self.request.unit_ids[start:], start):
            if first <= unit_id < first + count:
                units.append(unit_id - first)
                spoken_chars.append(self._spoken.by_the_end_of(unit))
        return units, spoken_chars

    def _all_spoken_chars(self) -> list[int]:
        self._spoken.advance()
        spoken_chars = self._spoken_units()[1]
        if spoken_chars and self._finish_reason() == "stop":
            spoken_chars[-1] = len(self.text)
        return spoken_chars

    def _numbers(self, ids: list[int]) -> list[int]:
        first = self._config.first_unit_id
        return [i - first for i in ids if first <= i < first + self._config.audio_vocab_size]
