"""How speech follows text: which text tokens each unit step may attend to.

The state of the paper's alignment-based fusion (arXiv 2506.13642, section 3.3): text is consumed one *fusion
entry* at a time, whenever the units read back so far have spelled a new CTC label.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["SpeakingState"]


class SpeakingState:
    """Consumes a request's text as its units ask for it.

    The text may have been decoded far ahead; what is consumed, and when, depends on the labels
    alone, so the result is the same for any run-ahead.
    """

    def __init__(
        self, *, blank: int, eot: int, lag: int, carries_speech: Callable[[int], bool], text_input: bool
    ) -> None:
        self.fusion_ids: list[int] = []
        """Consumed text ids that carry something to say."""
        self.entry_ends: list[int] = []
        """For each of these, how many text tokens had been consumed with it."""
        self.visible: list[int] = []
        """For each unit step that may be taken: how many fusion entries it may attend to."""
        self.unit_labels: list[int] = []
        """CTC labels of the units read back."""
        self.num_consumed = 0
        """Text tokens consumed."""
        self.ended = False
        """The end of turn has been consumed: nothing more will be."""
        self._blank, self._eot, self._lag = blank, eot, lag
        self._carries_speech = carries_speech
        self._text_input = text_input
        self._last_label = blank
        self._target: int | None = lag  # entries the next unit step waits for; None: it does not wait

    def again(self, text_ids: list[int], *, text_ended: bool) -> SpeakingState:
        """A new state made from the labels so far and this text: after a fault, this one may be half
        updated."""
        state = type(self)(
            blank=self._blank,
            eot=self._eot,
            lag=self._lag,
            carries_speech=self._carries_speech,
            text_input=self._text_input,
        )
        state.consume(text_ids, text_ended=text_ended)
        for label in self.unit_labels:
            if state.waits:  # the label was read, but what its unit waited for was not recorded
                break
            state.read_back(label)
            state.consume(text_ids, text_ended=text_ended)
        return state

    @property
    def waits(self) -> bool:
        """The next unit step waits for text."""
        return self._target is not None

    @property
    def silent(self) -> bool:
        """No further text will ever be asked for."""
        if self.waits:
            return False
        closed = (
            self._text_input and bool(self.fusion_ids) and self.fusion_ids[-1] in (self._eot, self._blank)
        )
        return self.ended or closed

    def read_back(self, label: int) -> None:
        """Take the label that a unit was read back as."""
        assert not self.waits, "a unit is read back after it was spoken"
        self.unit_labels.append(label)
        self._target = self.entries_wanted(label)
        if len(self.fusion_ids) >= self._target:  # as for most units: a word lasts several
            self._grant()

    def entries_wanted(self, label: int) -> int:
        """How many fusion entries the next unit step waits for: after a new label, one more than before.

        A label is new if it is neither blank nor the last label that was not blank: unlike in CTC
        collapse, one that is repeated across a blank is not new.
        """
        is_new = label not in (self._blank, self._last_label)
        if label != self._blank:
            self._last_label = label
        entries = len(self.fusion_ids)
        return max(entries + 1, self._lag) if is_new and not self.silent else entries

    def consume(self, text_ids: list[int], *, text_ended: bool) -> None:
        """Take from the text what the next unit step waits for, as far as it has been decoded."""
        while self._target is not None:
            if self.ended or len(self.fusion_ids) >= self._target:
                self._grant()
            elif self.num_consumed < len(text_ids):
                token = text_ids[self.num_consumed]
                self.num_consumed += 1
                if self._carries_speech(token):
                    self.fusion_ids.append(token)
                    self.entry_ends.append(self.num_consumed)
                self.ended = token == self._eot
            elif text_ended:  # by its length limit: speech goes on with what there is
                self._grant()
            else:
                return

    def _grant(self) -> None:
        self.visible.append(len(self.fusion_ids))
        self._target = None
