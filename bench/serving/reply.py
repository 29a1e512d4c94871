"""What one client sees of one reply while it streams: when text and sound arrive, and whether a player that
plays them runs dry."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Failed", "Measured", "Reply"]


class Failed(Exception):
    """A request without a whole reply. `kind` is short, and the same for all that failed alike."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True)
class Measured:
    """One request. Times are in seconds from when it was due; None for what did not happen."""

    kind: str
    """Of the question."""
    due_s: float
    """When it was due, on the clock of `time.perf_counter`."""
    ttft_s: float | None
    """To the first text."""
    ttfa_s: float | None
    """To the first samples of speech."""
    tpot_s: float | None
    """From the first text or sound to the end, per token after the first (tokens as the server counts)."""
    rtf: float | None
    """Time to the last samples, divided by the length of the speech."""
    e2el_s: float
    """To the end."""
    audio_s: float
    """Length of the speech."""
    underrun_s: float | None
    """How long in all a player that began with the first samples had nothing to play. A player that waits
    this long before it begins plays without a gap."""
    heard_s: float | None
    """To when such a player has played it all."""
    num_tokens: int | None
    failure: str | None
    """The kind of failure; None if the reply is whole."""

    @property
    def left_s(self) -> float:
        """How long its sound goes on after its end."""
        return 0.0 if self.heard_s is None else max(0.0, self.heard_s - self.e2el_s)


class Reply:
    """Takes note of what arrives; times are those of one clock."""

    def __init__(self, kind: str, due_s: float) -> None:
        self._kind = kind
        self._due_s = due_s
        self._first_text_s: float | None = None
        self._first_audio_s: float | None = None
        self._last_audio_s = 0.0
        self._plays_until_s = 0.0
        self._underrun_s = 0.0
        self._audio_s = 0.0
        self.num_tokens: int | None = None

    def due(self, now_s: float) -> None:
        """The request is complete only now: times count from here."""
        self._due_s = now_s

    def add_text(self, now_s: float) -> None:
        """Some text has arrived."""
        if self._first_text_s is None:
            self._first_text_s = now_s

    def add_audio(self, now_s: float, seconds: float) -> None:
        """Samples of this length have arrived."""
        if self._first_audio_s is None:
            self._first_audio_s = self._plays_until_s = now_s
        self._underrun_s += max(0.0, now_s - self._plays_until_s)
        self._plays_until_s = max(self._plays_until_s, now_s) + seconds
        self._last_audio_s = now_s
        self._audio_s += seconds

    def end(self, now_s: float, failure: str | None = None) -> Measured:
        """Nothing more will arrive. A whole reply has sound."""
        if failure is None and self._first_audio_s is None:
            failure = "no audio"
        firsts = [first for first in (self._first_text_s, self._first_audio_s) if first is not None]
        tpot_s = None
        if firsts and self.num_tokens is not None and self.num_tokens > 1:
            tpot_s = (now_s - min(firsts)) / (self.num_tokens - 1)
        has_sound = self._first_audio_s is not None and self._audio_s > 0
        return Measured(
            kind=self._kind,
            due_s=self._due_s,
            ttft_s=self._since_due(self._first_text_s),
            ttfa_s=self._since_due(self._first_audio_s),
            tpot_s=tpot_s,
            rtf=(self._last_audio_s - self._due_s) / self._audio_s if has_sound else None,
            e2el_s=now_s - self._due_s,
            audio_s=self._audio_s,
            underrun_s=self._underrun_s if has_sound else None,
            heard_s=self._plays_until_s - self._due_s if has_sound else None,
            num_tokens=self.num_tokens,
            failure=failure,
        )

    def _since_due(self, moment_s: float | None) -> float | None:
        return None if moment_s is None else moment_s - self._due_s
