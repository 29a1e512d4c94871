"""From a step plan to the index tensors of a ragged batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from antiphon.kernels.paged_attention import AttentionBatch
from antiphon.sched.plan import Chunk
from antiphon.sched.track import Track

__all__ = ["attention_batch", "to_device"]


def attention_batch(chunks: Sequence[Chunk], tracks: Sequence[Track], device: torch.device) -> AttentionBatch:
    """The chunks' positions, one sequence after the other, with slots of each one's track."""
    block_size = tracks[0].block_size
    lengths = [len(chunk) for chunk in chunks]
    widest = max(len(track.block_table) for track in tracks)
    table = np.zeros((len(tracks), widest), dtype=np.int32)
    for row, track in zip(table, tracks, strict=True):
        row[: len(track.block_table)] = track.block_table
    if max(lengths) == 1:
        positions = np.array([chunk.start for chunk in chunks], dtype=np.int64)
        sequence = np.arange(len(chunks))
    else:
        positions = np.concatenate([np.arange(chunk.start, chunk.end) for chunk in chunks])
        sequence = np.repeat(np.arange(len(chunks)), lengths)
    blocks = table[sequence, positions // block_size].astype(np.int64)
    starts = np.zeros(len(chunks) + 1, dtype=np.int32)
    np.cumsum(lengths, out=starts[1:])
    return AttentionBatch(
        positions=to_device(positions.astype(np.int32), device),
        slot_mapping=to_device(blocks * block_size + positions % block_size, device),
        cu_seqlens_q=to_device(starts, device),
        context_lens=to_device(np.array([chunk.end for chunk in chunks], dtype=np.int32), device),
        block_table=to_device(table, device),
    )


def to_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.to(device, non_blocking=True)
