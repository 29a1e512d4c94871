"""Sampling without a sort.

There are three questions about the ids in order of falling likelihood: which is the k-th, at which one top-p
is reached, and on which one the random number falls. Equal logits weigh the same, so an id among them is
found by division. There are three ways to answer: for a few logits, such as the largest of a head, here; for
many by `sample_by_counting` in 16 bits, and otherwise by `sample_by_search`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from antiphon.kernels.triton.draw import exact_weights, uniform
from antiphon.kernels.triton.head import LEAST_KEY, sort_key
from antiphon.kernels.triton.sample_by_counting import sample_by_counting
from antiphon.kernels.triton.sample_by_search import sample_by_search

__all__ = ["sample"]

FEW = 64


def sample(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, seeds: Tensor, positions: Tensor
) -> Tensor:
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    rows, vocab = logits.shape
    ids = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if not rows:
        return ids
    settings = tuple(x.contiguous() for x in (temperature, top_k, top_p, seeds, positions))
    if vocab <= FEW:
        _sample_few_kernel[(rows,)](logits, *settings, ids, vocab, logits.stride(0), BLOCK=FEW, num_warps=4)
    elif logits.element_size() == 2:
        sample_by_counting(logits, settings, ids)
    else:
        sample_by_search(logits, settings, ids)
    return ids


@triton.jit(
    do_not_specialize=[
        "temperature_ptr",
        "top_k_ptr",
        "top_p_ptr",
        "seed_ptr",
        "position_ptr",
        "vocab",
        "stride_logit_row",
    ]
)
def _sample_few_kernel(
    logit_ptr,
    temperature_ptr,
    top_k_ptr,
    top_p_ptr,
    seed_ptr,
    position_ptr,
    id_ptr,
    vocab,
    stride_logit_row,
    BLOCK: tl.constexpr,
):
    """id[row]: the inverse of the distribution function at uniform(seed, position)"""
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    inside = i < vocab
    logits = tl.load(
        logit_ptr + row.to(tl.int64) * stride_logit_row + i, mask=inside, other=float("-inf")
    ).to(tl.float32)
    logits = tl.where(logits == logits, logits, float("-inf"))
    keys = tl.where(inside, sort_key(logits, i), LEAST_KEY)
    is_before = keys[None, :] > keys[:, None]
    rank = tl.sum(is_before.to(tl.int32), 1)
    wanted = 0
    temperature = tl.load(temperature_ptr + row)
    if temperature > 0.0:
        largest = tl.max(logits, 0).to(tl.float64)
        weights = exact_weights(logits.to(tl.float64), largest, temperature)
        before = tl.sum(tl.where(is_before, weights[None, :], 0.0), 1)
        top_k = tl.load(top_k_ptr + row)
        kept = inside & ((top_k == 0) | (rank < top_k))
        mass = tl.sum(tl.where(kept, weights, 0.0), 0)
        target = tl.load(top_p_ptr + row).to(tl.float64) * mass
        kept = kept & ((before < target) | (rank == 0))
        mass = tl.sum(tl.where(kept, weights, 0.0), 0)
        point = uniform(tl.load(seed_ptr + row), tl.load(position_ptr + row)) * mass
        wanted = tl.max(tl.where(kept & (before <= point) & (weights > 0.0), rank, 0), 0)
    tl.store(id_ptr + row, tl.sum(tl.where(inside & (rank == wanted), i, 0), 0).to(tl.int64))
