"""`World` with an LLM elsewhere: it takes no blocks, gets whole prompts once, and sends ids when it likes."""

from __future__ import annotations

from collections import deque
from typing import Any

from fake_model import extend, mix, text_inputs
from fake_world import World

from antiphon.prompt import Prompt
from antiphon.sched.elsewhere import TextArrived
from antiphon.sched.plan import StackPlan
from antiphon.sched.request import RequestState

__all__ = ["ElsewhereWorld"]


class ElsewhereWorld(World):
    """Also the LLM elsewhere."""

    def __init__(self, *arguments: Any, most_at_once: int = 3, **settings: Any) -> None:
        """most_at_once: ids of a request that may come together; at least one comes of some request."""
        super().__init__(*arguments, **settings)
        self.scheduler.elsewhere = self
        self._most_at_once = most_at_once
        self._num_calls = 0
        self.unsent: dict[RequestState, deque[int]] = {}
        self.asked: list[str] = []

    def make(self, prompt: Prompt, **limits: Any) -> RequestState:
        made = super().make(prompt, **limits)
        made.text_elsewhere = True
        return made

    # --- the LLM elsewhere ------------------------------------------------------------------------

    def ask(self, plan: StackPlan) -> None:
        for chunk in plan.chunks:
            request = chunk.request
            assert request.is_running and not request.is_growing
            assert (chunk.start, chunk.end) == (0, len(request.text)) and not request.text_ids
            self.asked.append(request.request_id)
            self.unsent[request] = deque(self._text(request))

    def take(self) -> list[TextArrived]:
        self._num_calls += 1
        arrived: list[TextArrived] = []
        for request, ids in list(self.unsent.items()):
            count = mix("count", self._num_calls, request.request_id) % (self._most_at_once + 1)
            count = min(len(ids), count or (not arrived))
            if count:
                sent = [ids.popleft() for _ in range(count)]
                arrived.append(TextArrived(request, sent, not ids, 0))
                if not ids:
                    del self.unsent[request]
        return arrived

    def drop(self, request: RequestState) -> None:
        self.unsent.pop(request, None)

    def _text(self, request: RequestState) -> list[int]:
        heard = self.heard[request.request_id]
        told = [heard[p] for p in range(request.num_speech_prompt)] if request.is_soft else None
        states: list[int] = []
        for given in text_inputs(request.prompt, told):
            extend(states, "text", given)
        ids: list[int] = []
        while len(ids) < request.max_tokens:
            ids.append(self.mind.text(states[-1]))
            if ids[-1] in request.text_stop_ids:
                break
            extend(states, "text", ("plain", ids[-1]))
        return ids

    # --- what must hold ---------------------------------------------------------------------------

    def num_blocks_needed(self, request: RequestState) -> int:
        return -(-request.num_speech_known // self.cache.speech_block_size)

    def _check(self) -> None:
        self.scheduler.check_integrity()
        for request in self.unfinished:
            assert not request.text.block_table and request.text.num_computed == 0

    def _check_plan(self, plan: StackPlan) -> None:
        if plan.stack != "text":
            super()._check_plan(plan)
