"""A run of layers over a ragged batch: every backend within the budget, and the C++ one the same to the
last bit however the positions are spread over chunks, batches and blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from layer_stacks import STACKS, Session, Span, Stack
from torch import Tensor

from antiphon.kernels import AttentionBatch, decoder_layers
from antiphon.kernels.quantized_cache import numbers_of

Check = Callable[[Tensor, Tensor, Tensor], None]
TorchAlone = Callable[[Callable[[], Tensor]], Tensor]

FUSED = {0: frozenset({2, 3, 11}), 2: frozenset(range(20))}


@pytest.mark.pairwise(shape=STACKS, fuses=[False, True])
def test_within_the_error_budget(
    isa: str, shape: str, fuses: bool, torch_alone: TorchAlone, assert_within_budget: Check
) -> None:
    """A prefill, then a batch of a chunk, a decoding step, a late prefill and a sequence without a query."""
    stack, fused = Stack.random(*STACKS[shape]), FUSED if fuses else {}

    def run(backend: str, dtype: torch.dtype) -> Tensor:
        session = Session(stack, stack.build(backend, dtype), (13, 8, 20, 6), dtype=dtype, fused=fused)
        first = session.run([(0, 7), (0, 7), (0, 0), (0, 6)])
        second = session.run([(7, 13), (7, 8), (0, 20), (6, 6)])
        return torch.cat([first, second])

    in_pytorch = torch_alone(lambda: run("torch", torch.float32))
    assert_within_budget(run("cpp", torch.float32), in_pytorch, run("torch", torch.float64))


def test_what_a_layer_computes() -> None:
    """The reference itself, by the formula, for one sequence of which the last two positions are fused."""
    stack = Stack.random(*STACKS["odd"])
    fused = {0: frozenset({4, 5})}
    session = Session(stack, stack.build("torch", torch.float64), (6,), dtype=torch.float64, fused=fused)
    found = session.run([(0, 6)])

    heads, kv_heads, head_dim = 6, 2, 10
    cos, sin = stack.table.double()[:6, None].chunk(2, dim=-1)

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.pow(2).mean(1, keepdim=True) + 1e-5).sqrt() * weight

    def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    x = session.inputs[0]
    for index, plain in enumerate(stack.layers):
        w = {name: weight.double() for name, weight in plain.items()}
        q, k, v = (
            (norm(x, w["input_norm"]) @ w["qkv"].T)
            .view(6, -1, head_dim)
            .split([heads, kv_heads, kv_heads], 1)
        )
        q, k = turned(q, cos, sin), turned(k, cos, sin).repeat_interleave(3, dim=1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / head_dim**0.5
        scores += torch.full((6, 6), -torch.inf).triu(1)
        mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v.repeat_interleave(3, dim=1))
        x = x + mixed.flatten(1) @ w["o"].T
        for p in (4, 5):
            valid = session.num_valid(p)
            keys, values = session.windows[p, :valid, index].view(valid, 2, heads, head_dim).unbind(1)
            q = turned((w["fusion_q"] @ x[p]).view(heads, head_dim), cos[p], sin[p])
            weights = (torch.einsum("hd,whd->hw", q, keys) / head_dim**0.5).softmax(-1)
            added = torch.zeros_like(x)
            added[p] = w["fusion_o"] @ torch.einsum("hw,whd->hd", weights, values).flatten()
            x = x + added
        gate, up = (norm(x, w["post_norm"]) @ w["gate_up"].T).chunk(2, dim=1)
        x = x + (torch.nn.functional.silu(gate) * up) @ w["down"].T
    torch.testing.assert_close(found, norm(x, stack.final_norm.double()))


@pytest.mark.best_isa
@pytest.mark.pairwise(
    shape=["odd", "one-layer"],
    fuses=[False, True],
    wanted=[[], [0], [12], [1, 4, 19, 26], list(range(8, 30))],
)
def test_wanted_tokens_are_as_among_all(backend: str, shape: str, fuses: bool, wanted: list[int]) -> None:
    """And keys and values of all are written."""
    stack, fused = Stack.random(*STACKS[shape]), FUSED if fuses else {}
    layers = stack.build(backend)
    whole, some = (Session(stack, layers, (13, 8, 20), fused=fused) for _ in range(2))
    spans = [(0, 13), (0, 0), (0, 17)]
    expected = whole.run(spans)[wanted]
    found = some.run(spans, torch.tensor(wanted, dtype=torch.int64))
    assert torch.equal(found, expected)
    assert torch.equal(some.storage.nan_to_num(7), whole.storage.nan_to_num(7))


@pytest.mark.best_isa
@pytest.mark.pairwise(lengths=[(), (0,), (0, 0, 0)], fuses=[False, True])
def test_no_tokens(backend: str, lengths: tuple[int, ...], fuses: bool) -> None:
    stack = Stack.random(*STACKS["odd"])
    session = Session(stack, stack.build(backend), lengths, fused={0: frozenset({1})} if fuses else {})
    assert session.run([(0, 0)] * len(lengths)).shape == (0, 48)
    assert session.storage.isnan().all()


@pytest.mark.best_isa
@pytest.mark.parametrize("shape", ["odd", "one-layer"])
def test_fusion_of_all_rows(backend: str, shape: str) -> None:
    """As in a recording, where no row is picked out: an empty window changes nothing."""
    stack = Stack.random(*STACKS[shape])
    layers = stack.build(backend)
    some, every = (
        Session(stack, layers, (13, 8, 20), fused=FUSED, by_empty_windows=whether)
        for whether in (False, True)
    )
    for spans in ([(0, 12), (0, 0), (0, 17)], [(12, 13), (0, 1), (17, 18)]):
        torch.testing.assert_close(every.run(spans), some.run(spans), rtol=1e-5, atol=1e-5)


@pytest.mark.best_isa
def test_layers_without_fusion_let_it_be(backend: str) -> None:
    stack = Stack.random(*STACKS["odd"])
    layers = stack.build(backend, fuses=False)
    found = Session(stack, layers, (13,), fused=FUSED).run([(0, 13)])
    assert torch.equal(found, Session(stack, layers, (13,)).run([(0, 13)]))


# --- to the last bit ------------------------------------------------------------------------------


LARGE = (4, 2, 40, 100, 150)
"""Goes parallel."""
LENGTHS = (30, 9, 70)
BIT_FUSED = {0: frozenset(range(20, 30)), 1: frozenset({8}), 2: frozenset({0, 1, 69})}


def each_alone(stack: Stack) -> list[Tensor]:
    """Each sequence by itself, its prompt in one piece."""
    session = Session(stack, stack.build("cpp"), LENGTHS, fused=BIT_FUSED)
    spans = [[(0, n) if j == i else (0, 0) for j in range(3)] for i, n in enumerate(LENGTHS)]
    return [session.run(span) for span in spans]


SCHEDULES: dict[str, list[list[Span]]] = {
    "together": [[(0, 30), (0, 9), (0, 70)]],
    "chunk by chunk": [
        [(0, 1), (0, 0), (0, 64)],
        [(1, 22), (0, 4), (64, 64)],
        [(22, 23), (4, 9), (64, 70)],
        [(23, 30), (9, 9), (70, 70)],
    ],
    "step by step": [[(min(p, n), min(p + 1, n)) for n in LENGTHS] for p in range(70)],
    "one after the other": [
        [(0, 0), (0, 0), (0, 70)],
        [(0, 30), (0, 0), (70, 70)],
        [(30, 30), (0, 9), (70, 70)],
    ],
}


@pytest.mark.pairwise(shape=[STACKS["odd"], LARGE], schedule=SCHEDULES, block_size=[1, 4, 64])
def test_the_schedule_does_not_count(
    isa: str, shape: tuple[int, ...], schedule: str, block_size: int
) -> None:
    stack = Stack.random(*shape)
    session = Session(stack, stack.build("cpp"), LENGTHS, block_size, fused=BIT_FUSED)
    found: list[list[Tensor]] = [[], [], []]
    for spans in SCHEDULES[schedule]:
        parts = session.run(spans).split([end - start for start, end in spans])
        for rows, part in zip(found, parts, strict=True):
            rows.append(part)
    for rows, whole in zip(found, each_alone(stack), strict=True):
        assert torch.equal(torch.cat(rows), whole)


def test_the_same_every_time() -> None:
    """Threads take the work in any order."""
    stack = Stack.random(*LARGE)
    session = Session(stack, stack.build("cpp"), (97,), fused={0: frozenset(range(97))})
    first = session.run([(0, 97)])
    for _ in range(20):
        assert torch.equal(session.run([(0, 97)]), first)


# --- wrong arguments ------------------------------------------------------------------------------


@pytest.mark.best_isa
def test_wrong_arguments_are_named(backend: str) -> None:
    stack = Stack.random(*STACKS["odd"])
    run = stack.build(backend)
    session = Session(stack, run, (3,), fused={0: frozenset({1})})
    batch = AttentionBatch(
        positions=torch.arange(3, dtype=torch.int32),
        slot_mapping=torch.arange(3),
        cu_seqlens_q=torch.tensor([0, 3], dtype=torch.int32),
        context_lens=torch.tensor([3], dtype=torch.int32),
        block_table=torch.tensor([[0]], dtype=torch.int32),
    )
    x, caches = session.inputs[0], session.caches
    fusion = session.fusion([(0, 0), (0, 1), (0, 2)])
    assert fusion is not None
    with pytest.raises(ValueError, match="layers: expected at least one, got none"):
        decoder_layers([], stack.final_norm, stack.geometry, stack.table, backend=backend)
    layers = stack.packed(backend, torch.float32)
    for norm in (stack.final_norm[:-1], stack.final_norm.double()):
        with pytest.raises(ValueError, match=r"final_norm: expected torch.float32 \(48,\), got"):
            decoder_layers(layers, norm, stack.geometry, stack.table, backend=backend)
    for wrong in (x[:, :-1], x[0], x.double()):
        with pytest.raises(ValueError, match=r"x: expected torch.float32 \(tokens, 48\), got"):
            run(wrong, batch, caches, None)
    for tokens in (torch.arange(4), torch.arange(2).int(), torch.zeros(1, 1).long()):
        with pytest.raises(ValueError, match="wanted: expected int64, at most 3, got"):
            run(x, batch, caches, None, tokens)
    with pytest.raises(ValueError, match="caches: expected one for each of 3 layers, got 2"):
        run(x, batch, caches[:2], None)
    with pytest.raises(ValueError, match=r"fusion\.cache: expected 3 layers, got 2"):
        run(x, batch, caches, replace(fusion, cache=fusion.cache[:, :, :2]))


def test_caches_of_the_cpp_backend_share_a_storage() -> None:
    stack = Stack.random(*STACKS["odd"])
    session = Session(stack, stack.build("cpp"), (3,))
    keys, values = session.caches[2]
    session.caches[2] = (keys, numbers_of(values).clone())
    with pytest.raises(ValueError, match="caches: expected keys and values at equal distances"):
        session.run([(0, 3)])
