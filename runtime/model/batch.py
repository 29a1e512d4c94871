"""From a step plan to the index tensors of a ragged batch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from antiphon.kernels.attention_batch import AttentionBatch, AttentionPlanner, BatchSequences
from antiphon.sched.plan import Chunk
from antiphon.sched.track import Track

__all__ = ["attention_batch", "to_device"]


def attention_batch(
    chunks: Sequence[Chunk],
    tracks: Sequence[Track],
    device: torch.device,
    planner: AttentionPlanner | None = None,
) -> AttentionBatch:
    """The chunks' positions, one sequence after the other, with the slots of each chunk's track.

    planner: of the library that computes attention, if one does
    """
    is_decode = all(len(chunk) == 1 for chunk in chunks)
    batch = (_decode_batch if is_decode else _ragged_batch)(chunks, tracks, device)
    if planner is None:
        return batch
    sequences = BatchSequences(
        lengths=[len(chunk) for chunk in chunks],
        ends=[chunk.end for chunk in chunks],
        block_tables=[track.block_table for track in tracks],
        block_size=tracks[0].block_size,
    )
    return planner.prepared(batch, sequences)


def _ragged_batch(chunks: Sequence[Chunk], tracks: Sequence[Track], device: torch.device) -> AttentionBatch:
    block_size = tracks[0].block_size
    lengths, ends = [len(chunk) for chunk in chunks], [chunk.end for chunk in chunks]
    table = np.array(_block_table(tracks), dtype=np.int32)
    positions = np.concatenate([np.arange(chunk.start, chunk.end) for chunk in chunks])
    sequence = np.repeat(np.arange(len(chunks)), lengths)
    blocks = table[sequence, positions // block_size].astype(np.int64)
    starts = np.zeros(len(chunks) + 1, dtype=np.int32)
    np.cumsum(lengths, out=starts[1:])
    return AttentionBatch(
        positions=to_device(positions.astype(np.int32), device),
        slot_mapping=to_device(blocks * block_size + positions % block_size, device),
        cu_seqlens_q=to_device(starts, device),
        context_lens=to_device(np.array(ends, dtype=np.int32), device),
        block_table=to_device(table, device),
    )


def _decode_batch(chunks: Sequence[Chunk], tracks: Sequence[Track], device: torch.device) -> AttentionBatch:
    """One position of each chunk. Between such steps every microsecond counts, and lists beat arrays."""
    block_size = tracks[0].block_size
    positions = [chunk.start for chunk in chunks]
    slots = [
        track.block_table[position // block_size] * block_size + position % block_size
        for track, position in zip(tracks, positions, strict=True)
    ]
    if device.type != "cpu":
        ends = [chunk.end for chunk in chunks]
        return joined_batch(positions, slots, ends, _block_table(tracks), device)
    # Through numpy, since `torch.tensor` takes twice as long for a few numbers.
    return AttentionBatch(
        positions=torch.from_numpy(np.array(positions, dtype=np.int32)),
        slot_mapping=torch.from_numpy(np.array(slots)),
        cu_seqlens_q=torch.from_numpy(np.arange(len(chunks) + 1, dtype=np.int32)),
        context_lens=torch.from_numpy(np.array([chunk.end for chunk in chunks], dtype=np.int32)),
        block_table=torch.from_numpy(np.array(_block_table(tracks), dtype=np.int32)),
    )


def joined_batch(
    positions: list[int], slots: list[int], ends: list[int], table: list[list[int]], device: torch.device
) -> AttentionBatch:
    """`_decode_batch` with a single copy to the device: beside a graph, any other would be noticeable."""
    count = len(positions)
    flat = positions + slots + ends + list(itertools.chain.from_iterable(table))
    numbers = torch.tensor(flat, dtype=torch.int32, pin_memory=device.type == "cuda")
    numbers = numbers.to(device, non_blocking=True)
    places, where, lengths, blocks = numbers.split([count, count, count, len(flat) - 3 * count])
    return AttentionBatch(
        positions=places,
        slot_mapping=where.long(),
        cu_seqlens_q=torch.arange(count + 1, dtype=torch.int32, device=device),
        context_lens=lengths,
        block_table=blocks.view(count, -1),
    )


def _block_table(tracks: Sequence[Track]) -> list[list[int]]:
    """The tracks' block tables, padded to the widest."""
    widest = max(len(track.block_table) for track in tracks)
    return [track.block_table + [0] * (widest - len(track.block_table)) for track in tracks]


def to_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.to(device, non_blocking=True)
