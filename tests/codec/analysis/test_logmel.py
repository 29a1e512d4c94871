from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from antiphon.codec.analysis.logmel import log_mel, slaney_filters


def test_log_mel_is_golden(golden: dict[str, Tensor], relative_error: Callable[[Any, Any], float]) -> None:
    """The golden values are float32 and 1.1e-5 off in the quietest bins; another processor's transform may be
    off elsewhere, but no further."""
    samples, expected = golden["logmel.wav16k"], golden["logmel.feats"][0]
    exact = log_mel(samples.double())
    budget = relative_error(expected.double(), exact)
    assert budget < 2e-5
    assert relative_error(log_mel(samples).double(), exact) < 2 * budget
    assert relative_error(log_mel(samples), expected) < 3 * budget


@pytest.mark.parametrize(
    ("samples", "frames"), [(1, 1), (200, 1), (201, 1), (320, 2), (479, 2), (16000, 100)]
)
def test_frames(samples: int, frames: int) -> None:
    features = log_mel(torch.randn(samples, generator=torch.Generator().manual_seed(0)))
    assert features.shape == (128, frames)
    assert torch.isfinite(features).all()


def test_silence_is_finite() -> None:
    assert torch.equal(log_mel(torch.zeros(1600)), torch.full((128, 10), -1.5))


def test_range_is_eight_powers_of_ten() -> None:
    features = log_mel(
        torch.cat([torch.randn(8000, generator=torch.Generator().manual_seed(0)), torch.zeros(8000)])
    )
    assert features.max() - features.min() == pytest.approx(2.0, abs=1e-6)


def test_filters_have_equal_area_and_cover_the_band() -> None:
    filters = slaney_filters(16000, 4096, 128).astype(np.float64)
    np.testing.assert_allclose(filters.sum(axis=1) * 16000 / 4096, 1, atol=0.02)
    assert (filters >= 0).all()
    peaks = filters.argmax(axis=1) * 16000 / 4096
    assert (np.diff(peaks) > 0).all()
    # 130 points in mel: 40 Hz is 0.6 mel, and the last peak lies one step below 8000 Hz.
    highest = 15 + 27 * np.log(8) / np.log(6.4)
    assert peaks[0] == pytest.approx(highest / 129 * 200 / 3, abs=4)
    assert peaks[-1] == pytest.approx(1000 * np.exp((highest * 128 / 129 - 15) * np.log(6.4) / 27), abs=4)
