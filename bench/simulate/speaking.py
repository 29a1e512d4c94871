"""Speech that asks for its text at an even pace, as a trace knows no labels."""

from __future__ import annotations

from antiphon.sched.speaking import SpeakingState

__all__ = ["EvenSpeaking"]


class EvenSpeaking(SpeakingState):
    """Asks for a fusion entry whenever `rate` times the number of units read so far reaches the next whole
    number, whatever the labels are. Any text has something to say, and none ends the turn: its length
    does."""

    rate = 0.0
    """Text tokens that a unit asks for; set before the first unit is read."""

    def entries_wanted(self, label: int) -> int:
        read = len(self.unit_labels)
        return len(self.fusion_ids) + int(self.rate * read) - int(self.rate * (read - 1))

    def steps_without_text(self, num_text: int, most: int, *, text_ended: bool) -> int:
        """How many units, at most `most`, can be read back before one waits for more than these text
        tokens."""
        if self.waits:
            return 0
        if text_ended:
            return most
        read, spare = len(self.unit_labels), num_text - len(self.fusion_ids)
        asked_before = int(self.rate * read)
        steps = most
        if self.rate > 0:
            steps = int(min(most, (asked_before + spare + 1) / self.rate - read + 1))
        while steps > 0 and int(self.rate * (read + steps)) - asked_before > spare:
            steps -= 1
        return max(0, steps)

    def read_back_many(self, count: int, label: int, text_ids: list[int]) -> None:
        """Read back so many units, none of which has to wait for text that is still to come; see
        `steps_without_text`."""
        read, before = len(self.unit_labels), len(self.fusion_ids)
        asked_before = int(self.rate * read)
        self.unit_labels += [label] * count
        known = len(text_ids)
        wanted = [
            min(known, before + int(self.rate * later) - asked_before)
            for later in range(read + 1, read + count + 1)
        ]
        self.visible += wanted
        taken = range(self.num_consumed, self.num_consumed + wanted[-1] - before)
        self.fusion_ids += [text_ids[i] for i in taken]
        self.entry_ends += [i + 1 for i in taken]
        self.num_consumed += len(taken)
