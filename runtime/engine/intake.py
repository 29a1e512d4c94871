"""How a request whose prompt is ready is taken in, or refused."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from antiphon.config import CacheConfig, EngineConfig, ModelConfig
from antiphon.engine.arguments import bounded
from antiphon.errors import EngineOverloaded, InvalidRequest
from antiphon.inputs.processor import InputProcessor
from antiphon.outputs.replies import Replies
from antiphon.outputs.request_output import OutputState
from antiphon.plain import shown
from antiphon.prompt import Prompt
from antiphon.sched.request import RequestState
from antiphon.sched.scheduler import Scheduler
from antiphon.text.tokenizer import Tokenizer
from antiphon.types import SPOKEN_MODALITIES, Event, Request, SamplingParams, Units

__all__ = ["Intake"]


class Intake:
    """The part of an engine that checks requests against what it has room for, and makes their states."""

    def __init__(
        self,
        config: EngineConfig,
        model: ModelConfig,
        cache: CacheConfig,
        inputs: InputProcessor,
        tokenizer: Tokenizer,
        scheduler: Scheduler,
        replies: Replies,
        sample_rate_hz: int | None,
    ) -> None:
        """replies: gets the states of the requests taken in. sample_rate_hz: that of speech; None if none is
        made."""
        self._config = config
        self._model = model
        self._cache = cache
        self._inputs = inputs
        self._tokenizer = tokenizer
        self._scheduler = scheduler
        self._replies = replies
        self._sample_rate_hz = sample_rate_hz
        self._numbers = itertools.count()
        """Numbers of requests, for seeds."""
        self._num_names = 0

    def new_name(self, untold: Sequence[Event]) -> str:
        """An id that no request has. untold: events that have not been told yet."""
        while True:
            name = f"request-{self._num_names}"
            self._num_names += 1
            if not self._is_in_use(name, untold):
                return name

    @property
    def has_room(self) -> bool:
        """Whether one more request may wait."""
        return self._scheduler.num_waiting < self._config.max_num_waiting

    def check_room(self, num_preparing: int = 0) -> None:
        """See `Engine.check_room`."""
        num_waiting = self._scheduler.num_waiting + num_preparing
        if num_waiting >= self._config.max_num_waiting:
            raise EngineOverloaded(f"{num_waiting} requests are waiting already")

    def take(
        self,
        request: Request,
        prompt: Prompt,
        sampling_params: SamplingParams | None,
        untold: Sequence[Event],
        *,
        arrived_s: float | None,
        stream_audio: bool,
    ) -> str:
        """See `Engine.add_prepared`; request and parameters are plain. Nothing has changed if it raises."""
        number = next(self._numbers)
        request_id = request.request_id
        if request_id is None:
            request_id = self.new_name(untold)
        elif self._is_in_use(request_id, untold):
            raise InvalidRequest(
                f"request_id: {shown(request_id)} is in use by a request that has not finished"
            )
        self.check_room()
        params = sampling_params or request.sampling_params or SamplingParams()
        speaks = not SPOKEN_MODALITIES.isdisjoint(request.modalities)
        transcribes = "transcript" in request.modalities
        if speaks and params.stop:
            raise InvalidRequest("SamplingParams.stop: stop strings are for text-only replies")
        seed = params.seed if params.seed is not None else (self._config.seed << 32) + number
        state = self._state(request_id, prompt, params, seed, speaks=speaks, transcribes=transcribes)
        state.is_speculative = request.is_speculative
        if not self._scheduler.fits(state, num_more=len(prompt.closing)):
            raise InvalidRequest(
                f"the prompt of {state.num_text_prompt} text and {state.num_speech_prompt} speech positions "
                f"does not fit the KV cache of {self._cache.num_blocks} blocks"
            )
        output = OutputState(
            state,
            self._tokenizer,
            self._model,
            arrived_s,
            self._sample_rate_hz if "audio" in request.modalities else None,
            no_speech="answer" if transcribes else self._config.no_speech,
        )
        schedule = self._config.stream_schedule if stream_audio else None
        self._replies.take(output, request.voice, schedule, gapless=request.gapless)
        return request_id

    def probe(self) -> RequestState:
        """A small request of our own, which needs all of our stacks."""
        say = None if self._scheduler.elsewhere is None else "a"  # our stacks are asked, and no others
        prompt = self._inputs.process(Request(Units([0]), ("text", "audio"), say=say))
        params = SamplingParams(max_tokens=8, max_units=2)
        return self._state("probe", prompt, params, 0, speaks=True)

    def _state(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams,
        seed: int,
        *,
        speaks: bool,
        transcribes: bool = False,
    ) -> RequestState:
        limits = bounded(params, prompt, self._config.max_model_len, speaks=speaks)
        if limits.max_tokens is not None and len(prompt.reply_ids) > limits.max_tokens:
            raise InvalidRequest(
                f"say: expected at most {limits.max_tokens} tokens (max_tokens, max_model_len), "
                f"got {len(prompt.reply_ids)}"
            )
        return RequestState(
            request_id,
            prompt,
            params if prompt.is_growing else limits,
            speaks=speaks,
            transcribes=transcribes,
            config=self._model,
            cache=self._cache,
            carries_speech=self._tokenizer.carries_speech,
            seed=seed,
            speaking=self._scheduler.speaking,
            text_elsewhere=self._scheduler.elsewhere is not None,
        )

    def _is_in_use(self, request_id: str, untold: Sequence[Event]) -> bool:
        """Whether a request runs or waits under this name, or has ended with its `Finished` still untold."""
        return request_id in self._replies.outputs or any(event.request_id == request_id for event in untold)
