"""The engine: requests in, events and completions out, one step at a time."""

from __future__ import annotations

import itertools
import os
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch

from antiphon.arguments import bounded, check_choice, engine_config, one_each, open_codec
from antiphon.at_exit import awaited_at_exit
from antiphon.codec.device import resolve_device
from antiphon.cuda_graph import capture_for
from antiphon.embedded import EMBEDDED_CODEC, EMBEDDED_MODEL
from antiphon.errors import CheckpointError, EngineDead, EngineOverloaded, InvalidRequest
from antiphon.kernels.threads import set_num_threads
from antiphon.model.cache import PagedKVCache, cache_config
from antiphon.model.checkpoint import read_config
from antiphon.model.loading import load_weights, resolve_dtype
from antiphon.model.omni import OmniModel
from antiphon.model.runner import Runner
from antiphon.open_requests import OpenRequests
from antiphon.output import OutputState
from antiphon.replies import Replies
from antiphon.sched.block_pool import BlockPool
from antiphon.sched.request import RequestState
from antiphon.sched.scheduler import Scheduler
from antiphon.text.processor import InputProcessor
from antiphon.text.prompt import OpenPrompt, Prompt
from antiphon.text.tokenizer import Tokenizer
from antiphon.types import Completion, Event, Finished, Request, SamplingParams
from antiphon.vocoder import Vocoder

if TYPE_CHECKING:
    from antiphon.codec import Codec

__all__ = ["Engine"]

NUM_SPARE_WINDOWS = 64


class Engine:
    """A Stream-Omni model and, where given, a CosyVoice codec, serving many requests at a time.

    Not thread-safe, but for `prepare`: one thread calls `step`. `AsyncEngine` puts it behind asyncio.

    Args:
        model: the checkpoint's folder; None is the embedded model with its codec.
        codec: the codec's folder, or a `Codec`; None with a model: units are produced, audio is not,
            and speech comes in as `Units`.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1" ...
        dtype: "auto" (float32 on the CPU, the file's elsewhere), "float32", "bfloat16", "float16".
        codec_dtype: of a codec given as a folder; "auto" is float32. See `antiphon.codec.Codec`.
        load_format: "auto", or "dummy" for random weights of the folder's config.
        progress: show a progress bar on the terminal while a long load goes on.
        quantization, text_backend, vocoder_backend, speech_prompt: each has one choice so far.
        settings: the fields of `EngineConfig`.

    Raises:
        CheckpointError: the checkpoint cannot be read; names file, tensor or key.
        ValueError: an argument is out of its range.
    """

    @awaited_at_exit
    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        codec: str | os.PathLike[str] | Codec | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        codec_dtype: str | torch.dtype = "auto",
        quantization: str | None = None,
        load_format: Literal["auto", "dummy"] = "auto",
        text_backend: str = "native",
        vocoder_backend: str = "torch",
        speech_prompt: str = "soft",
        progress: bool = True,
        **settings: Any,
    ) -> None:
        config = engine_config(settings)
        check_choice("quantization", quantization, None)
        check_choice("text_backend", text_backend, "native")
        check_choice("vocoder_backend", vocoder_backend, "torch")
        check_choice("speech_prompt", speech_prompt, "soft")
        self._closed = False
        folder = Path(model) if model is not None else EMBEDDED_MODEL
        if model is None and codec is None:
            codec = EMBEDDED_CODEC
        self.model_name = folder.name
        self.device = resolve_device(device)
        resolved = resolve_dtype(dtype, folder, self.device, load_format=load_format)
        self.model_config = read_config(folder, load_format=load_format)
        if self.model_config.speech_prompt != "soft":
            raise CheckpointError(
                f"{folder / 'config.json'}: speech_prompt: expected 'soft', "
                f"found {self.model_config.speech_prompt!r}"
            )
        self.config = replace(
            config, max_model_len=min(config.max_model_len, self.model_config.max_position_embeddings)
        )
        self.tokenizer = Tokenizer.from_pretrained(folder)
        self.codec = open_codec(
            codec,
            self.device,
            codec_dtype,
            self.model_config.audio_vocab_size,
            enforce_eager=self.config.enforce_eager,
        )
        self.inputs = InputProcessor(self.model_config, self.tokenizer, self.codec, self.config.limits)
        if self.device.type == "cpu":
            set_num_threads(torch.get_num_threads())
        weights = load_weights(
            folder,
            self.model_config,
            device=self.device,
            dtype=resolved,
            load_format=load_format,
            seed=self.config.seed,
            progress=progress,
        )
        self.model = OmniModel(weights, self.model_config, self.config.max_model_len)
        self.cache_config = cache_config(self.model_config, self.config, resolved, self.device)
        pool = BlockPool(
            self.cache_config.num_blocks, enable_prefix_caching=self.config.enable_prefix_caching
        )
        self.scheduler = Scheduler(
            pool,
            max_num_seqs=self.config.max_num_seqs,
            max_num_batched_tokens=self.config.max_num_batched_tokens,
            text_lookahead=self.config.text_lookahead,
            max_fused_tokens=NUM_SPARE_WINDOWS,
        )
        self.runner = Runner(
            self.model,
            PagedKVCache(self.cache_config, resolved, self.device),
            max_num_seqs=self.config.max_num_seqs,
            num_spare_windows=NUM_SPARE_WINDOWS,
            capture=capture_for(self.device, enforce_eager=self.config.enforce_eager),
        )
        self.vocoder = Vocoder(self.codec) if self.codec is not None else None
        if self.vocoder is not None:  # its thread must not outlive an engine that is dropped
            weakref.finalize(self, self.vocoder.stop)
        self._replies = Replies(self.scheduler, self.vocoder)
        self._ids = itertools.count()
        """Numbers of requests, for seeds."""
        self._names = (f"request-{number}" for number in itertools.count())
        self._ended: list[Event] = []
        """Events that the next step tells."""
        self._open_requests = OpenRequests(
            self.inputs, self.scheduler, self.runner, self._replies.outputs, self.config.max_model_len
        )

    # --- requests -----------------------------------------------------------------------------

    def add_request(
        self,
        request: Request,
        sampling_params: SamplingParams | None = None,
        *,
        stream_audio: bool = True,
    ) -> str:
        """Take a request; its events come from `step`. Returns its id.

        stream_audio: speech is made in chunks while its units come; False: of all units at once when the
        last is there, as the released code does.
        Raises InvalidRequest, EngineOverloaded (too many wait) or EngineDead; nothing else is affected.
        """
        arrived_s = time.perf_counter()
        prompt = self.prepare(request)
        return self.add_prepared(
            request, prompt, sampling_params, arrived_s=arrived_s, stream_audio=stream_audio
        )

    @awaited_at_exit
    def prepare(self, request: Request) -> Prompt:
        """Read a request's files and lay out its prompt. May run in another thread than `step`."""
        self._check_open()
        if not isinstance(request, Request):
            raise InvalidRequest(f"request: expected a Request, got {type(request).__name__}")
        return self.inputs.process(request)

    def add_prepared(
        self,
        request: Request,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        arrived_s: float | None = None,
        stream_audio: bool = True,
    ) -> str:
        """`add_request` for a prompt that `prepare` has made.

        arrived_s: when the request came, before it was prepared, on the clock of `time.perf_counter`;
        its metrics count from there. None: now.
        """
        self._check_open()
        number = next(self._ids)
        request_id = request.request_id
        if request_id is None:
            request_id = next(name for name in self._names if not self._in_use(name))
        elif self._in_use(request_id):
            raise InvalidRequest(f"request_id: {request_id!r} is in use by a request that has not finished")
        if self.scheduler.num_waiting >= self.config.max_num_waiting:
            raise EngineOverloaded(f"{self.scheduler.num_waiting} requests are waiting already")
        params = sampling_params or request.sampling_params or SamplingParams()
        if not isinstance(params, SamplingParams):
            raise InvalidRequest(f"sampling_params: expected SamplingParams, got {type(params).__name__}")
        speaks = "audio" in request.modalities
        if speaks and params.stop:
            raise InvalidRequest("SamplingParams.stop: stop strings are for text-only replies")
        limits = bounded(params, prompt, self.config.max_model_len, speaks=speaks)
        state = RequestState(
            request_id,
            prompt,
            params if prompt.is_open else limits,
            speaks=speaks,
            config=self.model_config,
            cache=self.cache_config,
            carries_speech=self.tokenizer.carries_speech,
            seed=params.seed if params.seed is not None else (self.config.seed << 32) + number,
        )
        if not self.scheduler.fits(state, num_more=len(prompt.closing)):
            raise InvalidRequest(
                f"the prompt of {state.num_text_prompt} text and {state.num_speech_prompt} speech positions "
                f"does not fit the KV cache of {self.cache_config.num_blocks} blocks"
            )
        output = OutputState(
            state,
            self.tokenizer,
            self.model_config,
            arrived_s,
            sample_rate_hz=self.codec.sample_rate_hz if speaks and self.codec is not None else None,
        )
        self._replies.take(output, request.voice, self.config.stream_schedule if stream_audio else None)
        return request_id

    def open_request(self, request: Request, sampling_params: SamplingParams | None = None) -> str:
        """Take a request whose user still speaks. Returns its id.

        It is written like any other and ends in `Units`, the ones that were heard so far, or `Units([])`.
        What is known of it is computed, and nothing is picked, until `commit`; meanwhile `step` tells the
        transcript so far as `TranscriptUpdate`. Raises what `add_request` raises.
        """
        return self.add_prepared(request, self.prepare_open(request), sampling_params)

    def prepare_open(self, request: Request) -> OpenPrompt:
        """`prepare` for `open_request`; `add_prepared` takes the result."""
        self._check_open()
        if not isinstance(request, Request):
            raise InvalidRequest(f"request: expected a Request, got {type(request).__name__}")
        return self.inputs.process_open(request)

    def update_speech(self, request_id: str, units: Sequence[int]) -> None:
        """Let these units, numbered from 0, be all that was heard so far of an open request.

        What was computed before the first one that is new or another stays. Raises InvalidRequest for an id
        of no open request, for units that are none, and for more than the engine can hold; the request then
        stays as it was.
        """
        self._check_open()
        self._ended += self._open_requests.update(request_id, units)

    def commit(
        self, request_id: str, units: Sequence[int] | None = None, *, committed_s: float | None = None
    ) -> None:
        """The user of an open request has said all: from here on it is like any other.

        units: all of its speech, where that is not what `update_speech` gave last; there must be at least
        one. committed_s: when this was, on the clock of `time.perf_counter`; metrics count from there. None:
        now. Raises what `update_speech` raises; the request then is as open as it was.
        """
        self._check_open()
        self._open_requests.commit(request_id, units, committed_s)

    def abort(self, request_id: str) -> bool:
        """End a request now; its `Finished` event comes from the next `step`. False if there is none."""
        output = self._replies.outputs.get(request_id)
        if output is None:
            return False
        if not output.request.finished or request_id in self._replies.unheard:
            output.request.finish("abort")
            self._ended += self._replies.finish(output)
        return True

    @property
    def request_ids(self) -> list[str]:
        """Of all requests whose `Finished` has yet to come."""
        return list(self._replies.outputs)

    @property
    def is_closed(self) -> bool:
        """Whether it serves nothing any more: it was closed, or has failed in a step."""
        return self._closed

    def has_unfinished(self) -> bool:
        """Whether `step` has something to do or to tell. Open requests that wait for their users are nothing
        to do."""
        replies = self._replies
        return bool(self._ended or replies.unheard or (replies.outputs and self.scheduler.has_work))

    # --- the loop -----------------------------------------------------------------------------

    @awaited_at_exit
    def step(self) -> list[Event]:
        """One pass through each stack that has work; what became known by it.

        The order is the data's: the bottom layers hear, the LLM thinks where somebody waits for
        text, the top layers speak.
        """
        self._check_open()
        events, self._ended = self._ended, []
        computed = False
        scheduler, runner, replies = self.scheduler, self.runner, self._replies
        try:
            # who will speak waits while much speech is unheard, or it would pile up behind the model
            for request in scheduler.admit(may_speak=len(replies.unheard) < self.config.max_num_seqs):
                runner.start(request)
            if (plan := scheduler.schedule_bottom()).chunks:
                scheduler.complete_bottom(plan, runner.run_bottom(plan))
                events += replies.poll(plan)
                computed = True
            if (plan := scheduler.schedule_text()).chunks:
                scheduler.complete_text(plan, runner.run_text(plan))
                events += replies.poll(plan)
                computed = True
            if (plan := scheduler.schedule_top()).chunks:
                scheduler.complete_top(plan, runner.run_top(plan))
                events += replies.poll(plan)
                computed = True
            events += replies.reap()
            events += replies.hear(may_wait=not computed and not events)
        except BaseException:
            self._closed = True  # the caches may hold anything now
            raise
        return events

    def generate(
        self,
        requests: Request | Sequence[Request],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[Completion]:
        """Answer all requests; completions in their order.

        Speech is decoded whole, since nobody listens before the end. A request that cannot be served
        comes back with finish_reason "error" and the reason in `error`; the others go on.
        """
        requests = [requests] if isinstance(requests, Request) else list(requests)
        params = one_each(sampling_params, len(requests))
        done: dict[str, Completion] = {}
        order: list[str | Completion] = []
        for request, one in zip(requests, params, strict=True):
            try:
                order.append(self.add_request(request, one, stream_audio=False))
            except InvalidRequest as error:
                request_id = getattr(request, "request_id", None) or next(self._names)
                order.append(Completion(request_id, finish_reason="error", error=str(error)))
            except EngineOverloaded:
                self._run(done)
                order.append(self.add_request(request, one, stream_audio=False))
        self._run(done)
        return [item if isinstance(item, Completion) else done[item] for item in order]

    def close(self) -> None:
        """Let go of everything. Requests that run are dropped."""
        self._closed = True
        self._replies.clear()
        if self.vocoder is not None:
            self.vocoder.close()

    def check_integrity(self) -> None:
        """Raise AssertionError if blocks were lost or are held by nobody; cheap."""
        self.scheduler.check_integrity()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside -------------------------------------------------------------------------------

    def _run(self, done: dict[str, Completion]) -> None:
        while self.has_unfinished():
            for event in self.step():
                if isinstance(event, Finished):
                    done[event.request_id] = event.completion

    def _in_use(self, request_id: str) -> bool:
        """By a request that runs or waits, or whose `Finished` has not been told."""
        return request_id in self._replies.outputs or any(e.request_id == request_id for e in self._ended)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineDead("the engine is closed, or has failed in an earlier step")
