"""A step's run of layers: those of the LLM, each over its own cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from antiphon.bench.kernels.batches import attention_batch, cos_sin, kv_cache
from antiphon.bench.kernels.case import Case, Setting, weight_backend
from antiphon.kernels import AttentionBatch, DecoderGeometry, DecoderLayer, decoder_layers, linear
from antiphon.kernels.decoder_layers import DecoderLayers

__all__ = ["cases"]

NUM_LAYERS = 3
CONTEXT = 256


def cases(setting: Setting) -> Iterator[Case]:
    sizes, itemsize = setting.sizes, setting.itemsize
    head = sizes.num_heads * sizes.head_dim
    qkv = head + 2 * sizes.num_kv_heads * sizes.head_dim
    weights = sizes.hidden * (qkv + head + 3 * sizes.intermediate)
    kv = 2 * sizes.num_kv_heads * sizes.head_dim
    for seqs, new, context in ((1, 1, CONTEXT), (16, 1, CONTEXT), (64, 1, CONTEXT), (1, CONTEXT, CONTEXT)):

        def inputs(backend: str, seqs: int = seqs, new: int = new, context: int = context) -> tuple[Any, ...]:
            layers = [_layer(setting, qkv, backend) for _ in range(NUM_LAYERS)]
            geometry = DecoderGeometry(sizes.num_heads, sizes.num_kv_heads, sizes.head_dim, 1e-5)
            norm = setting.randn(sizes.hidden).abs()
            run = decoder_layers(layers, norm, geometry, cos_sin(setting, context), backend=backend)
            caches = kv_cache(setting, seqs, context, NUM_LAYERS)
            batch = attention_batch(setting, seqs, new, context)
            return run, setting.randn(seqs * new, sizes.hidden), batch, caches

        seen = new * (context - new) + new * (new + 1) // 2
        rows = seqs * new
        yield Case(
            shape=f"{NUM_LAYERS} layers, {seqs} x {new} over {context}",
            num_bytes=NUM_LAYERS * (weights + seqs * (context + new) * kv) * itemsize
            + 2 * rows * sizes.hidden * itemsize,
            num_ops=NUM_LAYERS * (2 * rows * weights + 4 * seqs * seen * head),
            inputs=inputs,
            call=_call,
        )


def _layer(setting: Setting, qkv: int, backend: str) -> DecoderLayer:
    sizes, scale = setting.sizes, setting.sizes.hidden**-0.5
    head = sizes.num_heads * sizes.head_dim

    def product(n: int, m: int) -> Any:
        return linear(setting.randn(m, n, scale=scale), backend=weight_backend(backend))

    return DecoderLayer(
        input_norm=setting.randn(sizes.hidden).abs(),
        qkv=product(sizes.hidden, qkv),
        o=product(head, sizes.hidden),
        post_norm=setting.randn(sizes.hidden).abs(),
        gate_up=product(sizes.hidden, 2 * sizes.intermediate),
        down=product(sizes.intermediate, sizes.hidden),
    )


def _call(
    run: DecoderLayers, x: Tensor, batch: AttentionBatch, caches: list[tuple[Tensor, Tensor]], *, backend: str
) -> Tensor:
    return run(x.clone(), batch, caches, None)  # which it consumes
