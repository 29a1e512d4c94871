"""Fusion: a speech position attends to the window of text it speaks (Stream-Omni, arXiv 2506.13642, 3.3).

q is rotated by the speech position; k was rotated by the text token's place among the fusion entries.
There is no mask and no order inside the window, so it can live in a ring.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from antiphon.kernels.checks import (
    FLOATS,
    INT32_MAX,
    address,
    check,
    check_device,
    check_each_once,
    check_integer,
    check_plain,
    check_range,
    check_written,
)
from antiphon.kernels.precision import at_least_float32
from antiphon.kernels.registry import (
    cpp_available,
    cpp_float32,
    on_triton,
    register,
    resolve,
    triton_available,
)
from antiphon.kernels.rope import as_cos_sin, check_table, rotated

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

    tokens: Tensor | None
    """int64 (fused): rows of the batch; None: all of them, in order"""
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
        head_dim), of which token t attends to row rows[t]
    num_valid: int32 (tokens), 0 to window; a token with an empty window gets zeros
    positions: int32 (tokens), within the table
    The values of these and of `rows` are checked where that does not mean waiting for the device.
    rope: the rotary table (positions, head_dim) of cos then sin, a pair (cos, sin), or inverse
        frequencies (head_dim / 2)

    Returns (tokens, heads, head_dim). Raises ValueError naming the argument that does not fit.
    """
    _check(q, k, v, num_valid, positions, rows)
    cos_sin = as_cos_sin(rope, 0, q.shape[2], at=positions)
    check_device("rope", cos_sin, "q", q)
    check_range("num_valid", num_valid, 0, k.shape[1])
    if rows is not None:
        check_range("rows", rows, 0, len(k) - 1)
    if isinstance(rope, Tensor) and rope.dim() == 1:  # a table row per token, so no position is too large
        check_range("positions", positions, 0, INT32_MAX)
        positions = torch.arange(len(positions), dtype=torch.int32, device=q.device)
    else:
        check_range("positions", positions, 0, len(cos_sin) - 1)
    attend = resolve("fusion_attention", backend, q.device, q.dtype, q, k, v)
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
    from antiphon.kernels import _C

    tokens, heads, head_dim = q.shape
    q, num_valid, positions, cos_sin = (t.contiguous() for t in (q, num_valid, positions, cos_sin.float()))
    rows = rows.contiguous() if rows is not None else None
    if k.stride()[2:] != (head_dim, 1) or v.stride() != k.stride():
        k, v = k.contiguous(), v.contiguous()
    out = torch.empty_like(q)
    _C.fusion_attention(
        q=address(q),
        key=address(k),
        value=address(v),
        rows=address(rows) if rows is not None else 0,
        num_valid=address(num_valid),
        positions=address(positions),
        cos_sin=address(cos_sin),
        out=address(out),
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
    turned = rotated(q, positions, cos_sin)
    scores = torch.einsum("thd,twhd->thw", at_least_float32(turned), at_least_float32(k)) * q.shape[2] ** -0.5
    empty = torch.arange(k.shape[1], device=q.device) >= num_valid[:, None]
    weights = scores.masked_fill(empty[:, None, :], float("-inf")).softmax(-1)
    weights = weights.masked_fill((num_valid == 0)[:, None, None], 0.0)
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
    checked: bool = True,
) -> None:
    """Writes text tokens' keys and values of all top layers to their window slots, with the keys rotated.

    kv: (tokens, layers, 2, heads * head_dim)
    slots: int64 (tokens): row * window + entry, all different
    positions: int32 (tokens): places among the fusion entries
    cos_sin: the rotary table (positions, head_dim), see `rope_table`
    cache: (rows, window, layers, 2, heads * head_dim), written in place
    checked: False skips the checks, for callers whose arguments fit by construction.

    Raises ValueError naming the argument that does not fit; slots and positions out of range are noticed
    where that does not mean waiting for the device.
    """
    if checked:
        _check_write(kv, slots, positions, cos_sin, cache, head_dim)
    if not kv.numel():
        return
    resolve("fusion_cache_write", backend, kv.device, kv.dtype)(
        kv, slots, positions, cos_sin, cache, head_dim
    )


def _check_write(
    kv: Tensor, slots: Tensor, positions: Tensor, cos_sin: Tensor, cache: Tensor, head_dim: int
) -> None:
    head_dim = check_integer("head_dim", head_dim, 1)
    shape = ("rows", "window", "layers", 2, f"heads * {head_dim}")
    check("cache", cache, FLOATS, shape, contiguous=True)
    if cache.shape[4] % head_dim:
        raise ValueError(
            f"cache: expected contiguous (rows, window, layers, 2, heads * {head_dim}), "
            f"got {tuple(cache.shape)}"
        )
    check_plain("slots", slots)
    if slots.dim() != 1:
        raise ValueError(f"slots: expected torch.int64 of one dimension, got {tuple(slots.shape)}")
    check("kv", kv, cache.dtype, (len(slots), *cache.shape[2:]), ("cache", cache))
    check("slots", slots, torch.int64, slots.shape, ("cache", cache))
    check("positions", positions, torch.int32, slots.shape, ("cache", cache))
    check_table("cos_sin", cos_sin, head_dim, ("cache", cache))
    check_written(
        "cache", cache, (("kv", kv), ("slots", slots), ("positions", positions), ("cos_sin", cos_sin))
    )
    check_range("slots", slots, 0, cache.shape[0] * cache.shape[1] - 1)
    check_each_once("slots", slots)
    check_range("positions", positions, 0, len(cos_sin) - 1)


@register("fusion_cache_write", "cpp", is_available=cpp_available, supports=cpp_float32)
def _fusion_cache_write_cpp(
    kv: Tensor, slots: Tensor, positions: Tensor, cos_sin: Tensor, cache: Tensor, head_dim: int
) -> None:
    from antiphon.kernels import _C

    kv, slots, positions, cos_sin = (t.contiguous() for t in (kv, slots, positions, cos_sin.float()))
    _C.fusion_cache_write(
        kv=address(kv),
        slots=address(slots),
        positions=address(positions),
        cos_sin=address(cos_sin),
        cache=address(cache),
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
    keys = rotated(keys, positions, cos_sin).view(tokens, layers, width)
    cache.view(-1, *cache.shape[2:])[slots] = torch.stack([keys, kv[:, :, 1]], dim=2)


def _check(
    q: Tensor, k: Tensor, v: Tensor, num_valid: Tensor, positions: Tensor, rows: Tensor | None
) -> None:
    check("q", q, FLOATS, ("tokens", "heads", "head_dim"), note=", head_dim even")
    tokens, heads, head_dim = q.shape
    if head_dim < 2 or head_dim % 2:
        raise ValueError(f"q: expected (tokens, heads, head_dim), head_dim even, got {tuple(q.shape)}")
    first = "n" if rows is not None else tokens
    for name, tensor in (("k", k), ("v", v)):
        check(name, tensor, FLOATS, (first, "window", heads, head_dim), ("q", q))
        if tensor.dtype != q.dtype:
            raise ValueError(f"{name}: expected {q.dtype} like q, got {tensor.dtype}")
    if v.shape != k.shape:
        raise ValueError(f"v: expected {tuple(k.shape)} like k, got {tuple(v.shape)}")
    check("num_valid", num_valid, torch.int32, (tokens,), ("q", q))
    check("positions", positions, torch.int32, (tokens,), ("q", q))
    if rows is not None:
        check("rows", rows, torch.int64, (tokens,), ("q", q))
