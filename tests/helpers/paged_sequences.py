"""Sequences in a paged cache, for the tests of attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from antiphon.kernels import AttentionBatch, QuantizedCache, paged_attention, quantize_heads

__all__ = ["Paged", "moved", "whole"]


def moved(batch: AttentionBatch, device: torch.device | str) -> AttentionBatch:
    """A batch without prompt keys, on another device."""
    places: dict[str, Any] = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return AttentionBatch(**{name: x.to(device) for name, x in places.items() if x is not None})


@dataclass(frozen=True)
class Paged:
    """Sequences of given lengths with keys and values of their own, scattered over a paged cache."""

    lengths: tuple[int, ...]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    q: list[Tensor]
    k: list[Tensor]
    v: list[Tensor]

    @staticmethod
    def random(lengths: Sequence[int], heads: int, kv_heads: int, head_dim: int) -> Paged:
        generator = torch.Generator().manual_seed(len(lengths) + heads + head_dim)

        def draw(length: int, count: int) -> Tensor:
            return torch.randn(length, count, head_dim, generator=generator)

        return Paged(
            tuple(lengths),
            heads,
            kv_heads,
            head_dim,
            [draw(n, heads) for n in lengths],
            [draw(n, kv_heads) for n in lengths],
            [draw(n, kv_heads) for n in lengths],
        )

    def rounded(self, dtype: torch.dtype) -> Paged:
        """The same in float32, with all numbers rounded to `dtype`."""
        q, k, v = ([x.to(dtype).float() for x in xs] for xs in (self.q, self.k, self.v))
        return replace(self, q=q, k=k, v=v)

    def tables(self, block_size: int) -> list[list[int]]:
        """The blocks of each sequence, in random order, with unused ones in between."""
        counts = [-(-length // block_size) for length in self.lengths]
        order = torch.randperm(2 * sum(counts) + 3, generator=torch.Generator().manual_seed(7)).tolist()
        return [[order.pop() for _ in range(count)] for count in counts]

    def batch(self, spans: Sequence[tuple[int, int]], block_size: int) -> AttentionBatch:
        """Queries [start, end) of each sequence."""
        tables = self.tables(block_size)
        widest = max((len(table) for table in tables), default=0)
        positions = [p for start, end in spans for p in range(start, end)]
        slots = [
            table[p // block_size] * block_size + p % block_size
            for table, (start, end) in zip(tables, spans, strict=True)
            for p in range(start, end)
        ]
        ends = torch.tensor([end - start for start, end in spans]).cumsum(0).tolist()
        return AttentionBatch(
            positions=torch.tensor(positions, dtype=torch.int32),
            slot_mapping=torch.tensor(slots, dtype=torch.int64),
            cu_seqlens_q=torch.tensor([0, *ends], dtype=torch.int32),
            context_lens=torch.tensor([end for _, end in spans], dtype=torch.int32),
            block_table=torch.tensor(
                [table + [2**20] * (widest - len(table)) for table in tables], dtype=torch.int32
            ).view(len(spans), widest),
        )

    def caches(
        self,
        block_size: int,
        written: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, Tensor]:
        """Keys and values as views of one storage, NaN except for the first `written` of each sequence."""
        num_blocks = 2 * sum(-(-length // block_size) for length in self.lengths) + 3
        shape = (num_blocks, 2, block_size, self.num_kv_heads, self.head_dim)
        storage = torch.full(shape, torch.nan)
        for i, table in enumerate(self.tables(block_size)):
            for p in range(self.lengths[i] if written is None else written[i]):
                storage[table[p // block_size], 0, p % block_size] = self.k[i][p]
                storage[table[p // block_size], 1, p % block_size] = self.v[i][p]
        storage = storage.to(device, dtype)
        return storage[:, 0], storage[:, 1]

    def in_int8(self) -> Paged:
        """The same with the numbers that an int8 cache of it stands for."""

        def stored(x: Tensor) -> Tensor:
            values, scales = quantize_heads(x)
            return values * scales[..., None]

        return replace(self, k=[stored(k) for k in self.k], v=[stored(v) for v in self.v])

    def int8_caches(
        self, block_size: int, written: Sequence[int] | None = None, device: torch.device | str = "cpu"
    ) -> tuple[QuantizedCache, QuantizedCache]:
        """Keys and values in int8; what is not written has the scale NaN."""
        num_blocks = 2 * sum(-(-length // block_size) for length in self.lengths) + 3
        shape = (num_blocks, 2, block_size, self.num_kv_heads, self.head_dim)
        values = torch.full(shape, -128).to(torch.int8)
        scales = torch.full((num_blocks, 2, self.num_kv_heads, block_size), torch.nan)
        for i, table in enumerate(self.tables(block_size)):
            for half, rows in enumerate((self.k[i], self.v[i])):
                numbers, sizes = quantize_heads(rows)
                for p in range(self.lengths[i] if written is None else written[i]):
                    block, offset = table[p // block_size], p % block_size
                    values[block, half, offset], scales[block, half, :, offset] = numbers[p], sizes[p]
        values, scales = values.to(device), scales.to(device)
        return QuantizedCache(values[:, 0], scales[:, 0]), QuantizedCache(values[:, 1], scales[:, 1])

    def queries(self, spans: Sequence[tuple[int, int]]) -> Tensor:
        none = torch.empty(0, self.num_heads, self.head_dim)
        return torch.cat([none, *(q[start:end] for q, (start, end) in zip(self.q, spans, strict=True))])

    def attend(
        self,
        spans: Sequence[tuple[int, int]],
        block_size: int,
        backend: str,
        written: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
        scale: float | None = None,
        *,
        is_int8: bool = False,
    ) -> Tensor:
        caches = self.int8_caches if is_int8 else self.caches
        q, (keys, values) = self.queries(spans).to(device), caches(block_size, written, device)
        batch = moved(self.batch(spans, block_size), device)
        return paged_attention(q, keys, values, batch, scale=scale, backend=backend)

    def exact(self, spans: Sequence[tuple[int, int]]) -> Tensor:
        """By the formula, one query after the other, in float64."""
        rows = []
        group = self.num_heads // self.num_kv_heads
        for i, (start, end) in enumerate(spans):
            for p in range(start, end):
                k, v = (x[i][: p + 1].double().repeat_interleave(group, dim=1) for x in (self.k, self.v))
                scores = torch.einsum("hd,khd->hk", self.q[i][p].double(), k) / self.head_dim**0.5
                rows.append(torch.einsum("hk,khd->hd", scores.softmax(-1), v).flatten())
        return torch.stack(rows) if rows else torch.empty(0, self.num_heads * self.head_dim).double()


def whole(paged: Paged) -> list[tuple[int, int]]:
    return [(0, length) for length in paged.lengths]
