from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
import pytest

from antiphon.codec.resample import resample


def dense(samples: np.ndarray[Any, Any], rate_hz: int, target_hz: int) -> np.ndarray[Any, Any]:
    """The definition, with every tap of every phase, in float64 but for the phase."""
    divisor = gcd(rate_hz, target_hz)
    old, new = rate_hz // divisor, target_hz // divisor
    bandwidth = 0.99 * min(old, new)
    half = int(np.ceil(6 * old / bandwidth))
    padded = np.pad(samples.astype(np.float64), (half, half + old))
    total = -(-new * len(samples) // old)
    out = np.empty(total)
    taps = np.arange(-half, half + old)
    for n in range(total):
        block, phase = divmod(n, new)
        x = np.clip(bandwidth * (taps / old - float(np.float32(phase) / np.float32(new))), -6, 6)
        kernel = np.cos(np.pi * x / 12) ** 2 * np.sinc(x) * bandwidth / old
        out[n] = kernel @ padded[block * old : block * old + len(taps)]
    return out


@pytest.mark.parametrize("rate_hz", [8000, 11025, 22050, 24000, 44100, 48000, 96000])
@pytest.mark.parametrize("n", [1, 2, 37, 700])
def test_it_is_the_definition(rate_hz: int, n: int) -> None:
    samples = np.random.default_rng(0).normal(0, 0.3, n).astype(np.float32)
    found = resample(samples, rate_hz, 16000)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, dense(samples, rate_hz, 16000), rtol=0, atol=2e-6)


def test_rates_without_a_common_divisor_are_the_definition() -> None:
    """16000 phases: all of their taps together would be 2 GB."""
    samples = np.random.default_rng(0).normal(0, 0.3, 50).astype(np.float32)
    found = resample(samples, 15999, 16000)
    np.testing.assert_allclose(found, dense(samples, 15999, 16000), rtol=0, atol=2e-6)


def test_same_rate_changes_nothing() -> None:
    samples = np.random.default_rng(0).normal(size=100).astype(np.float32)
    assert np.array_equal(resample(samples, 16000, 16000), samples)


@pytest.mark.parametrize("rate_hz", [8000, 22050, 44100, 48000, 47999])
@pytest.mark.parametrize("frequency_hz", [100, 1000, 2000])
def test_sine_stays_the_sine(rate_hz: int, frequency_hz: int) -> None:
    samples = np.sin(2 * np.pi * frequency_hz * np.arange(rate_hz // 2) / rate_hz).astype(np.float32)
    found = resample(samples, rate_hz, 16000)
    assert len(found) == -(-16000 * len(samples) // rate_hz)
    expected = np.sin(2 * np.pi * frequency_hz * np.arange(len(found)) / 16000)
    np.testing.assert_allclose(found[200:-200], expected[200:-200], rtol=0, atol=5e-3)


def test_what_the_target_cannot_hold_is_removed() -> None:
    samples = np.sin(2 * np.pi * 11000 * np.arange(48000) / 48000).astype(np.float32)
    assert abs(resample(samples, 48000, 16000)[200:-200]).max() < 0.02


def test_long_audio_equals_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.random.default_rng(0).normal(size=3000).astype(np.float32)
    whole = resample(samples, 22050, 16000)
    monkeypatch.setattr("antiphon.codec.resample.BLOCK_SAMPLES", 101)
    assert np.array_equal(resample(samples, 22050, 16000), whole)
