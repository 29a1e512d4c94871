"""Calls every op with every tiling that serving can need, so that nothing is compiled while a request waits.

A Triton kernel is compiled for the dtypes and the sizes of a model, and for a few tilings, of which the
number of rows, of sequences or of keys picks one: the first call with each takes up to two seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from antiphon.kernels.argmax_head import argmax_head
from antiphon.kernels.attention_batch import AttentionBatch
from antiphon.kernels.decoder_stack import DecoderGeometry
from antiphon.kernels.fusion_attention import fusion_attention, fusion_cache_write
from antiphon.kernels.linear import Linear, TritonLinear
from antiphon.kernels.paged_attention import paged_attention, rope_cache_write
from antiphon.kernels.precision import at_least_float32
from antiphon.kernels.quantized import QuantizedWeight
from antiphon.kernels.quantized_cache import Caches
from antiphon.kernels.rms_norm import rms_norm, rms_norm_residual
from antiphon.kernels.sample import sample
from antiphon.kernels.silu_mul import silu_mul
from antiphon.kernels.soft_embedding import soft_embedding

__all__ = ["Served", "warm_up"]

HEAD_ROWS = (1, 16, 32, 64)
"""One for each tiling of a head."""
SOFT_ROWS = (16, 32, 64, 256)
PRODUCT_ROWS = (1, 16, 32, 64, 128)
"""One for each tiling of a product with int8 weights."""
FEW, MANY = 2, 65
"""Ids that a row is sampled from: the largest of a head, and more than a head finds by itself."""


@dataclass(frozen=True)
class Served:
    """What a model is served with. Nothing of it is changed."""

    geometry: DecoderGeometry
    hidden_size: int
    intermediate_size: int
    dtype: torch.dtype
    """Of activations"""
    caches: Sequence[Caches]
    """Keys and values of a layer, (num_blocks, block_size, kv_heads, head_dim): one pair for each layout"""
    max_blocks: int
    """The most that a sequence has"""
    max_num_seqs: int
    cos_sin: Tensor
    """The rotary table (positions, head_dim)"""
    heads: Sequence[Linear]
    """All that ids are picked from, (hidden_size, vocab)"""
    subset: Tensor | None = None
    """Of the last head: the ids that compete, where not all do"""
    soft: tuple[Linear, Tensor | QuantizedWeight] | None = None
    """Head and table of soft embeddings"""
    fusion_cache: Tensor | None = None
    """(rows, window, layers, 2, heads * head_dim)"""
    products: Sequence[Linear] = ()
    """Those of the layers, of which some may be Triton's"""


@torch.inference_mode()
def warm_up(served: Served, *, backend: str | None = None) -> Iterator[str]:
    """Yields the name of each step before it runs; a step takes up to a few seconds where it compiles."""
    device = served.cos_sin.device
    calls = _Calls(served, device, served.dtype, backend)
    yield "norms and gates"
    calls.rows_apart()
    for tokens, num_seqs in _batches(served.max_num_seqs):
        for max_blocks in _context_sizes(served.max_blocks):
            yield f"attention of {tokens} positions in {num_seqs} sequences of up to {max_blocks} blocks"
            calls.attention(tokens, num_seqs, max_blocks)
    if served.fusion_cache is not None:
        yield "fusion"
        calls.fusion(served.fusion_cache)
    for product in _each_once([*served.products, *served.heads]):
        yield f"products of {product.in_features} by {product.out_features} in 8 bits"
        for rows in PRODUCT_ROWS:
            calls.product(product, rows)
    for head in served.heads:
        subset = served.subset if head is served.heads[-1] else None
        for rows in HEAD_ROWS:
            yield f"a head of {head.out_features} ids, {rows} rows"
            calls.head(head, rows, subset)
    if served.soft is not None:
        for rows in SOFT_ROWS:
            yield f"soft embeddings of {rows} rows"
            soft_embedding(calls.zeros(rows, served.hidden_size), *served.soft, backend=backend)
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def _each_once(products: Sequence[Linear]) -> list[TritonLinear]:
    """One for each kernel that is compiled: sizes are told apart by more than is worth knowing here."""
    found = {
        (product.in_features, product.out_features, product.quantized.dynamic): product
        for product in products
        if isinstance(product, TritonLinear)
    }
    return [*found.values()]


def _batches(max_num_seqs: int) -> list[tuple[int, int]]:
    """(tokens, sequences): decoding, a prompt alone, prompts beside decoding, few and many."""
    batches = [(1, 1), (2, 2), (3, 1), (max_num_seqs, max_num_seqs), (64, 1), (512, 1), (64, 2)]
    return [*dict.fromkeys([*batches, (512 + max_num_seqs, max_num_seqs)])]


def _context_sizes(max_blocks: int) -> list[int]:
    """1, 2, 4, ...: a longer context is shared by more programs."""
    return [*dict.fromkeys([*(1 << i for i in range(max_blocks.bit_length())), max_blocks])]


@dataclass(frozen=True)
class _Calls:
    served: Served
    device: torch.device
    dtype: torch.dtype
    backend: str | None

    def zeros(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.zeros(*shape, dtype=dtype or self.dtype, device=self.device)

    def rows_apart(self) -> None:
        x = self.zeros(2, self.served.hidden_size)
        rms_norm(x, x[0], 1e-5, backend=self.backend)
        rms_norm_residual(x, x, x[0], 1e-5, backend=self.backend)
        silu_mul(self.zeros(2, 2 * self.served.intermediate_size), backend=self.backend)

    def attention(self, tokens: int, num_seqs: int, max_blocks: int) -> None:
        """Of tokens that have no keys yet, and write none."""
        geometry = self.served.geometry
        width = (geometry.num_heads + 2 * geometry.num_kv_heads) * geometry.head_dim
        starts = [i * tokens // num_seqs for i in range(num_seqs + 1)]
        batch = AttentionBatch(
            positions=self.zeros(tokens, dtype=torch.int32),
            slot_mapping=self.zeros(tokens, dtype=torch.int64) - 1,
            cu_seqlens_q=torch.tensor(starts, dtype=torch.int32, device=self.device),
            context_lens=self.zeros(num_seqs, dtype=torch.int32),
            block_table=self.zeros(num_seqs, max_blocks, dtype=torch.int32),
        )
        for keys, values in self.served.caches:
            qkv = self.zeros(tokens, width)
            q = rope_cache_write(
                qkv,
                self.served.cos_sin,
                batch,
                keys,
                values,
                num_heads=geometry.num_heads,
                backend=self.backend,
            )
            paged_attention(q, keys, values, batch, backend=self.backend)

    def fusion(self, cache: Tensor) -> None:
        heads, head_dim = self.served.geometry.num_heads, self.served.geometry.head_dim
        ints, longs = self.zeros(1, dtype=torch.int32), self.zeros(1, dtype=torch.int64)
        table = self.served.cos_sin
        k, v = cache[:, :, 0].unflatten(-1, (heads, head_dim)).unbind(2)
        q = self.zeros(1, heads, head_dim)
        fusion_attention(q, k, v, ints, ints, at_least_float32(table), rows=longs, backend=self.backend)
        # to a window of its own: those of the model may be in use
        scratch = torch.zeros_like(cache[:1])
        kv = self.zeros(1, *cache.shape[2:])
        fusion_cache_write(kv, longs, ints, table, scratch, head_dim=head_dim, backend=self.backend)

    def product(self, product: TritonLinear, rows: int) -> None:
        """With what its result may be added to, or the gate that it may have."""
        x = self.zeros(rows, product.in_features)
        y = product(x)
        if product.out_features == self.served.hidden_size:
            product(x, y)
        if product.out_features == 2 * self.served.intermediate_size:
            product.silu_mul(x)

    def head(self, head: Linear, rows: int, subset: Tensor | None) -> None:
        hidden = self.zeros(rows, self.served.hidden_size)
        for top_k in (1, FEW):
            _, logits = argmax_head(hidden, head, top_k=top_k, subset=subset, backend=self.backend)
        self._sample(logits)
        if head.out_features >= MANY:
            self._sample(head(hidden))

    def _sample(self, logits: Tensor) -> None:
        rows = len(logits)
        ones, longs = self.zeros(rows, dtype=torch.float32) + 1, self.zeros(rows, dtype=torch.int64)
        sample(logits, ones, longs.int(), ones, longs, longs, backend=self.backend)
