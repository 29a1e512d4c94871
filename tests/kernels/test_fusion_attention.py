"""Fusion: a speech position over its window of text. Entries that are not filled hold NaN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from devices import device_of
from torch import Tensor

from antiphon.kernels import (
    apply_rope,
    fusion_attention,
    fusion_cache_write,
    inverse_frequencies,
    rope_table,
)
from antiphon.kernels.fusion_attention import fusion_attention_reference, fusion_cache_write_reference

Draw = Callable[..., Tensor]
Check = Callable[[Tensor, Tensor, Tensor], None]

# 150 takes steps of four vectors, of one and a tail, whatever a vector's length; 2 is nothing but a tail
HEAD_DIMS = [2, 64, 128, 150]


@dataclass(frozen=True)
class Windows:
    q: Tensor
    k: Tensor
    v: Tensor
    num_valid: Tensor
    positions: Tensor
    table: Tensor

    @staticmethod
    def random(tokens: int, window: int, heads: int, head_dim: int) -> Windows:
        generator = torch.Generator().manual_seed(tokens + window + heads + head_dim)
        num_valid = torch.randint(0, window + 1, (tokens,), generator=generator, dtype=torch.int32)
        k, v = torch.randn(2, tokens, window, heads, head_dim, generator=generator).unbind()
        for x in (k, v):
            x[torch.arange(window) >= num_valid[:, None]] = torch.nan
        return Windows(
            torch.randn(tokens, heads, head_dim, generator=generator),
            k,
            v,
            num_valid,
            torch.randint(0, 400, (tokens,), generator=generator, dtype=torch.int32),
            rope_table(inverse_frequencies(head_dim, 10_000.0, None), 400),
        )

    def on(self, device: torch.device) -> Windows:
        return Windows(**{name: x.to(device) for name, x in vars(self).items()})

    def arguments(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
        q, k, v, table = (x.to(dtype) for x in (self.q, self.k, self.v, self.table))
        return q, k, v, self.num_valid, self.positions, table

    def rounded(self, dtype: torch.dtype) -> Windows:
        """The same in float32, of numbers that `dtype` has."""
        q, k, v = (x.to(dtype).float() for x in (self.q, self.k, self.v))
        return replace(self, q=q, k=k, v=v)

    def attend(self, backend: str, rows: Tensor | None = None) -> Tensor:
        return fusion_attention(*self.arguments(), rows=rows, backend=backend)

    def exact(self) -> Tensor:
        """By the formula, one token after the other, in float64."""
        q, k, v, num_valid, positions, table = self.arguments(torch.float64)
        out = torch.zeros_like(q)
        for t, valid in enumerate(num_valid.tolist()):
            if valid:
                rotated = apply_rope(q[t : t + 1], positions[t : t + 1], table)[0]
                scores = torch.einsum("hd,whd->hw", rotated, k[t, :valid]) / q.shape[2] ** 0.5
                out[t] = torch.einsum("hw,whd->hd", scores.softmax(-1), v[t, :valid])
        return out


@pytest.mark.pairwise(shape=[(0, 5, 4), (1, 1, 1), (9, 5, 3), (6, 40, 2)], head_dim=HEAD_DIMS)
def test_within_the_error_budget(
    backend: str,
    device: torch.device,
    shape: tuple[int, int, int],
    head_dim: int,
    assert_within_budget: Check,
) -> None:
    """Shapes are (tokens, window, heads)."""
    windows = Windows.random(*shape, head_dim).on(device)
    in_pytorch = partial(fusion_attention_reference, rows=None)(*windows.arguments())
    assert_within_budget(windows.attend(backend), in_pytorch, windows.exact())


@pytest.mark.pairwise(
    dtype=[torch.bfloat16, torch.float16], shape=[(0, 5, 4), (5, 5, 3), (2, 90, 1)], head_dim=[2, 64, 150]
)
def test_in_16_bits(
    dtype: torch.dtype, shape: tuple[int, int, int], head_dim: int, assert_within_half_budget: Check
) -> None:
    """With the table in float32, as the model has it."""
    windows = Windows.random(*shape, head_dim).rounded(dtype).on(device_of("triton"))
    q, k, v, num_valid, positions, _ = windows.arguments(dtype)
    found = fusion_attention(q, k, v, num_valid, positions, windows.table, backend="triton")
    in_pytorch = fusion_attention_reference(q, k, v, num_valid, positions, windows.table, None)
    assert_within_half_budget(found, in_pytorch, windows.exact())


def test_larger_than_any_model() -> None:
    """Once the C++ kernel had its scratch on the stack, and bounds to it."""
    windows = Windows.random(2, 1000, 1, 1026)
    torch.testing.assert_close(windows.attend("cpp").double(), windows.exact(), rtol=1e-4, atol=1e-5)


@pytest.mark.best_isa
@pytest.mark.usefixtures("poisoned_memory")
def test_an_empty_window_says_nothing(backend: str, device: torch.device) -> None:
    windows = Windows.random(4, 5, 2, 8).on(device)
    windows.num_valid[:] = torch.tensor([0, 1, 0, 5], dtype=torch.int32)
    windows.k[1:], windows.v[1:] = 1.0, 2.0
    found = windows.attend(backend)
    assert not found[[0, 2]].any()
    torch.testing.assert_close(found[[1, 3]].cpu(), torch.full((2, 2, 8), 2.0))


@pytest.mark.best_isa
def test_order_in_the_window_does_not_count(backend: str, device: torch.device, randn: Draw) -> None:
    """So it can live in a ring."""
    table = rope_table(inverse_frequencies(16, 10_000.0, None), 9).to(device)
    q, k, v = (x.to(device) for x in (randn(1, 2, 16), randn(1, 5, 2, 16), randn(1, 5, 2, 16, seed=1)))
    valid, position = (torch.tensor([n], dtype=torch.int32, device=device) for n in (5, 8))
    found = fusion_attention(q, k, v, valid, position, table, backend=backend)
    turned = fusion_attention(q, k.roll(2, 1), v.roll(2, 1), valid, position, table, backend=backend)
    torch.testing.assert_close(found, turned)


@pytest.mark.best_isa
def test_rows_of_a_cache(backend: str, device: torch.device) -> None:
    """Tokens name the row they look at, in any order, some the same; keys and values lie interleaved."""
    windows = Windows.random(6, 5, 3, 20).on(device)
    rows = torch.tensor([4, 4, 0, 8, 2, 7], device=device)
    cache = torch.full((9, 5, 2, 3, 20), torch.nan, device=device)
    windows.num_valid[1] = windows.num_valid[0]
    windows.k[1], windows.v[1] = windows.k[0], windows.v[0]
    cache[rows, :, 0], cache[rows, :, 1] = windows.k, windows.v
    k, v = cache.unbind(2)
    found = fusion_attention(
        windows.q, k, v, windows.num_valid, windows.positions, windows.table, rows=rows, backend=backend
    )
    torch.testing.assert_close(found, windows.attend(backend), rtol=1e-6, atol=1e-6)


@pytest.mark.best_isa
def test_strided_input(backend: str, device: torch.device) -> None:
    windows = Windows.random(5, 5, 4, 12).on(device)
    q, k, v, num_valid, positions, table = windows.arguments()
    found = fusion_attention(
        q.transpose(0, 1).contiguous().transpose(0, 1),
        k.transpose(1, 2).contiguous().transpose(1, 2),  # (tokens, heads, window), as attention often has it
        v,
        num_valid.repeat_interleave(2)[::2],
        positions.repeat_interleave(2)[::2],
        table.T.contiguous().T,
        rows=torch.arange(10, device=device)[::2] // 2,
        backend=backend,
    )
    torch.testing.assert_close(found, windows.attend(backend), rtol=1e-6, atol=1e-6)


@pytest.mark.best_isa
def test_every_form_of_rope(backend: str, device: torch.device) -> None:
    frequencies = inverse_frequencies(12, 10_000.0, None).to(device)
    windows = replace(Windows.random(5, 5, 2, 12).on(device), table=rope_table(frequencies, 400, device))
    q, k, v, num_valid, positions, table = windows.arguments()
    expected = windows.attend(backend)
    for rope in (table.chunk(2, dim=1), frequencies):
        assert torch.equal(fusion_attention(q, k, v, num_valid, positions, rope, backend=backend), expected)


def test_a_token_does_not_depend_on_its_batch() -> None:
    """Large enough that the batch is spread over the threads."""
    windows = Windows.random(90, 5, 4, 40)
    whole = windows.attend("cpp")
    for start, end in [(0, 1), (44, 47), (1, 90)]:
        q, k, v, num_valid, positions = (x[start:end] for x in windows.arguments()[:-1])
        found = fusion_attention(q, k, v, num_valid, positions, windows.table, backend="cpp")
        assert torch.equal(found, whole[start:end])


@pytest.mark.pairwise(tokens=[0, 7], head_dim=[2, 150])
def test_cache_write(
    backend: str,
    device: torch.device,
    tokens: int,
    head_dim: int,
    randn: Draw,
    assert_within_budget: Check,
) -> None:
    """Keys are rotated, values copied, other entries untouched; what is written is what is attended to."""
    layers, heads, window = 3, 2, 5
    shape = (4, window, layers, 2, heads * head_dim)
    kv = randn(tokens, layers, 2, heads * head_dim).to(device)
    slots = torch.randperm(4 * window, generator=torch.Generator().manual_seed(1))[:tokens].to(device)
    positions = torch.arange(tokens, dtype=torch.int32, device=device) * 3
    table = rope_table(inverse_frequencies(head_dim, 10_000.0, None), 40).to(device)

    def run(write: Callable[..., None], dtype: torch.dtype) -> Tensor:
        cache = torch.full(shape, torch.nan, dtype=dtype, device=device)
        write(kv.to(dtype), slots, positions, table.to(dtype), cache)
        return cache

    found = run(partial(fusion_cache_write, head_dim=head_dim, backend=backend), torch.float32)
    reference = partial(fusion_cache_write_reference, head_dim=head_dim)
    in_pytorch, exact = run(reference, torch.float32), run(reference, torch.float64)
    assert torch.equal(found.isnan(), exact.isnan())
    assert_within_budget(found.nan_to_num(), in_pytorch.nan_to_num(), exact.nan_to_num())
    entries = found.flatten(0, 1)[slots]
    assert torch.equal(entries[:, :, 1], kv[:, :, 1])
    for layer in range(layers):
        by_hand = apply_rope(kv[:, layer, 0].unflatten(1, (heads, head_dim)), positions, table)
        torch.testing.assert_close(entries[:, layer, 0], by_hand.flatten(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("layers", "heads", "head_dim"), [(2, 32, 128), (2, 3, 250)])
def test_cache_write_in_16_bits(
    dtype: torch.dtype, layers: int, heads: int, head_dim: int, randn: Draw, assert_within_half_budget: Check
) -> None:
    device = device_of("triton")
    kv = randn(2, layers, 2, heads * head_dim).to(device, dtype)
    slots = torch.tensor([7, 0], device=device)
    positions = torch.tensor([3, 39], dtype=torch.int32, device=device)
    table = rope_table(inverse_frequencies(head_dim, 10_000.0, None), 40).to(device)

    shape = (2, 5, layers, 2, heads * head_dim)

    def run(write: Callable[..., None], dtype: torch.dtype) -> Tensor:
        cache = torch.full(shape, torch.nan, dtype=dtype, device=device)
        write(kv.to(dtype), slots, positions, table, cache, head_dim=head_dim)
        return cache

    found = run(partial(fusion_cache_write, backend="triton"), dtype)
    in_pytorch, exact = (run(fusion_cache_write_reference, d) for d in (dtype, torch.float64))
    assert torch.equal(found.isnan(), exact.isnan())
    assert_within_half_budget(found.nan_to_num(), in_pytorch.nan_to_num(), exact.nan_to_num())
    assert torch.equal(found.flatten(0, 1)[slots][:, :, 1], kv[:, :, 1])


WRONG: list[tuple[str, Callable[[Any], Any], str]] = [
    ("q", lambda x: x[:, :, 0], r"q: expected \(tokens, heads, head_dim\), head_dim even, got \(4, 2\)"),
    ("q", lambda x: x[:, :, :3], "q: expected"),
    ("k", lambda x: x[:3], r"k: expected \(4, window, 2, 8\), got \(3, 5, 2, 8\)"),
    ("k", lambda x: x[..., :6], r"k: expected \(4, window, 2, 8\)"),
    ("v", lambda x: x[:, :, :1], r"v: expected \(4, window, 2, 8\)"),
    ("v", lambda x: x.double(), "v: expected torch.float32 like q, got torch.float64"),
    ("num_valid", lambda x: x.long(), r"num_valid: expected torch.int32 \(4,\), got torch.int64 \(4,\)"),
    ("num_valid", lambda x: x[:2], r"num_valid: expected torch.int32 \(4,\), got torch.int32 \(2,\)"),
    ("num_valid", lambda x: x * 0 + 6, "num_valid: expected numbers from 0 to 5, got 6 to 6"),
    ("num_valid", lambda x: x * 0 - 1, "num_valid: expected numbers from 0 to 5, got -1 to -1"),
    ("positions", lambda x: x.float(), r"positions: expected torch.int32 \(4,\), got torch.float32"),
    ("positions", lambda x: x * 0 + 400, "positions: expected numbers from 0 to 399, got 400 to 400"),
    ("positions", lambda x: x * 0 - 1, "positions: expected numbers from 0 to 399, got -1 to -1"),
    ("rope", lambda x: x[:, :4], r"rope: expected \(positions, 8\), got \(400, 4\)"),
    ("rope", lambda x: None, "rope: expected a table"),
    ("rows", lambda x: torch.arange(4).int(), r"rows: expected torch.int64 \(4,\), got torch.int32"),
    ("rows", lambda x: torch.arange(3), r"rows: expected torch.int64 \(4,\), got torch.int64 \(3,\)"),
    ("rows", lambda x: torch.arange(1, 5), "rows: expected numbers from 0 to 3, got 1 to 4"),
    ("backend", lambda x: "tpu", "backend: expected one of .*torch, got 'tpu'"),
]


def test_wrong_arguments_are_named() -> None:
    q, k, v, num_valid, positions, table = Windows.random(4, 5, 2, 8).arguments()
    right: dict[str, Any] = {
        "q": q,
        "k": k,
        "v": v,
        "num_valid": num_valid,
        "positions": positions,
        "rope": table,
    }
    for name, change, message in WRONG:
        with pytest.raises(ValueError, match=message):
            fusion_attention(**(right | {name: change(right.get(name))}))


WRONG_TO_WRITE: list[tuple[str, Callable[[Any], Any], str]] = [
    ("kv", lambda x: x[:, :1], r"kv: expected torch.float32 \(3, 2, 2, 16\), got .* \(3, 1, 2, 16\)"),
    ("kv", lambda x: x[:2], "kv: expected torch.float32"),
    ("kv", lambda x: x.double(), "kv: expected torch.float32 .* got torch.float64"),
    ("slots", lambda x: x.int(), r"slots: expected torch.int64 \(3,\), got torch.int32 \(3,\)"),
    ("positions", lambda x: x.long(), r"positions: expected torch.int32 \(3,\), got torch.int64 \(3,\)"),
    ("positions", lambda x: x[:2], r"positions: expected torch.int32 \(3,\), got torch.int32 \(2,\)"),
    ("cos_sin", lambda x: x[:, :4], r"cos_sin: expected contiguous \(positions, 8\), got \(9, 4\)"),
    (
        "cache",
        lambda x: x[:, :, :, 0],
        r"cache: expected contiguous \(rows, window, layers, 2, heads \* 8\)",
    ),
    ("cache", lambda x: x.transpose(0, 1), "cache: expected contiguous"),
    ("head_dim", lambda x: 6, r"cache: expected contiguous \(rows, window, layers, 2, heads \* 6\)"),
]


def test_wrong_arguments_of_writing_are_named(randn: Draw) -> None:
    right: dict[str, Any] = {
        "kv": randn(3, 2, 2, 16),
        "slots": torch.arange(3),
        "positions": torch.arange(3, dtype=torch.int32),
        "cos_sin": rope_table(inverse_frequencies(8, 10_000.0, None), 9),
        "cache": torch.zeros(4, 5, 2, 2, 16),
        "head_dim": 8,
    }
    for name, change, message in WRONG_TO_WRITE:
        with pytest.raises(ValueError, match=message):
            fusion_cache_write(**(right | {name: change(right.get(name))}))
