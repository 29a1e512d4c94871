from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from antiphon.codec.analysis.prompt_mel import prompt_mel

Array = np.ndarray[Any, Any]


def hertz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def triangle(band: int, hz: float) -> float:
    """Of area 1, straight in Hz between three of 82 points that are equally spaced in mel up to 8000 Hz."""
    highest = 15 + 27 * np.log(8) / np.log(6.4)
    left, peak, right = (hertz(highest / 81 * (band + i)) for i in range(3))
    if not left < hz < right:
        return 0.0
    height = (hz - left) / (peak - left) if hz <= peak else (right - hz) / (right - peak)
    return height * 2 / (right - left)


FILTERS = np.array([[triangle(band, k * 22050 / 1024) for k in range(513)] for band in range(80)])
TRANSFORM = np.exp(-2j * np.pi * np.outer(np.arange(513), np.arange(1024)) / 1024)


def by_definition(samples: Array) -> Array:
    samples = samples.astype(np.float64)
    n = len(samples)
    columns = []
    for start in range(0, n - 255, 256):
        frame = np.zeros(1024)
        for t in range(1024):
            at = abs(start + t - 384)
            at = at if at < n else 2 * (n - 1) - at
            frame[t] = samples[at] * (0.5 - 0.5 * np.cos(2 * np.pi * t / 1024))
        spectrum = TRANSFORM @ frame
        magnitude = np.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)
        columns.append([np.log(max(sum(FILTERS[band] * magnitude), 1e-5)) for band in range(80)])
    return np.array(columns).T


@pytest.mark.parametrize("n", [385, 511, 512, 1000, 1024, 2100])
def test_it_is_the_definition(n: int) -> None:
    samples = np.random.default_rng(n).normal(0, 0.1, n).astype(np.float32)
    samples[n // 2 :] *= 1e-4
    found = prompt_mel(samples)
    assert found.dtype == np.float32
    assert found.shape == (80, n // 256)
    np.testing.assert_allclose(found, by_definition(samples), rtol=0, atol=1e-5)


def test_definition_of_a_tone() -> None:
    samples = np.sin(2 * np.pi * 1000 * np.arange(3000) / 22050).astype(np.float32)
    found = prompt_mel(samples)
    np.testing.assert_allclose(found, by_definition(samples), rtol=0, atol=1e-4)
    # 1000 Hz is 15 mel, and the peaks are 0.5568 mel apart: the 27th band, counted from one.
    assert (found[:, 2:-2].argmax(axis=0) == 26).all()


def test_silence_is_the_floor() -> None:
    """A filter's weights add up to little more than 1 / 21.5 Hz, so the floor is that of the magnitude."""
    expected = np.log(np.maximum(FILTERS.sum(axis=1) * np.sqrt(1e-9), 1e-5))
    found = prompt_mel(np.zeros(1000, np.float32))
    np.testing.assert_allclose(found, np.repeat(expected[:, None], 3, axis=1), atol=1e-6)


def test_samples_are_left_alone() -> None:
    samples = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    samples.setflags(write=False)
    before = samples.copy()
    prompt_mel(samples)
    assert np.array_equal(samples, before)
