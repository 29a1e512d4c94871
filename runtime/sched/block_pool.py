"""The blocks of the paged KV cache: who holds them, and the prefix cache over their contents."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Block", "BlockPool"]


@dataclass
class Block:
    """One block. It is *free* while nobody refers to it, and *cached* while it has a digest.

    A free cached block keeps its contents until it is handed out again.
    """

    block_id: int
    ref_count: int = 0
    digest: bytes | None = None
    """Names the contents: everything that the block's keys and values depend on."""
    payload: Any = None
    """What the owner wants back with the contents on a hit (CTC labels)."""


class BlockPool:
    """A fixed number of blocks, shared by both tracks of all requests.

    Free blocks are handed out least recently used first, so what was cached longest ago is lost
    first. A lack of room is a return value; freeing a free block is an error.
    """

    def __init__(self, num_blocks: int, *, enable_prefix_caching: bool = True) -> None:
        assert num_blocks > 0, "a pool needs at least one block"
        self.num_blocks = num_blocks
        self.enable_prefix_caching = enable_prefix_caching
        self.reset()

    def reset(self) -> None:
        """Make all blocks free and empty, whoever holds them."""
        self._blocks = [Block(i) for i in range(self.num_blocks)]
        self._free: OrderedDict[int, None] = OrderedDict((i, None) for i in range(self.num_blocks))
        self._cached: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        return len(self._free)

    def allocate(self, count: int) -> list[int] | None:
        """`count` blocks with one reference each, or None if fewer are free."""
        if count > len(self._free):
            return None
        taken = []
        for _ in range(count):
            block_id, _ = self._free.popitem(last=False)
            block = self._blocks[block_id]
            self._forget(block)
            block.ref_count = 1
            taken.append(block_id)
        return taken

    def block(self, block_id: int) -> Block:
        return self._blocks[block_id]

    def lookup(self, digest: bytes) -> Block | None:
        """The block with these contents. It may be free: `acquire` it before anything is allocated."""
        block_id = self._cached.get(digest)
        return None if block_id is None else self._blocks[block_id]

    def acquire(self, block_ids: Iterable[int]) -> None:
        """Add one reference to each of these cached blocks."""
        for block_id in block_ids:
            block = self._blocks[block_id]
            if block.ref_count == 0:
                del self._free[block_id]
            block.ref_count += 1

    def publish(self, block_id: int, digest: bytes, payload: Any = None) -> None:
        """Make a full block findable. If its contents are cached already, the cache keeps the first block."""
        block = self._blocks[block_id]
        assert block.ref_count > 0, f"block {block_id} is free and cannot be published"
        if not self.enable_prefix_caching or digest in self._cached or block.digest is not None:
            return
        block.digest, block.payload = digest, payload
        self._cached[digest] = block_id

    def is_exclusive(self, block_id: int) -> bool:
        """Whether its holder may write to it again: nobody else reads it, or could find it."""
        block = self._blocks[block_id]
        return block.ref_count == 1 and block.digest is None

    def free(self, block_ids: Sequence[int]) -> None:
        """Drop one reference to each block of a sequence; its last block is reused first."""
        for block_id in reversed(block_ids):
            block = self._blocks[block_id]
            if block.ref_count <= 0:
                raise RuntimeError(f"block {block_id} was freed twice")
            block.ref_count -= 1
            if block.ref_count == 0:
                self._free[block_id] = None
                if block.digest is None:  # nothing in it to keep: it goes before cached ones
                    self._free.move_to_end(block_id, last=False)

    def reset_prefix_cache(self) -> None:
        """Forget all contents; blocks in use stay in use."""
        for block in self._blocks:
            self._forget(block)

    def check_integrity(self) -> None:
        """Raise AssertionError unless free and used blocks add up and the cache names real contents."""
        used = [b for b in self._blocks if b.ref_count > 0]
        assert len(used) + len(self._free) == self.num_blocks, (
            f"{len(used)} used and {len(self._free)} free blocks do not make {self.num_blocks}"
        )
        for block in self._blocks:
            assert (block.ref_count == 0) == (block.block_id in self._free), f"block {block.block_id} is lost"
            if block.digest is not None:
                assert self._cached.get(block.digest) == block.block_id, (
                    f"block {block.block_id} is miscached"
                )
        assert len(self._cached) == sum(b.digest is not None for b in self._blocks), "stale cache entries"

    def _forget(self, block: Block) -> None:
        if block.digest is not None:
            del self._cached[block.digest]
            block.digest = block.payload = None
