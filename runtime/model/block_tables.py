"""The block tables of running requests as one array, of which a step takes the rows that it needs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from antiphon.sched.track import Track

__all__ = ["BlockTables"]


class BlockTables:
    """A copy of one track's block tables, by request row. Turning lists of blocks into arrays takes longer,
    at 64 requests of thousands of positions, than all else that a step does on the host; so each block is
    copied once, when the track gets it."""

    def __init__(self, num_rows: int, max_blocks: int) -> None:
        self.array: NDArray[np.int32] = np.zeros((num_rows, max_blocks), dtype=np.int32)
        self._copied: list[tuple[Track | None, int, int]] = [(None, 0, 0)] * num_rows
        """Of each row: whose blocks, after how many that it gave back, and the number of them."""

    def follow(self, row: int, track: Track) -> None:
        """Copy what is new in the block table of the track whose request has this row."""
        blocks = track.block_table
        owner, num_returned, count = self._copied[row]
        if owner is track and num_returned == track.num_returns and count == len(blocks):
            return
        first = count if owner is track and num_returned == track.num_returns else 0
        self.array[row, first : len(blocks)] = blocks[first:]
        self._copied[row] = track, track.num_returns, len(blocks)
