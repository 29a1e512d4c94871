"""Requests whose users are still speaking: how their prompts change, and how they become like all others."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from antiphon.engine.arguments import bounded
from antiphon.errors import InvalidRequest
from antiphon.inputs.processor import InputProcessor
from antiphon.model.runner import Runner
from antiphon.outputs.request_output import OutputState
from antiphon.plain import number, shown
from antiphon.prompt import GrowingPrompt, Prompt
from antiphon.sched.scheduler import Scheduler
from antiphon.types import Event

__all__ = ["GrowingRequests"]


class GrowingRequests:
    """The part of an engine that changes the prompts of its open requests, between two steps.

    A call that raises InvalidRequest changes nothing.
    """

    def __init__(
        self,
        inputs: InputProcessor,
        scheduler: Scheduler,
        runner: Runner,
        outputs: Mapping[str, OutputState],
        max_model_len: int,
    ) -> None:
        """outputs: those of all requests of the engine, shared with it."""
        self._inputs = inputs
        self._scheduler = scheduler
        self._runner = runner
        self._outputs = outputs
        self._max_model_len = max_model_len

    def update_speech(self, request_id: str, units: Sequence[int]) -> list[Event]:
        """See `Engine.update_speech`. What was heard is told here, in case no step will: with fewer units
        than before, there is nothing to compute."""
        output, prompt = self._find(request_id)
        self._update(output, self._inputs.with_speech(prompt, units))
        return list(output.poll())

    def commit(
        self,
        request_id: str,
        units: Sequence[int] | None,
        committed_s: float | None,
        *,
        no_speech: bool = False,
    ) -> None:
        """See `Engine.commit`."""
        if committed_s is None:
            committed_s = time.perf_counter()
        else:
            committed_s = number("committed_s", committed_s, 0.0)
        output, prompt = self._find(request_id)
        if units is not None:
            prompt = self._inputs.with_speech(prompt, units)
        if not prompt.num_growing_units:
            raise InvalidRequest("units: expected at least one unit before the commit, got none")
        self._update(output, prompt.committed(no_speech=no_speech))
        output.commit(committed_s)

    def _find(self, request_id: str) -> tuple[OutputState, GrowingPrompt]:
        output = self._outputs.get(request_id)
        if output is None or not isinstance(output.request.prompt, GrowingPrompt):
            raise InvalidRequest(f"request_id: expected the id of an open request, got {shown(request_id)}")
        return output, output.request.prompt

    def _update(self, output: OutputState, prompt: Prompt) -> None:
        request = output.request
        limits = bounded(request.params, prompt, self._max_model_len, speaks=request.speaks)
        num_more = len(prompt.ids) + len(prompt.closing) - len(request.prompt.ids)
        if not self._scheduler.fits(request, num_more):
            raise InvalidRequest(
                f"units: the prompt would have {request.num_speech_prompt + num_more} positions, "
                f"which do not fit the KV cache of {self._scheduler.pool.num_blocks} blocks"
            )
        self._scheduler.update_speech(request, prompt)
        self._runner.update_speech(request)
        if not prompt.is_growing:
            request.params = limits
