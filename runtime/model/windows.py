"""The fusion windows: the last few text tokens that each request speaks from, as keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from antiphon.kernels.fusion_attention import FusionBatch, fusion_cache_write
from antiphon.model.batch import to_device
from antiphon.model.omni import OmniModel
from antiphon.sched.plan import Chunk

__all__ = ["FusionWindows"]


class FusionWindows:
    """One ring of `fusion_window` entries per running request, and spare rows for recomputation.

    An entry's keys and values depend only on its text token and its place, so they are computed
    once, when speech first asks for it. After a preemption, several positions of one request, each
    with its own window, pass through the top layers together: they take spare rows.
    """

    def __init__(self, model: OmniModel, max_num_seqs: int, num_spare: int) -> None:
        config = model.config
        self._model = model
        self.size = config.fusion_window
        """Entries that a window holds."""
        self._max_num_seqs = max_num_seqs
        self._num_filled = [0] * max_num_seqs
        """For each row, the number of entries appended since the request's first."""
        self.cache = torch.zeros(
            max_num_seqs + num_spare + 1,  # the last is written by rows of no request, see `recordings.py`
            self.size,
            config.num_top_audio_layers,
            2,
            config.q_size,
            dtype=model.dtype,
            device=model.device,
        )

    def reset(self, row: int) -> None:
        self._num_filled[row] = 0

    def slot(self, row: int, entry: int) -> int:
        """Where an entry of a row is kept, among all entries of all rows."""
        return row * self.size + entry % self.size

    def take(self, row: int, visible: int) -> range:
        """The entries that have come into view since this was last asked; they count as appended."""
        num_filled, self._num_filled[row] = self._num_filled[row], visible
        return range(max(0, visible - self.size, num_filled), visible) if visible > num_filled else range(0)

    def prepare(self, chunks: Sequence[Chunk]) -> FusionBatch | None:
        """Append the entries that have come into view; None if no position of the batch receives fusion."""
        tokens: list[int] = []
        rows: list[int] = []
        valid: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        entries: list[int] = []
        ids: list[int] = []
        offset, spare = 0, self._max_num_seqs
        for chunk in chunks:
            request = chunk.request
            assert request.row is not None and request.speaking is not None
            first = max(chunk.start, request.num_speech_prompt - 1)
            alone = chunk.end - first == 1
            for position in range(first, chunk.end):
                visible = request.visible_at(position)
                if visible == 0:
                    continue  # the text ended before there was anything to say
                if alone:
                    row, new = request.row, self.take(request.row, visible)
                else:
                    row, spare, new = spare, spare + 1, range(max(0, visible - self.size), visible)
                for entry in new:
                    slots.append(self.slot(row, entry))
                    entries.append(entry)
                    ids.append(request.speaking.fusion_ids[entry])
                tokens.append(offset + position - chunk.start)
                rows.append(row)
                valid.append(min(visible, self.size))
                positions.append(position)
            offset += len(chunk)
        if slots:
            self.append(ids, slots, entries)
        if not tokens:
            return None
        device = self._model.device
        return FusionBatch(
            tokens=to_device(np.array(tokens), device),
            rows=to_device(np.array(rows), device),
            num_valid=to_device(np.array(valid, dtype=np.int32), device),
            positions=to_device(np.array(positions, dtype=np.int32), device),
            cache=self.cache,
        )

    def append(self, ids: list[int], slots: list[int], entries: list[int]) -> None:
        """Write the entries of text ids to their slots."""
        device = self._model.device
        fusion_cache_write(
            self._model.fusion_entries(to_device(np.array(ids), device)),
            to_device(np.array(slots), device),
            to_device(np.array(entries, dtype=np.int32), device),
            self._model.cos_sin,
            self.cache,
            head_dim=self._model.config.head_dim,
            checked=False,
        )
