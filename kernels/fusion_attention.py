"""Fusion: a speech position attends to the window of text it speaks (Stream-Omni, arXiv 2506.13642, 3.3).

q is rotated by the speech position; k was rotated by the text token's place among the fusion entries.
There is no mask and no order inside the window, so it can live in a ring.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from antiphon.kernels.precision import at_least_float32
from antiphon.kernels.registry import (
    cpp_available,
    cpp_float32,
    on_triton,
    register,
    resolve,
    triton_available,
)
from antiphon.kernels.rope import apply_rope, as_cos_sin

__all__ = [
    "FusionBatch",
    "fusion_attention",
    "fusion_attention_reference",
    "fusion_cache_write",
    "fusion_cache_write_reference",
]


@dataclass(frozen=True)
class FusionBatch:
    """The tokens of a batch that receive fusion, and the windows they look at."""

    tokens: Tensor
    """int64 (fused): rows of the batch"""
    rows: Tensor
    """int64 (fused): rows of the cache"""
    num_valid: Tensor
    """int32 (fused): entries of the window that are filled"""
    positions: Tensor
    """int32 (fused): speech positions"""
    cache: Tensor
    """(rows, window, layers, 2, heads * head_dim): keys (rotated) and values of every top layer"""


def fusion_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_valid: Tensor,
    positions: Tensor,
    rope: object,
    *,
    rows: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """softmax(rope(q) k^T / sqrt(head_dim)) v over the first `num_valid` entries of each token's window.

    q: (tokens, heads, head_dim), not rotated
    k, v: (tokens, window, heads, head_dim), k rotated; with `rows` int64 (tokens): (n, window, heads,
        head_dim), of which token t looks at row rows[t]
    num_valid: int32 (tokens), 0 to window; a token with an empty window gets zeros
    positions: int32 (tokens), within the table
    rope: the rotary table (positions, head_dim) of cos then sin, a pair (cos, sin), or inverse
        frequencies (head_dim / 2)

    Returns (tokens, heads, head_dim). Raises ValueError naming the argument that does not fit.
    """
    _check(q, k, v, num_valid, positions, rows)
    by_frequencies = isinstance(rope, Tensor) and rope.dim() == 1
    num_positions = int(positions.max()) + 1 if by_frequencies and len(positions) else 1
    cos_sin = as_cos_sin(rope, num_positions, q.shape[2])
    if q.device.type == "cpu":  # elsewhere a look at the values would wait for the device
        _check_range("num_valid", num_valid, k.shape[1] + 1)
        _check_range("positions", positions, len(cos_sin))
        if rows is not None:
            _check_range("rows", rows, len(k))
    attend = resolve("fusion_attention", backend, q.device, q.dtype)
    out: Tensor = attend(q, k, v, num_valid, positions, cos_sin, rows)
    return out


@register("fusion_attention", "cpp", is_available=cpp_available, supports=cpp_float32)
def _fusion_attention_cpp(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_valid: Tensor,
    positions: Tensor,
    cos_sin: Tensor,
    rows: Tensor | None,
) -> Tensor:
    from antiphon import _C

    tokens, heads, head_dim = q.shape
    q, num_valid, positions, cos_sin = (t.contiguous() for t in (q, num_valid, positions, cos_sin.float()))
    rows = rows.contiguous() if rows is not None else None
    if k.stride()[2:] != (head_dim, 1) or v.stride() != k.stride():
        k, v = k.contiguous(), v.contiguous()
    out = torch.empty_like(q)
    _C.fusion_attention(
        q=q.data_ptr(),
        key=k.data_ptr(),
        value=v.data_ptr(),
        rows=rows.data_ptr() if rows is not None else 0,
        num_valid=num_valid.data_ptr(),
        positions=positions.data_ptr(),
        cos_sin=cos_sin.data_ptr(),
        out=out.data_ptr(),
        num_tokens=tokens,
        num_heads=heads,
        head_dim=head_dim,
        row_stride=k.stride(0),
        entry_stride=k.stride(1),
        scale=head_dim**-0.5,
    )
    return out


@register("fusion_attention", "triton", is_available=triton_available, supports=on_triton)
def _fusion_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_valid: Tensor,
    positions: Tensor,
    cos_sin: Tensor,
    rows: Tensor | None,
) -> Tensor:
    from antiphon.kernels.triton.fusion_attention import fusion_attention as launch

    return launch(q, k, v, num_valid, positions, cos_sin, rows)


@register("fusion_attention", "torch")
def fusion_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_valid: Tensor,
    positions: Tensor,
    cos_sin: Tensor,
    rows: Tensor | None,
) -> Tensor:
    if rows is not None:
        k, v = k[rows], v[rows]
    rotated = apply_rope(q, positions, cos_sin)
    scores = (
        torch.einsum("thd,twhd->thw", at_least_float32(rotated), at_least_float32(k)) * q.shape[2] ** -0.5
    )
    empty = torch.arange(k.shape[1], device=q.device) >= num_valid[:, None]
    weights = scores.masked_fill(empty[:, None, :], float("-inf")).softmax(-1).nan_to_num(0.0)
    return torch.einsum("thw,twhd->thd", weights.to(v.dtype), v.masked_fill(empty[:, :, None, None], 0.0))


def fusion_cache_write(
    kv: Tensor,
    slots: Tensor,
    positions: Tensor,
    cos_sin: Tensor,
    cache: Tensor,
    *,
    head_dim: int,
    backend: str | None = None,
) -> None:
    """Put text tokens' keys and values of all top layers into their window slots, keys rotated.

    kv: (tokens, layers, 2, heads * head_dim)
    slots: int64 (tokens): row * window + entry
    positions: int32 (tokens): places among the fusion entries
    cache: (rows, window, layers, 2, heads * head_dim), written in place

    Raises ValueError naming the argument that does not fit; slots and positions are trusted.
    """
    if cache.dim() != 5 or cache.shape[3] != 2 or cache.shape[4] % head_dim or not cache.is_contiguous():
        raise ValueError(
            f"cache: expected contiguous (rows, window, layers, 2, heads * {head_dim}), "
            f"got {tuple(cache.shape)}"
        )
    if kv.shape != (len(slots), *cache.shape[2:]) or kv.dtype != cache.dtype:
        raise ValueError(
            f"kv: expected {cache.dtype} {(len(slots), *cache.shape[2:])}, got {kv.dtype} {tuple(kv.shape)}"
        )
    if cos_sin.dim() != 2 or cos_sin.shape[1] != head_dim or not cos_sin.is_contiguous():
        raise ValueError(f"cos_sin: expected contiguous (positions, {head_dim}), got {tuple(cos_sin.shape)}")
    for name, index, dtype in (("slots", slots, torch.int64), ("positions", positions, torch.int32)):
        _check_index(name, index, dtype, len(kv))
    resolve("fusion_cache_write", backend, kv.device, kv.dtype)(
        kv, slots, positions, cos_sin, cache, head_dim
    )


@register("fusion_cache_write", "cpp", is_available=cpp_available, supports=cpp_float32)
def _fusion_cache_write_cpp(
    kv: Tensor, slots: Tensor, positions: Tensor, cos_sin: Tensor, cache: Tensor, head_dim: int
) -> None:
    from antiphon import _C

    kv = kv.contiguous()
    _C.fusion_cache_write(
        kv=kv.data_ptr(),
        slots=slots.data_ptr(),
        positions=positions.data_ptr(),
        cos_sin=cos_sin.data_ptr(),
        cache=cache.data_ptr(),
        num_tokens=kv.shape[0],
        num_layers=kv.shape[1],
        num_heads=kv.shape[3] // head_dim,
        head_dim=head_dim,
    )


@register("fusion_cache_write", "triton", is_available=triton_available, supports=on_triton)
def _fusion_cache_write_triton(
    kv: Tensor, slots: Tensor, positions: Tensor, cos_sin: Tensor, cache: Tensor, head_dim: int
) -> None:
    from antiphon.kernels.triton.fusion_attention import fusion_cache_write as launch

    launch(kv, slots, positions, cos_sin, cache, head_dim)


@register("fusion_cache_write", "torch")
def fusion_cache_write_reference(
    kv: Tensor, slots: Tensor, positions: Tensor, cos_sin: Tensor, cache: Tensor, head_dim: int
) -> None:
    tokens, layers, _, width = kv.shape
    keys = kv[:, :, 0].reshape(tokens, layers * width // head_dim, head_dim)
    keys = apply_rope(keys, positions, cos_sin).view(tokens, layers, width)
    cache.view(-1, *cache.shape[2:])[slots] = torch.stack([keys, kv[:, :, 1]], dim=2)


def _check(
    q: Tensor, k: Tensor, v: Tensor, num_valid: Tensor, positions: Tensor, rows: Tensor | None
) -> None:
    if q.dim() != 3 or q.shape[2] % 2:
        raise ValueError(f"q: expected (tokens, heads, head_dim), head_dim even, got {tuple(q.shape)}")
    tokens, heads, head_dim = q.shape
    for name, tensor in (("k", k), ("v", v)):
        if (
            tensor.dim() != 4
            or tensor.shape[2:] != (heads, head_dim)
            or (rows is None and len(tensor) != tokens)
        ):
            first = "n" if rows is not None else str(tokens)
            raise ValueError(
                f"{name}: expected ({first}, window, {heads}, {head_dim}), got {tuple(tensor.shape)}"
            )
        if tensor.dtype != q.dtype:
            raise ValueError(f"{name}: expected {q.dtype} like q, got {tensor.dtype}")
    _check_index("num_valid", num_valid, torch.int32, tokens)
    _check_index("positions", positions, torch.int32, tokens)
    if rows is not None:
        _check_index("rows", rows, torch.int64, tokens)


def _check_index(name: str, index: Tensor, dtype: torch.dtype, length: int) -> None:
    if index.dtype != dtype or index.shape != (length,):
        raise ValueError(f"{name}: expected {dtype} ({length},), got {index.dtype} {tuple(index.shape)}")


def _check_range(name: str, index: Tensor, end: int) -> None:
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < end:
        raise ValueError(f"{name}: expected numbers from 0 to {end - 1}, got {index.min()} to {index.max()}")
