"""One replica of the codec: it makes speech for the engines, and keeps nothing between two answers."""

from __future__ import annotations

import asyncio
from typing import Any

from antiphon.codec.apart.vocoding import Vocoding

__all__ = ["CodecReplica"]


class CodecReplica:
    """What Serve makes a replica of: engines call it by a handle, see `CodecReplicas`. Any may go on with
    what another has begun, or was killed in."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """settings: see `Vocoding`. Raises what `Codec.from_pretrained` does."""
        self._vocoding = Vocoding(settings)
        self._turn = asyncio.Lock()

    async def about(self) -> dict[str, Any]:
        """What whoever plans batches has to know."""
        return self._vocoding.about()

    async def answer(self, message: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """`Vocoding.answer`, one at a time. Who cancels it does not want it any more."""
        is_unwanted = False
        async with self._turn:
            made = asyncio.ensure_future(
                asyncio.to_thread(self._vocoding.answer, message, data, lambda: is_unwanted)
            )
            try:
                return await asyncio.shield(made)
            except asyncio.CancelledError:
                is_unwanted = True
                await asyncio.wait([made])  # its thread computes until it sees that
                raise
