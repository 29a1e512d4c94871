"""Standard normal numbers as a function of (seed, stream, row): Philox (Salmon et al., 2011) counts, Box and
Muller transform.

The same words as numpy's `Philox(key=(stream << 64) + seed, counter=row * counts)`, four to a count, so any
row comes without those before it, and on any device. Rows may be negative.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from antiphon.kernels.checks import INT32_MAX, check, check_integer
from antiphon.kernels.registry import on_triton, register, resolve, triton_available

__all__ = ["normal_rows", "normal_rows_reference"]

WORDS_PER_COUNT = 4
"""64-bit words that one step of the counter gives, each for a pair of numbers."""
ROUNDS = 10
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
RAISES = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
LOW = 0xFFFFFFFF


def normal_rows(
    seeds: Tensor, first_rows: Tensor, stream: int, num_rows: int, width: int, *, backend: str | None = None
) -> Tensor:
    """seeds, first_rows: int64 (n,) -> float32 (n, num_rows, width): rows first_rows[i] and the following of
    the numbers of seeds[i].

    A seed is taken as 64 bits, negative or not. The transform is taken in float64, so backends differ in the
    last bit of float32 at most.

    Raises ValueError naming the argument whose shape, dtype or device does not fit.
    """
    check("seeds", seeds, torch.int64, ("n",))
    check("first_rows", first_rows, torch.int64, seeds.shape, ("seeds", seeds), note=" on {device}")
    stream = check_integer("stream", stream, 0)
    num_rows = check_integer("num_rows", num_rows, 0)
    width = check_integer("width", width, 0)
    check_integer("num_rows", num_rows, 0, INT32_MAX // max(1, width))
    rows = resolve("normal_rows", backend, seeds.device, torch.float32)
    out: Tensor = rows(seeds, first_rows, stream, num_rows, width)
    return out


@register("normal_rows", "triton", is_available=triton_available, supports=on_triton)
def _normal_rows_triton(seeds: Tensor, first_rows: Tensor, stream: int, num_rows: int, width: int) -> Tensor:
    from antiphon.kernels.triton.normal_rows import normal_rows as launch

    return launch(seeds, first_rows, stream, num_rows, width)


@register("normal_rows", "torch")
def normal_rows_reference(
    seeds: Tensor, first_rows: Tensor, stream: int, num_rows: int, width: int
) -> Tensor:
    per_row = -(-width // 2)
    counts_per_row = -(-per_row // WORDS_PER_COUNT)
    count = torch.arange(num_rows * counts_per_row, device=seeds.device)
    low = first_rows[:, None] * counts_per_row + count + 1  # a generator counts before it gives
    high = low >> 63  # of a counter of 256 bits
    words = torch.stack(_philox([low, high, high, high], [seeds[:, None], torch.full_like(low, stream)]), -1)
    words = words.reshape(len(seeds), num_rows, counts_per_row * WORDS_PER_COUNT)[:, :, :per_row]
    radius = (-2 * torch.log((((words >> 32) & LOW).double() + 0.5) / 2**32)).sqrt()
    angle = (words & LOW).double() * (2 * math.pi / 2**32)
    pairs = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)
    return pairs.reshape(len(seeds), num_rows, 2 * per_row)[:, :, :width].float()


def _philox(counter: list[Tensor], key: list[Tensor]) -> list[Tensor]:
    """Four words of each count. int64 stands for 64 bits without a sign: torch's products wrap around."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        (high0, low0), (high1, low1) = (_product(*pair) for pair in zip((c0, c2), MULTIPLIERS, strict=True))
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + _signed(RAISES[0]), k1 + _signed(RAISES[1])
    return [c0, c1, c2, c3]


def _product(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """The high and the low 64 bits of a product, by halves of 32 bits."""
    high, low = (x >> 32) & LOW, x & LOW
    factor_high, factor_low = factor >> 32, factor & LOW
    middle = high * factor_low + (((low * factor_low) >> 32) & LOW)
    other = low * factor_high + (middle & LOW)
    carried = ((middle >> 32) & LOW) + ((other >> 32) & LOW)
    return high * factor_high + carried, x * _signed(factor)


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word
