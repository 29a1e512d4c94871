from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.errors import InvalidRequest
from antiphon.sound.arrays import AudioArray
from antiphon.sound.resample import StreamingResampler, resample

RATES_HZ = [1, 8000, 11025, 15999, 16000, 22050, 24000, 44100, 48000, 96000, 191999, 192000]


def streamed(samples: AudioArray, rate_hz: int, lengths: list[int]) -> list[AudioArray]:
    """What comes out of pushes of these lengths, of one with the rest, and of the end."""
    stream = StreamingResampler(rate_hz, 16000)
    return [
        *(stream.push(chunk) for chunk in np.split(samples, np.minimum(np.cumsum(lengths), len(samples)))),
        stream.finish(),
    ]


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
    monkeypatch.setattr("antiphon.sound.resample.BLOCK_SAMPLES", 101)
    assert np.array_equal(resample(samples, 22050, 16000), whole)


@given(
    rate_hz=st.sampled_from(RATES_HZ),
    n=st.one_of(st.integers(0, 20), st.integers(0, 2000)),
    lengths=st.lists(st.one_of(st.integers(0, 2), st.integers(0, 1000)), max_size=20),
)
def test_stream_is_the_whole_bit_for_bit(rate_hz: int, n: int, lengths: list[int]) -> None:
    samples = np.random.default_rng(n).normal(0, 0.3, n if rate_hz > 1 else n // 100).astype(np.float32)
    found = np.concatenate(streamed(samples, rate_hz, lengths))
    assert found.dtype == np.float32
    assert np.array_equal(found, resample(samples, rate_hz, 16000))


@pytest.mark.parametrize("rate_hz", RATES_HZ[1:])
def test_stream_of_single_samples(rate_hz: int) -> None:
    samples = np.random.default_rng(0).normal(0, 0.3, 500).astype(np.float32)
    outputs = streamed(samples, rate_hz, [1] * 500)
    assert np.array_equal(np.concatenate(outputs), resample(samples, rate_hz, 16000))


@pytest.mark.parametrize("rate_hz", [8000, 22050, 48000])
def test_stream_lags_by_half_a_window(rate_hz: int) -> None:
    """The first sample is there once six zero crossings of the lower rate have come, and two samples."""
    crossing = rate_hz / min(rate_hz, 16000) / 0.99
    needed = int(np.ceil(6 * crossing)) + 2
    stream = StreamingResampler(rate_hz, 16000)
    assert len(stream.push(np.ones(needed - 1, np.float32))) == 0
    assert len(stream.push(np.ones(1, np.float32))) > 0


@pytest.mark.parametrize("rate_hz", [8000, 44100, 192000])
def test_stream_keeps_a_window_only(rate_hz: int) -> None:
    stream = StreamingResampler(rate_hz, 16000)
    for length in (1, 100_000, 1, 0, 37):
        stream.push(np.zeros(length, np.float32))
        held = stream._held
        assert held.base is None
        assert len(held) < 14 * max(1, rate_hz / 16000) + 4


def test_nothing_follows_the_end_of_a_stream() -> None:
    for rate_hz in (16000, 48000):
        stream = StreamingResampler(rate_hz, 16000)
        stream.finish()
        with pytest.raises(InvalidRequest, match="after the end"):
            stream.push(np.zeros(1, np.float32))
        with pytest.raises(InvalidRequest, match="after the end"):
            stream.finish()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_tail_is_what_the_end_would_give(rate_hz: int) -> None:
    samples = np.random.default_rng(0).normal(0, 0.3, 60).astype(np.float32)
    stream, so_far = StreamingResampler(rate_hz, 16000), np.zeros(0, np.float32)
    for n in range(60):
        assert np.array_equal(np.concatenate([so_far, stream.tail()]), resample(samples[:n], rate_hz, 16000))
        so_far = np.concatenate([so_far, stream.push(samples[n : n + 1])])
    assert np.array_equal(np.concatenate([so_far, stream.finish()]), resample(samples, rate_hz, 16000))
    with pytest.raises(InvalidRequest, match="nothing more after the end"):
        stream.tail()
