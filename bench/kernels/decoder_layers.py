"""A step's run of layers: those of the LLM, each over its own cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from antiphon.bench.kernels.batches import attention_batch, cos_sin, kv_cache
from antiphon.bench.kernels.case import Case, Setting, stored_weight, weight_backend, weight_bytes
from antiphon.bench.sizes import Sizes
from antiphon.kernels import AttentionBatch, DecoderGeometry, DecoderLayer, decoder_layers, linear
from antiphon.kernels.decoder_layers import DecoderLayers

__all__ = ["cases"]

NUM_LAYERS = 3
CONTEXT = 256


def cases(setting: Setting) -> Iterator[Case]:
    for seqs, new, context in ((1, 1, CONTEXT), (16, 1, CONTEXT), (64, 1, CONTEXT), (1, CONTEXT, CONTEXT)):
        for stored in setting.weights:
            yield _case(setting, seqs, new, context, stored)


def _case(setting: Setting, seqs: int, new: int, context: int, stored: str) -> Case:
    sizes, itemsize = setting.sizes, setting.itemsize
    matrices = _matrices(sizes)
    kv = 2 * sizes.num_kv_heads * sizes.head_dim

    def inputs(backend: str) -> tuple[Any, ...]:
        layers = [_layer(setting, stored, backend) for _ in range(NUM_LAYERS)]
        geometry = DecoderGeometry(sizes.num_heads, sizes.num_kv_heads, sizes.head_dim, 1e-5)
        norm = setting.randn(sizes.hidden).abs()
        run = decoder_layers(layers, norm, geometry, cos_sin(setting, context), backend=backend)
        caches = kv_cache(setting, seqs, context, NUM_LAYERS)
        batch = attention_batch(setting, seqs, new, context)
        return run, setting.randn(seqs * new, sizes.hidden), batch, caches

    seen = new * (context - new) + new * (new + 1) // 2
    rows = seqs * new
    weights = sum(weight_bytes(stored, outputs, inputs) for outputs, inputs in matrices.values())
    products = sum(outputs * inputs for outputs, inputs in matrices.values())
    is_own = stored == setting.weights[0]
    return Case(
        shape=f"{NUM_LAYERS} layers, {seqs} x {new} over {context}" + ("" if is_own else f", {stored}"),
        num_bytes=NUM_LAYERS * (weights + seqs * (context + new) * kv * itemsize)
        + 2 * rows * sizes.hidden * itemsize,
        num_ops=NUM_LAYERS * (2 * rows * products + 4 * seqs * seen * sizes.num_heads * sizes.head_dim),
        inputs=inputs,
        call=_call,
    )


def _matrices(sizes: Sizes) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of a layer's matrices."""
    width = sizes.num_heads * sizes.head_dim
    return {
        "qkv": (width + 2 * sizes.num_kv_heads * sizes.head_dim, sizes.hidden),
        "o": (sizes.hidden, width),
        "gate_up": (2 * sizes.intermediate, sizes.hidden),
        "down": (sizes.hidden, sizes.intermediate),
    }


def _layer(setting: Setting, stored: str, backend: str) -> DecoderLayer:
    scale = setting.sizes.hidden**-0.5
    products: dict[str, Any] = {}
    for name, shape in _matrices(setting.sizes).items():
        weight = stored_weight(setting.randn(*shape, scale=scale), stored)
        products[name] = linear(weight, backend=weight_backend(backend))
    norms = [setting.randn(setting.sizes.hidden).abs() for _ in range(2)]
    return DecoderLayer(input_norm=norms[0], post_norm=norms[1], **products)


def _call(
    run: DecoderLayers, x: Tensor, batch: AttentionBatch, caches: list[tuple[Tensor, Tensor]], *, backend: str
) -> Tensor:
    return run(x.clone(), batch, caches, None)  # which it consumes
