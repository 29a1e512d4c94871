"""Fusion: the windows are a few entries long, so a program reads all keys and values of a head at once."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from antiphon.kernels.triton.rotation import head_blocks, move_heads, rotated

__all__ = ["fusion_attention", "fusion_cache_write"]


def fusion_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_valid: Tensor,
    positions: Tensor,
    cos_sin: Tensor,
    rows: Tensor | None,
) -> Tensor:
    tokens, heads, head_dim = q.shape
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    out = q.new_empty(tokens, heads, head_dim)
    if out.numel():
        block_half = triton.next_power_of_2(head_dim // 2)
        _fusion_attention_kernel[(tokens, heads)](
            q,
            k,
            v,
            rows.contiguous() if rows is not None else None,
            num_valid.contiguous(),
            positions.contiguous(),
            cos_sin.contiguous(),
            out,
            q.stride(0),
            q.stride(1),
            k.stride(0),
            k.stride(1),
            k.stride(2),
            v.stride(0),
            v.stride(1),
            v.stride(2),
            head_dim**-0.5,
            HEAD_DIM=head_dim,
            BLOCK_HALF=block_half,
            BLOCK_ENTRIES=min(triton.next_power_of_2(max(1, k.shape[1])), max(1, 2048 // block_half)),
            num_warps=2,
        )
    return out


def fusion_cache_write(
    kv: Tensor, slots: Tensor, positions: Tensor, cos_sin: Tensor, cache: Tensor, head_dim: int
) -> None:
    kv = kv.contiguous()
    tokens, layers, _, width = kv.shape
    if kv.numel():
        blocks = head_blocks(width // head_dim, head_dim)
        grid = (tokens, layers * 2, triton.cdiv(width // head_dim, blocks["BLOCK_HEADS"]))
        _fusion_cache_write_kernel[grid](
            kv, slots.contiguous(), positions.contiguous(), cos_sin, cache, width, **blocks
        )


@triton.jit(do_not_specialize=["rows_ptr", "num_valid_ptr", "positions_ptr"])
def _fusion_attention_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    rows_ptr,
    num_valid_ptr,
    positions_ptr,
    cos_sin_ptr,
    out_ptr,
    stride_q_token,
    stride_q_head,
    stride_k_row,
    stride_k_entry,
    stride_k_head,
    stride_v_row,
    stride_v_entry,
    stride_v_head,
    scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_ENTRIES: tl.constexpr,
):
    """out = softmax(rope(q) k^T * scale) v over the valid entries of one token's window, for one head.

    Everything is in halves of a head, as the rotation pairs them. Without `rows` token t has row t.
    """
    HALF: tl.constexpr = HEAD_DIM // 2
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    row = token
    if rows_ptr is not None:
        row = tl.load(rows_ptr + token)
    num_valid = tl.load(num_valid_ptr + token)
    angle_ptr = cos_sin_ptr + tl.load(positions_ptr + token).to(tl.int64) * HEAD_DIM

    i = tl.arange(0, BLOCK_HALF)
    inside = i < HALF
    cos = tl.load(angle_ptr + i, mask=inside, other=0.0).to(tl.float32)
    sin = tl.load(angle_ptr + HALF + i, mask=inside, other=0.0).to(tl.float32)
    q_ptr += token * stride_q_token + head * stride_q_head + i
    q_a, q_b = rotated(
        tl.load(q_ptr, mask=inside, other=0.0).to(tl.float32),
        tl.load(q_ptr + HALF, mask=inside, other=0.0).to(tl.float32),
        cos,
        sin,
    )

    k_ptr += row * stride_k_row + head * stride_k_head
    v_ptr += row * stride_v_row + head * stride_v_head
    largest = float("-inf")
    total = 0.0
    sum_a = tl.zeros([BLOCK_HALF], tl.float32)
    sum_b = tl.zeros([BLOCK_HALF], tl.float32)
    for start in range(0, num_valid, BLOCK_ENTRIES):
        entry = (start + tl.arange(0, BLOCK_ENTRIES)).to(tl.int64)
        valid = entry < num_valid
        seen = valid[:, None] & inside[None, :]
        k = k_ptr + entry[:, None] * stride_k_entry + i[None, :]
        v = v_ptr + entry[:, None] * stride_v_entry + i[None, :]
        k_a = tl.load(k, mask=seen, other=0.0).to(tl.float32)
        k_b = tl.load(k + HALF, mask=seen, other=0.0).to(tl.float32)
        v_a = tl.load(v, mask=seen, other=0.0).to(tl.float32)
        v_b = tl.load(v + HALF, mask=seen, other=0.0).to(tl.float32)
        score = tl.sum(k_a * q_a[None, :] + k_b * q_b[None, :], axis=1) * scale
        score = tl.where(valid, score, float("-inf"))
        above = tl.maximum(largest, tl.max(score, axis=0))  # finite: the first entry is valid
        weight = tl.exp(score - above)
        faded = tl.exp(largest - above)
        total = total * faded + tl.sum(weight, axis=0)
        sum_a = sum_a * faded + tl.sum(weight[:, None] * v_a, axis=0)
        sum_b = sum_b * faded + tl.sum(weight[:, None] * v_b, axis=0)
        largest = above
    total = tl.where(total > 0, total, 1.0)  # an empty window gives zeros
    out_ptr += (token * tl.num_programs(1) + head) * HEAD_DIM + i
    tl.store(out_ptr, (sum_a / total).to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(out_ptr + HALF, (sum_b / total).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["slots_ptr", "positions_ptr"])
def _fusion_cache_write_kernel(
    kv_ptr,
    slots_ptr,
    positions_ptr,
    cos_sin_ptr,
    cache_ptr,
    width,
    HEAD_DIM: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    """A program moves a few heads of one token in one layer: of its keys (even `part`) or of its values."""
    token = tl.program_id(0).to(tl.int64)
    part, parts = tl.program_id(1), tl.num_programs(1)
    first = tl.program_id(2) * BLOCK_HEADS
    num_heads = width // HEAD_DIM
    source_ptr = kv_ptr + (token * parts + part) * width
    target_ptr = cache_ptr + (tl.load(slots_ptr + token) * parts + part) * width
    angle_ptr = cos_sin_ptr + tl.load(positions_ptr + token).to(tl.int64) * HEAD_DIM
    if part % 2 == 0:
        move_heads(
            source_ptr, target_ptr, angle_ptr, first, num_heads, True, HEAD_DIM, BLOCK_HEADS, BLOCK_HALF
        )
    else:
        move_heads(
            source_ptr, target_ptr, angle_ptr, first, num_heads, False, HEAD_DIM, BLOCK_HEADS, BLOCK_HALF
        )
