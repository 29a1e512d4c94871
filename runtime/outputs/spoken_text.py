"""How much of a reply's text has been spoken by the end of each of its units."""

from __future__ import annotations

from antiphon.sched.request import RequestState
from antiphon.text.detokenizer import IncrementalDetokenizer
from antiphon.text.tokenizer import Tokenizer

__all__ = ["SpokenText"]


class SpokenText:
    """Follows the text of a spoken reply by the labels of its units, as they are read back.

    Speech has begun a fusion entry when a unit is read as it. A new label stands for the next entry, as in
    `SpeakingState`, whatever it is; but where labels and entries are the same ids, those decide: a label that
    is an entry further on, among those its unit could attend to, has skipped the ones before it, and one
    that is the entry begun last adds nothing. Text that carries no speech, such as white space or part of a
    character, belongs to the entry that follows it.
    """

    def __init__(self, request: RequestState, tokenizer: Tokenizer, blank: int) -> None:
        self.num_chars: list[int] = []
        """For each unit that has been read back, how many characters of the reply have been begun by its
        end. They are characters of `Completion.text`, so they never exceed what text deltas have given."""
        self._request = request
        self._blank = blank
        self._before = blank
        self._last_label = blank
        self._num_begun = 0
        self._detokenizer = IncrementalDetokenizer(tokenizer)
        self._num_taken = 0
        """Text tokens of the entries that have been begun."""
        self._num_chars = 0

    def advance(self) -> None:
        """Take the labels that have become known."""
        speaking = self._request.speaking
        if speaking is None:
            return
        for unit in range(len(self.num_chars), len(speaking.unit_labels)):
            self._read(speaking.unit_labels[unit], speaking.fusion_ids, speaking.visible[unit])
            if self._num_begun:
                self._take_text(speaking.entry_ends[self._num_begun - 1])
            self.num_chars.append(self._num_chars)

    def by_the_end_of(self, unit: int) -> int:
        """How many characters are known to have been begun by the end of a unit: if it has not been read
        back, those of the units before it."""
        return self.num_chars[min(unit, len(self.num_chars) - 1)] if self.num_chars else 0

    def _read(self, label: int, entries: list[int], num_visible: int) -> None:
        before, self._before = self._before, label
        if label in (self._blank, before):
            return
        is_new = label != self._last_label
        self._last_label = label
        begun = self._num_begun
        ahead = entries[begun:num_visible]
        if ahead[:1] == [label]:  # also if a word is said twice, which is no new label
            self._num_begun += 1
        elif is_new and label in ahead:
            self._num_begun += ahead.index(label) + 1
        elif is_new and ahead and not (begun and entries[begun - 1] == label):
            self._num_begun += 1

    def _take_text(self, num_tokens: int) -> None:
        new = self._request.text_ids[self._num_taken : num_tokens]
        self._num_taken += len(new)
        self._num_chars += len(self._detokenizer.push(new))
