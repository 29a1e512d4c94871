"""Picking ids from logits, each row by its own request's settings, independent of the batch.

The one random number of a pick is a function of (seed, position), so a request is sampled alike
alone, in any batch, and again after a preemption.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from antiphon.kernels.argmax import argmax
from antiphon.types import SamplingParams

__all__ = ["pick", "uniform"]

MASK = (1 << 64) - 1


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) by two rounds of SplitMix64 (Steele et al. 2014) over seed and counter."""
    state = _mix((seed & MASK) ^ 0x9E3779B97F4A7C15)
    return (_mix((state + (position + 1) * 0x9E3779B97F4A7C15) & MASK) >> 11) * 2.0**-53


def pick(
    logits: Tensor, params: Sequence[SamplingParams], seeds: Sequence[int], positions: Sequence[int]
) -> list[int]:
    """One id per row of `logits` (rows, vocab): the most likely, or sampled where temperature > 0.

    `positions`: how many ids each request has picked before.
    """
    picked: list[int] = argmax(logits).tolist()
    drawn = [i for i, p in enumerate(params) if p.temperature > 0]
    if drawn:
        points = [uniform(seeds[i], positions[i]) for i in drawn]
        sampled = _draw(logits[drawn].float(), [params[i] for i in drawn], points)
        for i, token in zip(drawn, sampled, strict=True):
            picked[i] = token
    return picked


def _draw(logits: Tensor, params: Sequence[SamplingParams], points: Sequence[float]) -> list[int]:
    """Inverse transform over the ids in order of likelihood, cut to top-k, then to top-p."""

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]

    temperature, top_p = column([p.temperature for p in params]), column([p.top_p for p in params])
    size = logits.shape[1]
    top_k = torch.tensor([p.top_k or size for p in params], device=logits.device)[:, None]
    ordered, ids = logits.double().sort(dim=-1, descending=True, stable=True)
    # the maximum is taken off first, or a tiny temperature would overflow
    probs = ((ordered - ordered[:, :1]) / temperature).softmax(-1)
    probs = probs.masked_fill(torch.arange(size, device=logits.device) >= top_k, 0.0)
    probs = probs / probs.sum(-1, keepdim=True)
    before = probs.cumsum(-1) - probs
    probs = probs.masked_fill(before >= top_p, 0.0)
    reached = probs.cumsum(-1)
    point = column(points) * reached[:, -1:]
    index = torch.searchsorted(reached, point, right=True).clamp_(max=size - 1)
    # rounding can put the point behind the last id that was kept
    last_kept = (probs > 0).sum(-1, keepdim=True) - 1
    chosen: list[int] = ids.gather(1, torch.minimum(index, last_kept)).squeeze(1).tolist()
    return chosen


def _mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)
