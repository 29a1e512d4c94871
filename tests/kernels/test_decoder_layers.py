"""A run of layers over a ragged batch: every backend within the budget, and the C++ one the same to the
last bit however the positions are spread over chunks, batches and blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from antiphon.kernels import (
    AttentionBatch,
    DecoderGeometry,
    DecoderLayer,
    FusionBatch,
    backends,
    decoder_layers,
    inverse_frequencies,
    linear,
    rope_table,
)
from antiphon.kernels.decoder_layers import DecoderLayers

Check = Callable[[Tensor, Tensor, Tensor], None]
TorchAlone = Callable[[Callable[[], Tensor]], Tensor]
Span = tuple[int, int]

WINDOW = 5


@dataclass(frozen=True)
class Stack:
    """Weights of a few layers, as plain tensors."""

    geometry: DecoderGeometry
    hidden: int
    layers: list[dict[str, Tensor]]
    table: Tensor

    @staticmethod
    def random(
        heads: int, kv_heads: int, head_dim: int, hidden: int, intermediate: int, num_layers: int = 3
    ) -> Stack:
        generator = torch.Generator().manual_seed(heads * head_dim + hidden)

        def matrix(out_features: int, in_features: int) -> Tensor:
            weight = torch.randn(out_features, in_features, generator=generator)
            return weight / torch.tensor(in_features).sqrt()

        width = heads * head_dim
        layers = [
            {
                "input_norm": 1 + matrix(1, hidden)[0],
                "qkv": matrix(width + 2 * kv_heads * head_dim, hidden),
                "o": matrix(hidden, width),
                "post_norm": 1 + matrix(1, hidden)[0],
                "gate_up": matrix(2 * intermediate, hidden),
                "down": matrix(hidden, intermediate),
                "fusion_q": matrix(width, hidden),
                "fusion_o": matrix(hidden, width),
            }
            for _ in range(num_layers)
        ]
        table = rope_table(inverse_frequencies(head_dim, 10_000.0, None), 200)
        return Stack(DecoderGeometry(heads, kv_heads, head_dim, 1e-5), hidden, layers, table)

    def build(self, backend: str, dtype: torch.dtype = torch.float32, *, fuses: bool = True) -> DecoderLayers:
        packed = []
        for layer in self.layers:
            given = {
                name: weight.to(dtype) if weight.dim() == 1 else linear(weight.to(dtype), backend=backend)
                for name, weight in layer.items()
                if fuses or not name.startswith("fusion")
            }
            packed.append(DecoderLayer(**given))  # type: ignore[arg-type]
        return decoder_layers(packed, self.geometry, self.table.to(dtype), backend=backend)


@dataclass
class Session:
    """Sequences of inputs, and a paged cache of their own that fills up run by run."""

    stack: Stack
    run_layers: DecoderLayers
    lengths: Sequence[int]
    block_size: int = 4
    dtype: torch.dtype = torch.float32
    fused: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """Positions of each sequence that receive fusion."""

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(sum(self.lengths))
        stack = self.stack
        self.inputs = [torch.randn(n, stack.hidden, generator=generator).to(self.dtype) for n in self.lengths]
        geometry, layers = stack.geometry, len(stack.layers)
        counts = [-(-n // self.block_size) for n in self.lengths]
        order = torch.randperm(sum(counts) + 2, generator=generator).tolist()
        self.tables = [[order.pop() for _ in range(count)] for count in counts]
        shape = (sum(counts) + 2, layers, 2, self.block_size, geometry.num_kv_heads, geometry.head_dim)
        self.storage = torch.full(shape, torch.nan, dtype=self.dtype)
        self.caches = [(self.storage[:, i, 0], self.storage[:, i, 1]) for i in range(layers)]
        # the windows of sequence s at position p are in row 7 * s + p % 7, the last entries unfilled
        width = geometry.num_heads * geometry.head_dim
        num_windows = 7 * max(1, len(self.lengths))
        windows = torch.randn(
            num_windows, WINDOW, layers, 2, width, generator=torch.Generator().manual_seed(5)
        )
        self.windows = windows.to(self.dtype)
        for row in range(len(self.windows)):
            self.windows[row, self.num_valid(row) :] = torch.nan

    def num_valid(self, row: int) -> int:
        return row % (WINDOW + 1)

    def run(self, spans: Sequence[Span]) -> Tensor:
        """Positions [start, end) of each sequence -> (tokens, hidden)"""
        places = [(s, p) for s, (start, end) in enumerate(spans) for p in range(start, end)]
        widest = max(map(len, self.tables), default=0)
        slots = [
            self.tables[s][p // self.block_size] * self.block_size + p % self.block_size for s, p in places
        ]
        ends = torch.tensor([end - start for start, end in spans]).cumsum(0).tolist()
        batch = AttentionBatch(
            positions=torch.tensor([p for _, p in places], dtype=torch.int32),
            slot_mapping=torch.tensor(slots, dtype=torch.int64),
            cu_seqlens_q=torch.tensor([0, *ends], dtype=torch.int32),
            context_lens=torch.tensor([end for _, end in spans], dtype=torch.int32),
            block_table=torch.tensor(
                [table + [2**20] * (widest - len(table)) for table in self.tables], dtype=torch.int32
            ).view(len(spans), widest),
        )
        x = torch.cat([x[start:end] for x, (start, end) in zip(self.inputs, spans, strict=True)] or [
            torch.empty(0, self.stack.hidden, dtype=self.dtype)
        ])  # fmt: skip
        return self.run_layers(x, batch, self.caches, self.fusion(places))

    def fusion(self, places: Sequence[tuple[int, int]]) -> FusionBatch | None:
        if not self.fused:
            return None
        tokens = [t for t, (s, p) in enumerate(places) if p in self.fused.get(s, ())]
        rows = [7 * places[t][0] + places[t][1] % 7 for t in tokens]
        return FusionBatch(
            tokens=torch.tensor(tokens, dtype=torch.int64),
            rows=torch.tensor(rows, dtype=torch.int64),
            num_valid=torch.tensor([self.num_valid(row) for row in rows], dtype=torch.int32),
            positions=torch.tensor([places[t][1] for t in tokens], dtype=torch.int32),
            cache=self.windows,
        )


STACKS = {
    "odd": (6, 2, 10, 48, 70),
    "tiny": (1, 1, 2, 5, 3),
    "wide-heads": (2, 1, 64, 33, 130),
    "plain": (4, 4, 16, 64, 96),
    "one-layer": (3, 3, 24, 40, 31, 1),
}
FUSED = {0: frozenset({2, 3, 11}), 2: frozenset(range(20))}


def test_the_backends() -> None:
    assert backends("decoder_layers") == ["cpp", "torch"]


@pytest.mark.parametrize("shape", STACKS.values(), ids=STACKS)
@pytest.mark.parametrize("fused", [{}, FUSED], ids=["alone", "fused"])
def test_within_the_error_budget(
    isa: str,
    shape: tuple[int, ...],
    fused: dict[int, frozenset[int]],
    torch_alone: TorchAlone,
    assert_within_budget: Check,
) -> None:
    """A prefill, then a batch of a chunk, a decoding step, a late prefill and a sequence without a query."""
    stack = Stack.random(*shape)

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
    torch.testing.assert_close(found, x)


@pytest.mark.parametrize("lengths", [(), (0,), (0, 0, 0)], ids=str)
@pytest.mark.parametrize("fused", [{}, {0: frozenset({1})}], ids=["alone", "fused"])
def test_no_tokens(backend: str, lengths: tuple[int, ...], fused: dict[int, frozenset[int]]) -> None:
    stack = Stack.random(*STACKS["odd"])
    session = Session(stack, stack.build(backend), lengths, fused=fused)
    assert session.run([(0, 0)] * len(lengths)).shape == (0, 48)
    assert session.storage.isnan().all()


def test_layers_without_fusion_let_it_be(backend: str) -> None:
    stack = Stack.random(*STACKS["odd"])
    layers = stack.build(backend, fuses=False)
    found = Session(stack, layers, (13,), fused=FUSED).run([(0, 13)])
    assert torch.equal(found, Session(stack, layers, (13,)).run([(0, 13)]))


# --- to the last bit ------------------------------------------------------------------------------


@pytest.fixture(params=[STACKS["odd"], (4, 2, 40, 100, 150)], ids=["odd", "parallel"])
def stack(request: pytest.FixtureRequest) -> Stack:
    return Stack.random(*request.param)


LENGTHS = (30, 9, 70)
BIT_FUSED = {0: frozenset(range(20, 30)), 1: frozenset({8}), 2: frozenset({0, 1, 69})}


@pytest.fixture
def expected(isa: str, stack: Stack) -> list[Tensor]:
    """Each sequence alone, its prompt in one piece."""
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


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("block_size", [1, 4, 64])
def test_the_schedule_does_not_count(
    isa: str, stack: Stack, expected: list[Tensor], schedule: list[list[Span]], block_size: int
) -> None:
    session = Session(stack, stack.build("cpp"), LENGTHS, block_size, fused=BIT_FUSED)
    found: list[list[Tensor]] = [[], [], []]
    for spans in schedule:
        parts = session.run(spans).split([end - start for start, end in spans])
        for rows, part in zip(found, parts, strict=True):
            rows.append(part)
    for rows, whole in zip(found, expected, strict=True):
        assert torch.equal(torch.cat(rows), whole)


def test_the_same_every_time(isa: str) -> None:
    """Threads take the work in any order."""
    stack = Stack.random(4, 2, 40, 100, 150)
    session = Session(stack, stack.build("cpp"), (97,), fused={0: frozenset(range(97))})
    first = session.run([(0, 97)])
    for _ in range(20):
        assert torch.equal(session.run([(0, 97)]), first)


# --- wrong arguments ------------------------------------------------------------------------------


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
        decoder_layers([], stack.geometry, stack.table, backend=backend)
    for wrong in (x[:, :-1], x[0], x.double()):
        with pytest.raises(ValueError, match=r"x: expected torch.float32 \(tokens, 48\), got"):
            run(wrong, batch, caches, None)
    with pytest.raises(ValueError, match="caches: expected one for each of 3 layers, got 2"):
        run(x, batch, caches[:2], None)
    with pytest.raises(ValueError, match=r"fusion\.cache: expected 3 layers, got 2"):
        run(x, batch, caches, replace(fusion, cache=fusion.cache[:, :, :2]))


def test_caches_of_the_cpp_backend_share_a_storage() -> None:
    stack = Stack.random(*STACKS["odd"])
    session = Session(stack, stack.build("cpp"), (3,))
    keys, values = session.caches[2]
    session.caches[2] = (keys, values.clone())
    with pytest.raises(ValueError, match="caches: expected keys and values at equal distances"):
        session.run([(0, 3)])
