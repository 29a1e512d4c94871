"""Speech is told from noise, hum and silence; none of it is missed."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sound_files import by_ffmpeg

from antiphon.codec import read_audio
from antiphon.sound.activity import SpeechActivity, has_speech
from antiphon.sound.arrays import AudioArray
from antiphon.sound.resample import resample

QUESTIONS = Path(__file__).parent.parent / "golden" / "spoken_questions"
RATE_HZ = 16000


def coloured(num: int, slope: float, seed: int) -> np.ndarray[Any, Any]:
    """Noise of standard deviation 1: white (0), pink (0.5) or brown (1)."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(size=num))
    spectrum[1:] /= np.arange(1, len(spectrum)) ** slope
    noise: np.ndarray[Any, Any] = np.fft.irfft(spectrum, num)
    noise /= noise.std()
    return noise


def spoken() -> list[tuple[AudioArray, int]]:
    names = [question["sound"] for question in json.loads((QUESTIONS / "questions.json").read_text("utf-8"))]
    demo = str(files("antiphon.assets") / "demo" / "question.wav")
    return [read_audio(demo), *(read_audio(QUESTIONS / name) for name in names)]


@pytest.mark.parametrize("snr_db", [None, 20, 10, 5, 0])
def test_no_spoken_question_is_missed(snr_db: float | None) -> None:
    for seed, (samples, rate_hz) in enumerate(spoken()):
        for slope in (0, 0.5, 1):
            heard = samples
            if snr_db is not None:
                noise = coloured(len(samples), slope, seed) * samples.std() * 10 ** (-snr_db / 20)
                heard = (samples + noise).astype(np.float32)
            assert has_speech(heard, rate_hz)


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 44100, 48000])
def test_at_any_rate_and_loudness(rate_hz: int) -> None:
    samples, own_hz = spoken()[0]
    resampled = resample(samples, own_hz, rate_hz)
    for gain in (0.003, 1, 1.7):
        assert has_speech((resampled * gain).astype(np.float32), rate_hz)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100])
@pytest.mark.parametrize("seconds", [0.5, 1.0, 3.0, 20.0])
def test_noise_is_no_speech(seconds: float, rate_hz: int) -> None:
    for seed in range(3):
        for slope in (0, 0.5, 1):
            noise = coloured(int(seconds * rate_hz), slope, seed)
            for level in (1e-4, 0.01, 0.3):
                assert not has_speech((level * noise).astype(np.float32), rate_hz)


@pytest.mark.parametrize("arguments", ["-c:a libopus -b:a 24k -f opus", "-c:a libmp3lame -b:a 32k -f mp3"])
def test_noise_from_a_lossy_file_is_no_speech(arguments: str) -> None:
    noise = by_ffmpeg(f"-f lavfi -i anoisesrc=d=3:r=16000:a=0.2 -map 1:a {arguments}")
    assert not has_speech(*read_audio(noise))


T = np.arange(3 * RATE_HZ) / RATE_HZ


@pytest.mark.parametrize(
    "samples",
    [
        0 * T,
        0 * T + 0.3,
        np.round(20 * np.sin(2 * np.pi * 50 * T)) / 2**15,
        0.5 * np.sin(2 * np.pi * 50 * T) + 0.2 * np.sin(2 * np.pi * 150 * T) + 0.01 * coloured(len(T), 0, 1),
        np.sin(2 * np.pi * 440 * T),
        0.1 * np.sign(np.sin(2 * np.pi * 120 * T)),
        np.random.default_rng(0).integers(-1, 2, len(T)) / 2**15,
        (T == 0.5).astype(float),
        0.2 * np.sin(30 * T) * 1e-4,
    ],
    ids=["silence", "offset", "quiet hum", "hum", "tone", "buzz", "dither", "click", "next to nothing"],
)
def test_what_is_neither(samples: np.ndarray[Any, Any]) -> None:
    assert not has_speech(samples.astype(np.float32), RATE_HZ)


def test_very_short_sound_may_be_speech() -> None:
    assert has_speech(np.array([0.1, -0.1, 0.2], np.float32), RATE_HZ)
    assert not has_speech(np.zeros(3, np.float32), RATE_HZ)
    assert has_speech(np.array([0.1, -0.1], np.float32), 1)


@pytest.mark.parametrize("size", [1, 159, 160, 401, 7777])
def test_pieces_are_as_the_whole(size: int) -> None:
    samples, rate_hz = spoken()[0]
    samples = samples[:6000]
    whole, pieces = SpeechActivity(rate_hz), SpeechActivity(rate_hz)
    whole.push(samples)
    for begin in range(0, len(samples), size):
        pieces.push(samples[begin : begin + size])
    assert pieces._swell_db() == pytest.approx(whole._swell_db(), rel=1e-6)
    assert pieces.has_speech() == whole.has_speech()
