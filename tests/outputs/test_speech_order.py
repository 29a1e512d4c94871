"""Whose chunk of speech is made next, and whose sound may begin."""

from __future__ import annotations

import numpy as np
import pytest
from speaking import (
    LONG_S,
    POISON,
    STREAMED,
    Clock,
    Gate,
    all_spoken,
    breaks_on_poison,
    units_of,
    wait_until,
)

from antiphon.codec import Codec
from antiphon.outputs import speech_worker
from antiphon.outputs.pacing import Pace
from antiphon.outputs.speech_worker import SpeechWorker


@pytest.mark.parametrize(
    ("waited_s", "order"), [(0.0, [1, 1, 2]), (0.1, [1, 2, 1])], ids=["at once", "later"]
)
def test_whose_sound_ends_first_is_served_first(
    worker: SpeechWorker,
    codec: Codec,
    monkeypatch: pytest.MonkeyPatch,
    waited_s: float,
    order: list[int],
) -> None:
    """The first chunk is 0.26 s of sound. A request that has none yet may wait 0.3 s: first comes the one
    whose sound runs out, unless the other one has waited for a while."""
    worker.num_threads = 1
    clock = Clock()
    monkeypatch.setattr(speech_worker, "time", clock)
    gate = Gate(codec, monkeypatch)
    worker.begin("long", None, 0, STREAMED)
    worker.push("long", [1] * 100)
    assert gate.is_held.wait(LONG_S)
    worker.begin("new", None, 0, STREAMED)
    worker.push("new", [2] * 20)
    clock.now_s += waited_s
    gate.is_open.set()
    worker.push("long", final=True)
    worker.push("new", final=True)
    all_spoken(worker)
    assert gate.order[:3] == order


@pytest.mark.parametrize(
    ("gapless", "frames_per_s", "order"),
    [(False, 300.0, "ab"), (True, 300.0, "a"), (True, 1200.0, "ab"), (True, None, "ab")],
    ids=["not asked for", "two are too many", "two are few", "at an unknown rate"],
)
def test_sound_that_would_have_gaps_is_held_back(
    worker: SpeechWorker,
    codec: Codec,
    monkeypatch: pytest.MonkeyPatch,
    gapless: bool,
    frames_per_s: float | None,
    order: str,
) -> None:
    """A second of sound is 86 frames, and those of its context: one listener can be kept going at 300 frames
    a second, two cannot. Where the second one has to wait, its sound begins when the first one has all of
    its own. No time passes, so nobody's sound runs out."""
    worker.num_threads = 1
    monkeypatch.setattr(speech_worker, "time", Clock())
    monkeypatch.setattr(Pace, "frames_per_s", frames_per_s)
    told: list[str] = []
    for name in "ab":
        worker.begin(name, None, 0, STREAMED, gapless=gapless)
        worker.push(name, units_of(20, 1))
        while len(told) < len(order) and name not in told:
            told += [spoken.request_id for spoken in worker.poll(LONG_S)]
    assert "".join(told) == order
    if order == "a":  # it is made while there is time
        wait_until(lambda: bool(worker._jobs["b"].held))
    worker.push("a", units_of(30, 1)[20:], final=True)
    if order == "a":
        while "b" not in told:
            told += [spoken.request_id for spoken in worker.poll(LONG_S)]
        assert told[-2:] == ["a", "b"]
    worker.push("b", units_of(30, 1)[20:], final=True)
    all_spoken(worker)


def test_who_is_alone_does_not_wait(worker: SpeechWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one that waited for another that is then aborted."""
    monkeypatch.setattr(Pace, "frames_per_s", 1.0)
    worker.begin("a", None, 0, STREAMED, gapless=True)
    worker.push("a", units_of(20, 1))
    assert [spoken.request_id for spoken in worker.poll(LONG_S)] == ["a"]
    worker.begin("b", None, 0, STREAMED, gapless=True)
    worker.push("b", units_of(20, 2))
    wait_until(lambda: bool(worker._jobs["b"].held))
    assert worker.poll() == []
    worker.abort("a")
    assert [spoken.request_id for spoken in worker.poll()] == ["b"]


def test_held_sound_comes_before_an_error(
    worker: SpeechWorker, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does where nothing is held back: what was made is told."""
    breaks_on_poison(codec, monkeypatch)
    monkeypatch.setattr(Pace, "frames_per_s", 1.0)
    worker.begin("a", None, 0, STREAMED)
    worker.push("a", units_of(20, 1))
    worker.begin("b", None, 0, STREAMED, gapless=True)
    units = units_of(20, 2)
    worker.push("b", units)
    wait_until(lambda: bool(worker._jobs["b"].held))
    worker.push("b", [POISON] * 40, final=True)
    wait_until(lambda: "b" not in worker._jobs)
    (told,) = [spoken for spoken in worker.poll() if spoken.request_id == "b"]
    assert told.error == "speech: RuntimeError: out of luck"
    assert np.array_equal(told.samples, codec.stream().push(units))


def test_held_sound_is_the_same(worker: SpeechWorker, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "frames_per_s", 100.0)
    spoken = {name: units_of(40 + 20 * i, i) for i, name in enumerate("abcd")}
    for name, units in spoken.items():
        worker.begin(name, None, 0, STREAMED, gapless=True)
        worker.push(name, units, final=True)
    samples, ends = all_spoken(worker)
    assert ends == dict.fromkeys(spoken)
    for name, units in spoken.items():
        assert np.array_equal(samples[name], codec.stream().push(units, final=True)), name
