"""Events of turns: their order, their places, and that only the sound decides, not how it comes in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.errors import InvalidRequest
from antiphon.sound.arrays import AudioArray
from antiphon.turns.detector import TurnDetector
from antiphon.turns.energy import EnergyActivity
from antiphon.turns.events import (
    IdleTimeout,
    SpeechEnded,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    TurnEvent,
)
from antiphon.turns.frames import FRAME_SAMPLES, Frames
from antiphon.turns.settings import Eagerness, TurnDetection, TurnKind

RATE_HZ = 16000
FRAME_MS = 32


class Told:
    """A `VoiceActivity` that is told what it is to say: the first sample of each frame."""

    rate_hz = RATE_HZ
    frame_samples = FRAME_SAMPLES

    def __init__(self) -> None:
        self._frames = Frames(FRAME_SAMPLES)

    def push(self, samples: AudioArray) -> list[float]:
        return [float(frame[0]) for frame in self._frames.push(samples)]

    def reset(self) -> None:
        self._frames.reset()


class Late(Told):
    """Lets go of speech two frames after it has ended, as networks do."""

    def __init__(self) -> None:
        super().__init__()
        self._last = [0.0, 0.0]

    def push(self, samples: AudioArray) -> list[float]:
        said = []
        for loudness in super().push(samples):
            probability = float(loudness >= 0.1)
            said.append(max(probability, *self._last))
            self._last = [self._last[1], probability]
        return said


def sound(*frames: tuple[int, float]) -> AudioArray:
    """Of (number of frames, probability of speech)."""
    return np.concatenate([np.full(num * FRAME_SAMPLES, value, np.float32) for num, value in frames])


def told(**settings: Any) -> TurnDetector:
    return TurnDetector(TurnDetection(**settings), Told(), RATE_HZ)


def where(detector: TurnDetector) -> tuple[int | None, int | None]:
    return detector.started_at, detector.paused_at


def at(frame: int) -> int:
    return frame * FRAME_SAMPLES


def check_order(events: Sequence[TurnEvent], num_samples: int) -> None:
    """Turns do not overlap, pauses lie inside them, and nothing lies outside the sound."""
    state, floor, paused_at = "between", 0, 0
    for event in events:
        assert 0 <= event.at <= num_samples
        match event:
            case SpeechStarted():
                assert state == "between" and event.at >= floor
                state = "speech"
            case SpeechPaused():
                assert state == "speech" and event.at >= floor
                state, paused_at = "pause", event.at
            case SpeechResumed():
                assert state == "pause" and event.at >= paused_at
                state = "speech"
            case SpeechEnded():
                assert state == "pause" and event.at == paused_at
                state = "between"
            case IdleTimeout():
                assert state == "between" and event.at >= floor
        floor = event.at


def test_a_turn() -> None:
    """Speech of frames 20 to 49: with 300 ms before it, and 96 ms after."""
    detector = told()
    assert detector.push(sound((20, 0.1), (1, 0.9))) == []
    assert where(detector) == (None, None)
    assert detector.push(sound((1, 0.9))) == [SpeechStarted(at(20) - 4800)]
    assert where(detector) == (at(20) - 4800, None)
    assert detector.push(sound((28, 0.9), (2, 0.1))) == []
    assert detector.push(sound((1, 0.1))) == [SpeechPaused(at(53))]
    assert where(detector) == (at(20) - 4800, at(53))
    assert detector.push(sound((12, 0.1))) == []  # 480 ms of silence
    assert detector.push(sound((1, 0.1))) == [SpeechEnded(at(53))]
    assert where(detector) == (None, None)
    assert detector.num_samples == at(66)


def test_a_pause_inside_a_turn() -> None:
    events = told().push(sound((20, 0), (10, 1), (10, 0), (5, 1), (20, 0)))
    assert events == [
        SpeechStarted(at(20) - 4800),
        SpeechPaused(at(33)),
        SpeechResumed(at(40)),
        SpeechPaused(at(48)),
        SpeechEnded(at(48)),
    ]


def test_a_turn_begins_neither_before_the_sound_nor_within_the_turn_before() -> None:
    events = told(silence_duration_ms=96, prefix_padding_ms=1000).push(sound((5, 1), (4, 0), (5, 1), (4, 0)))
    assert [event for event in events if isinstance(event, SpeechStarted | SpeechEnded)] == [
        SpeechStarted(0),
        SpeechEnded(at(8)),
        SpeechStarted(at(8)),
        SpeechEnded(at(17)),
    ]


def test_a_moment_is_no_speech() -> None:
    """Neither where a turn might begin, nor in a pause, whose silence goes on meanwhile."""
    knocks = [(1, 1.0), (1, 0.0)] * 30
    assert told().push(sound(*knocks)) == []
    events = told().push(sound((10, 1), *[(1, 0.0), (1, 0.0), (1, 0.0)], *knocks))
    assert [type(event) for event in events] == [SpeechStarted, SpeechPaused, SpeechEnded]


def test_a_pause_does_not_end_while_speech_may_have_begun() -> None:
    events = told().push(sound((10, 1), (15, 0), (2, 1), (20, 0)))
    assert [type(event) for event in events][:3] == [SpeechStarted, SpeechPaused, SpeechResumed]


def test_speech_lasts_until_it_is_well_below_the_threshold() -> None:
    detector = told(threshold=0.6)
    assert detector.push(sound((10, 0.59))) == []
    assert [type(event) for event in detector.push(sound((2, 0.6), (20, 0.46)))] == [SpeechStarted]
    assert [type(event) for event in detector.push(sound((3, 0.44)))] == [SpeechPaused]


@pytest.mark.parametrize(
    ("text", "num_trailing_blanks", "num_units", "waits_ms"),
    [
        ("How many shapes can you see", 5, 9, {"low": 800, "medium": 352, "auto": 352, "high": 256}),
        ("How many shapes can you see", 1, 9, {"low": 960, "medium": 512, "auto": 512, "high": 416}),
        ("How many shapes can you see", 1, 10, {"low": 800, "medium": 352, "auto": 352, "high": 256}),
        ("Is the red triangle", 5, 10, {"low": 2016, "medium": 1216, "auto": 1216, "high": 704}),
        ("How many shapes can you", 5, 10, {"low": 8000, "medium": 4000, "auto": 4000, "high": 2016}),
        ("", 30, 10, {"low": 2016, "medium": 1216, "auto": 1216, "high": 704}),
    ],
)
@pytest.mark.parametrize("eagerness", ["low", "medium", "auto", "high"])
def test_what_is_heard_decides(
    eagerness: Eagerness, text: str, num_trailing_blanks: int, num_units: int, waits_ms: dict[str, int]
) -> None:
    """The turn lasts 416 ms up to its pause, 10.4 units."""
    detector = told(kind="semantic_vad", eagerness=eagerness)
    detector.push(sound((10, 1), (3, 0)))
    assert detector.heard(text, num_trailing_blanks, num_units) == []
    waited_ms = 96
    while not detector.push(sound((1, 0))):
        waited_ms += FRAME_MS
    assert waited_ms + FRAME_MS == waits_ms[eagerness]


@pytest.mark.parametrize(
    ("tail", "silence", "late_frames"),
    [(0.0, 0.0, 2), (0.008, 0.0, 2), (0.02, 0.0, 0), (0.03, 0.02, 2), (0.06, 0.02, 0)],
)
def test_silence_is_counted_from_where_the_sound_fades(tail: float, silence: float, late_frames: int) -> None:
    """To 40 dB below the speech, or to what is as quiet as the silence that follows."""
    detector = TurnDetector(TurnDetection(), Late(), RATE_HZ)
    assert [type(event) for event in detector.push(sound((10, 0.9), (2, tail)))] == [SpeechStarted]
    waited = 0
    while not any(isinstance(event, SpeechEnded) for event in detector.push(sound((1, silence))[:32])):
        waited += 32
    assert (waited + 32) / 16 == 500 - late_frames * FRAME_MS


def test_a_turn_ends_on_its_millisecond_unless_something_is_heard() -> None:
    """500 ms after 10 frames end 20 ms into the sixteenth frame of silence."""
    detector = told()
    detector.push(sound((10, 1), (15, 0)))
    assert detector.push(np.zeros(319, np.float32)) == []
    assert detector.push(np.zeros(1, np.float32)) == [SpeechEnded(at(13))]
    detector = told()
    detector.push(sound((10, 1), (15, 0)))
    assert detector.push(np.full(400, 0.1, np.float32)) == []
    assert detector.push(np.zeros(112, np.float32)) == [SpeechEnded(at(13))], "it was not speech"


def test_a_transcript_that_comes_late_ends_the_turn_at_once() -> None:
    detector = told(kind="semantic_vad")
    detector.push(sound((10, 1), (25, 0)))
    assert detector.heard("How many shapes can you see?", 6, 19) == [SpeechEnded(at(13))]
    assert detector.heard("How many shapes can you see?", 7, 20) == []


def test_a_transcript_of_the_beginning_alone_decides_nothing() -> None:
    """The speech is 320 ms long, and the model has read 200 ms."""
    detector = told(kind="semantic_vad")
    detector.push(sound((10, 1), (25, 0)))
    assert detector.heard("How many shapes can you see?", 3, 5) == []
    assert detector.heard("How many shapes can you", 3, 5) == []
    assert detector.push(sound((13, 0))) == [SpeechEnded(at(13))]


def test_what_was_heard_counts_for_its_own_turn() -> None:
    detector = told(kind="semantic_vad")
    assert detector.heard("Who is John?", 9, 99) == []
    detector.push(sound((10, 1), (5, 0)))
    assert detector.heard("Who is John?", 9, 99) == []
    assert [type(event) for event in detector.push(sound((10, 0)))] == [SpeechEnded]
    events = detector.push(sound((10, 1), (30, 0)))
    assert [type(event) for event in events] == [SpeechStarted, SpeechPaused]


def test_the_caller_ends_a_turn() -> None:
    detector = told()
    assert detector.end() == []
    detector.push(sound((10, 1))[:-7])
    assert detector.end() == [SpeechPaused(at(10) - 7), SpeechEnded(at(10) - 7)]
    detector.push(sound((10, 1), (5, 0)))
    assert [type(event) for event in detector.end()] == [SpeechEnded]
    assert detector.end() == []


def test_a_dropped_turn_is_forgotten() -> None:
    detector = told()
    detector.push(sound((10, 1), (5, 0)))
    detector.drop()
    assert detector.started_at is None
    assert detector.push(sound((30, 0))) == []
    events = detector.push(sound((3, 1)))
    assert events == [SpeechStarted(at(45) - 4800)]
    detector.drop()
    assert detector.push(sound((2, 1))) == [SpeechStarted(at(48))], "not before the audio that was dropped"


def test_idle_timeouts() -> None:
    detector = told(idle_timeout_ms=320)
    assert detector.push(sound((9, 0))) == []
    assert detector.push(sound((1, 0))) == [IdleTimeout(at(10))]
    assert detector.push(sound((30, 0))) == [], "once"
    detector.watch_idle()
    assert detector.push(sound((10, 0))) == [IdleTimeout(at(50))]
    events = detector.push(sound((5, 1), (16, 0)))
    assert isinstance(events[-1], SpeechEnded)
    detector.watch_idle(False)
    assert detector.push(sound((30, 0))) == []
    detector.watch_idle()
    assert detector.push(sound((9, 0), (1, 1), (1, 0))) == [IdleTimeout(at(112))]
    assert detector.push(sound((1, 0), (2, 1))) == [SpeechStarted(at(112))], "not before the timeout"


@pytest.mark.parametrize("rate_hz", [0, -1, 16000.0, True, None])
def test_wrong_rates(rate_hz: Any) -> None:
    with pytest.raises(InvalidRequest, match="rate_hz: expected an integer >= 1"):
        TurnDetector(TurnDetection(), Told(), rate_hz)


runs = st.lists(
    st.tuples(st.integers(1, 30), st.sampled_from([0.0, 0.3, 0.4, 0.6, 1.0])), min_size=1, max_size=12
)
sizes = st.lists(st.integers(1, 3000), min_size=1, max_size=20)
kinds = st.sampled_from(["server_vad", "semantic_vad"])
texts = st.sampled_from(["", "How many", "How many shapes can you see?", "Twelve", "Is there a circle?"])


@given(runs, sizes, kinds, st.sampled_from([0, 300, 2000]), st.sampled_from([0, 96, 500]), st.data())
def test_events_come_in_order(
    frames: list[tuple[int, float]],
    pieces: list[int],
    kind: TurnKind,
    padding_ms: int,
    silence_ms: int,
    data: st.DataObject,
) -> None:
    """Whatever is heard, ended and dropped meanwhile."""
    detector = told(
        kind=kind, prefix_padding_ms=padding_ms, silence_duration_ms=silence_ms, idle_timeout_ms=400
    )
    samples, events, done, turn = sound(*frames), [], 0, 0
    for size in pieces:
        events += detector.push(samples[done : done + size])
        done += len(samples[done : done + size])
        if data.draw(st.booleans()):
            events += detector.heard(
                data.draw(texts), data.draw(st.integers(0, 9)), data.draw(st.integers(0, 99))
            )
        if data.draw(st.integers(0, 9)) == 0:
            events += detector.end()
        assert (detector.started_at is None) == (not _is_open(events[turn:]))
        if data.draw(st.integers(0, 19)) == 0:
            detector.drop()
            check_order(events[turn:], done)
            turn = len(events)
    check_order(events[turn:], done)
    assert detector.num_samples == done


def _is_open(events: Sequence[TurnEvent]) -> bool:
    return next(
        (
            not isinstance(event, SpeechEnded)
            for event in reversed(events)
            if not isinstance(event, IdleTimeout)
        ),
        False,
    )


def voiced(seed: int, seconds: float, rate_hz: int) -> AudioArray:
    """Noise that comes and goes like speech."""
    rng = np.random.default_rng(seed)
    num = round(seconds * rate_hz)
    swells = np.repeat(rng.choice([0.001, 0.3], num // 1000 + 1), 1000)[:num]
    swells[: round(0.4 * rate_hz)] = 0.001
    samples: AudioArray = (rng.normal(size=num) * swells).astype(np.float32)
    return samples


@pytest.mark.slow
@pytest.mark.long
@given(
    st.integers(0, 99),
    st.lists(st.integers(0, 9000), min_size=1, max_size=8),
    st.sampled_from([8000, 16000, 24000, 44100]),
)
def test_any_split_of_the_same_sound_gives_the_same_events(seed: int, sizes: list[int], rate_hz: int) -> None:
    samples = voiced(seed, 2.0, rate_hz)
    settings = TurnDetection(silence_duration_ms=200, prefix_padding_ms=50, idle_timeout_ms=300)
    whole = TurnDetector(settings, EnergyActivity(), rate_hz).push(samples)
    detector = TurnDetector(settings, EnergyActivity(), rate_hz)
    events, begin = [], 0
    for size in [*sizes, len(samples)]:
        buffer = samples[begin : begin + size].copy()
        events += detector.push(buffer)
        buffer[:] = 1.0  # the caller's own, to fill again
        begin += size
    assert events == whole
    check_order(events, len(samples))
    assert any(isinstance(event, SpeechStarted) for event in whole) or seed
