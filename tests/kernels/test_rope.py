"""Rotary embedding against complex numbers, and Llama 3.1's scaling against its text."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from antiphon.config import RopeScaling
from antiphon.kernels import apply_rope, inverse_frequencies, rope_table
from antiphon.kernels.rope import as_cos_sin

Draw = Callable[..., Tensor]

LLAMA_31 = RopeScaling(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192
)
SCALINGS = [
    None,
    LLAMA_31,
    RopeScaling(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
    RopeScaling(factor=2.0, low_freq_factor=1.5, high_freq_factor=3.0, original_max_position_embeddings=500),
]
HEAD_DIMS = [2, 6, 16, 24, 40, 64, 96, 128]


def scaled_by_hand(frequency: float, scaling: RopeScaling | None) -> float:
    """Turns over the original context: few are slowed down, many are kept, those between are blended."""
    if scaling is None:
        return frequency
    turns = scaling.original_max_position_embeddings * frequency / (2 * math.pi)
    if turns < scaling.low_freq_factor:
        return frequency / scaling.factor
    if turns > scaling.high_freq_factor:
        return frequency
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return kept * frequency + (1 - kept) * frequency / scaling.factor


@pytest.mark.parametrize("scaling", SCALINGS, ids=["none", "llama31", "short", "odd"])
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> None:
    found = inverse_frequencies(head_dim, theta, scaling)
    assert found.dtype == torch.float32
    expected = [scaled_by_hand(theta ** (-2 * i / head_dim), scaling) for i in range(head_dim // 2)]
    torch.testing.assert_close(found.double(), torch.tensor(expected).double(), rtol=2e-6, atol=0.0)


def test_llama_31_scales_in_three_parts() -> None:
    """Of the released size's 64 frequencies, all three cases occur, in this order."""
    plain, scaled = inverse_frequencies(128, 500_000.0, None), inverse_frequencies(128, 500_000.0, LLAMA_31)
    by = (plain / scaled).tolist()
    assert by == sorted(by)
    assert by[0] == 1.0
    assert by[-1] == 8.0
    assert any(1.0 < ratio < 8.0 for ratio in by)


def test_table() -> None:
    frequencies = inverse_frequencies(24, 10_000.0, None)
    table = rope_table(frequencies, 50)
    assert table.shape == (50, 24)
    assert table.dtype == torch.float32
    angles = torch.arange(50).double()[:, None] * frequencies.double()
    torch.testing.assert_close(table.double(), torch.cat([angles.cos(), angles.sin()], 1), rtol=0, atol=5e-6)
    assert torch.equal(rope_table(frequencies, 7), table[:7]), "a longer table begins with the shorter"
    assert rope_table(frequencies, 0).shape == (0, 24)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_turns_pairs_of_halves(head_dim: int, randn: Draw) -> None:
    """x[i] and x[i + half] are the real and imaginary part of a number turned by position * frequency."""
    frequencies = inverse_frequencies(head_dim, 10_000.0, None)
    x = randn(6, 3, head_dim)
    positions = torch.tensor([0, 1, 99, 7, 7, 50], dtype=torch.int32)
    found = apply_rope(x, positions, rope_table(frequencies, 100))
    real, imaginary = x.double().chunk(2, dim=-1)
    angles = positions[:, None, None] * frequencies.double()
    turned = torch.complex(real, imaginary) * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(found.double(), torch.cat([turned.real, turned.imag], -1), rtol=0, atol=2e-5)
    assert torch.equal(found[0], x[0]), "position 0 is left as it is"


def test_only_the_distance_counts(randn: Draw) -> None:
    table = rope_table(inverse_frequencies(16, 10_000.0, LLAMA_31), 300).double()
    q, k = randn(1, 1, 16).double(), randn(1, 1, 16, seed=1).double()

    def score(i: int, j: int) -> float:
        turned = apply_rope(torch.cat([q, k]), torch.tensor([i, j]), table)
        return float(turned[0, 0] @ turned[1, 0])

    assert score(17, 5) == pytest.approx(score(212, 200), abs=1e-5)


def test_no_tokens() -> None:
    table = rope_table(inverse_frequencies(8, 10_000.0, None), 4)
    assert apply_rope(torch.empty(0, 3, 8), torch.empty(0, dtype=torch.int32), table).shape == (0, 3, 8)


def test_every_form_of_the_table(randn: Draw) -> None:
    frequencies = inverse_frequencies(12, 10_000.0, None)
    table = rope_table(frequencies, 9)
    cos, sin = table.chunk(2, dim=1)
    doubled = torch.cat([cos, cos], 1), torch.cat([sin, sin], 1)  # as Hugging Face keeps them
    for rope in (table, (cos, sin), [cos, sin], doubled, frequencies):
        assert torch.equal(as_cos_sin(rope, 9, 12), table)
    assert as_cos_sin(table.bfloat16(), 9, 12).dtype == torch.float32


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        (None, "rope: expected a table .* got NoneType"),
        ((torch.ones(3, 6), None), "rope: expected a table .* got tuple"),
        (torch.ones(3, 10), r"rope: expected \(positions, 12\), got \(3, 10\)"),
        (torch.ones(5), r"rope: expected \(positions, 12\), got \(9, 10\)"),
        (torch.ones(2, 3, 12), r"rope: expected \(positions, 12\), got \(2, 3, 12\)"),
    ],
)
def test_other_forms_are_refused(rope: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_cos_sin(rope, 9, 12)
