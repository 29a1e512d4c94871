"""Speech that is still coming in to the units so far, for a model to read before the speech ends."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from antiphon.codec.analysis.hearing import UNIT_SAMPLES, HeardPiece, hear_piece, hear_whole
from antiphon.codec.analysis.logmel import INPUT_RATE_HZ
from antiphon.codec.analysis.speech_tokenizer import PIECE_SAMPLES, SpeechTokenizer
from antiphon.config import InputLimits
from antiphon.errors import InvalidRequest
from antiphon.process.at_exit import awaited_at_exit
from antiphon.process.ownership import OfOneProcess
from antiphon.sound.arrays import AudioArray, integer
from antiphon.sound.decoding import check_duration
from antiphon.sound.resample import StreamingResampler
from antiphon.sound.samples import SampleReader, check_rate, num_frames

__all__ = ["ListenSchedule", "Listener"]


@dataclass(frozen=True)
class ListenSchedule:
    """When a listener runs its network over the open piece again, and how much of the result it passes on."""

    interval_s: float = 0.4
    """Seconds of new audio that it waits for; > 0."""
    growth: float = 0.1
    """New audio that it waits for, as a fraction of what the network last saw of the piece; >= 0. It bounds
    the cost: with the defaults, the network sees about ten times as much audio as comes in."""
    holdback_units: int = 1
    """How many of the newest units of the open piece are held back until more audio or its end comes; >= 0.
    One by default: the audio so far may fill that unit only partly, and its features see the audio reflected
    at its end, so it is the one that changes most."""

    def __post_init__(self) -> None:
        _check_number("ListenSchedule.interval_s", self.interval_s)
        _check_number("ListenSchedule.growth", self.growth, or_zero=True)
        if integer("ListenSchedule.holdback_units", self.holdback_units) < 0:
            raise InvalidRequest(
                f"ListenSchedule.holdback_units: expected 0 or more, got {self.holdback_units}"
            )


class Listener(OfOneProcess):
    """Maps audio to units while it comes in; at the end, they equal those of `Codec.tokenize`.

    The network may look at its whole piece of 30 s, and the floor of the log-mel follows the loudest value in
    it. So every unit of the open piece may change until the piece is full, and the open piece goes through
    the network again whenever enough new audio has come: the schedule's interval or its growth, whichever is
    more. Units of full pieces do not change.

    Where silence is cut, it is found anew each time, since what counts as silence depends on the whole piece;
    while nothing but silence comes, the network is not run.

    All state is kept here, so any number of listeners may share a tokenizer. A listener holds the samples of
    the open piece at 16 kHz (2 MB at most) and the units. Not thread-safe.
    """

    def __init__(
        self,
        tokenizer: SpeechTokenizer,
        rate_hz: int,
        schedule: ListenSchedule,
        max_audio_s: float = InputLimits.max_audio_s,
        *,
        trims: bool = False,
    ) -> None:
        """rate_hz: the rate of the audio. max_audio_s: longer audio is refused. trims: silence is cut before
        the network hears it. Raises InvalidRequest."""
        _check_number("max_audio_s", max_audio_s)
        self.rate_hz = check_rate(rate_hz)
        self.schedule = schedule
        self._tokenizer = tokenizer
        self._trims = trims
        self._limits = InputLimits(max_audio_s=max_audio_s)
        self._resampler = StreamingResampler(self.rate_hz, INPUT_RATE_HZ)
        self._reader = SampleReader()
        self._num_samples = 0
        # The open piece: its samples, and what the network last heard in the first num_read of them.
        self._piece: AudioArray = np.empty(PIECE_SAMPLES, np.float32)
        self._num_held = 0
        self._num_read = 0
        self._open = HeardPiece()
        self._num_closed = 0
        """Samples at 16 kHz in the pieces that are full."""
        self._final_units: list[int] = []
        self._final_places: list[int] = []
        self._peeked: tuple[int, list[int]] = (0, [])
        """The last result of `peek`, and of how many samples it is."""
        self._told: tuple[list[int], int] = ([], 0)
        """The places of the units that were last returned and of the one after them, and where the sound ends
        that they were heard in, all in units of the sound."""
        self._is_open = True

    @awaited_at_exit
    def push(self, samples: Any) -> list[int] | None:
        """Takes the next samples, in any form that `Codec.tokenize` takes, or an empty array.

        Returns all units so far, from the beginning of the audio, or None if the network was not run. Raises
        InvalidRequest for samples that it cannot take, for more than `max_audio_s` in all (both leave it
        unchanged), and after the end.
        """
        self._check_open()
        check_duration(self._num_samples + num_frames(samples), self.rate_hz, self._limits)
        mono = self._reader.read(samples, or_none=True)
        if not len(mono):
            return None
        check_duration(self._num_samples + len(mono), self.rate_hz, self._limits)
        # If the network fails, these samples are missing, so the listener stays closed.
        self._is_open = False
        self._num_samples += len(mono)
        was_read = self._take(self._resampler.push(mono))
        self._is_open = True
        if not was_read:
            return None
        num_open = max(0, len(self._open.units) - self.schedule.holdback_units)
        self._note(self._open.places(self._num_closed), self._num_closed + self._num_read)
        return self._final_units + self._open.units[:num_open]

    @awaited_at_exit
    def peek(self) -> list[int]:
        """All units if the audio ended here, those of `Codec.tokenize`; empty before the first sample.

        More may be pushed after it, and what comes of that is as if this had not been called. It runs the
        network over the open piece, except where nothing was pushed since it last did. Raises InvalidRequest
        after the end.
        """
        self._check_open()
        if self._peeked[0] != self._num_samples:
            tail = self._resampler.tail()
            units, places = self._open.units, self._open.places(self._num_closed)
            if len(tail) or self._num_read < self._num_held or not self._final_units + units:
                start, held = self._last_piece()
                held = np.concatenate([held, tail])
                heard = hear_whole(self._tokenizer, held, trims=self._trims, or_all=not self._final_units)
                units, places = list(heard.units), [start + place for place in heard.places]
            self._peeked = (self._num_samples, self._final_units + units)
            self._note(places, self._num_closed + self._num_held + len(tail))
        return list(self._peeked[1])

    @awaited_at_exit
    def finish(self) -> list[int]:
        """Returns all units. Raises InvalidRequest if nothing was ever pushed, and after the end."""
        self._check_open()
        if not self._num_samples:
            raise InvalidRequest("audio: expected at least one sample, got none")
        self._is_open = False
        if self._peeked[0] == self._num_samples:
            return self._peeked[1]
        self._take(self._resampler.finish())
        if self._num_read < self._num_held:
            self._read()
        start, last = self._last_piece()
        self._close_piece()
        if self._trims and not self._final_units and len(last):
            heard = hear_whole(self._tokenizer, last, trims=True)
            self._final_units = list(heard.units)
            self._final_places = [start + place for place in heard.places]
        self._note([], self._num_closed)
        return self._final_units

    def sound_units(self, num_units: int) -> int:
        """How long the sound was, in units, in which the first `num_units` units were heard, of those that it
        returned last: with the silence that was cut before, between and after them.

        May be called while another thread pushes; then it holds for the units before or after that.
        """
        if not self._trims:
            return num_units
        places, end = self._told
        return places[num_units] if num_units < len(places) else max(end, num_units)

    def _last_piece(self) -> tuple[int, AudioArray]:
        """Where the open piece begins, in units of the sound, and its samples; if it has none, and nothing
        was heard, those of the piece before."""
        is_empty = not self._num_held and self._num_closed and not self._final_units
        start = self._num_closed - (PIECE_SAMPLES if is_empty else 0)
        return start // UNIT_SAMPLES, self._piece[: PIECE_SAMPLES if is_empty else self._num_held]

    def _take(self, samples: AudioArray) -> bool:
        """Adds samples at 16 kHz. Returns whether the network was run."""
        was_read = False
        while len(samples):
            added = samples[: PIECE_SAMPLES - self._num_held]
            samples = samples[len(added) :]
            self._piece[self._num_held : self._num_held + len(added)] = added
            self._num_held += len(added)
            is_full = self._num_held == PIECE_SAMPLES
            if is_full or self._num_held - self._num_read >= self._due():
                self._read()
                was_read = True
            if is_full:
                self._close_piece()
        return was_read

    def _due(self) -> float:
        """Number of new samples at 16 kHz before the network is run again."""
        return max(self.schedule.interval_s * INPUT_RATE_HZ, self.schedule.growth * self._num_read)

    def _read(self) -> None:
        piece = self._piece[: self._num_held]
        before = self._open if self._num_read else None
        self._open = hear_piece(self._tokenizer, piece, trims=self._trims, before=before)
        self._num_read = self._num_held

    def _close_piece(self) -> None:
        self._final_units += self._open.units
        self._final_places += self._open.places(self._num_closed)
        self._open = HeardPiece()
        self._num_closed += self._num_held
        self._num_held = self._num_read = 0

    def _note(self, open_places: list[int], num_samples: int) -> None:
        self._told = (self._final_places + open_places, num_samples // UNIT_SAMPLES)

    def _check_open(self) -> None:
        if not self._is_open:
            raise InvalidRequest(
                "audio: this listener has finished or its network has failed; more needs a new one"
            )


def _check_number(name: str, value: Any, or_zero: bool = False) -> None:
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not is_number or not 0 <= value < inf or (value == 0 and not or_zero):
        wanted = "of 0 or more" if or_zero else "above 0"
        raise InvalidRequest(f"{name}: expected a finite number {wanted}, got {value!r}")
