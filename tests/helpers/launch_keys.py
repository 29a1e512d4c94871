"""What Triton would compile for a model that serves: the keys of all launches, without a GPU.

Run as a script in a process of its own, since Triton decides on import whether it interprets; with a scheme
of int8 weights as its argument, if any. Prints JSON: the keys of the warm-up, and those that 400 arrivals of
requests meet beyond them, each with the step that did.
"""

from __future__ import annotations

import json
import os
import random
import sys
from typing import Any
from unittest import mock

if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "0"

import torch
from torch import Tensor
from triton.backends.compiler import BaseBackend
from triton.runtime.jit import JITFunction, create_function_from_signature

from antiphon.kernels import (
    AttentionBatch,
    DecoderGeometry,
    Linear,
    QuantizedCache,
    QuantizedWeight,
    argmax_head,
    checks,
    fusion_attention,
    fusion_cache_write,
    linear,
    paged_attention,
    registry,
    rms_norm,
    rms_norm_residual,
    rope_cache_write,
    sample,
    silu_mul,
    soft_embedding,
)
from antiphon.kernels.linear import TritonLinear
from antiphon.kernels.warm_up import Served, warm_up

DTYPE = torch.bfloat16
HEADS, KV_HEADS, HEAD_DIM, HIDDEN, INTERMEDIATE = 8, 2, 32, 64, 256
VOCAB, UNITS = 1280, 2048
BLOCK_SIZE, MAX_BLOCKS, MAX_NUM_SEQS = 64, 128, 64
WINDOW, LAYERS = 5, 2
TRITON: Any = {"backend": "triton"}


class Keys:
    """Stands in for a launch: notes what it would be compiled for."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self.step = ""
        self._binders: dict[JITFunction[Any], Any] = {}

    def run(self, kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        if kernel not in self._binders:
            binder = create_function_from_signature(kernel.signature, kernel.params, BaseBackend)
            self._binders[kernel] = binder
        _, specialization, options = self._binders[kernel](*args, **kwargs)
        key = f"{kernel.module}.{kernel.fn.__name__} {specialization} {sorted(options.items())}"
        self.known.setdefault(key, self.step)


def matrix(out: int, size: int, scheme: str | None) -> Tensor | QuantizedWeight:
    if scheme is None:
        return torch.zeros(out, size, dtype=DTYPE)
    values = torch.zeros(out, size, dtype=torch.int8)
    return QuantizedWeight(values, torch.zeros(out), dynamic=scheme == "int8")


def product(out: int, size: int, scheme: str | None) -> Linear:
    return linear(matrix(out, size, scheme), backend="torch" if scheme is None else "triton")


def served(scheme: str | None) -> Served:
    """scheme: None, int8-weight-only or int8"""
    table = matrix(VOCAB, HIDDEN, scheme)
    head = linear(table, backend="torch" if scheme is None else "triton")
    width = HEADS * HEAD_DIM
    shapes = [(width + 2 * KV_HEADS * HEAD_DIM, HIDDEN), (HIDDEN, width), (2 * INTERMEDIATE, HIDDEN)]
    shapes += [(HIDDEN, INTERMEDIATE), (width, HIDDEN), (LAYERS * 2 * width, HIDDEN)]
    storage = torch.zeros(2, LAYERS, 2, BLOCK_SIZE, KV_HEADS, HEAD_DIM, dtype=DTYPE)
    numbers, scales = storage[:, 0].to(torch.int8), torch.zeros(2, 2, KV_HEADS, BLOCK_SIZE)
    in_int8 = QuantizedCache(numbers[:, 0], scales[:, 0]), QuantizedCache(numbers[:, 1], scales[:, 1])
    return Served(
        geometry=DecoderGeometry(HEADS, KV_HEADS, HEAD_DIM, 1e-5),
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        dtype=DTYPE,
        caches=[(storage[:, 0, 0], storage[:, 0, 1]), in_int8],
        max_blocks=MAX_BLOCKS,
        max_num_seqs=MAX_NUM_SEQS,
        cos_sin=torch.zeros(BLOCK_SIZE * MAX_BLOCKS, HEAD_DIM),
        heads=[head, product(UNITS, HIDDEN, scheme)],
        soft=(head, table),
        fusion_cache=torch.zeros(MAX_NUM_SEQS + 512, WINDOW, LAYERS, 2, HEADS * HEAD_DIM, dtype=DTYPE),
        products=[product(*shape, scheme) for shape in shapes],
    )


def column(draw: random.Random, size: int, dtype: torch.dtype) -> Tensor:
    """A part of a larger table, anywhere in memory."""
    first = draw.randrange(8)
    return torch.zeros(first + size, dtype=dtype)[first:]


def layers(draw: random.Random, model: Served, num_queries: list[int], longest: int) -> None:
    """One layer of a pass over sequences with these numbers of queries, the longest with `longest` keys."""
    tokens, num_seqs = sum(num_queries), len(num_queries)
    keys, values = draw.choice(model.caches)
    x = torch.zeros(tokens, HIDDEN, dtype=DTYPE)
    rms_norm(x, x[0], 1e-5, **TRITON)
    qkv = torch.zeros(tokens, (HEADS + 2 * KV_HEADS) * HEAD_DIM, dtype=DTYPE)
    max_blocks = draw.choice([MAX_BLOCKS, -(-longest // BLOCK_SIZE)])
    batch = AttentionBatch(
        column(draw, tokens, torch.int32),
        column(draw, tokens, torch.int64),
        column(draw, num_seqs + 1, torch.int32),
        column(draw, num_seqs, torch.int32),
        column(draw, num_seqs * max_blocks, torch.int32).view(num_seqs, max_blocks),
    )
    q = rope_cache_write(qkv, model.cos_sin, batch, keys, values, num_heads=HEADS, **TRITON)
    paged_attention(q, keys, values, batch, **TRITON)
    rms_norm_residual(x, x, x[0], 1e-5, **TRITON)
    silu_mul(torch.zeros(tokens, 2 * INTERMEDIATE, dtype=DTYPE), **TRITON)
    for each in model.products:
        y = each(torch.zeros(tokens, each.in_features, dtype=DTYPE))
        if isinstance(each, TritonLinear) and each.out_features == HIDDEN:
            each(torch.zeros(tokens, each.in_features, dtype=DTYPE), y)
        elif isinstance(each, TritonLinear) and each.out_features == 2 * INTERMEDIATE:
            each.silu_mul(torch.zeros(tokens, each.in_features, dtype=DTYPE))


def fusion(draw: random.Random, model: Served, tokens: int) -> None:
    cache = model.fusion_cache
    assert cache is not None
    valid, positions = column(draw, tokens, torch.int32), column(draw, tokens, torch.int32)
    rows, q = column(draw, tokens, torch.int64), torch.zeros(tokens, HEADS, HEAD_DIM, dtype=DTYPE)
    k, v = cache[:, :, draw.randrange(LAYERS)].unflatten(-1, (HEADS, HEAD_DIM)).unbind(2)
    fusion_attention(q, k, v, valid, positions, model.cos_sin, rows=rows, **TRITON)
    kv = torch.zeros(tokens, *cache.shape[2:], dtype=DTYPE)
    fusion_cache_write(kv, rows, positions, model.cos_sin, cache, head_dim=HEAD_DIM, **TRITON)


def pick(draw: random.Random, head: Any, rows: int) -> None:
    """Greedily, from the largest logits, or from all."""
    hidden = torch.zeros(rows, HIDDEN, dtype=DTYPE)
    top_k = draw.choice([1, 1, draw.randint(2, 64), 0])
    logits = head(hidden) if not top_k else argmax_head(hidden, head, top_k=top_k, **TRITON)[1]
    if top_k != 1:
        floats, longs = column(draw, rows, torch.float32), column(draw, rows, torch.int64)
        sample(logits, floats, column(draw, rows, torch.int32), floats, longs, longs, **TRITON)


def arrive(draw: random.Random, model: Served) -> None:
    """A prompt comes in beside what runs: a few steps of all passes."""
    text_head, unit_head = model.heads
    num_running = draw.randrange(MAX_NUM_SEQS)
    prompt = draw.choice([draw.randint(1, 40), draw.randint(1, 500), draw.randint(500, 2000)])
    longest = draw.randint(max(prompt, 2), BLOCK_SIZE * MAX_BLOCKS)
    chunk = min(prompt, 512)
    for queries in ([1] * num_running + [chunk], [chunk], [1] * (num_running + 1)):
        layers(draw, model, queries, draw.choice([longest, prompt]))
        fusion(draw, model, draw.randint(1, len(queries)))
        pick(draw, text_head, draw.randint(1, len(queries)))
        pick(draw, unit_head, draw.randint(1, len(queries)))
        argmax_head(torch.zeros(len(queries), HIDDEN, dtype=DTYPE), text_head, **TRITON)
    argmax_head(torch.zeros(chunk, HIDDEN, dtype=DTYPE), text_head, **TRITON)
    assert model.soft is not None
    soft_embedding(torch.zeros(chunk, HIDDEN, dtype=DTYPE), *model.soft, **TRITON)


def main() -> None:
    scheme = sys.argv[1] if len(sys.argv) > 1 else None
    keys, draw = Keys(), random.Random(5)

    def run(kernel: Any, *args: Any, **kwargs: Any) -> None:
        keys.run(kernel, *args, **kwargs)

    with (
        mock.patch.object(JITFunction, "run", run),
        mock.patch.object(registry, "triton_interpreted", return_value=True),
        mock.patch.object(checks, "values_are_at_hand", return_value=False),
        torch.inference_mode(),
    ):
        model, steps = served(scheme), []
        for keys.step in warm_up(model, backend="triton"):
            steps.append(keys.step)
        warm = dict(keys.known)
        for i in range(400):
            keys.step = f"arrival {i}"
            arrive(draw, model)
    late = {key: step for key, step in keys.known.items() if key not in warm}
    json.dump({"steps": steps, "warm": sorted(warm), "late": late}, sys.stdout)


if __name__ == "__main__":
    main()
