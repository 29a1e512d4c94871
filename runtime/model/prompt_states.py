"""The bottom layers' output for a prompt, kept until the other stacks have read it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from antiphon.sched.request import RequestState

__all__ = ["PromptStates"]


@dataclass
class PromptStates:
    """The bottom layers' output that other stacks have not read yet, for positions from `start`.

    Kept while a prompt (or, after a preemption, everything known) is computed in chunks.
    """

    request: RequestState
    start: int
    hidden: Tensor
    """(positions, hidden): H, for the top layers"""
    soft: Tensor | None
    """(prompt positions, hidden): soft embeddings, for the LLM"""

    @classmethod
    def of(cls, request: RequestState, start: int, like: Tensor) -> PromptStates:
        """Room for all known positions from `start`; `like` (..., hidden) has the dtype and the device."""
        width = like.shape[-1]
        prompt = request.num_speech_prompt - start
        # if no text track needs feeding (the text is known already), nothing reads soft embeddings
        soft = request.is_soft and request.is_unread and prompt > 0
        return cls(
            request,
            start,
            like.new_empty(request.num_speech_known - start, width),
            like.new_empty(prompt, width) if soft else None,
        )

    def updated(self) -> PromptStates | None:
        """The states for the prompt that the request has now: rows that are still valid and have not been
        read; None if there are none. `sched.speech_update` lets no stack go back before what these hold."""
        request = self.request
        if request.transcribes:
            return None
        assert request.speech is not None
        heard, read = request.speech.num_computed, request.speech_before(request.text.num_computed)
        if request.speaks:
            read = min(read, request.top_computed)
        if heard <= read:
            return None
        assert self.soft is not None and read >= self.start, "a stack has gone back before what is kept"
        states = PromptStates.of(request, read, self.hidden)
        assert states.soft is not None
        old = slice(read - self.start, heard - self.start)
        states.hidden[: heard - read] = self.hidden[old]
        states.soft[: heard - read] = self.soft[old]
        return states
