"""Recorded speech is speech and noise is not, by the network and without it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from antiphon.codec import read_audio
from antiphon.errors import ConfigError
from antiphon.sound.arrays import AudioArray
from antiphon.sound.resample import resample
from antiphon.turns import silero
from antiphon.turns.activity import ActivityKind, voice_activity
from antiphon.turns.detector import TurnDetector
from antiphon.turns.energy import EnergyActivity
from antiphon.turns.events import SpeechEnded, SpeechStarted
from antiphon.turns.settings import TurnDetection
from antiphon.turns.silero import SileroActivity

QUESTIONS = Path(__file__).parent.parent / "golden" / "spoken_questions"
RATE_HZ = 16000
KINDS: tuple[ActivityKind, ...] = ("silero", "energy")


def coloured(num: int, slope: float, seed: int) -> np.ndarray[Any, Any]:
    """Noise of standard deviation 1: white (0), pink (0.5) or brown (1)."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(size=num))
    spectrum[1:] /= np.arange(1, len(spectrum)) ** slope
    noise: np.ndarray[Any, Any] = np.fft.irfft(spectrum, num)
    noise /= noise.std()
    return noise


def questions() -> list[AudioArray]:
    rows = json.loads((QUESTIONS / "questions.json").read_text("utf-8"))
    found = [read_audio(QUESTIONS / row["sound"]) for row in rows]
    assert {rate_hz for _, rate_hz in found} == {RATE_HZ}
    return [samples for samples, _ in found]


def turns(samples: AudioArray, kind: ActivityKind, rate_hz: int = RATE_HZ) -> list[tuple[float, float]]:
    """In seconds."""
    detector = TurnDetector(TurnDetection(), voice_activity(kind), rate_hz)
    events = [*detector.push(samples), *detector.end()]
    starts = [event.at / rate_hz for event in events if isinstance(event, SpeechStarted)]
    ends = [event.at / rate_hz for event in events if isinstance(event, SpeechEnded)]
    return list(zip(starts, ends, strict=True))


@pytest.mark.parametrize("snr_db", [60, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_a_recorded_question_is_one_turn(kind: ActivityKind, snr_db: float) -> None:
    for seed, question in enumerate(questions()):
        samples = np.concatenate([np.zeros(RATE_HZ), question, np.zeros(RATE_HZ)])
        samples += coloured(len(samples), 0.5, seed) * question.std() * 10 ** (-snr_db / 20)
        [(begin, end)] = turns(samples.astype(np.float32), kind)
        # The recordings begin with 0.09 s of silence and end with 0.25 s of it.
        assert 0.7 <= begin <= 1.0
        assert -0.45 <= end - (1 + len(question) / RATE_HZ) <= 0.15


@pytest.mark.parametrize("rate_hz", [8000, 24000, 44100])
@pytest.mark.parametrize("kind", KINDS)
def test_at_any_rate(kind: ActivityKind, rate_hz: int) -> None:
    samples = np.concatenate([np.zeros(RATE_HZ, np.float32), questions()[0], np.zeros(RATE_HZ, np.float32)])
    [(begin, end)] = turns(samples, kind)
    [found] = turns(resample(samples, RATE_HZ, rate_hz), kind, rate_hz)
    assert found == pytest.approx((begin, end), abs=0.13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slope", [0, 0.5, 1])
@pytest.mark.parametrize("level", [1e-4, 0.01, 0.3])
def test_noise_is_no_turn(kind: ActivityKind, slope: float, level: float) -> None:
    noise = coloured(10 * RATE_HZ, slope, seed=5) * level
    assert turns(noise.astype(np.float32), kind) == []


T = np.arange(3 * RATE_HZ) / RATE_HZ


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "samples",
    [
        0 * T,
        0 * T + 0.3,
        np.round(20 * np.sin(2 * np.pi * 50 * T)) / 2**15,
        0.1 * np.sign(np.sin(2 * np.pi * 120 * T)),
        np.random.default_rng(0).integers(-1, 2, len(T)) / 2**15,
        (T == 0.5).astype(float),
    ],
    ids=["silence", "offset", "quiet hum", "buzz", "dither", "click"],
)
def test_what_is_neither(kind: ActivityKind, samples: np.ndarray[Any, Any]) -> None:
    assert turns(samples.astype(np.float32), kind) == []


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_and_a_new_beginning_change_no_number(kind: ActivityKind) -> None:
    samples = questions()[0][:20000]
    activity = voice_activity(kind)
    whole = activity.push(samples)
    assert len(whole) == len(samples) // activity.frame_samples and max(whole) > 0.9
    activity.reset()
    pieces = [
        number for begin in range(0, len(samples), 777) for number in activity.push(samples[begin:][:777])
    ]
    assert pieces == whole


def test_users_do_not_hear_each_other() -> None:
    samples = questions()[0][:20000]
    one, other = SileroActivity(), SileroActivity()
    alone = SileroActivity().push(samples)
    between: list[float] = []
    for begin in range(0, len(samples), 512):
        between += one.push(samples[begin : begin + 512])
        other.push(samples[::-1][begin : begin + 512].copy())
    assert between == alone


@pytest.mark.slow
@pytest.mark.long
def test_the_network_is_fed_as_its_package_feeds_it() -> None:
    """In a process of its own: the package sets the number of torch's threads when it is imported."""
    program = f"""
import numpy as np, torch
from silero_vad import load_silero_vad
from antiphon.codec import read_audio
from antiphon.turns.silero import SileroActivity
samples, _ = read_audio({str(QUESTIONS / "00.flac")!r})
model = load_silero_vad(onnx=True)
num = len(samples) // 512
theirs = [float(model(torch.from_numpy(samples[512 * n : 512 * (n + 1)]), 16000)) for n in range(num)]
print(np.abs(np.array(theirs) - SileroActivity().push(samples)).max() < 1e-5)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["True"]


@pytest.mark.slow
@pytest.mark.long
def test_the_package_is_not_imported() -> None:
    program = """
import sys
from antiphon.turns.activity import voice_activity
voice_activity("silero")
print("silero_vad" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    silero._network.cache_clear()
    assert isinstance(voice_activity(), SileroActivity)
    silero._network.cache_clear()
    monkeypatch.setattr(silero, "find_spec", lambda name: None)
    assert isinstance(voice_activity(), EnergyActivity)
    with pytest.raises(ConfigError, match=r"silero-vad is not installed: pip install 'antiphon\[talk\]'"):
        voice_activity("silero")


def test_a_package_without_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    silero._network.cache_clear()
    monkeypatch.setattr(silero, "find_spec", lambda name: importlib.util.find_spec("json"))
    with pytest.raises(ConfigError, match=r"voice activity: silero-vad cannot be loaded: .*silero_vad\.onnx"):
        voice_activity("silero")


def test_an_unknown_kind() -> None:
    with pytest.raises(
        ConfigError, match="voice activity: expected one of auto, silero, energy, got 'webrtc'"
    ):
        voice_activity("webrtc")  # type: ignore[arg-type]
