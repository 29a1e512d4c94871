"""What was heard: turns the CTC labels of a prompt's units into its transcript."""

from __future__ import annotations

from itertools import pairwise, takewhile

import torch

from antiphon.kernels.ctc_collapse import ctc_collapse
from antiphon.sched.request import RequestState
from antiphon.text.detokenizer import IncrementalDetokenizer
from antiphon.text.tokenizer import Tokenizer
from antiphon.types import TranscriptUpdate

__all__ = ["Hypothesis", "Transcript"]


class Transcript:
    """The transcript, as far as the bottom layers have read the prompt's units.

    `ids` collapses all units of the prompt as if joined; the text is that of the last message that
    holds speech, as if no unit came before it.
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
        # In `ids` the last message's first label may repeat the one before it; alone, it repeats none.
        shown = labels[hidden:]
        starts_here = hidden > 0 or self._num_read == self._first_shown
        shown_ids = self._collapse(shown, -1 if starts_here else before) if shown else []
        self.ids += ids
        self._last = labels[-1]
        self._num_read += len(labels)
        text = self._detokenizer.push(shown_ids)
        return text + self.finish() if self._num_read == len(self._positions) else text

    @property
    def is_complete(self) -> bool:
        """Whether all units have been read; False if there are none."""
        return bool(self._positions) and self._num_read == len(self._positions)

    @property
    def is_read(self) -> bool:
        """Whether no more of it will come; True if there are no units."""
        return self._num_read == len(self._positions)

    def finish(self) -> str:
        return self._detokenizer.finish()

    def spans(self) -> list[tuple[int, int]]:
        """For each of `ids`, the units [start, end) that were read as it, silence that was cut counted in."""
        labels = [self._request.prompt_labels[position] for position in self._positions[: self._num_read]]
        runs = enumerate(pairwise([None, *labels, None]))
        edges = [(i, before, after) for i, (before, after) in runs if before != after]
        starts = [i for i, _, label in edges if label not in (None, self._blank)]
        ends = [i for i, label, _ in edges if label not in (None, self._blank)]
        if places := self._request.prompt.unit_places:
            starts, ends = [places[i] for i in starts], [places[i - 1] + 1 for i in ends]
        return list(zip(starts, ends, strict=True))

    def _collapse(self, labels: list[int], previous: int) -> list[int]:
        ids: list[int] = ctc_collapse(
            torch.tensor(labels, dtype=torch.int32),
            torch.tensor([0, len(labels)], dtype=torch.int32),
            self._blank,
            torch.tensor([previous], dtype=torch.int32),
        ).ids.tolist()
        return ids


class Hypothesis:
    """The transcript of an open request's last message, as of the units that it has now."""

    def __init__(self, request: RequestState, tokenizer: Tokenizer, blank: int) -> None:
        self._request = request
        self._tokenizer = tokenizer
        self._blank = blank
        self._labels: list[int | None] = []

    def changed(self) -> TranscriptUpdate | None:
        """What has been heard, once all units have been read, if any label has changed: each unit that is
        heard may change any part of it. None if none has."""
        prompt = self._request.prompt
        first = len(prompt.unit_positions) - prompt.num_last_units
        labels = [self._request.prompt_labels[position] for position in prompt.unit_positions[first:]]
        if None in labels or labels == self._labels:
            return None
        self._labels = labels
        hearing = Transcript(self._request, self._tokenizer, self._blank)
        text = hearing.advance() + hearing.finish()
        blanks = takewhile(lambda label: label == self._blank, reversed(labels))
        return TranscriptUpdate(self._request.request_id, text, len(labels), sum(1 for _ in blanks))
