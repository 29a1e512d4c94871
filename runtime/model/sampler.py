"""Picking ids from logits, each row by its own request's settings: `kernels.sample` for lists."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from antiphon.kernels.argmax import argmax
from antiphon.kernels.argmax_head import argmax_head
from antiphon.kernels.linear import Linear
from antiphon.kernels.sample import sample
from antiphon.types import SamplingParams

__all__ = ["MAX_TEMPERATURE", "MAX_TOP_K", "int64", "pick", "pick_from_head"]

MAX_TEMPERATURE = torch.finfo(torch.float32).max
MAX_TOP_K = torch.iinfo(torch.int32).max
MAX_FUSED_TOP_K = 64
"""The most logits that a head can compute as its largest ones, without keeping the others."""


def pick(
    logits: Tensor, params: Sequence[SamplingParams], seeds: Sequence[int], positions: Sequence[int]
) -> list[int]:
    """One id per row of `logits` (rows, vocab): the most likely, or sampled if temperature > 0.

    `positions`: how many ids each request has picked before.
    """
    if all(p.temperature == 0 for p in params):
        greedy: list[int] = argmax(logits).tolist()
        return greedy

    def column(values: Sequence[float], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=logits.device)

    picked: list[int] = sample(
        logits,
        column([min(p.temperature, MAX_TEMPERATURE) for p in params], torch.float32),
        column([min(p.top_k, MAX_TOP_K) for p in params], torch.int32),
        column([p.top_p for p in params], torch.float32),
        column([int64(seed) for seed in seeds], torch.int64),
        column(positions, torch.int64),
    ).tolist()
    return picked


def pick_from_head(
    states: Tensor,
    head: Linear,
    params: Sequence[SamplingParams],
    seeds: Sequence[int],
    positions: Sequence[int],
) -> list[int]:
    """`pick` from the logits of states (rows, hidden), which are not stored if the largest suffice.

    Both ways pick the same ids: up to MAX_FUSED_TOP_K logits are summed in order.
    """
    top_k = max((_num_likeliest(p) for p in params), default=1)
    if top_k > MAX_FUSED_TOP_K:
        return pick(head(states), params, seeds, positions)
    ids, logits = argmax_head(states, head, top_k=min(top_k, head.out_features), checked=False)
    if top_k == 1:
        greedy: list[int] = ids[:, 0].tolist()
        return greedy
    places = torch.tensor(pick(logits, params, seeds, positions), dtype=torch.int64, device=ids.device)
    sampled: list[int] = ids.gather(1, places[:, None])[:, 0].tolist()
    return sampled


def _num_likeliest(params: SamplingParams) -> int:
    """How many of the likeliest ids can be picked."""
    if params.temperature == 0:
        return 1
    return params.top_k or MAX_TOP_K


def int64(seed: int) -> int:
    """The lowest 64 bits of any integer."""
    return (seed + (1 << 63)) % (1 << 64) - (1 << 63)
