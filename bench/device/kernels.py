"""Kernels at the released size: products, heads, soft embedding, attention over the cache."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from antiphon import kernels
from antiphon.bench.device.figures import Figure, Machine
from antiphon.kernels.argmax_head import argmax_head_reference
from antiphon.kernels.soft_embedding import soft_embedding_reference

__all__ = ["attention", "heads", "int8", "linear", "soft_embedding"]

COLD_BYTES = 512 << 20
"""Weights that take turns add up to this much, several times a GPU's cache."""
BLOCK_SIZE = 64
SCHEMES = {"int8-weight-only": False, "int8": True}
"""Whether the rows are quantized, too"""


def linear(machine: Machine) -> Iterator[Figure]:
    """Products of each matrix of a layer, by the library that runs them."""
    for name, (out, size) in _matrices(machine).items():
        num_bytes = out * size * machine.dtype.itemsize
        copies = 2 if machine.is_small else max(2, min(16, COLD_BYTES // num_bytes))
        weights = [machine.randn(out, size, scale=0.02) for _ in range(copies)]
        for rows in machine.some((1, 8, 64, 256)):
            x = machine.randn(rows, size)
            took = machine.time_us(*(partial(F.linear, x, weight) for weight in weights))
            yield Figure(f"{name}, {rows} rows", took, "us", machine.floor_us(num_bytes))


def _matrices(machine: Machine) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of those of a layer"""
    s = machine.sizes
    return {
        "qkv": ((s.num_heads + 2 * s.num_kv_heads) * s.head_dim, s.hidden),
        "o": (s.hidden, s.hidden),
        "gate_up": (2 * s.intermediate, s.hidden),
        "down": (s.hidden, s.intermediate),
    }


def int8(machine: Machine) -> Iterator[Figure]:
    """The same products, a head and soft embeddings with int8 weights, and with rows in int8, too; each
    beside PyTorch in the machine's own dtype."""
    s = machine.sizes
    for name, (out, size) in _matrices(machine).items():
        copies = 2 if machine.is_small else max(2, min(16, COLD_BYTES // (out * size)))
        weights = [machine.randn(out, size, scale=0.02) for _ in range(copies)]
        products = {
            scheme: [kernels.linear(kernels.quantize_int8(w, dynamic=dynamic)) for w in weights]
            for scheme, dynamic in SCHEMES.items()
        }
        for rows in machine.some((1, 8, 64, 256)):
            x = machine.randn(rows, size)
            plain = machine.time_us(*(partial(F.linear, x, weight) for weight in weights))
            for scheme, made in products.items():
                took = machine.time_us(*(partial(product, x) for product in made))
                differs = _decibels(F.linear(x, weights[0]), made[0](x))
                note = f"torch {plain:.0f} us, {differs:.0f} dB"
                floor = machine.floor_us(made[0].num_bytes)
                yield Figure(f"{name}, {scheme}, {rows} rows", took, "us", floor, note)
    weight, embedding = (machine.randn(s.text_vocab, s.hidden, scale=0.02) for _ in range(2))
    table = kernels.quantize_int8(embedding)
    for scheme, dynamic in SCHEMES.items():
        quantized = kernels.quantize_int8(weight, dynamic=dynamic)
        head, exact = kernels.linear(quantized), kernels.linear(quantized, backend="torch")
        for rows in machine.some((1, 64)):
            hidden = machine.randn(rows, s.hidden)
            took = machine.time_us(partial(kernels.argmax_head, hidden, head))
            found, expected = (
                pick(hidden, product)[1]
                for pick, product in ((kernels.argmax_head, head), (argmax_head_reference, exact))
            )
            note = f"largest logits differ by {float((found - expected).abs().max()):.2g}"
            floor = machine.floor_us(head.num_bytes)
            yield Figure(f"CTC head, argmax, {scheme}, {rows} rows", took, "us", floor, note)
        for rows in machine.some((12, 84, 250)):
            hidden = machine.randn(rows, s.hidden)
            took = machine.time_us(partial(kernels.soft_embedding, hidden, head, table))
            pair = (
                kernels.soft_embedding(hidden, head, table),
                soft_embedding_reference(hidden, exact, table),
            )
            note = f"{_decibels(pair[1][0], pair[0][0]):.0f} dB"
            floor = machine.floor_us(2 * head.num_bytes)
            yield Figure(f"soft embedding, {scheme}, {rows} rows", took, "us", floor, note)


def _decibels(expected: Tensor, found: Tensor) -> float:
    error = (found.double() - expected.double()).square().mean().clamp_min(1e-30)
    return float(10 * torch.log10(expected.double().square().mean() / error))


def heads(machine: Machine) -> Iterator[Figure]:
    """The largest logits of each row, over all ids, over the units, and as sampling needs them."""
    s = machine.sizes
    for name, vocab in machine.some((("unit head", s.vocab), ("CTC head", s.text_vocab))):
        weight = machine.randn(vocab, s.hidden, scale=0.02)
        head, floor = kernels.linear(weight), machine.floor_us(weight.nbytes)
        for rows in machine.some((1, 8, 64)):
            hidden = machine.randn(rows, s.hidden)
            took = machine.time_us(partial(kernels.argmax_head, hidden, head))
            by_torch = machine.time_us(partial(argmax_head_reference, hidden, head))
            ids, _ = kernels.argmax_head(hidden, head)
            note = f"torch {by_torch:.0f} us, chosen logits at most {_lost(hidden, weight, ids):.2g} lower"
            yield Figure(f"{name}, argmax, {rows} rows", took, "us", floor, note)
        if name == "unit head":
            yield from _other_heads(machine, weight, head, floor)


def _lost(hidden: Tensor, weight: Tensor, ids: Tensor) -> float:
    """By how much the logit of the chosen id is below the largest, in float32."""
    exact = hidden.float() @ weight.float().T
    return float((exact.amax(1) - exact.gather(1, ids)[:, 0]).max())


def _other_heads(machine: Machine, weight: Tensor, head: kernels.Linear, floor: float) -> Iterator[Figure]:
    s, one = machine.sizes, machine.randn(1, machine.sizes.hidden)
    units = torch.arange(s.text_vocab, s.vocab, device=machine.device)
    took = machine.time_us(partial(kernels.argmax_head, one, head, subset=units))
    own = machine.floor_us(len(units) * s.hidden * weight.itemsize)
    yield Figure("unit head, argmax among the units", took, "us", own)
    took = machine.time_us(partial(kernels.argmax_head, one, head, top_k=50))
    yield Figure("unit head, top 50", took, "us", floor)
    logits = head(one)
    column = partial(torch.tensor, device=machine.device)
    settings = (
        column([0.7]),
        column([0], dtype=torch.int32),
        column([0.9]),
        column([1]),
        column([1]),
    )
    took = machine.time_us(partial(kernels.sample, logits, *settings))
    yield Figure("sample of one row, top-p", took, "us", machine.floor_us(logits.nbytes))


def soft_embedding(machine: Machine) -> Iterator[Figure]:
    """Prompts of speech: the mean of the text embeddings, as likely as the frame says."""
    s = machine.sizes
    weight, embedding = (machine.randn(s.text_vocab, s.hidden, scale=0.02) for _ in range(2))
    head, floor = kernels.linear(weight), machine.floor_us(2 * weight.nbytes)
    for rows in machine.some((12, 84, 250)):
        hidden = machine.randn(rows, s.hidden)
        took = machine.time_us(partial(kernels.soft_embedding, hidden, head, embedding))
        by_torch = machine.time_us(partial(soft_embedding_reference, hidden, head, embedding))
        found, expected = (
            way(hidden, head, embedding)[0].float()
            for way in (kernels.soft_embedding, soft_embedding_reference)
        )
        differs = float((found - expected).abs().max())
        note = f"torch {by_torch:.0f} us, differs by {differs:.2g}"
        yield Figure(f"soft embedding, {rows} rows", took, "us", floor, note)


def attention(machine: Machine) -> Iterator[Figure]:
    """Decoding steps over the paged cache."""
    shapes = ((1, 250), (1, 4000), (8, 1000), (64, 250), (64, 1000), (64, 4000))
    for seqs, context in machine.some(shapes):
        yield _decoding(machine, seqs, context)


def _decoding(machine: Machine, seqs: int, context: int) -> Figure:
    s, device, per = machine.sizes, machine.device, -(-context // BLOCK_SIZE)
    layers = 2 if machine.is_small else 4
    cache = machine.randn(seqs * per + 1, layers, 2, BLOCK_SIZE, s.num_kv_heads, s.head_dim)
    table = torch.zeros(seqs, max(per, 128), dtype=torch.int32, device=device)
    table[:, :per] = torch.randperm(seqs * per, device=device).view(seqs, per)
    batch = kernels.AttentionBatch(
        positions=torch.full((seqs,), context - 1, dtype=torch.int32, device=device),
        slot_mapping=torch.zeros(seqs, dtype=torch.int64, device=device),
        cu_seqlens_q=torch.arange(seqs + 1, dtype=torch.int32, device=device),
        context_lens=torch.full((seqs,), context, dtype=torch.int32, device=device),
        block_table=table,
    )
    q = machine.randn(seqs, s.num_heads, s.head_dim)
    caches = [(cache[:, i, 0], cache[:, i, 1]) for i in range(layers)]
    calls = [partial(kernels.paged_attention, q, keys, values, batch) for keys, values in caches]
    took = machine.time_us(*calls)
    differs = float((calls[0]().float() - calls[0](backend="torch").float()).abs().max())
    num_bytes = 2 * seqs * context * s.num_kv_heads * s.head_dim * machine.dtype.itemsize
    name = f"{seqs} sequences, context {context}"
    return Figure(name, took, "us", machine.floor_us(num_bytes), f"differs by {differs:.2g}")
