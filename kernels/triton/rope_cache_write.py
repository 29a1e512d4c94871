"""Rotation of queries and keys, and the write of keys and values into the paged cache, in one launch."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from antiphon.kernels.attention_batch import AttentionBatch
from antiphon.kernels.quantized_cache import Cache, QuantizedCache, numbers_of, scales_of
from antiphon.kernels.triton.rotation import head_blocks, move_heads, quantize_heads

__all__ = ["rope_cache_write"]


def rope_cache_write(
    qkv: Tensor,
    cos_sin: Tensor,
    batch: AttentionBatch,
    key_cache: Cache,
    value_cache: Cache,
    num_heads: int,
) -> Tensor:
    """In place on the queries of `qkv`."""
    keys, values = numbers_of(key_cache), numbers_of(value_cache)
    _, block_size, num_kv_heads, head_dim = keys.shape
    tokens = qkv.shape[0]
    key_scales, value_scales, scale_stride = None, None, 0
    if isinstance(key_cache, QuantizedCache):
        key_scales, value_scales = key_cache.scales, scales_of(value_cache)
        scale_stride = key_scales.stride(0)
    if tokens:
        blocks = head_blocks(num_heads, head_dim)
        parts = triton.cdiv(num_heads, blocks["BLOCK_HEADS"])
        kv_parts = triton.cdiv(num_kv_heads, blocks["BLOCK_HEADS"])
        _rope_cache_write_kernel[(tokens, parts + 2 * kv_parts)](
            qkv,
            cos_sin,
            batch.positions,
            batch.slot_mapping,
            keys,
            values,
            key_scales,
            value_scales,
            num_heads,
            num_kv_heads,
            parts,
            kv_parts,
            block_size,
            keys.stride(0),
            keys.stride(1),
            scale_stride,
            **blocks,
        )
    return qkv[:, : num_heads * head_dim].view(tokens, num_heads, head_dim)


@triton.jit(
    do_not_specialize=["positions_ptr", "slots_ptr", "key_scales_ptr", "value_scales_ptr", "stride_scales"]
)
def _rope_cache_write_kernel(
    qkv_ptr,
    cos_sin_ptr,
    positions_ptr,
    slots_ptr,
    key_ptr,
    value_ptr,
    key_scales_ptr,
    value_scales_ptr,
    num_heads,
    num_kv_heads,
    parts,
    kv_parts,
    block_size,
    stride_block,
    stride_position,
    stride_scales,
    HEAD_DIM: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    """A program moves a few heads of one token: `parts` programs move its queries, `kv_parts` its keys, and
    another `kv_parts` its values."""
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    q_ptr = qkv_ptr + token * (num_heads + 2 * num_kv_heads) * HEAD_DIM
    angle_ptr = cos_sin_ptr + tl.load(positions_ptr + token).to(tl.int64) * HEAD_DIM
    if part < parts:
        first = part * BLOCK_HEADS
        move_heads(q_ptr, q_ptr, angle_ptr, first, num_heads, True, HEAD_DIM, BLOCK_HEADS, BLOCK_HALF)
    else:
        slot = tl.load(slots_ptr + token)
        if slot >= 0:  # -1 pads
            place = slot // block_size * stride_block + slot % block_size * stride_position
            scale_place = slot // block_size * stride_scales + slot % block_size
            k_ptr = q_ptr + num_heads * HEAD_DIM
            if part < parts + kv_parts:
                first = (part - parts) * BLOCK_HEADS
                if key_scales_ptr is None:
                    move_heads(
                        k_ptr, key_ptr + place, angle_ptr, first, num_kv_heads,
                        True, HEAD_DIM, BLOCK_HEADS, BLOCK_HALF,
                    )  # fmt: skip
                else:
                    quantize_heads(
                        k_ptr, key_ptr + place, key_scales_ptr + scale_place, block_size, angle_ptr,
                        first, num_kv_heads, True, HEAD_DIM, BLOCK_HEADS, BLOCK_HALF,
                    )  # fmt: skip
            else:
                first = (part - parts - kv_parts) * BLOCK_HEADS
                v_ptr = k_ptr + num_kv_heads * HEAD_DIM
                if value_scales_ptr is None:
                    move_heads(
                        v_ptr, value_ptr + place, angle_ptr, first, num_kv_heads,
                        False, HEAD_DIM, BLOCK_HEADS, BLOCK_HALF,
                    )  # fmt: skip
                else:
                    quantize_heads(
                        v_ptr, value_ptr + place, value_scales_ptr + scale_place, block_size, angle_ptr,
                        first, num_kv_heads, False, HEAD_DIM, BLOCK_HEADS, BLOCK_HALF,
                    )  # fmt: skip
