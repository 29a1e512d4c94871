"""A stack of layers recorded for decoding, for a few batch sizes.

A decode step of 32 layers is some 300 kernels of microseconds each: with few requests, a GPU waits for the
processor that launches them. Recorded (see `cuda_graph.py`), they are launched at once. A recording has one
size, so a batch is padded to the next recorded size with rows that belong to no request: they have no keys
and write none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from antiphon.device.cuda_graph import Capture
from antiphon.kernels.attention_batch import AttentionBatch
from antiphon.kernels.decoder_layers import DecoderLayers
from antiphon.kernels.fusion_attention import FusionBatch

__all__ = ["GraphedLayers", "decode_sizes"]

LayerCaches = Sequence[tuple[Tensor, Tensor]]
NO_SLOT = -1


def decode_sizes(max_num_seqs: int) -> list[int]:
    """Batch sizes that are recorded: 1, 2, 4, then every 8 up to 256, then every 32."""
    sizes = [1, 2, 4, *range(8, 257, 8), *range(288, max_num_seqs + 32, 32)]
    return [size for size in sizes if size < max_num_seqs] + [max_num_seqs]


@dataclass(frozen=True, eq=False)
class Recording:
    """Where a recording of one size reads its inputs, and what replays it."""

    x: Tensor
    batch: AttentionBatch
    fusion: FusionBatch | None
    replay: Callable[[], Tensor]


class GraphedLayers:
    """Wraps any `DecoderLayers`, and is called the same way: batches of one position per sequence are
    replayed, all others run as usual. The rows are the same as without it."""

    def __init__(
        self,
        layers: DecoderLayers,
        caches: LayerCaches,
        *,
        sizes: Sequence[int],
        max_blocks: int,
        hidden_size: int,
        fusion_cache: Tensor | None,
        capture: Capture,
    ) -> None:
        """Records every size, the largest first, so that the others fit into its memory.

        sizes: ascending. max_blocks: the most that a sequence has. fusion_cache: (rows, window, layers, 2,
        heads * head_dim), for stacks that are called with fusion.
        """
        self.layers = layers
        self._sizes = list(sizes)
        self._max_blocks = max_blocks
        self._recordings: dict[int, Recording] = {}
        self._caches = caches
        like = caches[0][0]
        for size in reversed(self._sizes):
            x = like.new_zeros(size, hidden_size)
            batch = _empty_batch(size, max_blocks, like.device)
            fusion = None if fusion_cache is None else _empty_fusion(size, fusion_cache)
            self._recordings[size] = Recording(x, batch, fusion, capture(self._call(x, batch, fusion)))

    def __call__(
        self,
        x: Tensor,
        batch: AttentionBatch,
        caches: LayerCaches,
        fusion: FusionBatch | None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """See `DecoderLayers`. The result lasts until the next call."""
        count = batch.num_seqs
        if len(x) != count or count > self._sizes[-1] or batch.block_table.shape[1] > self._max_blocks:
            return self.layers(x, batch, caches, fusion, wanted)
        recording = self._recordings[next(size for size in self._sizes if size >= count)]
        _fill(recording, x, batch, fusion)
        rows = recording.replay()[:count]
        return rows if wanted is None else rows.index_select(0, wanted)

    def _call(self, x: Tensor, batch: AttentionBatch, fusion: FusionBatch | None) -> Callable[[], Tensor]:
        # A copy: some stacks compute in place, and a second call must not start from the first one's result.
        return lambda: self.layers(x.clone(), batch, self._caches, fusion, None)


def _empty_batch(size: int, max_blocks: int, device: torch.device) -> AttentionBatch:
    """A batch of rows without a slot or keys."""

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.int32, device=device)

    return AttentionBatch(
        positions=zeros(size),
        slot_mapping=torch.full((size,), NO_SLOT, dtype=torch.int64, device=device),
        cu_seqlens_q=torch.arange(size + 1, dtype=torch.int32, device=device),
        context_lens=zeros(size),
        block_table=zeros(size, max_blocks),
    )


def _empty_fusion(size: int, cache: Tensor) -> FusionBatch:
    """A batch in which every row may receive fusion; a row with an empty window gets nothing."""
    zeros = torch.zeros(size, dtype=torch.int32, device=cache.device)
    return FusionBatch(
        tokens=None,
        rows=torch.zeros(size, dtype=torch.int64, device=cache.device),
        num_valid=zeros,
        positions=zeros.clone(),
        cache=cache,
    )


def _fill(recording: Recording, x: Tensor, batch: AttentionBatch, fusion: FusionBatch | None) -> None:
    own, count = recording.batch, batch.num_seqs
    recording.x[:count] = x
    own.positions[:count] = batch.positions
    own.slot_mapping[:count] = batch.slot_mapping
    own.context_lens[:count] = batch.context_lens
    own.block_table[:count, : batch.block_table.shape[1]] = batch.block_table
    if count < len(own.positions):
        own.positions[count:] = 0
        own.slot_mapping[count:] = NO_SLOT
        own.context_lens[count:] = 0
    if recording.fusion is None:
        assert fusion is None, "a stack that was recorded without fusion is called without it"
        return
    windows = recording.fusion
    windows.num_valid.zero_()
    if fusion is not None:
        assert fusion.tokens is not None, "whoever calls knows which rows receive fusion"
        windows.rows.index_copy_(0, fusion.tokens, fusion.rows)
        windows.num_valid.index_copy_(0, fusion.tokens, fusion.num_valid)
        windows.positions.index_copy_(0, fusion.tokens, fusion.positions)
