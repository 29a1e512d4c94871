"""Runs of decoder layers with random weights, and sequences that pass through them piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from antiphon.kernels import (
    AttentionBatch,
    DecoderGeometry,
    DecoderLayer,
    FusionBatch,
    QuantizedCache,
    decoder_layers,
    inverse_frequencies,
    linear,
    rope_table,
)
from antiphon.kernels.decoder_layers import DecoderLayers
from antiphon.kernels.quantized_cache import Caches

__all__ = ["STACKS", "Session", "Span", "Stack"]

Span = tuple[int, int]
WINDOW = 5


@dataclass(frozen=True)
class Stack:
    """Weights of a few layers, as plain tensors."""

    geometry: DecoderGeometry
    hidden: int
    layers: list[dict[str, Tensor]]
    final_norm: Tensor
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
        geometry = DecoderGeometry(heads, kv_heads, head_dim, 1e-5)
        return Stack(geometry, hidden, layers, 1 + matrix(1, hidden)[0], table)

    def packed(self, backend: str, dtype: torch.dtype, *, fuses: bool = True) -> list[DecoderLayer]:
        packed = []
        for layer in self.layers:
            given = {
                name: weight.to(dtype) if weight.dim() == 1 else linear(weight.to(dtype), backend=backend)
                for name, weight in layer.items()
                if fuses or not name.startswith("fusion")
            }
            packed.append(DecoderLayer(**given))  # type: ignore[arg-type]
        return packed

    def build(self, backend: str, dtype: torch.dtype = torch.float32, *, fuses: bool = True) -> DecoderLayers:
        return decoder_layers(
            self.packed(backend, dtype, fuses=fuses),
            self.final_norm.to(dtype),
            self.geometry,
            self.table.to(dtype),
            backend=backend,
        )


@dataclass
class Session:
    """Sequences of inputs, and a paged cache for them that fills up run by run."""

    stack: Stack
    run_layers: DecoderLayers
    lengths: Sequence[int]
    block_size: int = 4
    dtype: torch.dtype = torch.float32
    fused: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """Positions of each sequence that receive fusion."""
    by_empty_windows: bool = False
    """Whether the others receive some, too, of an empty window."""
    is_int8: bool = False
    """Whether the cache is."""

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
        self.caches: list[Caches] = [(self.storage[:, i, 0], self.storage[:, i, 1]) for i in range(layers)]
        if self.is_int8:
            values = torch.zeros(shape, dtype=torch.int8)
            scales = torch.full((*shape[:3], shape[4], shape[3]), torch.nan)
            self.caches = [
                (
                    QuantizedCache(values[:, i, 0], scales[:, i, 0]),
                    QuantizedCache(values[:, i, 1], scales[:, i, 1]),
                )
                for i in range(layers)
            ]
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

    def run(self, spans: Sequence[Span], wanted: Tensor | None = None) -> Tensor:
        """Positions [start, end) of each sequence -> (tokens, hidden), or the wanted tokens' rows alone."""
        return self.prepared(spans, wanted)()

    def prepared(self, spans: Sequence[Span], wanted: Tensor | None = None) -> Callable[[], Tensor]:
        """A run whose inputs are ready, so that it does nothing but call the layers."""
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
        fusion = self.fusion(places)
        return lambda: self.run_layers(x, batch, self.caches, fusion, wanted)

    def fusion(self, places: Sequence[tuple[int, int]]) -> FusionBatch | None:
        if not self.fused:
            return None
        receives = [p in self.fused.get(s, ()) for s, p in places]
        tokens = [t for t in range(len(places)) if receives[t] or self.by_empty_windows]
        rows = [7 * places[t][0] + places[t][1] % 7 for t in tokens]
        valid = [self.num_valid(row) * receives[t] for t, row in zip(tokens, rows, strict=True)]
        return FusionBatch(
            tokens=None if self.by_empty_windows else torch.tensor(tokens, dtype=torch.int64),
            rows=torch.tensor(rows, dtype=torch.int64),
            num_valid=torch.tensor(valid, dtype=torch.int32),
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
"""Shapes: arguments of `Stack.random`."""
