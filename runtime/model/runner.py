"""The runner: executes step plans on tensors and returns ids and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from antiphon.config import ModelConfig
from antiphon.device.cuda_graph import Capture
from antiphon.kernels.attention_batch import AttentionPlanner
from antiphon.kernels.linear import CppLinear
from antiphon.kernels.threads import openmp_threads
from antiphon.kernels.warm_up import Served, warm_up
from antiphon.model.batch import attention_batch, to_device
from antiphon.model.cache import PagedKVCache
from antiphon.model.decode import Decoding
from antiphon.model.kept_images import KeptImages
from antiphon.model.native_decoding import NativeDecoding
from antiphon.model.omni import OmniModel
from antiphon.model.recordings import Recordings
from antiphon.model.sampler import pick_from_head
from antiphon.model.stack_inputs import StackInputs
from antiphon.model.windows import FusionWindows
from antiphon.process.cores import within_quota
from antiphon.sched.plan import Chunk, Spoken, StackPlan
from antiphon.sched.request import RequestState
from antiphon.sched.track import Track
from antiphon.types import SamplingParams

__all__ = ["Runner", "Tracer"]

Tracer = Callable[[str, RequestState, int, Tensor], None]
"""Called with a name, a request, the first position and the rows: "bottom_hidden", "top_hidden", "logits"."""

GREEDY = SamplingParams()

T = TypeVar("T")
Run = TypeVar("Run", bound=Callable[..., Any])


def _on_kernels_threads(run: Run) -> Run:
    """Decorates a pass: beside the C++ kernels, torch only copies rows, which takes one thread. The pass may
    be interrupted only once the thread's settings, which must be restored, have been made; one in which
    results are told meanwhile is over in milliseconds, and may not."""

    @wraps(run)
    def alone(self: Runner, plan: StackPlan) -> Any:
        interruptible = nullcontext() if self.is_replaying else self._interruptible()
        with openmp_threads(1 if self._has_cpp_kernels else None), interruptible:
            return run(self, plan)

    return cast(Run, alone)


class Runner:
    """Runs each pass by a recording, in one call, or kernel by kernel."""

    def __init__(
        self,
        model: OmniModel,
        cache: PagedKVCache,
        *,
        max_num_seqs: int,
        num_spare_windows: int,
        capture: Capture | None = None,
        planner: AttentionPlanner | None = None,
        interruptible: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """capture: records the model's decode steps; None: they run kernel by kernel. planner: of the library
        that computes attention, if one does. interruptible: the context in which signal handlers may
        raise."""
        self.model = model
        self.cache = cache
        self.config: ModelConfig = model.config
        self.device = model.device
        self.tracer: Tracer | None = None
        self._planner = planner
        self._interruptible = interruptible
        self._has_cpp_kernels = isinstance(model.ctc_head, CppLinear) and not model.has_library_products
        image_threads = within_quota(torch.get_num_threads()) if self._has_cpp_kernels else None
        self._windows = FusionWindows(model, max_num_seqs, num_spare_windows)
        self._inputs = StackInputs(
            model, KeptImages(model.weights, model.config, image_threads), max_num_seqs
        )
        self.meanwhile: Callable[[], None] = _nothing
        """What the host does while a device replays a decode step."""
        self._decoding: Decoding | None = None
        if capture is not None:
            recordings = Recordings(
                model,
                cache,
                self._windows.cache,
                self._inputs.unit_hidden,
                capture,
                max_num_seqs=max_num_seqs,
                max_positions=len(model.cos_sin),
                attention_backend=planner.recorded_backend if planner is not None else None,
            )
            self._decoding = Decoding(recordings, self._windows, max_num_seqs, self._use_the_time)
        self._native: NativeDecoding | None = None
        if capture is None and NativeDecoding.is_supported(model):
            self._native = NativeDecoding(model, cache, self._windows, self._inputs.unit_hidden)
        self._max_num_seqs = max_num_seqs
        self._num_bottom = self.config.num_bottom_audio_layers

    @torch.inference_mode()
    def prepare(self) -> Iterator[str]:
        """Where steps are replayed, compile all kernels that serving needs, and record all steps: must be
        done before the first. Yields the name of each part before it begins."""
        if self._planner is not None:
            yield "preparing the library for attention"
            self._planner.warm_up(*self.cache.text[0])
        if self._decoding is None:
            return
        recordings = self._decoding.recordings
        if self.device.type == "cuda":
            for step in warm_up(self._served(recordings)):
                yield f"compiling {step}"
        for step in recordings.record():
            yield f"recording {step}"

    def _served(self, recordings: Recordings) -> Served:
        model, config = self.model, self.config
        table = model.weights.embed_tokens
        return Served(
            geometry=model.geometry,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            dtype=model.dtype,
            caches=[self.cache.text[0], self.cache.speech[0]],
            max_blocks=max(recordings.max_text_blocks, recordings.max_speech_blocks),
            max_num_seqs=self._max_num_seqs,
            cos_sin=model.cos_sin,
            heads=[model.ctc_head, *([model.lm_head] if model.has_llm else []), model.unit_head],
            soft=(model.ctc_head, table),
            products=model.products,
            fusion_cache=self._windows.cache,
        )

    def start(self, request: RequestState) -> None:
        """A request was admitted, for the first time or again."""
        assert request.row is not None
        self._windows.reset(request.row)
        self._inputs.forget(request.row)

    @torch.inference_mode()
    def update_speech(self, request: RequestState) -> None:
        """An open request has another prompt: what was heard of it and has not been read is kept."""
        self._inputs.update_speech(request)

    # --- the passes ---------------------------------------------------------------------------

    def run_bottom(self, plan: StackPlan) -> list[list[int]]:
        """Bottom layers and CTC head; for each chunk, the labels of its unlabelled units."""
        self._inputs.drop_read()
        native = self._native if self.tracer is None else None
        if native is not None and all(self._inputs.is_unit_step(chunk) for chunk in plan.chunks):
            with self._interruptible():
                return [[label] for label in native.hear(plan.chunks)]
        return self._run_bottom(plan)

    def run_text(self, plan: StackPlan) -> list[int]:
        """LLM layers; one picked id for each chunk that samples."""
        native = self._native if self.tracer is None else None
        if native is not None and all(
            _is_text_step(chunk) and (chunk.request.speaks or chunk.request.params.temperature == 0)
            for chunk in plan.chunks
        ):
            with self._interruptible():
                return native.think(plan.chunks)
        return self._run_text(plan)

    def run_top(self, plan: StackPlan) -> Spoken:
        """Top layers with fusion, unit head; a picked id for each chunk that samples. In a step that is one
        call or one replay, the bottom layers hear it at once."""
        native = self._native if self.tracer is None else None
        if native is not None and all(
            chunk.samples and chunk.request.params.temperature == 0 and self._inputs.is_unit_step(chunk)
            for chunk in plan.chunks
        ):
            self._inputs.drop_read()
            with self._interruptible():
                return native.speak(plan.chunks)
        return self._run_top(plan)

    @torch.inference_mode()
    @_on_kernels_threads
    def _run_bottom(self, plan: StackPlan) -> list[list[int]]:
        decoding = self._recorded()
        if decoding is None:
            return self._hear(plan.chunks)
        labels: dict[int, list[int]] = {}
        units, others = list[int](), list[int]()
        for index, chunk in enumerate(plan.chunks):
            (units if self._inputs.is_unit_step(chunk) else others).append(index)
        if units:
            found = decoding.hear([plan.chunks[i] for i in units])
            labels |= {index: [label] for index, label in zip(units, found, strict=True)}
        if others:
            labels |= zip(others, self._hear([plan.chunks[i] for i in others]), strict=True)
        return [labels[index] for index in range(len(plan.chunks))]

    @torch.inference_mode()
    @_on_kernels_threads
    def _run_text(self, plan: StackPlan) -> list[int]:
        chunks, decoding = plan.chunks, self._recorded()
        if decoding is None:
            return self._think(chunks)
        is_decode = [_is_text_step(chunk) for chunk in chunks]
        if all(is_decode):
            return decoding.think(chunks)
        # Prompts run beside the others, not instead: nobody waits for more than the kernels of one chunk.
        thinking = [chunk for chunk, kind in zip(chunks, is_decode, strict=True) if kind]
        reading = [chunk for chunk, kind in zip(chunks, is_decode, strict=True) if not kind]
        picked = decoding.think(thinking) if thinking else []
        return _in_order(chunks, is_decode, picked, self._think(reading))

    @torch.inference_mode()
    @_on_kernels_threads
    def _run_top(self, plan: StackPlan) -> Spoken:
        chunks, decoding = plan.chunks, self._recorded()
        if decoding is None:
            units = self._speak(chunks)
            return Spoken(units, [None] * len(units))
        is_unit = [chunk.samples and self._inputs.is_unit_step(chunk) for chunk in chunks]
        if all(is_unit):
            return decoding.speak(chunks)
        speaking = [chunk for chunk, kind in zip(chunks, is_unit, strict=True) if kind]
        others = [chunk for chunk, kind in zip(chunks, is_unit, strict=True) if not kind]
        spoken = decoding.speak(speaking) if speaking else Spoken([], [])
        first = self._speak(others)
        return Spoken(
            _in_order(chunks, is_unit, spoken.units, first),
            _in_order(chunks, is_unit, spoken.labels, [None] * len(first)),
        )

    @property
    def is_replaying(self) -> bool:
        """Whether decode steps are replayed, so that `meanwhile` is called while they are computed."""
        return self._recorded() is not None

    def _use_the_time(self) -> None:
        self.meanwhile()

    def _recorded(self) -> Decoding | None:
        """What replays decode steps; None if kernels run one by one, as they do for a tracer, too."""
        return self._decoding if self.tracer is None else None

    # --- kernel by kernel ---------------------------------------------------------------------

    def _hear(self, chunks: Sequence[Chunk]) -> list[list[int]]:
        batch = attention_batch(chunks, [_speech(c) for c in chunks], self.device, self._planner)
        ids = np.concatenate([np.frombuffer(_speech(c).ids, dtype=np.int64)[c.start : c.end] for c in chunks])
        hidden = self.model.hear(to_device(ids, self.device), batch, self.cache.speech[: self._num_bottom])
        self._trace("bottom_hidden", chunks, hidden)

        if all(self._inputs.is_unit_step(chunk) for chunk in chunks):
            rows = to_device(np.array([c.request.row for c in chunks]), self.device)
            self._inputs.unit_hidden.index_copy_(0, rows, hidden)
            return [[label] for label in self.model.ctc_labels(hidden).tolist()]
        return self._inputs.keep(chunks, hidden)

    def _think(self, chunks: Sequence[Chunk]) -> list[int]:
        batch = attention_batch(chunks, [c.request.text for c in chunks], self.device, self._planner)
        sampled = self._sampled_rows(chunks)
        states = self.model.think(self._inputs.text(chunks), batch, self.cache.text, sampled)
        requests = [c.request for c in chunks if c.samples]
        if not requests:
            return []
        if self.tracer is not None:  # under speech, "logits" are those of the units
            shown = [i for i, r in enumerate(requests) if not r.speaks]
            self._trace_rows("logits", [requests[i] for i in shown], self.model.lm_head(states)[shown])
        return pick_from_head(
            states,
            self.model.lm_head,
            [GREEDY if r.speaks else r.params for r in requests],
            [r.seed for r in requests],
            [len(r.text_ids) for r in requests],
        )

    def _speak(self, chunks: Sequence[Chunk]) -> list[int]:
        batch = attention_batch(chunks, [_speech(c) for c in chunks], self.device, self._planner)
        fusion = self._windows.prepare(chunks)
        caches = self.cache.speech[self._num_bottom :]
        sampled = self._sampled_rows(chunks)
        states = self.model.speak(self._inputs.top(chunks), batch, caches, fusion, sampled)
        requests = [c.request for c in chunks if c.samples]
        if not requests:
            return []
        if self.tracer is not None:
            self._trace_rows("top_hidden", requests, states)
            self._trace_rows("logits", requests, self.model.unit_head(states))
        picked = pick_from_head(
            states,
            self.model.unit_head,
            [r.params for r in requests],
            [r.seed for r in requests],
            [len(r.unit_ids) for r in requests],
        )
        return self.model.units_of(picked)

    def _sampled_rows(self, chunks: Sequence[Chunk]) -> Tensor | None:
        """The last row of each chunk that samples; None if that is every row."""
        if all(chunk.samples and len(chunk) == 1 for chunk in chunks):
            return None
        ends = np.cumsum([len(chunk) for chunk in chunks]) - 1
        return to_device(ends[[chunk.samples for chunk in chunks]], self.device)

    @torch.inference_mode()
    @_on_kernels_threads
    def read_prompts(self, plan: StackPlan) -> list[Tensor]:
        """What the LLM reads of whole prompts (positions, hidden), for an LLM that is not ours."""
        return [self._inputs.text([chunk]) for chunk in plan.chunks]

    # --- tracing ------------------------------------------------------------------------------

    def _trace(self, name: str, chunks: Sequence[Chunk], rows: Tensor) -> None:
        if self.tracer is not None:
            for chunk, part in zip(chunks, rows.split([len(c) for c in chunks]), strict=True):
                self.tracer(name, chunk.request, chunk.start, part)

    def _trace_rows(self, name: str, requests: Sequence[RequestState], rows: Tensor) -> None:
        if self.tracer is not None:
            for request, row in zip(requests, rows, strict=True):
                self.tracer(name, request, len(request.unit_ids if request.speaks else request.text_ids), row)


def _in_order(
    chunks: Sequence[Chunk], kinds: Sequence[bool], own: Sequence[T], others: Sequence[T]
) -> list[T]:
    """The results of two kinds of chunks, in the order of the chunks that sample."""
    of_kind, of_others = iter(own), iter(others)
    return [
        next(of_kind if kind else of_others)
        for chunk, kind in zip(chunks, kinds, strict=True)
        if chunk.samples
    ]


def _is_text_step(chunk: Chunk) -> bool:
    """Whether it is one id that was picked, after which another is."""
    return chunk.samples and len(chunk) == 1 and chunk.start >= chunk.request.num_text_prompt


def _nothing() -> None:
    pass


def _speech(chunk: Chunk) -> Track:
    assert chunk.request.speech is not None
    return chunk.request.speech
