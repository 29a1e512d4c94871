"""An int8 cache: what is written to it, and attention over the numbers that it stands for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from devices import device_of
from layer_stacks import STACKS, Session, Stack
from paged_sequences import Paged, moved, whole
from torch import Tensor

from antiphon.kernels import (
    AttentionBatch,
    QuantizedCache,
    inverse_frequencies,
    paged_attention,
    quantize_heads,
    rope_cache_write,
    rope_table,
)
from antiphon.kernels.paged_attention import paged_attention_reference, rope_cache_write_reference
from antiphon.kernels.quantized_cache import Caches

Draw = Callable[..., Tensor]
Check = Callable[[Tensor, Tensor, Tensor], None]
TorchAlone = Callable[[Callable[[], Tensor]], Tensor]


# --- rounding -------------------------------------------------------------------------------------


def test_the_nearest_whole_numbers() -> None:
    """Of equally near ones the even; -127 to 127, with the largest at an end."""
    x = torch.tensor([[127.0, 0.5, 1.5, -2.5, -126.6], [-254.0, 1.0, 3.0, 0.9, 253.1], [0.0, 0, 0, 0, 0]])
    values, scales = quantize_heads(x)
    assert values.tolist() == [[127, 0, 2, -2, -127], [-127, 0, 2, 0, 127], [0, 0, 0, 0, 0]]
    assert scales.tolist() == [1.0, 2.0, 0.0]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_so(value: float) -> None:
    x = torch.ones(2, 3)
    x[0, 1] = value
    values, scales = quantize_heads(x)
    assert values.tolist() == [[0, 0, 0], [127, 127, 127]]
    assert scales.isnan().tolist() == [True, False]


def test_tiny_and_huge_numbers() -> None:
    x = torch.tensor([[1e-38, 1e-31], [3e37, -1.5e37]])
    values, scales = quantize_heads(x)
    assert values.tolist() == [[0, 0], [127, -64]]
    torch.testing.assert_close(scales, torch.tensor([0, 3e37 / 127]))


# --- writing --------------------------------------------------------------------------------------


def empty_cache(
    blocks: int, block_size: int, kv_heads: int, head_dim: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Of keys and values: numbers and scales of a block beside each other, as an engine has them."""
    numbers, scales = 2 * block_size * kv_heads * head_dim, 2 * block_size * kv_heads * 4
    storage = torch.full((blocks, numbers + scales), 77, dtype=torch.int8, device=device)
    storage[:, numbers:].view(torch.float32).fill_(torch.nan)
    return storage


def views(
    storage: Tensor, block_size: int, kv_heads: int, head_dim: int
) -> tuple[QuantizedCache, QuantizedCache]:
    count = 2 * block_size * kv_heads * head_dim
    numbers = storage[:, :count].unflatten(1, (2, block_size, kv_heads, head_dim))
    scales = storage[:, count:].view(torch.float32).unflatten(1, (2, kv_heads, block_size))
    return QuantizedCache(numbers[:, 0], scales[:, 0]), QuantizedCache(numbers[:, 1], scales[:, 1])


@pytest.mark.op("rope_cache_write")
@pytest.mark.pairwise(tokens=[0, 9], head_dim=[2, 150], block_size=[4, 7])
def test_rotated_and_written(
    backend: str, device: torch.device, tokens: int, head_dim: int, block_size: int, randn: Draw
) -> None:
    """As the reference does; padding and all other slots stay as they are, and so do heads that are not
    finite or zero."""
    check_write(backend, device, torch.float32, tokens, head_dim, block_size, randn)


def test_rotated_and_written_in_16_bits(randn: Draw) -> None:
    """From the rotated key in float32, which is not rounded to 16 bits first."""
    check_write("triton", torch.device(device_of("triton")), torch.float16, 9, 20, 7, randn)


def check_write(
    backend: str,
    device: torch.device,
    dtype: torch.dtype,
    tokens: int,
    head_dim: int,
    block_size: int,
    randn: Draw,
) -> None:
    heads, kv_heads = 6, 3
    table = rope_table(inverse_frequencies(head_dim, 10_000.0, None), 500).to(device)
    qkv = randn(tokens, (heads + 2 * kv_heads) * head_dim)
    if tokens:
        qkv[1, heads * head_dim] = torch.inf
        qkv[2, -1] = torch.nan
        qkv[3, (heads + kv_heads) * head_dim :] = 0.0
    qkv = qkv.to(device, dtype)
    slots = torch.randperm(9 * block_size, generator=torch.Generator().manual_seed(3))[:tokens]
    slots[4:5] = -1
    batch = AttentionBatch(
        positions=torch.arange(tokens, dtype=torch.int32) * 37,
        slot_mapping=slots,
        cu_seqlens_q=torch.tensor([0, tokens], dtype=torch.int32),
        context_lens=torch.tensor([500], dtype=torch.int32),
        block_table=torch.zeros(1, 1, dtype=torch.int32),
    )
    batch = moved(batch, device)

    def run(write: Callable[..., Tensor]) -> tuple[QuantizedCache, QuantizedCache]:
        storage = empty_cache(9, block_size, kv_heads, head_dim, device)
        caches = views(storage, block_size, kv_heads, head_dim)
        write(qkv.clone(), table, batch, *caches)
        return caches

    found = run(partial(rope_cache_write, num_heads=heads, backend=backend))
    expected = run(partial(rope_cache_write_reference, num_heads=heads))
    for own, right in zip(found, expected, strict=True):
        torch.testing.assert_close(own.scales, right.scales, rtol=1e-6, atol=0, equal_nan=True)
        assert (own.values.int() - right.values.int()).abs().max() <= 1, "a rotation may be rounded otherwise"
        assert (own.values != right.values).double().mean() < 0.01
    assert torch.equal(found[1].values, expected[1].values), "values are not rotated"
    if tokens:
        assert int(found[0].scales.isfinite().sum()) == kv_heads * (tokens - 1) - 1


def test_what_is_written_does_not_depend_on_the_batch(isa: str, randn: Draw) -> None:
    table = rope_table(inverse_frequencies(40, 10_000.0, None), 300)
    qkv, paged = randn(300, 6 * 40), Paged.random((300,), 4, 1, 40)

    def run(edges: list[int]) -> list[Tensor]:
        storage = empty_cache(41, 16, 1, 40)
        for start, end in pairwise(edges):
            caches, batch = views(storage, 16, 1, 40), paged.batch([(start, end)], 16)
            rope_cache_write(qkv[start:end].clone(), table, batch, *caches, num_heads=4)
        return [storage]

    assert torch.equal(run([0, 300])[0], run([0, 1, 5, 200, 299, 300])[0])


# --- attention ------------------------------------------------------------------------------------


@pytest.mark.op("paged_attention")
@pytest.mark.pairwise(heads=[(1, 1), (6, 2), (5, 5), (14, 2)], head_dim=[2, 64, 150])
def test_within_the_error_budget(
    backend: str, device: torch.device, heads: tuple[int, int], head_dim: int, assert_within_budget: Check
) -> None:
    """A prefill, a chunk behind cached positions, one decoding step and a sequence without a query, beside
    the formula over the numbers that are stored."""
    paged = Paged.random((9, 37, 20, 50), *heads, head_dim)
    spans = [(0, 9), (30, 37), (11, 11), (49, 50)]
    found = paged.attend(spans, 4, backend, device=device, is_int8=True).cpu()
    caches, batch = paged.int8_caches(4), paged.batch(spans, 4)
    in_pytorch = paged_attention_reference(paged.queries(spans), *caches, batch, head_dim**-0.5)
    assert_within_budget(found, in_pytorch, paged.in_int8().exact(spans))


@pytest.mark.op("paged_attention")
@pytest.mark.best_isa
def test_the_future_is_not_read(backend: str, device: torch.device) -> None:
    paged = Paged.random((21, 30), 4, 2, 24)
    spans = [(0, 13), (16, 17)]
    found = paged.attend(spans, 8, backend, written=[13, 17], device=device, is_int8=True).cpu()
    torch.testing.assert_close(found.double(), paged.in_int8().exact(spans), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_in_16_bits(dtype: torch.dtype, assert_within_half_budget: Check) -> None:
    device = device_of("triton")
    paged = Paged.random((9, 37, 50), 6, 2, 20)
    spans = [(0, 9), (30, 37), (49, 50)]
    q, caches, batch = paged.queries(spans), paged.int8_caches(4), paged.batch(spans, 4)
    keys, values = (QuantizedCache(c.values.to(device), c.scales.to(device)) for c in caches)
    q_16 = q.to(device, dtype)
    found = paged_attention(q_16, keys, values, moved(batch, device), backend="triton").cpu()
    in_pytorch = paged_attention_reference(q.to(dtype), *caches, batch, 20**-0.5)
    exact = paged_attention_reference(q_16.cpu().double(), *caches, batch, 20**-0.5)
    assert_within_half_budget(found, in_pytorch, exact)


@pytest.mark.best_isa
@pytest.mark.op("paged_attention")
def test_a_number_that_was_not_finite_is_not_hidden(backend: str, device: torch.device) -> None:
    paged = Paged.random((12,), 2, 2, 16)
    paged.v[0][5, 1, 3] = torch.inf
    found = paged.attend([(4, 12)], 4, backend, device=device, is_int8=True).cpu()
    if backend == "cpp":  # others multiply what a query does not see by zero
        assert found[0].isfinite().all()
    assert found[1:, :16].isfinite().all()
    assert found[1:, 16:].isnan().all()


def test_signal_to_noise() -> None:
    """Beside attention in float32; and with channels of which some are five times as large."""
    for outlier, least_db in ((1, 35.0), (5, 25.0)):
        paged = Paged.random((600, 900), 8, 4, 64)
        for rows in (*paged.k, *paged.v):
            rows[:, :, ::17] *= outlier
        spans = [(596, 600), (899, 900)]
        exact, found = paged.exact(spans), paged.attend(spans, 16, "cpp", is_int8=True).double()
        db = 10 * torch.log10(exact.pow(2).sum() / (exact - found).pow(2).sum())
        assert db > least_db


@pytest.mark.parametrize("heads", [(4, 2), (6, 1), (7, 1)])
def test_to_the_last_bit(isa: str, heads: tuple[int, int]) -> None:
    """Whatever the block size, the pieces of a prompt, and the batch, which is spread over the threads."""
    paged = Paged.random((3, 70, 50), *heads, 150)
    spans = [(0, 3), (5, 70), (49, 50)]
    expected = paged.attend(spans, 16, "cpp", is_int8=True)
    for block_size in (1, 3, 7, 100):
        assert torch.equal(paged.attend(spans, block_size, "cpp", is_int8=True), expected)
    rows = expected.split([3, 65, 1])
    for i, row in enumerate(rows):
        alone = [span if j == i else (span[1], span[1]) for j, span in enumerate(spans)]
        assert torch.equal(paged.attend(alone, 16, "cpp", is_int8=True), row)
    pieces = [
        paged.attend([(3, 3), (a, b), (50, 50)], 16, "cpp", written=[3, b, 50], is_int8=True)
        for a, b in pairwise([5, 6, 40, 69, 70])
    ]
    assert torch.equal(torch.cat(pieces), rows[1])


# --- a run of layers ------------------------------------------------------------------------------


def test_a_run_of_layers(isa: str, torch_alone: TorchAlone) -> None:
    """Beside the reference, in which a few numbers are rounded another way; and to the last bit with the same
    positions in other pieces."""
    stack = Stack.random(*STACKS["odd"])

    def run(backend: str, pieces: list[list[tuple[int, int]]]) -> Tensor:
        session = Session(stack, stack.build(backend), (13, 8, 20), is_int8=True)
        return [session.run(spans) for spans in pieces][-1]

    pieces = [[(0, 7), (0, 7), (0, 19)], [(7, 13), (7, 8), (19, 20)]]
    expected = torch_alone(lambda: run("torch", pieces))
    found = run("cpp", pieces)
    assert (found - expected).norm() < 0.01 * expected.norm()
    singly = [[(p, p + 1), (min(p, 7), min(p + 1, 7)), (p, p + 1)] for p in range(19)]
    singly = [[(a, b) if b <= 13 else (13, 13) for a, b in spans[:1]] + spans[1:] for spans in singly]
    last = run("cpp", [*singly, [(13, 13), (7, 8), (19, 20)]])
    assert torch.equal(last, found[-2:])


# --- wrong arguments ------------------------------------------------------------------------------


def test_wrong_caches_are_named() -> None:
    paged = Paged.random((5, 6), 4, 2, 6)
    q, (keys, values), batch = paged.queries(whole(paged)), paged.int8_caches(4), paged.batch(whole(paged), 4)
    paged_attention(q, keys, values, batch)
    in_float32, numbers, scales = paged.caches(4)[1], keys.values, keys.scales
    short, missing = numbers.short(), QuantizedCache(values.values, values.scales[:-1])
    apart = QuantizedCache(values.values, values.scales.contiguous())
    crosswise = QuantizedCache(numbers, scales.mT.contiguous().mT)
    wrongs: tuple[tuple[Caches, str], ...] = (
        ((keys, in_float32), "value_cache: expected a QuantizedCache like key_cache, got Tensor"),
        ((in_float32, values), "key_cache: expected a QuantizedCache like value_cache, got Tensor"),
        (
            (QuantizedCache(short, scales), QuantizedCache(short, scales)),
            "key_cache: expected torch.int8, got torch.int16",
        ),
        ((keys, missing), r"value_cache.scales: expected torch.float32 \("),
        ((QuantizedCache(numbers, scales.double()), values), "key_cache.scales: expected torch.float32"),
        ((crosswise, values), "key_cache.scales: expected blocks to be contiguous"),
        ((keys, apart), "value_cache.scales: expected strides"),
        ((numbers, values.values), "key_cache: expected torch.float32 like the queries, got torch.int8"),
    )
    for wrong, message in wrongs:
        with pytest.raises(ValueError, match=message):
            paged_attention(q, *wrong, batch)


def test_scales_have_memory_of_their_own(randn: Draw) -> None:
    paged = Paged.random((5,), 4, 2, 6)
    batch, table = paged.batch([(0, 5)], 4), rope_table(inverse_frequencies(6, 10_000.0, None), 8)
    storage = empty_cache(9, 4, 2, 6, device_of("cpp"))
    keys, values = views(storage, 4, 2, 6)
    rope_cache_write(randn(5, 48), table, batch, keys, values, num_heads=4)
    inside = storage[:, :32].view(torch.float32).unflatten(1, (2, 4))
    for wrong in (QuantizedCache(keys.values, inside), QuantizedCache(keys.values, values.scales)):
        with pytest.raises(ValueError, match="key_cache"):
            rope_cache_write(randn(5, 48), table, batch, wrong, values, num_heads=4)
