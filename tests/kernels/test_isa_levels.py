"""AVX-512, AVX2 and plain C++ agree: equal where nothing is rounded, else each within the budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_sequences import Paged
from torch import Tensor

from antiphon.kernels import (
    argmax,
    argmax_head,
    ctc_collapse,
    fusion_attention,
    inverse_frequencies,
    linear,
    paged_attention,
    rms_norm,
    rope_cache_write,
    rope_table,
    silu_mul,
    soft_embedding,
)
from antiphon.kernels.ctc_collapse import ctc_collapse_reference
from antiphon.kernels.fusion_attention import fusion_attention_reference
from antiphon.kernels.linear import linear_reference
from antiphon.kernels.paged_attention import paged_attention_reference, rope_cache_write_reference
from antiphon.kernels.rms_norm import rms_norm_reference
from antiphon.kernels.silu_mul import silu_mul_reference
from antiphon.kernels.soft_embedding import soft_embedding_reference

Draw = Callable[..., Tensor]
EachIsa = Callable[[Callable[[], Any]], dict[str, Any]]

# around the widths of vectors (4, 8, 16), panels (32) and blocks (96 rows, 128 deep, 512 ids)
rows = st.one_of(st.integers(0, 20), st.sampled_from([95, 96, 97, 193]))
sizes = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 127, 128, 129, 260]))
vocabularies = st.one_of(st.integers(1, 70), st.sampled_from([511, 512, 513, 1030, 1100]))
seeds = st.integers(0, 1000)


def whole_numbers(*shape: int, seed: int) -> Tensor:
    """So small that float32 adds them up exactly in any order, and ties are frequent."""
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(seed)).float()


def all_equal(found: dict[str, tuple[Tensor, ...]], expected: tuple[Tensor, ...]) -> None:
    for isa, tensors in found.items():
        for tensor, right in zip(tensors, expected, strict=True):
            assert torch.equal(tensor, right), isa


def assert_near(found: Tensor, in_pytorch: Tensor, exact: Tensor) -> None:
    """Among hundreds of small examples PyTorch is lucky in some, so it counts four times and 16 roundings."""
    assert found.shape == exact.shape
    if exact.numel():
        roundings = 16 * torch.finfo(torch.float32).eps * float(exact.abs().max())
        budget = 4 * float((in_pytorch - exact).abs().max()) + roundings
        assert float((found - exact).abs().max()) <= budget


@given(rows=rows, size=sizes, out=vocabularies, seed=seeds)
def test_products(
    with_each_isa: EachIsa,
    randn: Draw,
    rows: int,
    size: int,
    out: int,
    seed: int,
) -> None:
    x, weight = whole_numbers(rows, size, seed=seed), whole_numbers(out, size, seed=seed + 1)
    all_equal(with_each_isa(lambda: (linear(weight, backend="cpp")(x),)), (x @ weight.T,))
    x, weight, added = randn(rows, size, seed=seed), randn(out, size, seed=seed), randn(rows, out, seed=seed)
    exact = linear_reference(x.double(), weight.double(), added.double())
    for found in with_each_isa(lambda: linear(weight, backend="cpp")(x, added.clone())).values():
        assert_near(found, linear_reference(x, weight, added), exact)


@given(rows=rows, size=sizes, seed=seeds)
def test_pointwise(with_each_isa: EachIsa, randn: Draw, rows: int, size: int, seed: int) -> None:
    x, weight, gate_up = randn(rows, size, seed=seed) * 3, randn(size), randn(rows, 2 * size, seed=seed) * 9
    exact = rms_norm_reference(x.double(), weight.double(), 1e-5)
    for found in with_each_isa(lambda: rms_norm(x, weight, 1e-5, backend="cpp")).values():
        assert_near(found, rms_norm_reference(x, weight, 1e-5), exact)
    exact = silu_mul_reference(gate_up.double())
    for found in with_each_isa(lambda: silu_mul(gate_up, backend="cpp")).values():
        assert_near(found, silu_mul_reference(gate_up), exact)
    logits = whole_numbers(rows, size, seed=seed)
    all_equal(
        with_each_isa(lambda: (argmax(logits, backend="cpp"),)),
        (torch.from_numpy(logits.numpy().argmax(-1)),),
    )


@given(data=st.data(), rows=rows, size=sizes, vocab=vocabularies, seed=seeds)
def test_argmax_head(
    with_each_isa: EachIsa, data: st.DataObject, rows: int, size: int, vocab: int, seed: int
) -> None:
    hidden, weight = whole_numbers(rows, size, seed=seed), whole_numbers(vocab, size, seed=seed + 1)
    order = torch.randperm(vocab, generator=torch.Generator().manual_seed(seed))
    subset = order[: data.draw(st.integers(1, vocab))] if data.draw(st.booleans()) else None
    competing = torch.arange(vocab) if subset is None else subset.sort().values
    top_k = data.draw(st.integers(1, min(64, len(competing))))

    logits, places = (hidden @ weight.T)[:, competing].sort(dim=-1, descending=True, stable=True)
    head = linear(weight, backend="cpp")
    all_equal(
        with_each_isa(lambda: argmax_head(hidden, head, top_k=top_k, subset=subset, backend="cpp")),
        (competing[places[:, :top_k]], logits[:, :top_k]),
    )


@settings(max_examples=50)
@given(rows=rows, size=sizes, vocab=vocabularies, seed=seeds)
def test_soft_embedding(
    with_each_isa: EachIsa,
    randn: Draw,
    rows: int,
    size: int,
    vocab: int,
    seed: int,
) -> None:
    hidden, embedding = randn(rows, size, seed=seed) / size**0.5, randn(vocab, size, seed=seed + 1)
    weight = randn(vocab, size, seed=seed + 2)
    in_pytorch, _ = soft_embedding_reference(hidden, linear(weight, backend="torch"), embedding)
    exact, labels = soft_embedding_reference(
        hidden.double(), linear(weight.double(), backend="torch"), embedding.double()
    )
    head = linear(weight, backend="cpp")
    for mixed, found in with_each_isa(
        lambda: soft_embedding(hidden, head, embedding, backend="cpp")
    ).values():
        assert_near(mixed, in_pytorch, exact)
        assert torch.equal(found, labels)


@given(
    lengths=st.lists(st.one_of(st.integers(0, 40), st.just(200)), max_size=5),
    num_labels=st.integers(1, 4),
    has_prev=st.booleans(),
    seed=seeds,
)
def test_ctc_collapse(
    with_each_isa: EachIsa, lengths: list[int], num_labels: int, has_prev: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    labels = torch.randint(0, num_labels, (sum(lengths),), generator=generator, dtype=torch.int32)
    prev = torch.randint(-1, num_labels, (len(lengths),), generator=generator, dtype=torch.int32)
    given_prev = prev if has_prev else None
    all_equal(
        with_each_isa(lambda: ctc_collapse(labels, cu_seqlens, 0, given_prev, backend="cpp")),
        ctc_collapse_reference(labels, cu_seqlens, 0, given_prev),
    )


@given(data=st.data(), block_size=st.sampled_from([1, 4, 16]), groups=st.integers(1, 3), seed=seeds)
def test_attention_over_the_cache(
    with_each_isa: EachIsa, data: st.DataObject, block_size: int, groups: int, seed: int
) -> None:
    """Prompts, of which four queries go together, parts of them, and single queries among them."""
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    head_dim, kv_heads = data.draw(st.sampled_from([2, 8, 20, 64, 72])), data.draw(st.integers(1, 2))
    starts = [data.draw(st.integers(0, length - 1)) for length in lengths]
    spans = list(zip(starts, lengths, strict=True))
    paged = Paged.random(lengths, groups * kv_heads, kv_heads, head_dim)
    q, batch = paged.queries(spans), paged.batch(spans, block_size)
    keys, values = paged.caches(block_size)
    scale = head_dim**-0.5
    exact = paged_attention_reference(q.double(), keys.double(), values.double(), batch, scale)
    in_pytorch = paged_attention_reference(q, keys, values, batch, scale)
    for found in with_each_isa(lambda: paged_attention(q, keys, values, batch, backend="cpp")).values():
        assert_near(found, in_pytorch, exact)


@given(data=st.data(), tokens=st.integers(1, 9), seed=seeds)
def test_rotation_and_fusion(
    with_each_isa: EachIsa, randn: Draw, data: st.DataObject, tokens: int, seed: int
) -> None:
    heads, head_dim = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([2, 8, 20, 64, 72]))
    table = rope_table(inverse_frequencies(head_dim, 10000.0, None), 40)
    paged = Paged.random([tokens], heads, heads, head_dim)
    qkv, batch = randn(tokens, 3 * heads * head_dim, seed=seed), paged.batch([(0, tokens)], 4)

    def rotate() -> tuple[Tensor, Tensor]:
        keys, values = (cache.zero_() for cache in paged.caches(4))
        q = rope_cache_write(qkv.clone(), table, batch, keys, values, num_heads=heads, backend="cpp")
        return q, keys

    def rotate_in(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        keys, values = (cache.to(dtype).zero_() for cache in paged.caches(4))
        q = rope_cache_write_reference(qkv.to(dtype), table.to(dtype), batch, keys, values, heads)
        return q, keys

    for found in with_each_isa(rotate).values():
        for own, right, exact in zip(found, rotate_in(torch.float32), rotate_in(torch.float64), strict=True):
            assert_near(own, right, exact)

    window = 5
    q = randn(tokens, heads, head_dim, seed=seed)
    k, v = (randn(tokens, window, heads, head_dim, seed=seed + n) for n in (1, 2))
    counts = data.draw(st.lists(st.integers(0, window), min_size=tokens, max_size=tokens))
    valid = torch.tensor(counts, dtype=torch.int32)
    places = torch.arange(tokens, dtype=torch.int32)
    exact = fusion_attention_reference(
        q.double(), k.double(), v.double(), valid, places, table.double(), None
    )
    in_pytorch = fusion_attention_reference(q, k, v, valid, places, table, None)
    fused = with_each_isa(lambda: fusion_attention(q, k, v, valid, places, table, backend="cpp"))
    for found in fused.values():
        assert_near(found, in_pytorch, exact)
