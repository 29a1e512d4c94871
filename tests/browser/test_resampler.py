"""How the page changes sample rates: in pieces as in one, and with what the lower rate can hold alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from browser_page import Talker

pytestmark = [pytest.mark.slow, pytest.mark.long]

RESAMPLE = """async ([fromHz, toHz, samples, size]) => {
    const { Resampler } = await import("/page/resampler.js");
    const resampler = new Resampler(fromHz, toHz);
    const output = [];
    for (let start = 0; start < samples.length; start += size) {
        output.push(...resampler.push(Float32Array.from(samples.slice(start, start + size))));
    }
    output.push(...resampler.flush());
    return output;
}"""
SECONDS = 0.25


@pytest.fixture
def resample(talker: Callable[..., Talker]) -> Callable[..., Any]:
    page = talker().open()

    def resampled(from_hz: int, to_hz: int, samples: Any, size: int) -> Any:
        return np.array(page.page.evaluate(RESAMPLE, [from_hz, to_hz, samples.tolist(), size]))

    return resampled


def tone(frequency_hz: float, rate_hz: int) -> Any:
    return np.sin(2 * np.pi * frequency_hz * np.arange(int(SECONDS * rate_hz)) / rate_hz)


def test_tones_come_out_at_their_time_and_height_in_pieces_as_in_one(resample: Callable[..., Any]) -> None:
    for from_hz, to_hz in ((48000, 24000), (24000, 48000), (44100, 24000), (24000, 44100), (16000, 24000)):
        for frequency_hz in (100.0, 1000.0, 6000.0):
            expected = tone(frequency_hz, to_hz)
            whole = resample(from_hz, to_hz, tone(frequency_hz, from_hz), 1 << 20)
            pieces = resample(from_hz, to_hz, tone(frequency_hz, from_hz), 128)
            assert np.array_equal(whole, pieces)
            assert abs(len(whole) - len(expected)) <= 1
            inner = slice(len(expected) // 5, -len(expected) // 5)  # the ends meet silence
            assert np.abs(whole[inner] - expected[inner]).max() < 2e-3, (from_hz, to_hz, frequency_hz)


def test_what_the_lower_rate_cannot_hold_is_gone(resample: Callable[..., Any]) -> None:
    for from_hz in (44100, 48000):
        for frequency_hz in (13500.0, 18000.0):
            inner = resample(from_hz, 24000, tone(frequency_hz, from_hz), 128)[600:-600]
            assert np.abs(inner).max() < 0.01, (from_hz, frequency_hz)


def test_equal_rates_change_nothing(resample: Callable[..., Any]) -> None:
    sound = tone(440.0, 24000).astype(np.float32)
    assert np.array_equal(resample(24000, 24000, sound, 128), sound)
