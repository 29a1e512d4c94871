"""Attention over the paged cache, and the rotation and writing that come before it.

The caches are full of NaN but for what a sequence has written, so a read out of place shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from devices import device_of
from paged_sequences import Paged, moved, whole
from torch import Tensor

from antiphon.kernels import (
    AttentionBatch,
    apply_rope,
    inverse_frequencies,
    paged_attention,
    rope_cache_write,
    rope_table,
)
from antiphon.kernels.paged_attention import paged_attention_reference, rope_cache_write_reference

Draw = Callable[..., Tensor]
Check = Callable[[Tensor, Tensor, Tensor], None]


# 150 takes steps of four vectors, of one and a tail, whatever a vector's length; 2 is nothing but a tail
@pytest.mark.pairwise(heads=[(1, 1), (6, 2), (5, 5)], head_dim=[2, 64, 128, 150])
def test_within_the_error_budget(
    backend: str, device: torch.device, heads: tuple[int, int], head_dim: int, assert_within_budget: Check
) -> None:
    """A prefill, a chunk behind cached positions, one decoding step and a sequence without a query."""
    paged = Paged.random((9, 37, 20, 50), *heads, head_dim)
    spans = [(0, 9), (30, 37), (11, 11), (49, 50)]
    found = paged.attend(spans, 4, backend, device=device).cpu()
    batch = paged.batch(spans, 4)
    keys, values = paged.caches(4)
    in_pytorch = paged_attention_reference(paged.queries(spans), keys, values, batch, head_dim**-0.5)
    assert_within_budget(found, in_pytorch, paged.exact(spans))


def test_many_that_decode(backend: str, device: torch.device, assert_within_budget: Check) -> None:
    """Here a task is a query with all of its heads, in groups."""
    paged = Paged.random(range(3, 13), 6, 2, 20)
    spans = [(length - 1, length) for length in paged.lengths]
    keys, values = paged.caches(4)
    in_pytorch = paged_attention_reference(
        paged.queries(spans), keys, values, paged.batch(spans, 4), 20**-0.5
    )
    found = paged.attend(spans, 4, backend, device=device).cpu()
    assert_within_budget(found, in_pytorch, paged.exact(spans))


@pytest.mark.best_isa
def test_empty_and_tiny(backend: str, device: torch.device) -> None:
    nothing = Paged.random((), 4, 2, 6)
    assert nothing.attend([], 4, backend, device=device).shape == (0, 24)
    for lengths in [(0,), (0, 0), (0, 3, 0), (1,), (0, 1, 2)]:
        paged = Paged.random(lengths, 4, 2, 6)
        found = paged.attend(whole(paged), 4, backend, device=device).cpu()
        torch.testing.assert_close(found.double(), paged.exact(whole(paged)), rtol=1e-5, atol=1e-6)


def test_one_key_is_its_value() -> None:
    paged = Paged.random((1,), 4, 2, 20)
    expected = paged.v[0].repeat_interleave(2, dim=1).flatten(1)
    torch.testing.assert_close(paged.attend([(0, 1)], 16, "cpp"), expected)


@pytest.mark.best_isa
def test_the_future_is_not_read(backend: str, device: torch.device) -> None:
    """Slots behind the context hold NaN: unwritten, or another's. So do blocks behind the table's use."""
    paged = Paged.random((21, 30), 4, 2, 24)
    spans = [(0, 13), (16, 17)]
    found = paged.attend(spans, 8, backend, written=[13, 17], device=device).cpu()
    torch.testing.assert_close(found.double(), paged.exact(spans), rtol=1e-5, atol=1e-5)


@pytest.mark.best_isa
def test_scale(backend: str, device: torch.device) -> None:
    paged = Paged.random((12,), 2, 1, 10)
    spans = whole(paged)
    found = paged.attend(spans, 4, backend, device=device, scale=0.0).cpu()
    mean = paged.v[0].cumsum(0) / torch.arange(1, 13)[:, None, None]
    torch.testing.assert_close(found, mean.repeat_interleave(2, dim=1).flatten(1))


@pytest.mark.best_isa
def test_queries_at_a_distance(backend: str, device: torch.device) -> None:
    """They are a part of wider rows, as `rope_cache_write` leaves them."""
    paged = Paged.random((9, 20), 4, 2, 10)
    spans = [(0, 9), (19, 20)]
    q = paged.queries(spans)
    wide = torch.full((len(q), 8, 10), torch.nan)
    wide[:, :4] = q
    caches, batch = paged.caches(4, device=device), moved(paged.batch(spans, 4), device)
    found = paged_attention(wide.to(device)[:, :4], *caches, batch, backend=backend).cpu()
    torch.testing.assert_close(found.double(), paged.exact(spans), rtol=1e-5, atol=1e-5)


@pytest.mark.best_isa
def test_large_scores_do_not_overflow(backend: str, device: torch.device) -> None:
    paged = Paged.random((40,), 2, 2, 16)
    found = paged.attend([(39, 40)], 4, backend, device=device, scale=1e4).cpu()
    likeliest = torch.einsum("hd,khd->hk", paged.q[0][39], paged.k[0]).argmax(1)
    expected = torch.stack([paged.v[0][k, h] for h, k in enumerate(likeliest.tolist())]).flatten()
    torch.testing.assert_close(found[0], expected)


# --- to the last bit ------------------------------------------------------------------------------


def test_block_size_does_not_count(isa: str) -> None:
    paged = Paged.random((1, 33, 70), 4, 2, 150)
    spans = [(0, 1), (5, 33), (69, 70)]
    expected = paged.attend(spans, 1, "cpp")
    for block_size in (2, 3, 7, 16, 64, 100):
        assert torch.equal(paged.attend(spans, block_size, "cpp"), expected)


def test_chunked_equals_whole(isa: str) -> None:
    """Each chunk sees what is written so far; the last ones are decoding steps."""
    paged = Paged.random((50,), 6, 3, 150)
    expected = paged.attend([(0, 50)], 8, "cpp")
    edges = [0, 1, 17, 18, 40, 48, 49, 50]
    chunks = [paged.attend([(a, b)], 8, "cpp", written=[b]) for a, b in pairwise(edges)]
    assert torch.equal(torch.cat(chunks), expected)


def test_the_batch_does_not_count(isa: str) -> None:
    """Large enough that the batch is spread over the threads."""
    paged = Paged.random((3, 150, 90, 1, 60), 4, 2, 40)
    spans = [(0, 3), (20, 150), (89, 90), (0, 1), (0, 60)]
    together = paged.attend(spans, 8, "cpp").split([end - start for start, end in spans])
    for i, expected in enumerate(together):
        alone = [span if j == i else (span[1], span[1]) for j, span in enumerate(spans)]
        assert torch.equal(paged.attend(alone, 8, "cpp"), expected)


# --- rotating and writing -------------------------------------------------------------------------


@pytest.mark.op("rope_cache_write")
@pytest.mark.pairwise(tokens=[0, 12], head_dim=[2, 150], block_size=[4, 7])
def test_rope_cache_write(
    backend: str,
    device: torch.device,
    tokens: int,
    head_dim: int,
    block_size: int,
    randn: Draw,
    assert_within_budget: Check,
) -> None:
    """Keys are rotated and values copied into their slots; padding and all other slots stay as they are."""
    heads, kv_heads = 6, 2
    table = rope_table(inverse_frequencies(head_dim, 10_000.0, None), 500).to(device)
    qkv = randn(tokens, (heads + 2 * kv_heads) * head_dim).to(device)
    generator = torch.Generator().manual_seed(3)
    slots = torch.randperm(9 * block_size, generator=generator)[:tokens]
    slots[::5] = -1
    batch = AttentionBatch(
        positions=torch.randint(0, 500, (tokens,), generator=generator, dtype=torch.int32),
        slot_mapping=slots,
        cu_seqlens_q=torch.tensor([0, tokens], dtype=torch.int32),
        context_lens=torch.tensor([500], dtype=torch.int32),
        block_table=torch.zeros(1, 1, dtype=torch.int32),
    )
    batch, shape = moved(batch, device), (9, 2, block_size, kv_heads, head_dim)

    def run(write: Callable[..., Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        storage = torch.full(shape, torch.nan, dtype=dtype, device=device)
        return write(qkv.to(dtype, copy=True), table.to(dtype), batch, *storage.unbind(1)), storage

    q, storage = run(partial(rope_cache_write, num_heads=heads, backend=backend), torch.float32)
    reference = partial(rope_cache_write_reference, num_heads=heads)
    q_32, storage_32 = run(reference, torch.float32)
    q_64, storage_64 = run(reference, torch.float64)
    assert_within_budget(q, q_32, q_64)
    assert torch.equal(storage.isnan(), storage_64.isnan()), "written, all of it and nothing else"
    assert_within_budget(storage.nan_to_num(), storage_32.nan_to_num(), storage_64.nan_to_num())
    assert torch.equal(storage[:, 1].nan_to_num(), storage_32[:, 1].nan_to_num()), "values are copied"
    by_hand = apply_rope(qkv.view(tokens, heads + 2 * kv_heads, head_dim)[:, :heads], batch.positions, table)
    torch.testing.assert_close(q, by_hand)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(6, 2, 20), (40, 24, 128), (3, 3, 250)])
def test_rope_cache_write_in_16_bits(
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    head_dim: int,
    randn: Draw,
    assert_within_half_budget: Check,
) -> None:
    """In place on the queries, with the table in float32; values are copied to the last bit."""
    tokens, block_size, device = 5, 3, device_of("triton")
    table = rope_table(inverse_frequencies(head_dim, 10_000.0, None), 50).to(device)
    qkv = randn(tokens, (heads + 2 * kv_heads) * head_dim).to(device, dtype)
    batch = AttentionBatch(
        positions=torch.tensor([0, 49, 3, 20, 7], dtype=torch.int32),
        slot_mapping=torch.tensor([5, -1, 0, 11, 6]),
        cu_seqlens_q=torch.tensor([0, tokens], dtype=torch.int32),
        context_lens=torch.tensor([50], dtype=torch.int32),
        block_table=torch.zeros(1, 1, dtype=torch.int32),
    )
    batch, shape = moved(batch, device), (4, 2, block_size, kv_heads, head_dim)

    def run(write: Callable[..., Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        storage = torch.full(shape, torch.nan, dtype=dtype, device=device)
        return write(qkv.to(dtype, copy=True), table, batch, *storage.unbind(1)), storage

    q, storage = run(partial(rope_cache_write, num_heads=heads, backend="triton"), dtype)
    reference = partial(rope_cache_write_reference, num_heads=heads)
    (q_16, storage_16), (q_64, storage_64) = run(reference, dtype), run(reference, torch.float64)
    assert_within_half_budget(q, q_16, q_64)
    assert torch.equal(storage.isnan(), storage_64.isnan())
    assert_within_half_budget(storage.nan_to_num(), storage_16.nan_to_num(), storage_64.nan_to_num())
    assert torch.equal(storage[:, 1].nan_to_num(), storage_16[:, 1].nan_to_num())
    if dtype == torch.float16:  # bfloat16 is cut off by Triton's interpreter
        assert (q == q_16).double().mean() > 0.99, "the angles are not rounded"


@pytest.mark.parametrize("name", ["cpp", "triton"])
def test_queries_are_rotated_in_place(name: str, randn: Draw) -> None:
    paged, device = Paged.random((5,), 4, 2, 6), device_of(name)
    qkv, table = randn(5, 48).to(device), rope_table(inverse_frequencies(6, 10_000.0, None), 8).to(device)
    before, batch = qkv.clone(), moved(paged.batch([(0, 5)], 4), device)
    q = rope_cache_write(qkv, table, batch, *paged.caches(4, device=device), num_heads=4, backend=name)
    assert q.data_ptr() == qkv.data_ptr() and q.shape == (5, 4, 6)
    assert not torch.equal(q, before[:, :24].view(5, 4, 6))
    assert torch.equal(qkv[:, 36:], before[:, 36:]), "values stay"


def test_rope_does_not_depend_on_the_batch(randn: Draw) -> None:
    table = rope_table(inverse_frequencies(40, 10_000.0, None), 300)
    qkv = randn(300, 6 * 40)
    paged = Paged.random((300,), 4, 1, 40)

    def run(start: int, end: int) -> tuple[Tensor, Tensor]:
        keys, values = paged.caches(16, written=[0])
        q = rope_cache_write(
            qkv[start:end].clone(), table, paged.batch([(start, end)], 16), keys, values, num_heads=4
        )
        return q, keys.nan_to_num()

    q, keys = run(0, 300)
    parts = [run(a, b) for a, b in pairwise([0, 1, 5, 200, 300])]
    assert torch.equal(torch.cat([part for part, _ in parts]), q)
    assert torch.equal(torch.stack([part for _, part in parts]).sum(0), keys)


# --- wrong arguments ------------------------------------------------------------------------------


def wrong_batch(batch: AttentionBatch, **fields: Any) -> AttentionBatch:
    return replace(batch, **fields)


def test_wrong_arguments_of_attention_are_named() -> None:
    paged = Paged.random((5, 6), 4, 2, 6)
    spans = whole(paged)
    q, (keys, values), batch = paged.queries(spans), paged.caches(4), paged.batch(spans, 4)

    def attend(
        q: Tensor = q, keys: Tensor = keys, values: Tensor = values, batch: AttentionBatch = batch
    ) -> None:
        paged_attention(q, keys, values, batch)

    attend()
    with pytest.raises(
        ValueError, match=r"q: expected \(tokens, a multiple of 2 heads, 6\), got \(11, 3, 6\)"
    ):
        attend(q=q[:, :3])
    with pytest.raises(ValueError, match="q: expected"):
        attend(q=q[:, :, :4])
    with pytest.raises(ValueError, match="q: expected"):
        attend(q=q.flatten(1))
    with pytest.raises(ValueError, match=r"key_cache: expected torch.float64 like the queries"):
        attend(q=q.double())
    with pytest.raises(
        ValueError, match=r"key_cache: expected \(num_blocks, block_size, num_kv_heads, head_dim\)"
    ):
        attend(keys=keys[0])
    with pytest.raises(ValueError, match=r"value_cache: expected .* like key_cache"):
        attend(values=values[:, :2])
    with pytest.raises(ValueError, match=r"value_cache: expected .* like key_cache"):
        attend(values=values.contiguous())
    with pytest.raises(ValueError, match="key_cache: expected positions to be contiguous"):
        attend(keys=keys.transpose(2, 3).contiguous().transpose(2, 3),
               values=values.transpose(2, 3).contiguous().transpose(2, 3))  # fmt: skip
    for name, wrong in (
        ("cu_seqlens_q", batch.cu_seqlens_q[:-1]),
        ("cu_seqlens_q", batch.cu_seqlens_q.long()),
        ("context_lens", batch.context_lens.long()),
        ("block_table", batch.block_table[:1]),
        ("block_table", batch.block_table[0]),
        ("block_table", batch.block_table.long()),
        ("block_table", batch.block_table[:, ::2]),
    ):
        with pytest.raises(ValueError, match=f"batch.{name}: expected contiguous torch.int32"):
            attend(batch=wrong_batch(batch, **{name: wrong}))


def test_wrong_arguments_of_writing_are_named(randn: Draw) -> None:
    paged = Paged.random((5,), 4, 2, 6)
    keys, values = paged.caches(4)
    batch = paged.batch([(0, 5)], 4)
    qkv, table = randn(5, 48), rope_table(inverse_frequencies(6, 10_000.0, None), 8)

    def write(
        qkv: Tensor = qkv, table: Tensor = table, keys: Tensor = keys, batch: AttentionBatch = batch
    ) -> None:
        rope_cache_write(qkv, table, batch, keys, values, num_heads=4)

    write()
    for wrong in (randn(4, 48), randn(5, 42), randn(5, 96)[:, ::2]):
        with pytest.raises(ValueError, match=r"qkv: expected contiguous \(5, 48\)"):
            write(qkv=wrong)
    with pytest.raises(ValueError, match=r"cos_sin: expected contiguous \(positions, 6\), got \(8, 3\)"):
        write(table=table[:, :3])
    with pytest.raises(ValueError, match=r"value_cache: expected .* like key_cache"):
        write(keys=keys[:-1])
    with pytest.raises(ValueError, match=r"batch.slot_mapping: expected contiguous torch.int64 \(5,\)"):
        write(batch=wrong_batch(batch, slot_mapping=batch.slot_mapping.int()))
    with pytest.raises(ValueError, match=r"batch.slot_mapping: expected contiguous torch.int64 \(5,\)"):
        write(batch=wrong_batch(batch, slot_mapping=batch.slot_mapping[:3]))
    with pytest.raises(ValueError, match=r"qkv: expected contiguous \(3, 48\)"):
        write(batch=wrong_batch(batch, positions=batch.positions[:3]))
