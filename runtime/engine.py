"""The engine: requests in, events and completions out, one step at a time."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch

from antiphon.config import EngineConfig
from antiphon.embedded import EMBEDDED_CODEC, EMBEDDED_MODEL
from antiphon.errors import CheckpointError, EngineDead, EngineOverloaded, InvalidRequest
from antiphon.kernels.threads import set_num_threads
from antiphon.model.cache import PagedKVCache, cache_config
from antiphon.model.checkpoint import read_config
from antiphon.model.loading import load_weights, resolve_dtype
from antiphon.model.omni import OmniModel
from antiphon.model.runner import Runner
from antiphon.output import OutputState
from antiphon.sched.block_pool import BlockPool
from antiphon.sched.plan import StackPlan
from antiphon.sched.request import RequestState
from antiphon.sched.scheduler import Scheduler
from antiphon.text.processor import InputProcessor
from antiphon.text.prompt import Prompt
from antiphon.text.tokenizer import Tokenizer
from antiphon.types import AudioDelta, Completion, Event, Finished, Request, SamplingParams

if TYPE_CHECKING:
    from antiphon.codec import Codec

__all__ = ["Engine"]

NUM_SPARE_WINDOWS = 64
DEFAULT_MAX_TOKENS = 1024
"""Of text-only replies."""


class Engine:
    """A Stream-Omni model and, where given, a CosyVoice codec, serving many requests at a time.

    Not thread-safe, but for `prepare`: one thread calls `step`. `AsyncEngine` puts it behind asyncio.

    Args:
        model: the checkpoint's folder; None is the embedded model with its codec.
        codec: the codec's folder, or a `Codec`; None with a model: units are produced, audio is not,
            and speech comes in as `Units`.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1" ...
        dtype: "auto" (float32 on the CPU, the file's elsewhere), "float32", "bfloat16", "float16".
        load_format: "auto", or "dummy" for random weights of the folder's config.
        progress: show a progress bar on the terminal while a long load goes on.
        quantization, text_backend, vocoder_backend, speech_prompt: each has one choice so far.
        settings: the fields of `EngineConfig`.

    Raises:
        CheckpointError: the checkpoint cannot be read; names file, tensor or key.
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        codec: str | os.PathLike[str] | Codec | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        quantization: str | None = None,
        load_format: Literal["auto", "dummy"] = "auto",
        text_backend: str = "native",
        vocoder_backend: str = "torch",
        speech_prompt: str = "soft",
        progress: bool = True,
        **settings: Any,
    ) -> None:
        config = _engine_config(settings)
        _check_choice("quantization", quantization, None)
        _check_choice("text_backend", text_backend, "native")
        _check_choice("vocoder_backend", vocoder_backend, "torch")
        _check_choice("speech_prompt", speech_prompt, "soft")
        self._closed = False
        self.is_untrained = model is None
        """The embedded model has random weights: it shows the way through, and babbles."""
        folder = Path(model) if model is not None else EMBEDDED_MODEL
        if model is None and codec is None:
            codec = EMBEDDED_CODEC
        self.model_name = folder.name
        self.device = _resolve_device(device)
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
        self.codec = _open_codec(codec, self.device, self.model_config.audio_vocab_size)
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
        )
        self._outputs: dict[str, OutputState] = {}
        self._voices: dict[str, str | None] = {}
        self._ids = itertools.count()
        """Numbers of requests, for seeds."""
        self._names = (f"request-{number}" for number in itertools.count())
        self._ended: list[Event] = []

    # --- requests -----------------------------------------------------------------------------

    def add_request(self, request: Request, sampling_params: SamplingParams | None = None) -> str:
        """Take a request; its events come from `step`. Returns its id.

        Raises InvalidRequest, EngineOverloaded (too many wait) or EngineDead; nothing else is affected.
        """
        arrived_s = time.perf_counter()
        return self.add_prepared(request, self.prepare(request), sampling_params, arrived_s=arrived_s)

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
        if len(self.scheduler.waiting) >= self.config.max_num_waiting:
            raise EngineOverloaded(f"{len(self.scheduler.waiting)} requests are waiting already")
        params = sampling_params or request.sampling_params or SamplingParams()
        if not isinstance(params, SamplingParams):
            raise InvalidRequest(f"sampling_params: expected SamplingParams, got {type(params).__name__}")
        speaks = "audio" in request.modalities
        if speaks and params.stop:
            raise InvalidRequest("SamplingParams.stop: stop strings are for text-only replies")
        state = RequestState(
            request_id,
            prompt,
            self._bounded(params, prompt, speaks=speaks),
            speaks=speaks,
            config=self.model_config,
            cache=self.cache_config,
            carries_speech=self.tokenizer.carries_speech,
            seed=params.seed if params.seed is not None else (self.config.seed << 32) + number,
        )
        if not self.scheduler.fits(state):
            raise InvalidRequest(
                f"the prompt of {state.num_text_prompt} text and {state.num_speech_prompt} speech positions "
                f"does not fit the KV cache of {self.cache_config.num_blocks} blocks"
            )
        self._outputs[request_id] = OutputState(state, self.tokenizer, self.model_config, arrived_s)
        self._voices[request_id] = request.voice
        self.scheduler.add(state)
        return request_id

    def abort(self, request_id: str) -> bool:
        """End a request now; its `Finished` event comes from the next `step`. False if there is none."""
        output = self._outputs.get(request_id)
        if output is None:
            return False
        if not output.request.finished:
            output.request.finish("abort")
            self._ended += self._finish(output)
        return True

    def has_unfinished(self) -> bool:
        """Whether `step` has something to do or to tell."""
        return bool(self._outputs or self._ended)

    # --- the loop -----------------------------------------------------------------------------

    def step(self) -> list[Event]:
        """One pass through each stack that has work; what became known by it.

        The order is the data's: the bottom layers hear, the LLM thinks where somebody waits for
        text, the top layers speak.
        """
        self._check_open()
        events, self._ended = self._ended, []
        try:
            for request in self.scheduler.admit():
                self.runner.start(request)
            scheduler, runner = self.scheduler, self.runner
            if (plan := scheduler.schedule_bottom()).chunks:
                scheduler.complete_bottom(plan, runner.run_bottom(plan))
                events += self._poll(plan)
            if (plan := scheduler.schedule_text()).chunks:
                scheduler.complete_text(plan, runner.run_text(plan))
                events += self._poll(plan)
            if (plan := scheduler.schedule_top()).chunks:
                scheduler.complete_top(plan, runner.run_top(plan))
                events += self._poll(plan)
            events += self._reap()
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

        A request that cannot be served comes back with finish_reason "error" and the reason in
        `error`; the others go on.
        """
        requests = [requests] if isinstance(requests, Request) else list(requests)
        params = _one_each(sampling_params, len(requests))
        done: dict[str, Completion] = {}
        order: list[str | Completion] = []
        for request, one in zip(requests, params, strict=True):
            try:
                order.append(self.add_request(request, one))
            except InvalidRequest as error:
                request_id = getattr(request, "request_id", None) or next(self._names)
                order.append(Completion(request_id, finish_reason="error", error=str(error)))
            except EngineOverloaded:
                self._run(done)
                order.append(self.add_request(request, one))
        self._run(done)
        return [item if isinstance(item, Completion) else done[item] for item in order]

    def close(self) -> None:
        """Let go of everything. Requests that run are dropped."""
        self._closed = True
        self._outputs.clear()

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

    def _poll(self, plan: StackPlan) -> Iterator[Event]:
        for chunk in plan.chunks:
            yield from self._outputs[chunk.request.request_id].poll()

    def _reap(self) -> list[Event]:
        """Finish what has ended. Its blocks are free before its sound is made."""
        ended = [r for r in self.scheduler.running if r.finished]
        ended += [r for r in self.scheduler.waiting if r.finished]
        events: list[Event] = []
        for request in ended:
            events += self._finish(self._outputs[request.request_id])
        return events

    def _finish(self, output: OutputState) -> list[Event]:
        request = output.request
        self.scheduler.finish(request)
        del self._outputs[request.request_id]
        voice = self._voices.pop(request.request_id)
        events = list(output.close())
        audio = None
        if request.speaks and self.codec is not None and request.finish_reason != "abort":
            units = output.units()
            audio = self.codec.decode([units], voices=[voice], seeds=[request.seed])[0] if units else None
            rate = self.codec.sample_rate_hz
            if audio is not None:
                output.note_audio(len(audio), rate)
                events.append(AudioDelta(request.request_id, audio, rate))
        completion = output.completion()
        if self.codec is not None and request.speaks:
            completion = replace(completion, audio=audio, sample_rate_hz=self.codec.sample_rate_hz)
        return [*events, Finished(request.request_id, completion)]

    def _bounded(self, params: SamplingParams, prompt: Prompt, *, speaks: bool) -> SamplingParams:
        """`params` with limits that the model's longest sequence allows."""
        longest = self.config.max_model_len
        speech = prompt.speaking_ids if prompt.speaking_ids is not None else prompt.speech_ids
        room = {
            "max_tokens": longest - prompt.num_text_positions,
            "max_units": longest - len(speech),
        }
        for left in room.values():
            if left < 1:
                raise InvalidRequest(
                    f"the prompt has {longest - left} positions, "
                    f"the longest sequence (max_model_len) is {longest}"
                )
        max_tokens = params.max_tokens
        if max_tokens is None:
            max_tokens = room["max_tokens"] if speaks else DEFAULT_MAX_TOKENS
        return replace(
            params,
            max_tokens=min(max_tokens, room["max_tokens"]),
            max_units=min(params.max_units, room["max_units"]),
        )

    def _in_use(self, request_id: str) -> bool:
        """By a request that runs or waits, or whose `Finished` has not been told."""
        return request_id in self._outputs or any(e.request_id == request_id for e in self._ended)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineDead("the engine is closed, or has failed in an earlier step")


def _engine_config(settings: dict[str, Any]) -> EngineConfig:
    known = {field.name for field in fields(EngineConfig)}
    if unknown := sorted(set(settings) - known):
        raise TypeError(
            f"Engine: expected settings among {', '.join(sorted(known))}, got {', '.join(unknown)}"
        )
    return EngineConfig(**settings)


def _check_choice(name: str, value: str | None, only: str | None) -> None:
    if value != only:
        raise InvalidRequest(f"{name}: expected {only!r}, the one there is, got {value!r}")


def _resolve_device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise InvalidRequest(f"device: expected 'auto', 'cpu' or 'cuda', got {device!r}") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise InvalidRequest("device: 'cuda' was asked for, and torch finds no GPU here")
    return resolved


def _open_codec(
    codec: str | os.PathLike[str] | Codec | None, device: torch.device, audio_vocab_size: int
) -> Codec | None:
    from antiphon.codec import Codec

    if codec is None:
        return None
    if not isinstance(codec, Codec):
        codec = Codec.from_pretrained(codec, device=device)
    if codec.num_units_vocab < audio_vocab_size:
        raise CheckpointError(
            f"codec: expected at least the model's {audio_vocab_size} units, found {codec.num_units_vocab}"
        )
    return codec


def _one_each(
    params: SamplingParams | Sequence[SamplingParams] | None, count: int
) -> Sequence[SamplingParams | None]:
    if params is None or isinstance(params, SamplingParams):
        return [params] * count
    if len(params) != count:
        raise InvalidRequest(
            f"sampling_params: expected one, or one for each of {count} requests, got {len(params)}"
        )
    return params
