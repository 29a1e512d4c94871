"""One track of a request: a sequence of positions, its block table, and how far it is computed."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from antiphon.sched.block_pool import BlockPool

__all__ = ["Track"]


class Track:
    """Positions 0..num_computed-1 have their keys and values in `block_table`.

    `ids` holds what the model reads at each known position. `keys` says what a position depends on besides
    those before it, if that is more than its id: a picture's features, a soft embedding. Full blocks are
    named by a digest over the chain of keys and shared through the pool; `num_shareable` bounds them.
    """

    def __init__(
        self,
        block_size: int,
        seed: bytes,
        ids: Sequence[int],
        num_shareable: int | None = None,
        keys: Sequence[int] | None = None,
    ) -> None:
        """keys: one for each id; None: the ids are the keys."""
        self.block_size = block_size
        self.ids = array("q", ids)
        self.keys = self.ids if keys is None else array("q", keys)
        self.num_shareable = num_shareable
        """Positions from here on are the request's own; None: all may be shared."""
        self.block_table: list[int] = []
        self.num_returns = 0
        """How often blocks have been taken out of the table, after which others may be in their places."""
        self.num_computed = 0
        self._digests: list[bytes] = []
        self._seed = seed
        self._num_published = 0

    def __len__(self) -> int:
        return len(self.ids)

    def append(self, picked: int) -> None:
        """Add an id that has become known; it is its own key."""
        self.ids.append(picked)
        if self.keys is not self.ids:
            self.keys.append(picked)

    def blocks_missing(self, num_positions: int) -> int:
        """Blocks to add before this many positions have room."""
        return max(0, -(-num_positions // self.block_size) - len(self.block_table))

    def reserve(self, pool: BlockPool, num_positions: int) -> bool:
        """Make room for this many positions. False, with nothing changed, if the pool has too few blocks."""
        if num_positions <= len(self.block_table) * self.block_size:
            return True
        missing = self.blocks_missing(num_positions)
        blocks = pool.allocate(missing)
        if blocks is None:
            return False
        self.block_table += blocks
        return True

    def cached_prefix(self, pool: BlockPool, limit: int) -> list[int]:
        """Blocks of the pool that hold the longest known prefix of at most `limit` positions."""
        found: list[int] = []
        if not pool.enable_prefix_caching:
            return found
        for i in range(min(limit, self._shareable()) // self.block_size):
            block = pool.lookup(self._digest(i))
            if block is None:
                break
            found.append(block.block_id)
        return found

    def adopt(self, pool: BlockPool, blocks: list[int]) -> None:
        """Start from cached blocks."""
        assert not self.block_table, "a track adopts blocks before it has any"
        pool.acquire(blocks)
        self.block_table = list(blocks)
        self.num_computed = len(blocks) * self.block_size
        self._num_published = len(blocks)

    def publish(self, pool: BlockPool, num_computed: int, payloads: Sequence[Any] | None = None) -> None:
        """Share the blocks that are full of computed positions. `payloads` holds one item per position."""
        if not pool.enable_prefix_caching or num_computed < (self._num_published + 1) * self.block_size:
            return
        full = min(num_computed, self._shareable()) // self.block_size
        for i in range(self._num_published, full):
            span = slice(i * self.block_size, (i + 1) * self.block_size)
            pool.publish(
                self.block_table[i], self._digest(i), payloads[span] if payloads is not None else None
            )
        self._num_published = max(self._num_published, full)

    def release(self, pool: BlockPool, keep_positions: int = 0) -> None:
        """Give back all blocks but those of the first `keep_positions` positions."""
        keep = -(-keep_positions // self.block_size)
        self._give_back(pool, keep)
        self.num_computed = min(self.num_computed, keep_positions)
        self._num_published = min(self._num_published, keep_positions // self.block_size)

    def rewind(self, pool: BlockPool, num_positions: int) -> None:
        """Forget what was computed after the first `num_positions`, so that other ids can follow them.

        The block that this boundary cuts is written to again, unless others read it or may find it: then it
        is given back whole, and its beginning is computed again.

            block_table   [ 0 1 2 3 | 4 5 6 7 | 8 9 . . ]    num_positions 6
            own           [ 0 1 2 3 | 4 5 . . ]
            shared        [ 0 1 2 3 ]
        """
        kept, cut = divmod(num_positions, self.block_size)
        if cut and kept < len(self.block_table) and pool.is_exclusive(self.block_table[kept]):
            kept += 1
        else:
            num_positions -= cut
        self._give_back(pool, kept)
        self.num_computed = min(self.num_computed, num_positions)
        self._num_published = min(self._num_published, num_positions // self.block_size)

    def replace_tail(
        self, pool: BlockPool, start: int, ids: Sequence[int], keys: Sequence[int] | None = None
    ) -> None:
        """Replace the known positions from `start` on; what was computed of the old ones is forgotten.

        keys: as for the track itself."""
        self.rewind(pool, start)
        self._know(start, ids, ids if keys is None else keys)

    def restart(self, num_kept: int, ids: Sequence[int]) -> None:
        """Know the first `num_kept` positions and these ids after them; nothing is computed, and no block is
        held."""
        self._know(num_kept, ids, ids)
        self.num_returns += 1
        self.block_table = []
        self.num_computed = self._num_published = 0

    def _give_back(self, pool: BlockPool, num_kept: int) -> None:
        pool.free(self.block_table[num_kept:])
        del self.block_table[num_kept:]
        self.num_returns += 1

    def _know(self, start: int, ids: Sequence[int], keys: Sequence[int]) -> None:
        is_apart = self.keys is not self.ids
        self.ids = self.ids[:start] + array("q", ids)
        self.keys = self.keys[:start] + array("q", keys) if is_apart else self.ids
        del self._digests[start // self.block_size :]

    def _shareable(self) -> int:
        return len(self.ids) if self.num_shareable is None else min(self.num_shareable, len(self.ids))

    def _digest(self, index: int) -> bytes:
        while len(self._digests) <= index:
            i = len(self._digests)
            parent = self._digests[-1] if self._digests else self._seed
            span = self.keys[i * self.block_size : (i + 1) * self.block_size]
            self._digests.append(blake2b(parent + span.tobytes(), digest_size=16).digest())
        return self._digests[index]
