"""Sampling from many logits of 16 bits.

They can be but 65,536 different numbers, so a row of a vocabulary is counted by what its logits are, by as
many programs as fill the device: 256 KiB of counters stay in the L2 cache. Their likelihood is summed up by
256, and each question (see `sample.py`) is answered in two steps, by 256 sums and then by 256 counters. Sums
are in float64 and in a fixed order; only counting is not, and whole numbers do not mind.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from antiphon.kernels.triton.draw import exact_weights, uniform
from antiphon.kernels.triton.head import LEAST_KEY, key_logit, key_position, sort_key

__all__ = ["sample_by_counting"]

COUNTED = 1024
"""The ids that a program counts."""
BINS: tl.constexpr = tl.constexpr(256)
"""How many sums there are, and how many counters for each."""
SUMMED: tl.constexpr = tl.constexpr(8)
"""Of how many sums a program makes."""
MAX_BLOCK = 8192


def sample_by_counting(logits: Tensor, settings: tuple[Tensor, ...], ids: Tensor) -> None:
    rows, vocab = logits.shape
    parts = triton.cdiv(vocab, COUNTED)
    counts = torch.zeros(rows, 1 << 16, dtype=torch.int32, device=logits.device)
    likeliest = ids.new_empty(rows, parts)
    _count_kernel[(parts, rows)](
        logits, settings[0], counts, likeliest, vocab, logits.stride(0), BLOCK=COUNTED, num_warps=4
    )
    bins, summed, block_parts = BINS.value, SUMMED.value, triton.next_power_of_2(parts)
    sums, masses = counts.new_empty(rows, bins), counts.new_empty(rows, bins, dtype=torch.float64)
    _sum_kernel[(bins // summed, rows)](
        logits, settings[0], counts, likeliest, sums, masses, parts, BLOCK=block_parts, num_warps=4
    )
    found = counts.new_empty(rows, 2)
    _find_kernel[(rows,)](
        logits,
        *settings,
        counts,
        likeliest,
        sums,
        masses,
        found,
        ids,
        parts,
        vocab,
        BLOCK=block_parts,
        num_warps=4,
    )
    block = min(triton.next_power_of_2(vocab), MAX_BLOCK)
    _pick_kernel[(rows,)](
        logits, found, ids, vocab, logits.stride(0), BLOCK=block, num_warps=16 if block == MAX_BLOCK else 4
    )


@triton.jit
def _place(logits):
    """0 to 65,535: where a logit of 16 bits stands among all such numbers, from the largest down. -0.0 stands
    with 0.0, and NaN with minus infinity."""
    value = logits.to(tl.float32)
    bits = logits.to(tl.int16, bitcast=True).to(tl.int32)
    lowest = -128 if logits.dtype == tl.bfloat16 else -1024  # the bits of minus infinity
    bits = tl.where(value == value, tl.where(value == 0.0, 0, bits), lowest)
    return 32767 - (bits ^ ((bits >> 31) & 0x7FFF))


@triton.jit
def _number_at(place, DTYPE: tl.constexpr):
    """The number of 16 bits that stands there, in float64; NaN where none does."""
    bits = 32767 - place
    bits = bits ^ ((bits >> 31) & 0x7FFF)
    return bits.to(tl.int16).to(DTYPE, bitcast=True).to(tl.float32).to(tl.float64)


@triton.jit
def _largest_key(key_ptr, row, parts, BLOCK: tl.constexpr):
    part = tl.arange(0, BLOCK)
    return tl.max(tl.load(key_ptr + row * parts + part, mask=part < parts, other=LEAST_KEY), 0)


@triton.jit(do_not_specialize=["temperature_ptr"])
def _count_kernel(
    logit_ptr, temperature_ptr, count_ptr, key_ptr, vocab, stride_logit_row, BLOCK: tl.constexpr
):
    """count[row, place] += the part's logits that stand there, if the row is sampled; key[row, part]: the
    largest"""
    part, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i = part * BLOCK + tl.arange(0, BLOCK)
    inside = i < vocab
    logits = tl.load(logit_ptr + row * stride_logit_row + i, mask=inside, other=0.0)
    keys = tl.where(inside, sort_key(logits.to(tl.float32), i), LEAST_KEY)
    tl.store(key_ptr + row * tl.num_programs(0) + part, tl.max(keys, 0))
    if tl.load(temperature_ptr + row) > 0.0:
        tl.atomic_add(count_ptr + row * 65536 + _place(logits), 1, mask=inside, sem="relaxed")


@triton.jit(do_not_specialize=["temperature_ptr", "parts"])
def _sum_kernel(
    logit_ptr, temperature_ptr, count_ptr, key_ptr, sum_ptr, mass_ptr, parts, BLOCK: tl.constexpr
):
    """sum[row, bin], mass[row, bin]: how many logits stand in the bin's 256 places, and what they weigh"""
    row = tl.program_id(1).to(tl.int64)
    temperature = tl.load(temperature_ptr + row)
    if temperature > 0.0:
        largest = key_logit(_largest_key(key_ptr, row, parts, BLOCK)).to(tl.float64)
        in_row = tl.program_id(0) * SUMMED + tl.arange(0, SUMMED)
        place = in_row[:, None] * BINS + tl.arange(0, BINS)[None, :]
        counts = tl.load(count_ptr + row * 65536 + place)
        weights = _weights_at(place, counts, largest, temperature, logit_ptr.dtype.element_ty)
        tl.store(sum_ptr + row * BINS + in_row, tl.sum(counts, 1))
        tl.store(mass_ptr + row * BINS + in_row, tl.sum(weights, 1))


@triton.jit
def _weights_at(place, counts, largest, temperature, DTYPE: tl.constexpr):
    """What all logits that stand at a place weigh."""
    weights = exact_weights(_number_at(place, DTYPE), largest, temperature)
    return tl.where(counts > 0, counts.to(tl.float64) * weights, 0.0)


@triton.jit
def _crossing(counts, amounts, before, wanted, MORE: tl.constexpr):
    """The first bin with a count at whose end there is at least `wanted` (MORE: more), or else the last with
    a count; what there is before it."""
    i = tl.arange(0, BINS)
    reached = before + tl.cumsum(amounts, 0)
    if MORE:
        enough = reached > wanted
    else:
        enough = reached >= wanted
    last = tl.max(tl.where(counts > 0, i, 0), 0)
    at = tl.minimum(tl.min(tl.where((counts > 0) & enough, i, BINS), 0), last)
    return at, before + tl.sum(tl.where(i < at, amounts, 0), 0)


@triton.jit
def _place_of_mass(
    count_ptr, sums, masses, wanted, largest, temperature, MORE: tl.constexpr, DTYPE: tl.constexpr
):
    """The first place up to which the logits weigh `wanted` (MORE: more), or else the last where one stands;
    what those before it weigh; how many stand there."""
    bin_at, before = _crossing(sums, masses, 0.0, wanted, MORE)
    i = tl.arange(0, BINS)
    place = bin_at * BINS + i
    counts = tl.load(count_ptr + place)
    weights = _weights_at(place, counts, largest, temperature, DTYPE)
    at, before = _crossing(counts, weights, before, wanted, MORE)
    return bin_at * BINS + at, before, tl.sum(tl.where(i == at, counts, 0), 0)


@triton.jit
def _mass_before(count_ptr, masses, place, largest, temperature, DTYPE: tl.constexpr):
    """What the logits before a place weigh."""
    i = tl.arange(0, BINS)
    bin_at = place // BINS
    near = bin_at * BINS + i
    weights = _weights_at(near, tl.load(count_ptr + near), largest, temperature, DTYPE)
    return tl.sum(tl.where(i < bin_at, masses, 0.0), 0) + tl.sum(tl.where(near < place, weights, 0.0), 0)


@triton.jit(
    do_not_specialize=[
        "temperature_ptr",
        "top_k_ptr",
        "top_p_ptr",
        "seed_ptr",
        "position_ptr",
        "parts",
        "vocab",
    ]
)
def _find_kernel(
    logit_ptr,
    temperature_ptr,
    top_k_ptr,
    top_p_ptr,
    seed_ptr,
    position_ptr,
    count_ptr,
    key_ptr,
    sum_ptr,
    mass_ptr,
    found_ptr,
    id_ptr,
    parts,
    vocab,
    BLOCK: tl.constexpr,
):
    """found[row]: the place where the picked logit stands, and which of those there it is. Or -1 and id[row],
    if the likeliest is taken."""
    DTYPE: tl.constexpr = logit_ptr.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    temperature = tl.load(temperature_ptr + row)
    key = _largest_key(key_ptr, row, parts, BLOCK)
    place, index = -1, 0
    if temperature > 0.0:
        largest = key_logit(key).to(tl.float64)
        i = tl.arange(0, BINS)
        count_ptr += row * 65536
        sums, masses = tl.load(sum_ptr + row * BINS + i), tl.load(mass_ptr + row * BINS + i)
        top_k, top_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row).to(tl.float64)

        # What may be picked: all logits before the place `cut`, and of those that stand there `num_at_cut`.
        cut, num_at_cut = 65535, vocab
        mass = tl.sum(masses, 0)
        if (top_k > 0) & (top_k < vocab):
            bin_at, before = _crossing(sums, sums, 0, top_k, False)
            counts = tl.load(count_ptr + bin_at * BINS + i)
            at, before = _crossing(counts, counts, before, top_k, False)
            cut, num_at_cut = bin_at * BINS + at, top_k - before
            mass = _mass_before(count_ptr, masses, cut, largest, temperature, DTYPE)
            mass += num_at_cut * exact_weights(_number_at(cut, DTYPE), largest, temperature)

        if top_p < 1.0:
            target = top_p * mass
            at, before, num_equal = _place_of_mass(
                count_ptr, sums, masses, target, largest, temperature, False, DTYPE
            )
            if at < cut:
                cut, num_at_cut = at, num_equal
            elif at > cut:  # by rounding
                before = _mass_before(count_ptr, masses, cut, largest, temperature, DTYPE)
            weight = exact_weights(_number_at(cut, DTYPE), largest, temperature)
            wanted = tl.ceil(tl.minimum((target - before) / tl.maximum(weight, 1e-300), 1e9))
            num_at_cut = tl.minimum(tl.maximum(wanted, 1.0).to(tl.int32), num_at_cut)
            mass = before + num_at_cut * weight

        # The point stays below the whole mass, or rounding could put it past the last id.
        number = uniform(tl.load(seed_ptr + row), tl.load(position_ptr + row))
        point = tl.minimum(number * mass, mass * (1.0 - 1.0 / (1 << 50)))
        place, before, num_equal = _place_of_mass(
            count_ptr, sums, masses, point, largest, temperature, True, DTYPE
        )
        if place > cut:  # by rounding
            place, before, num_equal = cut, mass, num_at_cut
        if place == cut:
            num_equal = tl.minimum(num_equal, num_at_cut)
        weight = exact_weights(_number_at(place, DTYPE), largest, temperature)
        index = tl.minimum(tl.maximum((point - before) / tl.maximum(weight, 1e-300), 0.0), 1e9).to(tl.int32)
        index = tl.maximum(tl.minimum(index, num_equal - 1), 0)
    else:
        tl.store(id_ptr + row, key_position(key))
    tl.store(found_ptr + row * 2, place)
    tl.store(found_ptr + row * 2 + 1, index)


@triton.jit
def _pick_kernel(logit_ptr, found_ptr, id_ptr, vocab, stride_logit_row, BLOCK: tl.constexpr):
    """id[row]: of the logits that stand at found[row, 0], the one that follows found[row, 1] others"""
    row = tl.program_id(0).to(tl.int64)
    place, index = tl.load(found_ptr + row * 2), tl.load(found_ptr + row * 2 + 1)
    logit_ptr += row * stride_logit_row
    if place >= 0:
        before, first = 0, 0
        while (first < vocab) & (before <= index):
            i = first + tl.arange(0, BLOCK)
            logits = tl.load(logit_ptr + i, mask=i < vocab, other=0.0)
            equal = ((i < vocab) & (_place(logits) == place)).to(tl.int32)
            num_equal = tl.sum(equal, 0)
            if index < before + num_equal:
                is_it = (equal > 0) & (before + tl.cumsum(equal, 0) - 1 == index)
                tl.store(id_ptr + row, tl.sum(tl.where(is_it, i, 0), 0).to(tl.int64))
            before += num_equal
            first += BLOCK
