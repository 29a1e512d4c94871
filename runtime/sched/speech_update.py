"""Updates the speech of a growing prompt: what was computed stays, up to the first difference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from antiphon.sched.block_pool import BlockPool
from antiphon.sched.request import NO_ID, SOFT_KEY, RequestState

if TYPE_CHECKING:
    from antiphon.prompt import Prompt

__all__ = ["update_speech"]


def update_speech(pool: BlockPool, request: RequestState, prompt: Prompt) -> None:
    """Give a growing request another prompt. All stacks are causal: what was computed before the
    first difference stays, the rest is forgotten.

    Pictures come before the speech that grows, so the prompts differ in ids alone.
    """
    text, speech = request.text, request.speech
    assert speech is not None
    num_same = request.num_same(prompt)
    tail = prompt.speech_ids[num_same:]
    num_read = request.speech_before(text.num_computed)
    soft_keys = [token + SOFT_KEY for token in tail]
    text.replace_tail(pool, request.text_position(num_same), [NO_ID] * len(tail), soft_keys)
    num_still_read = request.speech_before(text.num_computed)
    speech.replace_tail(pool, num_same, tail)
    if num_still_read < min(num_read, num_same):
        # The text track gave back a block whose beginning had not changed. Soft embeddings are not kept
        # once the LLM has read them, so the bottom layers compute them again.
        speech.rewind(pool, num_still_read)
    request.top_computed = min(request.top_computed, speech.num_computed)
    request.update_speech(prompt)
