"""The blocks that a request takes when it is admitted, and gives back when it leaves."""

from __future__ import annotations

from collections.abc import Sequence

from antiphon.sched.block_pool import BlockPool
from antiphon.sched.request import RequestState

__all__ = ["give_back", "reserve_known"]


def reserve_known(pool: BlockPool, request: RequestState, num_running: int) -> bool:
    """Take over cached prefixes and make room for all known positions of both tracks."""
    text, speech = request.text, request.speech
    text_blocks: list[int] = []
    if request.holds_text:
        text_blocks = text.cached_prefix(pool, len(text) - 1)
    speech_blocks: list[int] = []
    if speech is not None:
        limit = len(speech)
        if request.is_soft and request.is_unread:
            # what the text track computes needs the bottom layers' output at the same positions
            limit = min(limit, request.speech_before(len(text_blocks) * text.block_size))
        elif request.transcribes:
            limit -= 1  # a transcript ends when its last unit is read
        speech_blocks = speech.cached_prefix(pool, limit)
    text.adopt(pool, text_blocks)
    if speech is not None:
        speech.adopt(pool, speech_blocks)
    if not _reserve_tracks(pool, request, num_running):
        give_back(pool, request)
        return False
    if speech is not None:
        request.top_computed = speech.num_computed if request.speaks else 0
        _recall_labels(pool, request, speech_blocks)
    if request.num_cached_tokens is None:
        request.num_cached_tokens = text.num_computed
    return True


def give_back(pool: BlockPool, request: RequestState) -> None:
    """Give back all blocks of both tracks; what is known stays known."""
    request.text.release(pool)
    if request.speech is not None:
        request.speech.release(pool)
    request.top_computed = 0


def _reserve_tracks(pool: BlockPool, request: RequestState, num_running: int) -> bool:
    text, speech = request.text, request.speech
    text_positions = len(text) if request.holds_text else 0
    needed = text.blocks_missing(text_positions)
    if speech is not None:
        needed += speech.blocks_missing(len(speech))
    # one block per track of each running request stays free, or that one would soon preempt the newcomer
    if num_running and needed + 2 * num_running > pool.num_free:
        return False
    if speech is not None and not speech.reserve(pool, len(speech)):
        return False
    if text.reserve(pool, text_positions):
        return True
    # alone, but too long with its run-ahead: the text track gets blocks once speech waits for text
    return not num_running and request.speaks and request.num_preemptions > 0


def _recall_labels(pool: BlockPool, request: RequestState, blocks: Sequence[int]) -> None:
    if not request.is_soft:
        return
    for i, digest_block in enumerate(blocks):
        assert request.speech is not None
        labels = pool.block(digest_block).payload
        start = i * request.speech.block_size
        request.prompt_labels[start : start + len(labels)] = labels
