from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from antiphon.codec import Codec
from antiphon.codec.flow.length_regulator import interpolate, interpolate_units


@pytest.mark.parametrize(("n", "frames"), [(1, 3), (5, 17), (20, 68), (7, 7), (9, 4)])
def test_interpolation_is_the_formula(n: int, frames: int) -> None:
    hidden = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
    position = np.maximum((np.arange(frames) + 0.5) * n / frames - 0.5, 0)
    expected = [np.interp(position, np.arange(n), hidden[:, c].numpy()) for c in range(2)]
    found = interpolate(hidden, frames).double()
    torch.testing.assert_close(found, torch.from_numpy(np.stack(expected)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("n", [1, 40, 41, 100])
def test_units_become_their_frames(codec: Codec, n: int) -> None:
    assert interpolate_units(torch.zeros(n, 80), codec.params.flow).shape == (80, int(n / 25 * 22050 / 256))


def test_ends_of_a_long_utterance_keep_their_own_pace(codec: Codec) -> None:
    """Beyond 40 units, the first and last 68 frames depend on the first and last 20 units alone."""
    params = codec.params.flow
    hidden = torch.randn(60, 80, generator=torch.Generator().manual_seed(0))
    other = hidden.clone()
    other[20:40] += 1

    def ends(rows: Tensor) -> Tensor:
        frames = interpolate_units(rows, params)
        return torch.cat([frames[:, :68], frames[:, -68:]], dim=1)

    assert torch.equal(ends(hidden), ends(other))
    torch.testing.assert_close(ends(hidden)[:, :68], interpolate(hidden[:20], 68))
