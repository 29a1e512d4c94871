"""From a request's ids, as they become known, to its events and its completion."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from antiphon.config import ModelConfig
from antiphon.kernels.ctc_collapse import ctc_collapse
from antiphon.sched.request import RequestState
from antiphon.text.detokenizer import IncrementalDetokenizer
from antiphon.text.tokenizer import Tokenizer
from antiphon.types import (
    Completion,
    Event,
    RequestMetrics,
    TextDelta,
    TranscriptDelta,
    UnitDelta,
)

__all__ = ["OutputState"]


class OutputState:
    """What of one request has been told. `poll` after every pass gives what is new."""

    def __init__(
        self,
        request: RequestState,
        tokenizer: Tokenizer,
        config: ModelConfig,
        arrived_s: float | None = None,
    ) -> None:
        """arrived_s: when the request came, on the clock of `time.perf_counter`; None: now."""
        self.request = request
        self.transcript = ""
        self.text = ""
        self._config = config
        self._heard = _Hearing(request, tokenizer, config.blank_token_id)
        self._detokenizer = IncrementalDetokenizer(tokenizer, () if request.speaks else request.params.stop)
        self._num_text = 0
        self._held_ids: list[int] = []
        """Ids whose text is not told yet: parts of a character, or white space."""
        self._num_units = 0
        self._added_s = time.perf_counter() if arrived_s is None else arrived_s
        self._metrics = RequestMetrics(num_prompt_tokens=request.num_text_prompt)
        self._last_id_s = self._added_s

    def poll(self) -> Iterator[Event]:
        """Events for everything that became known since the last call."""
        request = self.request
        if heard := self._heard.advance():
            self.transcript += heard
            yield TranscriptDelta(request.request_id, heard)
        num_shown = len(request.text_ids) if request.speaking is None else request.speaking.num_consumed
        if num_shown > self._num_text:
            new = request.text_ids[self._num_text : num_shown]
            self._num_text = num_shown
            self._held_ids += new
            self._note_first("ttft_s", unit=False)
            if text := self._detokenizer.push(new):
                yield self._text_delta(text)
            if self._detokenizer.stopped and not request.finished:
                request.finish("stop")
        if len(request.unit_ids) > self._num_units:
            units = self._numbers(request.unit_ids[self._num_units :])
            self._num_units = len(request.unit_ids)
            self._note_first("ttfu_s", unit=True)
            if units:
                yield UnitDelta(request.request_id, tuple(units))

    def close(self) -> Iterator[Event]:
        """The rest of the text, once the request has ended."""
        yield from self.poll()
        if rest := self._detokenizer.finish():
            yield self._text_delta(rest)
        if rest := self._heard.finish():
            self.transcript += rest
            yield TranscriptDelta(self.request.request_id, rest)

    def completion(self, error: str | None = None) -> Completion:
        request = self.request
        metrics = self._metrics
        metrics.e2e_s = time.perf_counter() - self._added_s
        metrics.num_cached_tokens = request.num_cached_tokens or 0
        metrics.num_preemptions = request.num_preemptions
        first = metrics.ttfu_s if request.speaks else metrics.ttft_s
        picked = len(request.unit_ids if request.speaks else request.text_ids)
        if first is not None and picked > 1:
            metrics.tpot_s = (self._last_id_s - self._added_s - first) / (picked - 1)
        return Completion(
            request.request_id,
            transcript=self.transcript,
            transcript_ids=self._heard.ids,
            text=self.text,
            text_ids=list(request.shown_text_ids),
            fusion_ids=list(request.speaking.fusion_ids) if request.speaking else [],
            units=self.units(),
            unit_ids=list(request.unit_ids),
            finish_reason=request.finish_reason or "error",
            error=error,
            metrics=metrics,
        )

    def _text_delta(self, text: str) -> TextDelta:
        self.text += text
        ids, self._held_ids = tuple(self._held_ids), []
        return TextDelta(self.request.request_id, text, ids)

    def units(self) -> list[int]:
        """Unit numbers so far, without stop ids."""
        return self._numbers(self.request.unit_ids)

    def note_audio(self, num_samples: int, sample_rate_hz: int) -> None:
        """Sound was made of it."""
        now = time.perf_counter() - self._added_s
        if self._metrics.ttfa_s is None and num_samples:
            self._metrics.ttfa_s = now
        self._metrics.audio_s = (self._metrics.audio_s or 0.0) + num_samples / sample_rate_hz
        if self._metrics.audio_s:
            self._metrics.rtf = now / self._metrics.audio_s

    def _note_first(self, name: str, *, unit: bool) -> None:
        now = time.perf_counter()
        if getattr(self._metrics, name) is None:
            setattr(self._metrics, name, now - self._added_s)
        if unit == self.request.speaks:
            self._last_id_s = now

    def _numbers(self, ids: list[int]) -> list[int]:
        first = self._config.first_unit_id
        return [i - first for i in ids if first <= i < first + self._config.audio_vocab_size]


class _Hearing:
    """The transcript, as far as the bottom layers have read the prompt's units.

    `ids` collapses all units of the prompt as if joined; the text is of the last message that holds
    speech, whose first unit has no unit before it.
    """

    def __init__(self, request: RequestState, tokenizer: Tokenizer, blank: int) -> None:
        self.ids: list[int] = []
        self._request = request
        self._positions = request.prompt.unit_positions if request.prompt.has_speech else ()
        self._first_shown = len(self._positions) - request.prompt.num_last_units
        self._blank = blank
        self._num_read = 0
        self._last = -1
        self._detokenizer = IncrementalDetokenizer(tokenizer)

    def advance(self) -> str:
        """More text of the transcript, if more units have their labels."""
        labels: list[int] = []
        for position in self._positions[self._num_read :]:
            label = self._request.prompt_labels[position]
            if label is None:
                break
            labels.append(label)
        if not labels:
            return ""
        hidden = max(0, min(len(labels), self._first_shown - self._num_read))
        before = self._last
        ids = self._collapse(labels, before)
        # joined, the first unit of the last message may repeat the label before it; alone, it may not
        shown = labels[hidden:]
        starts_here = hidden > 0 or self._num_read == self._first_shown
        shown_ids = self._collapse(shown, -1 if starts_here else before) if shown else []
        self.ids += ids
        self._last = labels[-1]
        self._num_read += len(labels)
        text = self._detokenizer.push(shown_ids)
        return text + self.finish() if self._num_read == len(self._positions) else text

    def finish(self) -> str:
        return self._detokenizer.finish()

    def _collapse(self, labels: list[int], previous: int) -> list[int]:
        ids: list[int] = ctc_collapse(
            torch.tensor(labels, dtype=torch.int32),
            torch.tensor([0, len(labels)], dtype=torch.int32),
            self._blank,
            torch.tensor([previous], dtype=torch.int32),
        ).ids.tolist()
        return ids
