from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from antiphon.codec import noise
from antiphon.kernels import normal_rows

SEEDS = [0, 7, -3, 2**63 - 1, -(2**63)]
FIRST = [0, -2, 5, -300, 2**40]


def expected(stream: int, num_rows: int, width: int) -> Tensor:
    if not num_rows:
        return torch.empty(len(SEEDS), 0, width)
    rows = [
        noise.normal_rows(seed, stream, first, num_rows, width)
        for seed, first in zip(SEEDS, FIRST, strict=True)
    ]
    return torch.from_numpy(np.stack(rows))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("shape", [(3, 80), (2, 9 * 256), (5, 3), (1, 1), (0, 4), (2, 17)], ids=str)
def test_the_numbers_are_those_of_numpy(backend: str, device: torch.device, shape: tuple[int, int]) -> None:
    """To the last bit of float32, which a logarithm of another library may turn."""
    seeds, first = torch.tensor(SEEDS, device=device), torch.tensor(FIRST, device=device)
    found = normal_rows(seeds, first, 3, *shape, backend=backend)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.cpu(), expected(3, *shape), rtol=2e-7, atol=1e-9)


def test_wrong_arguments_are_named(backend: str) -> None:
    seeds = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"seeds: expected torch.int64 \(n,\), got torch.float32 \(2,\)"):
        normal_rows(seeds.float(), seeds, 1, 2, 3, backend=backend)
    with pytest.raises(ValueError, match=r"first_rows: expected torch.int64 \(2,\) on cpu, got .* \(1,\)"):
        normal_rows(seeds, seeds[:1], 1, 2, 3, backend=backend)
    with pytest.raises(ValueError, match="width: expected an integer from 0"):
        normal_rows(seeds, seeds, 1, 2, -1, backend=backend)
    with pytest.raises(ValueError, match="num_rows: expected an integer from 0"):
        normal_rows(seeds, seeds, 1, 2**20, 2**20, backend=backend)
