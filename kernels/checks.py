"""What the wrappers of all ops check before a kernel runs, whichever backend it belongs to.

Kernels read and write memory by address. So the kind, dtype, shape, device and layout of each argument are
checked. A value that is a place in another argument, such as a row, a position or a block, must exist there;
this is checked on the CPU only, since elsewhere reading the values would wait for the device. Each error is a
ValueError of one line: the argument, what was expected, and what came.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from functools import cache
from numbers import Real
from types import ModuleType
from typing import TypeAlias

import torch
from torch import Tensor

from antiphon.kernels.registry import cpp_available

__all__ = [
    "FLOATS",
    "INT32_MAX",
    "INT32_MIN",
    "address",
    "check",
    "check_device",
    "check_each_once",
    "check_integer",
    "check_number",
    "check_plain",
    "check_range",
    "check_rising",
    "check_written",
    "has_overlap",
    "index_range",
    "stretch",
    "values_are_at_hand",
    "wrong_sequences",
]

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

Shape: TypeAlias = "Sequence[int | str]"


def check_plain(name: str, tensor: object) -> None:
    """A tensor whose numbers lie in memory as they are, with strides."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    kind = ""
    if tensor.is_nested:
        kind = "nested"
    elif tensor.layout is not torch.strided:
        kind = str(tensor.layout)
    elif tensor.is_neg():
        kind = "lazily changed"
    elif tensor.device.type == "cpu" and not _has_memory(tensor):
        kind = "memoryless"
    if kind:
        raise ValueError(f"{name}: expected a plain strided tensor, got a {kind} one")


def _has_memory(tensor: Tensor) -> bool:
    try:
        return tensor.data_ptr() != 0 or not tensor.numel()
    except RuntimeError:  # a fake or wrapped tensor, which has no storage of its own
        return False


def check_device(name: str, tensor: Tensor, like_name: str, like: Tensor) -> None:
    if tensor.device != like.device:
        raise ValueError(f"{name}: expected on {like.device} like {like_name}, got {tensor.device}")


def check(
    name: str,
    tensor: object,
    dtype: torch.dtype | tuple[torch.dtype, ...],
    shape: Shape,
    like: tuple[str, Tensor] | None = None,
    *,
    contiguous: bool = False,
    note: str = "",
) -> None:
    """A plain tensor of this dtype, or one of these, and of this shape.

    shape: sizes; a name in place of a size allows any number
    like: the name and the tensor of another argument, on whose device this one must be
    note: what the message says after the shape; {device} is the device of `like`
    """
    check_plain(name, tensor)
    assert isinstance(tensor, Tensor)
    is_of_kind = tensor.dtype is dtype or (isinstance(dtype, tuple) and tensor.dtype in dtype)
    fits = tensor.shape == shape or _fits(tensor.shape, shape)
    if not is_of_kind or not fits or (contiguous and not tensor.is_contiguous()):
        kinds, found = str(dtype), f"{tensor.dtype} {tuple(tensor.shape)}"
        if isinstance(dtype, tuple):
            kinds = "floating point" if dtype == FLOATS else " or ".join(map(str, dtype))
        sizes = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
        if is_of_kind and dtype == FLOATS:
            expected, found = sizes, str(tuple(tensor.shape))
        else:
            expected = f"{kinds} {sizes}"
        if contiguous:
            expected = f"contiguous {expected}"
            found += "" if tensor.is_contiguous() else f" with strides {tensor.stride()}"
        note = note.format(device=like[1].device) if like is not None else note
        raise ValueError(f"{name}: expected {expected}{note}, got {found}")
    if like is not None:
        check_device(name, tensor, *like)


def _fits(found: Sequence[int], shape: Shape) -> bool:
    if len(found) != len(shape):
        return False
    for size, wanted in zip(found, shape, strict=True):
        if size != wanted and not isinstance(wanted, str):
            return False
    return True


def check_integer(name: str, value: object, least: int, most: int = INT32_MAX) -> int:
    """A Python or numpy integer in this range."""
    try:
        number = None if isinstance(value, (bool, Tensor)) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        raise ValueError(f"{name}: expected an integer from {least} to {most}, got {_shown(value)}")
    return number


def check_number(name: str, value: object, least: float = -math.inf) -> float:
    """A finite Python or numpy number."""
    number = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    if not (math.isfinite(number) and number >= least):
        bound = "" if least == -math.inf else f", {least:g} or more"
        raise ValueError(f"{name}: expected a finite number{bound}, got {_shown(value)}")
    return number


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, (int, float, str)) else type(value).__name__
    return text if len(text) <= 40 else f"{text[:40]}..."


# --- memory ---------------------------------------------------------------------------------------


def address(tensor: Tensor) -> int:
    """Where a tensor's numbers begin, for the C++ kernels."""
    return tensor.data_ptr()


def check_written(name: str, written: Tensor, others: Sequence[tuple[str, Tensor | None]]) -> None:
    """A tensor that an op writes to: each of its numbers has a place of its own, and its stretch of memory
    overlaps no other argument's."""
    if torch.is_grad_enabled() and written.requires_grad:
        raise ValueError(f"{name}: expected a tensor without gradients, since it is written in place")
    if not written.is_contiguous() and has_overlap(written.shape, written.stride()):
        raise ValueError(
            f"{name}: expected memory of its own for each number, got strides {written.stride()}"
        )
    begin, end = stretch(written)
    for other_name, other in others:
        if other is None or other.device != written.device:
            continue
        other_begin, other_end = stretch(other)
        if begin < other_end and other_begin < end:
            raise ValueError(f"{name}: expected memory of its own, got some of {other_name}")


def has_overlap(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Can two places of a tensor share memory? Also True for some unusual strides that only interleave."""
    extent = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size == 0:
            return False
        if size > 1:
            if stride < extent:
                return True
            extent += stride * (size - 1)
    return False


def stretch(tensor: Tensor) -> tuple[int, int]:
    """The addresses of the first byte and of the one after the last."""
    begin, numel = tensor.data_ptr(), tensor.numel()
    if numel and not tensor.is_contiguous():
        numel = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return begin, begin + numel * tensor.element_size()


# --- places ---------------------------------------------------------------------------------------


def values_are_at_hand(tensor: Tensor) -> bool:
    """Can the values be read without waiting for a device?"""
    return tensor.device.type == "cpu"


def index_range(index: Tensor) -> tuple[int, int]:
    """The smallest and the largest of one or more integers on the CPU."""
    if cpp_available():
        index = index.contiguous()
        found: tuple[int, int] = _cpp().index_range(address(index), index.numel(), index.element_size())
        return found
    return int(index.min()), int(index.max())


def check_range(name: str, index: Tensor, least: int, most: int) -> None:
    """Integers from `least` to `most`; checked if the values are at hand."""
    if not index.numel() or not values_are_at_hand(index):
        return
    low, high = index_range(index)
    if low < least or high > most:
        raise ValueError(f"{name}: expected numbers from {least} to {most}, got {low} to {high}")


def check_rising(name: str, index: Tensor, most: int) -> None:
    """Integers from 0 to `most`, each larger than the one before; checked if the values are at hand."""
    if not index.numel() or not values_are_at_hand(index):
        return
    if cpp_available():
        index = index.contiguous()
        rises: bool = _cpp().index_rises(address(index), index.numel(), index.element_size(), most)
    else:
        numbers = index.tolist()
        rises = numbers[0] >= 0 and numbers[-1] <= most and numbers == sorted(set(numbers))
    if not rises:
        raise ValueError(f"{name}: expected to rise within 0 to {most}, got {index.tolist()[:8]}")


def check_each_once(name: str, index: Tensor, least: int = 0) -> None:
    """No integer of `least` or more occurs twice; checked if the values are at hand."""
    if index.numel() < 2 or not values_are_at_hand(index):
        return
    if cpp_available():
        index = index.contiguous()
        repeats: bool = _cpp().index_repeats(address(index), index.numel(), index.element_size(), least)
    else:
        counted = index[index >= least]
        repeats = len(counted.unique()) < len(counted)
    if repeats:
        raise ValueError(f"{name}: expected each at most once, got one twice")


def wrong_sequences(
    cu_seqlens_q: Tensor,
    context_lens: Tensor,
    block_table: Tensor,
    num_tokens: int,
    block_size: int,
    num_blocks: int,
) -> str:
    """Which of the three does not fit the others and the cache; "" if all fit, or if they are not at hand.

    The bounds of the queries rise from 0 to num_tokens. A sequence has no keys, or at least one for each of
    its queries and at most as many as its blocks hold. Those blocks are in the cache.
    """
    if not values_are_at_hand(cu_seqlens_q):
        return ""
    seqs, max_blocks = block_table.shape
    if cpp_available():
        places = [address(tensor) for tensor in (cu_seqlens_q, context_lens, block_table)]
        found: str = _cpp().wrong_sequences(*places, seqs, max_blocks, num_tokens, block_size, num_blocks)
        return found
    bounds, lens = cu_seqlens_q.tolist(), context_lens.tolist()
    if bounds[0] != 0 or bounds[-1] != num_tokens or bounds != sorted(bounds):
        return "cu_seqlens_q"
    for length, begin, end in zip(lens, bounds[:-1], bounds[1:], strict=True):
        if length != 0 and not end - begin <= length <= max_blocks * block_size:
            return "context_lens"
    for length, blocks in zip(lens, block_table.tolist(), strict=True):
        if any(not 0 <= block < num_blocks for block in blocks[: -(-length // block_size)]):
            return "block_table"
    return ""


@cache
def _cpp() -> ModuleType:
    from antiphon.kernels import _C

    return _C
