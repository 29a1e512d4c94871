"""Sampling without a sort.

There are three questions about the ids in order of falling likelihood: which is the k-th, at which one top-p
is reached, and on which one the random number falls. Equal logits weigh the same, so an id among them is
found by division. There are three ways:

A few logits, such as the largest of a head (`_sample_few_kernel`): each is compared with every other, which
gives its rank and the likelihood before it.

Logits of 16 bits can be but 65,536 different numbers, so a row of a vocabulary is counted by what its logits
are, by as many programs as fill the device: 256 KiB of counters stay in the L2 cache. Their likelihood is
summed up by 256, and each question is answered in two steps, by 256 sums and then by 256 counters. Sums are
in float64 and in a fixed order; only counting is not, and whole numbers do not mind.

Otherwise (`_sample_kernel`) each question is a search for a logit: the largest with at least a given number
of ids, or a given share of the likelihood, at or above it. Each pass over the row tries three logits, so a
search takes at most 16 passes, and about half of that where logits are far apart; a row of 128 thousand
logits stays in the L2 cache. A float32 sum that leaves out an addend is never larger, however it rounds, so
the numbers that are searched do fall, as a search requires.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from antiphon.kernels.triton.head import LEAST_KEY, key_logit, key_position, ordered, sort_key

__all__ = ["sample"]

FEW = 64
MAX_BLOCK = 8192
COUNTED = 1024
"""The ids that a program counts."""
BINS: tl.constexpr = tl.constexpr(256)
"""How many sums there are, and how many counters for each."""
SUMMED: tl.constexpr = tl.constexpr(8)
"""Of how many sums a program makes."""
NOWHERE = tl.constexpr(-(1 << 31))
"""Below `ordered` of every logit, minus infinity included."""


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
        _sample_by_counting(logits, settings, ids)
    else:
        block = min(triton.next_power_of_2(vocab), MAX_BLOCK)
        _sample_kernel[(rows,)](
            logits,
            *settings,
            ids,
            vocab,
            logits.stride(0),
            BLOCK=block,
            num_warps=16 if block == MAX_BLOCK else 4,
        )
    return ids


def _sample_by_counting(logits: Tensor, settings: tuple[Tensor, ...], ids: Tensor) -> None:
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


# --- a few logits ---------------------------------------------------------------------------------


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
        weights = _exact_weights(logits.to(tl.float64), largest, temperature)
        before = tl.sum(tl.where(is_before, weights[None, :], 0.0), 1)
        top_k = tl.load(top_k_ptr + row)
        kept = inside & ((top_k == 0) | (rank < top_k))
        mass = tl.sum(tl.where(kept, weights, 0.0), 0)
        target = tl.load(top_p_ptr + row).to(tl.float64) * mass
        kept = kept & ((before < target) | (rank == 0))
        mass = tl.sum(tl.where(kept, weights, 0.0), 0)
        point = _uniform(tl.load(seed_ptr + row), tl.load(position_ptr + row)) * mass
        wanted = tl.max(tl.where(kept & (before <= point) & (weights > 0.0), rank, 0), 0)
    tl.store(id_ptr + row, tl.sum(tl.where(inside & (rank == wanted), i, 0), 0).to(tl.int64))


@triton.jit
def _exact_weights(logits, largest, temperature):
    """exp((logit - largest) / temperature) in float64, 0 for minus infinity; temperature: float32, not 0"""
    largest = tl.where(largest > float("-inf"), largest, 0.0)
    temperature = tl.maximum(temperature, 1e-37).to(tl.float64)
    weights = tl.exp((logits - largest) / temperature)
    # The difference of two infinities is NaN.
    return tl.where(logits > float("-inf"), tl.where(logits == largest, 1.0, weights), 0.0)


# --- many logits of 16 bits -----------------------------------------------------------------------


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
    weights = _exact_weights(_number_at(place, DTYPE), largest, temperature)
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
            mass += num_at_cut * _exact_weights(_number_at(cut, DTYPE), largest, temperature)

        if top_p < 1.0:
            target = top_p * mass
            at, before, num_equal = _place_of_mass(
                count_ptr, sums, masses, target, largest, temperature, False, DTYPE
            )
            if at < cut:
                cut, num_at_cut = at, num_equal
            elif at > cut:  # by rounding
                before = _mass_before(count_ptr, masses, cut, largest, temperature, DTYPE)
            weight = _exact_weights(_number_at(cut, DTYPE), largest, temperature)
            wanted = tl.ceil(tl.minimum((target - before) / tl.maximum(weight, 1e-300), 1e9))
            num_at_cut = tl.minimum(tl.maximum(wanted, 1.0).to(tl.int32), num_at_cut)
            mass = before + num_at_cut * weight

        # The point stays below the whole mass, or rounding could put it past the last id.
        uniform = _uniform(tl.load(seed_ptr + row), tl.load(position_ptr + row))
        point = tl.minimum(uniform * mass, mass * (1.0 - 1.0 / (1 << 50)))
        place, before, num_equal = _place_of_mass(
            count_ptr, sums, masses, point, largest, temperature, True, DTYPE
        )
        if place > cut:  # by rounding
            place, before, num_equal = cut, mass, num_at_cut
        if place == cut:
            num_equal = tl.minimum(num_equal, num_at_cut)
        weight = _exact_weights(_number_at(place, DTYPE), largest, temperature)
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


# --- many logits of 32 bits -----------------------------------------------------------------------


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
        uniform = _uniform(tl.load(seed_ptr + row), tl.load(position_ptr + row))
        point = tl.minimum(uniform.to(tl.float32) * mass, mass * (1.0 - 1.0 / (1 << 23)))
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


@triton.jit
def _uniform(seed, position):
    """`uniform_reference`, in float64: two rounds of SplitMix64."""
    state = _mix(seed.to(tl.uint64) ^ 0x9E3779B97F4A7C15)
    bits = _mix(state + (position.to(tl.uint64) + 1) * 0x9E3779B97F4A7C15)
    return (bits >> 11).to(tl.float64) * (1.0 / (1 << 53))


@triton.jit
def _mix(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)
