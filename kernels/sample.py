"""Picks ids from logits, each row by its own settings, independently of the batch.

The one random number of a pick is a function of (seed, position), so a request gets the same picks alone, in
any batch, and after a preemption.
"""

from __future__ import annotations

import torch
from torch import Tensor

from antiphon.kernels.argmax import argmax_reference, ordinary
from antiphon.kernels.checks import FLOATS, address, check, check_range, values_are_at_hand
from antiphon.kernels.linear import with_dense_rows
from antiphon.kernels.registry import (
    cpp_available,
    cpp_float32,
    on_triton_floats,
    register,
    resolve,
    triton_available,
)

__all__ = ["sample", "sample_reference", "uniform_reference"]


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """logits (rows, vocab), vocab not empty -> int64 (rows); every setting is a tensor (rows,)

    temperature: float32, finite, not negative; 0 takes the likeliest id, the first of equals
    top_k: int32; only the `top_k` likeliest ids can be picked, of equals those with lower ids; 0: all
    top_p: float32, 0 to 1; of these only the first whose probabilities add up to `top_p`, at least one
    seeds, positions: int64, which determine the random number; `positions` counts a request's earlier picks

    The pick is the inverse of the distribution function at the random number, over the ids ordered by falling
    likelihood, then by id. Backends may differ where the number lies within rounding of the boundary between
    two ids. NaN logits count as minus infinity.

    Raises ValueError naming the argument whose shape, dtype or device does not fit; settings out of range are
    noticed where that does not mean waiting for the device.
    """
    check("logits", logits, FLOATS, ("rows", "vocab"), note=", vocab not empty")
    if not 0 < logits.shape[1] < 2**31:
        raise ValueError(f"logits: expected (rows, vocab), vocab not empty, got {tuple(logits.shape)}")
    settings = {
        "temperature": (temperature, torch.float32),
        "top_k": (top_k, torch.int32),
        "top_p": (top_p, torch.float32),
        "seeds": (seeds, torch.int64),
        "positions": (positions, torch.int64),
    }
    for name, (setting, dtype) in settings.items():
        check(name, setting, dtype, logits.shape[:1], ("logits", logits), note=" on {device}")
    check_range("top_k", top_k, 0, 2**31 - 1)
    _check_floats("temperature", temperature, torch.finfo(torch.float32).max)
    _check_floats("top_p", top_p, 1)
    draw = resolve("sample", backend, logits.device, logits.dtype)
    ids: Tensor = draw(logits, temperature, top_k, top_p, seeds, positions)
    return ids


def _check_floats(name: str, setting: Tensor, most: float) -> None:
    if values_are_at_hand(setting):
        wrong = [value for value in setting.tolist() if not 0 <= value <= most]
        if wrong:
            raise ValueError(f"{name}: expected finite numbers from 0 to {most:g}, got {wrong[0]}")


@register("sample", "cpp", is_available=cpp_available, supports=cpp_float32)
def _sample_cpp(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, seeds: Tensor, positions: Tensor
) -> Tensor:
    from antiphon.kernels import _C

    logits = with_dense_rows(logits)
    temperature, top_k, top_p = temperature.contiguous(), top_k.contiguous(), top_p.contiguous()
    seeds, positions = seeds.contiguous(), positions.contiguous()
    ids = seeds.new_empty(len(logits))
    _C.sample(
        address(logits),
        address(temperature),
        address(top_k),
        address(top_p),
        address(seeds),
        address(positions),
        address(ids),
        logits.shape[0],
        logits.shape[1],
        logits.stride(0),
    )
    return ids


@register("sample", "triton", is_available=triton_available, supports=on_triton_floats)
def _sample_triton(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, seeds: Tensor, positions: Tensor
) -> Tensor:
    from antiphon.kernels.triton.sample import sample as launch

    return launch(logits, temperature, top_k, top_p, seeds, positions)


@register("sample", "torch")
def sample_reference(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, seeds: Tensor, positions: Tensor
) -> Tensor:
    """In float64, for the rows that are sampled."""
    picked = argmax_reference(logits)
    drawn = (temperature > 0).nonzero().squeeze(1)
    if len(drawn):
        points = uniform_reference(seeds[drawn], positions[drawn])
        picked[drawn] = _draw(
            ordinary(logits[drawn]).double(), temperature[drawn], top_k[drawn], top_p[drawn], points
        )
    return picked


def _draw(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, points: Tensor) -> Tensor:
    """Inverse transform over the ids in order of likelihood, cut to top-k, then to top-p."""
    size = logits.shape[1]
    top_k = torch.where(top_k == 0, size, top_k)
    ordered, ids = logits.sort(dim=-1, descending=True, stable=True)
    # the maximum is subtracted first, or a tiny temperature would overflow
    probs = ((ordered - ordered[:, :1]) / temperature.double()[:, None]).softmax(-1)
    probs = probs.masked_fill(torch.arange(size, device=logits.device) >= top_k[:, None], 0.0)
    probs = probs / probs.sum(-1, keepdim=True)
    before = probs.cumsum(-1) - probs
    probs = probs.masked_fill(before >= top_p.double()[:, None], 0.0)
    reached = probs.cumsum(-1)
    point = points[:, None] * reached[:, -1:]
    index = torch.searchsorted(reached, point, right=True).clamp_(max=size - 1)
    # rounding can put the point past the last id that was kept; a top_p of 0 keeps the first
    last_kept = ((probs > 0).sum(-1, keepdim=True) - 1).clamp_(min=0)
    return ids.gather(1, torch.minimum(index, last_kept)).squeeze(1)


def uniform_reference(seeds: Tensor, positions: Tensor) -> Tensor:
    """Numbers in [0, 1), float64, by two rounds of SplitMix64 (Steele et al. 2014) over seed and counter.

    The arithmetic is modulo 2^64, like that of int64 tensors.
    """
    state = _mix(seeds ^ GOLDEN)
    # 53 bits, as many as a float64 holds
    return _shifted(_mix(state + (positions + 1) * GOLDEN), 11).double() * 2.0**-53


def _signed(bits: int) -> int:
    return bits - (1 << 64) if bits >> 63 else bits


GOLDEN = _signed(0x9E3779B97F4A7C15)
FACTORS = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * FACTORS[0]
    x = (x ^ _shifted(x, 27)) * FACTORS[1]
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shifted right, with zeros coming in from the left."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
