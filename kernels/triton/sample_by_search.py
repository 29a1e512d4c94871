"""Sampling from many logits of 32 bits.

Each question (see `sample.py`) is a search for a logit: the largest with at least a given number of ids, or a
given share of the likelihood, at or above it. Each pass over the row tries three logits, so a search takes at
most 16 passes, and about half of that where logits are far apart; a row of 128 thousand logits stays in the
L2 cache. A float32 sum that leaves out an addend is never larger, however it rounds, so the numbers that are
searched do fall, as a search requires.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from antiphon.kernels.triton.draw import uniform
from antiphon.kernels.triton.head import LEAST_KEY, key_logit, key_position, ordered, sort_key

__all__ = ["sample_by_search"]

MAX_BLOCK = 8192
NOWHERE = tl.constexpr(-(1 << 31))
"""Below `ordered` of every logit, minus infinity included."""


def sample_by_search(logits: Tensor, settings: tuple[Tensor, ...], ids: Tensor) -> None:
    rows, vocab = logits.shape
    block = min(triton.next_power_of_2(vocab), MAX_BLOCK)
    num_warps = 16 if block == MAX_BLOCK else 4
    _sample_kernel[(rows,)](logits, *settings, ids, vocab, logits.stride(0), BLOCK=block, num_warps=num_warps)


@triton.jit(do_not_specialize=["temperature_ptr", "top_k_ptr", "top_p_ptr", "seed_ptr", "position_ptr"])
def _sample_kernel(
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
    logit_ptr += row.to(tl.int64) * stride_logit_row
    temperature = tl.load(temperature_ptr + row)
    likeliest = _likeliest(logit_ptr, vocab, BLOCK)
    token = key_position(likeliest)
    if temperature > 0.0:
        temperature = tl.maximum(temperature, 1e-37)  # a division may take smaller ones for 0
        largest = key_logit(likeliest)
        largest = tl.where(largest > float("-inf"), largest, 0.0)
        above = (likeliest >> 32) + 1  # above every logit
        top_k = tl.load(top_k_ptr + row)
        top_p = tl.load(top_p_ptr + row)

        # What may be picked: all logits above `cut`, and of those equal to it the first `num_at_cut`.
        cut = likeliest * 0 + NOWHERE
        num_at_cut = vocab
        if (top_k > 0) & (top_k < vocab):
            cut = _search_count(logit_ptr, vocab, cut, above, top_k, BLOCK)
        mass, num_above, _ = _at(logit_ptr, vocab, cut, largest, temperature, BLOCK)
        if cut > NOWHERE:
            num_at_cut = top_k - num_above
            mass += num_at_cut.to(tl.float32) * _weight_at(cut, largest, temperature)

        if top_p < 1.0:
            target = tl.maximum(top_p * mass, 1e-30)  # the likeliest id weighs 1 and is always in
            k_cut = cut
            cut = _search_mass(logit_ptr, vocab, cut, above, target, largest, temperature, False, BLOCK)
            mass, _, num_equal = _at(logit_ptr, vocab, cut, largest, temperature, BLOCK)
            num_equal = tl.where(cut == k_cut, tl.minimum(num_equal, num_at_cut), num_equal)
            weight = _weight_at(cut, largest, temperature)
            wanted = tl.ceil(tl.minimum((target - mass) / tl.maximum(weight, 1e-37), 1e9))
            num_at_cut = tl.minimum(tl.maximum(wanted, 1.0).to(tl.int32), num_equal)
            mass += num_at_cut.to(tl.float32) * weight

        # The point stays below the whole mass, or rounding could put it past the last id.
        number = uniform(tl.load(seed_ptr + row), tl.load(position_ptr + row))
        point = tl.minimum(number.to(tl.float32) * mass, mass * (1.0 - 1.0 / (1 << 23)))
        found = _search_mass(logit_ptr, vocab, cut, above, point, largest, temperature, True, BLOCK)
        mass, _, num_equal = _at(logit_ptr, vocab, found, largest, temperature, BLOCK)
        num_equal = tl.where(found == cut, tl.minimum(num_equal, num_at_cut), num_equal)
        weight = _weight_at(found, largest, temperature)
        index = tl.minimum(tl.maximum((point - mass) / tl.maximum(weight, 1e-37), 0.0), 1e9).to(tl.int32)
        token = _nth_equal(logit_ptr, vocab, found, tl.minimum(index, num_equal - 1), BLOCK)
    tl.store(id_ptr + row, token)


@triton.jit
def _load(logit_ptr, first, vocab, BLOCK: tl.constexpr):
    """A block of logits in float32, and as int32 that compare like them; NOWHERE past the vocabulary."""
    i = first + tl.arange(0, BLOCK)
    logits = tl.load(logit_ptr + i, mask=i < vocab, other=float("-inf")).to(tl.float32)
    return logits, tl.where(i < vocab, ordered(logits), NOWHERE)


@triton.jit
def _likeliest(logit_ptr, vocab, BLOCK: tl.constexpr):
    best = tl.full([BLOCK], LEAST_KEY, dtype=tl.int64)
    for first in range(0, vocab, BLOCK):
        logits, keys = _load(logit_ptr, first, vocab, BLOCK)
        at = first + tl.arange(0, BLOCK)
        best = tl.maximum(best, tl.where(keys > NOWHERE, sort_key(logits, at), LEAST_KEY))
    return tl.max(best, 0)


@triton.jit
def _weights(logits, largest, temperature):
    """exp((logit - largest) / temperature), 0 for minus infinity and NaN; no step overflows"""
    difference = tl.minimum(largest - logits, 200.0 * tl.minimum(temperature, 1e36))
    weights = tl.exp(-difference / temperature)
    # The difference of two infinities is NaN.
    return tl.where(logits > float("-inf"), tl.where(logits == largest, 1.0, weights), 0.0)


@triton.jit
def _weight_at(key, largest, temperature):
    return _weights(key_logit(key << 32), largest, temperature)


@triton.jit
def _at(logit_ptr, vocab, key, largest, temperature, BLOCK: tl.constexpr):
    """The weight and the number of the logits above `key`, and the number of those equal to it."""
    mass = tl.zeros([BLOCK], dtype=tl.float32)
    num_above = tl.zeros([BLOCK], dtype=tl.int32)
    num_equal = tl.zeros([BLOCK], dtype=tl.int32)
    key = key.to(tl.int32)
    for first in range(0, vocab, BLOCK):
        logits, keys = _load(logit_ptr, first, vocab, BLOCK)
        mass += tl.where(keys > key, _weights(logits, largest, temperature), 0.0)
        num_above += (keys > key).to(tl.int32)
        num_equal += (keys == key).to(tl.int32)
    return tl.sum(mass, 0), tl.sum(num_above, 0), tl.sum(num_equal, 0)


@triton.jit
def _search_count(logit_ptr, vocab, low, high, wanted, BLOCK: tl.constexpr):
    """The largest key in low..high - 1 with at least `wanted` logits at or above it; `low` is such a key."""
    while high - low > 1:
        step = (high - low + 3) // 4
        key1, key2, key3 = low + step, low + 2 * step, low + 3 * step
        num1 = tl.zeros([BLOCK], dtype=tl.int32)
        num2 = tl.zeros([BLOCK], dtype=tl.int32)
        num3 = tl.zeros([BLOCK], dtype=tl.int32)
        lowest, highest = _no_bounds(BLOCK)
        for first in range(0, vocab, BLOCK):
            _, keys = _load(logit_ptr, first, vocab, BLOCK)
            lowest, highest = _bounds(keys, low, high, lowest, highest)
            num1 += (keys >= key1.to(tl.int32)).to(tl.int32)
            num2 += (keys >= key2.to(tl.int32)).to(tl.int32)
            num3 += (keys >= key3.to(tl.int32)).to(tl.int32)
        low, high = _narrowed(
            low,
            high,
            step,
            lowest,
            highest,
            tl.sum(num1, 0) >= wanted,
            tl.sum(num2, 0) >= wanted,
            tl.sum(num3, 0) >= wanted,
        )
    return low


@triton.jit
def _search_mass(
    logit_ptr, vocab, low, high, wanted, largest, temperature, MORE: tl.constexpr, BLOCK: tl.constexpr
):
    """The largest key in low..high - 1 with at least `wanted` weight at or above it (MORE: with more).

    `low` is such a key. If it is a cut, rounding in float32 may leave it short of that; then it is the answer
    all the same.
    """
    while high - low > 1:
        step = (high - low + 3) // 4
        key1, key2, key3 = low + step, low + 2 * step, low + 3 * step
        mass1 = tl.zeros([BLOCK], dtype=tl.float32)
        mass2 = tl.zeros([BLOCK], dtype=tl.float32)
        mass3 = tl.zeros([BLOCK], dtype=tl.float32)
        lowest, highest = _no_bounds(BLOCK)
        for first in range(0, vocab, BLOCK):
            logits, keys = _load(logit_ptr, first, vocab, BLOCK)
            weights = _weights(logits, largest, temperature)
            lowest, highest = _bounds(keys, low, high, lowest, highest)
            mass1 += tl.where(keys >= key1.to(tl.int32), weights, 0.0)
            mass2 += tl.where(keys >= key2.to(tl.int32), weights, 0.0)
            mass3 += tl.where(keys >= key3.to(tl.int32), weights, 0.0)
        if MORE:
            low, high = _narrowed(
                low,
                high,
                step,
                lowest,
                highest,
                tl.sum(mass1, 0) > wanted,
                tl.sum(mass2, 0) > wanted,
                tl.sum(mass3, 0) > wanted,
            )
        else:
            low, high = _narrowed(
                low,
                high,
                step,
                lowest,
                highest,
                tl.sum(mass1, 0) >= wanted,
                tl.sum(mass2, 0) >= wanted,
                tl.sum(mass3, 0) >= wanted,
            )
    return low


@triton.jit
def _no_bounds(BLOCK: tl.constexpr):
    return tl.full([BLOCK], 0x7FFFFFFF, dtype=tl.int32), tl.full([BLOCK], NOWHERE, dtype=tl.int32)


@triton.jit
def _bounds(keys, low, high, lowest, highest):
    """The lowest key from `low` on, and the highest below `high`."""
    lowest = tl.minimum(lowest, tl.where(keys >= low.to(tl.int32), keys, 0x7FFFFFFF))
    return lowest, tl.maximum(highest, tl.where(keys < high.to(tl.int32), keys, NOWHERE))


@triton.jit
def _narrowed(low, high, step, lowest, highest, enough1, enough2, enough3):
    """The quarter of low..high at whose beginning there is enough, and at whose end there is not.

    It is cut to the keys that occur in low..high, so that the search ends early where few are left.
    """
    quarter = enough1.to(tl.int64) + enough2.to(tl.int64) + enough3.to(tl.int64)
    high = tl.minimum(high, low + (quarter + 1) * step)
    high = tl.minimum(high, tl.max(highest, 0).to(tl.int64) + 1)
    low = tl.maximum(low + quarter * step, tl.minimum(tl.min(lowest, 0).to(tl.int64), high - 1))
    return low, high


@triton.jit
def _nth_equal(logit_ptr, vocab, key, index, BLOCK: tl.constexpr):
    """The id, int64, of the logit equal to `key` that follows `index` other such logits; 0 if none is"""
    before = 0
    token = tl.zeros([], dtype=tl.int64)
    for first in range(0, vocab, BLOCK):
        _, keys = _load(logit_ptr, first, vocab, BLOCK)
        equal = (keys == key.to(tl.int32)).to(tl.int32)
        is_it = (equal > 0) & (before + tl.cumsum(equal, 0) - 1 == index)
        token += tl.sum(tl.where(is_it, first + tl.arange(0, BLOCK), 0), 0).to(tl.int64)
        before += tl.sum(equal, 0)
    return token
