from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from antiphon.codec.analysis.fbank import fbank

Array = np.ndarray[Any, Any]


def mel(hz: float) -> float:
    return float(1127 * np.log(1 + hz / 700))


def triangle(band: int, hz: float) -> float:
    """Height of the band's triangle, whose feet and peak are three of 82 points."""
    step = (mel(8000) - mel(20)) / 81
    left, peak, right = (mel(20) + step * (band + i) for i in range(3))
    if not left < mel(hz) < right:
        return 0.0
    return (mel(hz) - left) / (peak - left) if mel(hz) <= peak else (right - mel(hz)) / (right - peak)


FILTERS = np.array([[triangle(band, k * 31.25) for k in range(256)] for band in range(80)])
TRANSFORM = np.exp(-2j * np.pi * np.outer(np.arange(256), np.arange(512)) / 512)


def by_definition(samples: Array) -> Array:
    samples = samples.astype(np.float64)
    rows = []
    for start in range(0, len(samples) - 399, 160):
        frame = samples[start : start + 400]
        frame = frame - frame.sum() / 400
        padded = np.zeros(512)
        for t in range(400):
            hann = 0.5 - 0.5 * np.cos(2 * np.pi * t / 399)
            padded[t] = (frame[t] - 0.97 * frame[max(t - 1, 0)]) * hann**0.85
        power = np.abs(TRANSFORM @ padded) ** 2
        rows.append([np.log(max(sum(FILTERS[band] * power), 2.0**-23)) for band in range(80)])
    features: Array = np.array(rows) - np.mean(rows, axis=0)
    return features


@pytest.mark.parametrize("n", [400, 401, 559, 560, 561, 2000])
def test_it_is_the_definition(n: int) -> None:
    samples = np.random.default_rng(n).normal(0.2, 0.1, n).astype(np.float32)
    samples[: n // 3] *= 1e-3
    found = fbank(samples)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_definition(samples), rtol=0, atol=1e-5)


def test_definition_of_a_tone_with_silence() -> None:
    """The floor holds where there is nothing."""
    samples = np.sin(2 * np.pi * 440 * np.arange(3000) / 16000).astype(np.float32)
    samples[1000:2000] = 0
    found = fbank(samples)
    np.testing.assert_allclose(found, by_definition(samples), rtol=0, atol=1e-5)
    assert np.unique(found[7:10], axis=0).shape[0] == 1


@pytest.mark.parametrize(("samples", "frames"), [(400, 1), (559, 1), (560, 2), (16000, 98)])
def test_only_whole_frames_count(samples: int, frames: int) -> None:
    assert fbank(np.random.default_rng(0).normal(size=samples).astype(np.float32)).shape == (frames, 80)


def test_mean_of_every_band_is_taken_off() -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    np.testing.assert_allclose(fbank(samples).mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(fbank(samples * np.float32(8)), fbank(samples), atol=1e-5)


def test_silence_is_nothing() -> None:
    assert np.array_equal(fbank(np.zeros(1600, np.float32)), np.zeros((8, 80), np.float32))


def test_samples_are_left_alone() -> None:
    samples = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    samples.setflags(write=False)
    before = samples.copy()
    fbank(samples)
    assert np.array_equal(samples, before)
