"""The engine: requests in, events and completions out, one step at a time."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch

from antiphon.device.cuda_graph import capture_for
from antiphon.device.place import sum_in_float32
from antiphon.device.urgent import PRIORITY, UrgentStream
from antiphon.engine.batch import Batch
from antiphon.engine.growing_requests import GrowingRequests
from antiphon.engine.intake import Intake
from antiphon.engine.loading import load
from antiphon.engine.preparing import prepare
from antiphon.engine.steps import Steps
from antiphon.engine.transcribing import CutRecording
from antiphon.errors import (
    AntiphonError,
    EngineBusy,
    EngineDead,
)
from antiphon.inputs.copies import plain_options, plain_params
from antiphon.model.attention import attention_planner
from antiphon.model.cache import PagedKVCache
from antiphon.model.checkpoint.loading import Progress
from antiphon.model.runner import Runner
from antiphon.outputs.replies import Replies
from antiphon.outputs.speech_worker import SpeechWorker
from antiphon.outputs.transcription import Transcription
from antiphon.plain import flag, number, string, told
from antiphon.process.at_exit import awaited_at_exit
from antiphon.process.interrupts import Interrupts
from antiphon.process.ownership import OfOneProcess, Ownership
from antiphon.prompt import Prompt
from antiphon.sched.block_pool import BlockPool
from antiphon.sched.scheduler import Scheduler
from antiphon.types import Completion, Event, Request, SamplingParams, Speech

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from antiphon.codec import Codec
    from antiphon.config import EngineSettings
    from antiphon.outputs.speech_maker import MakerApart

__all__ = ["Engine"]

NUM_SPARE_WINDOWS = 64


class Engine(OfOneProcess):
    """A Stream-Omni model and, where given, a CosyVoice codec, serving many requests at a time.

    Only one thread at a time may call its methods, except `prepare` and `check_room`; a call made while
    another is in progress raises EngineBusy and does nothing. `AsyncEngine` puts it behind asyncio. It serves
    the process that made it: in a forked child its methods raise EngineDead, and a new one can be made.

    What a signal handler raises, as on Ctrl-C, comes out of `step` and `generate`, from within a pass or
    between two, and the engine lives on.

    Args:
        model: the checkpoint's folder; None is the embedded model with its codec.
        codec: the codec's folder, or a `Codec`; None with a model: units are produced, audio is not,
            and speech comes in as `Units`.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1" ...
        dtype: of the weights: "auto" (float32 on the CPU, the file's elsewhere), "float32", "bfloat16",
            "float16". On the CPU, activations and the KV cache are float32 with any of them.
        quantization: "int8-weight-only": the matrices of all layers and heads in 8 bits, with a scale for
            each output; "int8": also what they multiply, as it comes, with a scale for each token. On a CPU,
            "bitsandbytes", "bitsandbytes-4bit": the matrices of all layers by that library, which the
            extra of this name installs, as the released code's --load-8bit and --load-4bit have them. None:
            as `dtype` says, or as the folder holds them (`antiphon quantize`).
        quantization_keep: modules that are not quantized: patterns of their names in the checkpoint, or of
            what follows a dot there, such as "lm_head" and "layers.0.*". Matrices that are stored together
            (q, k and v; gate and up) stay together.
        codec_dtype: of a codec given as a folder; "auto" is float16 on a GPU and float32 on a CPU. See
            `antiphon.codec.Codec`.
        load_format: "auto", or "dummy" for random weights of the folder's config.
        progress: show a progress bar on the terminal while a long load goes on; or a function that is called
            with the bytes of weights loaded so far and those in all.
        vocoder_backend: of a codec given as a folder, "torch" or, on a CPU, "onnxruntime:FOLDER", on a GPU
            "tensorrt:FOLDER": see `antiphon.codec.Codec.from_pretrained`.
        vocoder_workers: processes that make speech of units, 0 to 64, of a codec given as a folder; 0:
            threads of this one do. The samples are the same.
        vocoder_device: where speech is made, in any process: "cpu", "cuda:1" ..., or with several workers
            also "cuda:1,cuda:2", which they take in turn; None: as `device`.
        vocoders: makes, of a codec given as a folder, what makes its speech elsewhere; `antiphon.scale` has
            one. None: as `vocoder_workers` says.
        text_backend: what computes the LLM: "native", or "vllm": in a process of its own, see
            docs/serving.md.
        text_backend_args: with "vllm": its `EngineArgs`; "python", the interpreter that has it, if not this
            one; "model", a folder that `antiphon export llm` wrote of this checkpoint, which is otherwise
            written at load and removed at the end; "env", environment variables of its process.
        speech_prompt: has one choice so far.
        settings: see `antiphon.config.EngineSettings`.

    Raises:
        CheckpointError: the checkpoint cannot be read; names the file, tensor or key.
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
        quantization_keep: Sequence[str] = (),
        load_format: Literal["auto", "dummy"] = "auto",
        text_backend: str = "native",
        text_backend_args: Mapping[str, Any] | None = None,
        vocoder_backend: str = "torch",
        vocoder_workers: int = 0,
        vocoder_device: str | torch.device | None = None,
        vocoders: Callable[[Codec], MakerApart] | None = None,
        speech_prompt: str = "soft",
        progress: bool | Progress = True,
        **settings: Unpack[EngineSettings],
    ) -> None:
        self._ownership = Ownership()
        self._closed = False
        self._cause: BaseException | None = None
        """The failure that ended it, if one did."""
        loaded = load(
            model,
            codec=codec,
            device=device,
            dtype=dtype,
            codec_dtype=codec_dtype,
            quantization=quantization,
            quantization_keep=quantization_keep,
            load_format=load_format,
            text_backend=text_backend,
            text_backend_args=text_backend_args,
            vocoder_backend=vocoder_backend,
            vocoder_workers=vocoder_workers,
            vocoder_device=vocoder_device,
            vocoders=vocoders,
            speech_prompt=speech_prompt,
            progress=progress,
            **settings,
        )
        self._text = loaded.text
        if self._text is not None:  # its process must not outlive an engine that is dropped
            weakref.finalize(self, self._text.stop)
        if loaded.vocoders is not None:
            weakref.finalize(self, loaded.vocoders.stop)
        self.model_name = loaded.model_name
        self.device = loaded.device
        self.config = loaded.config
        self.model_config = loaded.model_config
        self.tokenizer = loaded.tokenizer
        self.codec = loaded.codec
        self.inputs = loaded.inputs
        self.model = loaded.model
        self.cache_config = loaded.cache_config
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
        sum_in_float32(self.device)
        self._stream = UrgentStream(self.device)
        with self._stream.inside():
            self.runner = Runner(
                self.model,
                PagedKVCache(self.cache_config, loaded.dtype, self.device),
                max_num_seqs=self.config.max_num_seqs,
                num_spare_windows=NUM_SPARE_WINDOWS,
                capture=capture_for(self.device, enforce_eager=self.config.enforce_eager, priority=PRIORITY),
                planner=attention_planner(
                    self.config.attention_backend, self.model_config, self.device, loaded.dtype
                ),
                interruptible=self._ownership.interruptible,
            )
        if self._text is not None:
            self.scheduler.elsewhere = self._text
            self._text.read_prompts = self.runner.read_prompts
        self.speech_worker = SpeechWorker(self.codec, loaded.vocoders) if self.codec is not None else None
        if self.speech_worker is not None:  # its thread must not outlive an engine that is dropped
            weakref.finalize(self, self.speech_worker.stop)
        prepare(self.runner, self.speech_worker, self._stream, progress=progress is True)
        self._replies = Replies(self.scheduler, self.speech_worker)
        self._untold: list[Event] = []
        """Events for the next step to tell."""
        self._intake = Intake(
            self.config,
            self.model_config,
            self.cache_config,
            self.inputs,
            self.tokenizer,
            self.scheduler,
            self._replies,
            self.codec.sample_rate_hz if self.codec is not None else None,
        )
        self._steps = Steps(
            self.scheduler,
            self.runner,
            self._replies,
            self._intake.probe,
            self._ownership.is_interrupt,
            self._text,
        )
        self._growing_requests = GrowingRequests(
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

        stream_audio: speech is made in chunks while its units come; False: from all units at once, when the
        last one is there, as the released code does.
        Raises InvalidRequest, EngineOverloaded (too many wait) or EngineDead; nothing else is affected.
        """
        arrived_s = time.perf_counter()
        prompt = self.prepare(request)
        return self.add_prepared(
            request, prompt, sampling_params, arrived_s=arrived_s, stream_audio=stream_audio
        )

    def check_room(self, num_preparing: int = 0) -> None:
        """Raise EngineOverloaded if no more requests may wait (`max_num_waiting`).

        num_preparing: requests that are waiting too, but have not been given to the engine yet. May run in a
        different thread from `step`.
        """
        self._intake.check_room(num_preparing)

    @awaited_at_exit
    def prepare(self, request: Request, *, is_growing: bool = False) -> Prompt:
        """Read a request's files and lay out its prompt, for `add_prepared`. May run in a different thread
        from `step`.

        is_growing: its user is still speaking, see `open_request`.
        """
        self._check_alive()
        return self.inputs.process_growing(request) if is_growing else self.inputs.process(request)

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
        request, params = plain_options(request), plain_params(sampling_params)
        stream_audio = flag("stream_audio", stream_audio)
        with self._ownership.turn("add_prepared"):
            self._check_alive()
            return self._intake.take(
                request,
                prompt,
                params,
                self._untold,
                arrived_s=arrived_s,
                stream_audio=stream_audio,
            )

    def open_request(self, request: Request, sampling_params: SamplingParams | None = None) -> str:
        """Take a request whose user is still speaking. Returns its id.

        It is written like any other, and ends in `Units`: those heard so far, or `Units([])`. Until `commit`,
        what is known of it is computed and nothing is picked; meanwhile `step` tells the transcript so far
        as `TranscriptUpdate`. Raises what `add_request` raises.
        """
        return self.add_prepared(request, self.prepare(request, is_growing=True), sampling_params)

    def update_speech(self, request_id: str, units: Sequence[int]) -> None:
        """Replace all that was heard so far of an open request by these units, numbered from 0.

        What was computed before the first unit that is new or different stays. Raises InvalidRequest if the
        id is not that of an open request, for ids that are not units, and for more than the engine can hold;
        the request then stays as it was.
        """
        request_id = string("request_id", request_id)
        with self._ownership.turn("update_speech"), self._stream.inside():
            self._check_alive()
            self._untold += self._growing_requests.update_speech(request_id, units)

    def commit(
        self,
        request_id: str,
        units: Sequence[int] | None = None,
        *,
        committed_s: float | None = None,
        no_speech: bool = False,
    ) -> None:
        """The user of an open request has finished: from here on it is like any other request.

        units: all of its speech, if that is not what `update_speech` gave last; there must be at least one.
        committed_s: when the user finished, on the clock of `time.perf_counter`; metrics count from there.
        None: now. no_speech: all that was spoken is silence or noise. Raises what `update_speech` raises;
        the request then stays open, as it was.
        """
        request_id = string("request_id", request_id)
        with self._ownership.turn("commit"), self._stream.inside():
            self._check_alive()
            self._growing_requests.commit(request_id, units, committed_s, no_speech=no_speech)

    def confirm(self, request_id: str, confirmed_s: float | None = None) -> bool:
        """Somebody waits for a speculative request: from here on it is like any other. False if it does not
        exist, or has ended.

        confirmed_s: when they began to wait, on the clock of `time.perf_counter`; metrics count from there,
        and what happened before took no time. None, or a moment to come: now. A request that is not
        speculative stays as it is.
        """
        request_id = string("request_id", request_id)
        if confirmed_s is not None:
            confirmed_s = number("confirmed_s", confirmed_s, 0.0)
        with self._ownership.turn("confirm"):
            self._check_alive()
            output = self._replies.outputs.get(request_id)
            if output is None:
                return False
            if output.request.is_speculative:
                now = time.perf_counter()
                self.scheduler.confirm(output.request)
                output.confirm(now if confirmed_s is None else min(now, confirmed_s))
            return True

    def abort(self, request_id: str) -> bool:
        """End a request now; its `Finished` event comes from the next `step`. False if it does not exist."""
        request_id = string("request_id", request_id)
        with self._ownership.turn("abort"):
            output = self._replies.outputs.get(request_id)
            if output is not None:
                self._untold += self._replies.abort(output)
            return output is not None

    @property
    def request_ids(self) -> list[str]:
        """The ids of all requests whose `Finished` has yet to come."""
        return list(self._replies.outputs)

    @property
    def is_closed(self) -> bool:
        """Whether it no longer serves anything: it was closed, or has failed in a step."""
        return self._closed

    def has_unfinished(self) -> bool:
        """Whether `step` has something to do or to tell. Open requests that wait for their users do not
        count; speculative ones do."""
        return bool(self._untold) or self._has_work()

    # --- the loop -----------------------------------------------------------------------------

    @awaited_at_exit
    def step(self) -> list[Event]:
        """Make one pass through each stack that has work; returns the events of what became known.

        A fault in a pass ends the requests that caused it, with "error"; the others are computed again, to
        the same result. A fault that no request is to blame for is raised: the engine has then failed, and
        is closed. What a signal handler raises is raised too: all requests are then aborted, which the next
        step tells.
        """
        events: list[Event] = []
        try:
            with self._ownership.turn("step") as interrupts:
                self._check_alive()
                self._advance(may_wait=not self._untold)
                interrupts.check()
                events, self._untold = self._untold, []
        except AntiphonError:
            raise
        except BaseException as error:
            if self._ownership.is_interrupt(error):
                self._give_up(events)
            raise
        return events

    def generate(
        self,
        requests: Request | Iterable[Request],
        sampling_params: SamplingParams | Iterable[SamplingParams] | None = None,
    ) -> list[Completion]:
        """Answer all requests; returns the completions in the same order.

        Speech is decoded whole, since nobody listens before the end. A request that cannot be served,
        whatever the reason, comes back with finish_reason "error" and the reason in `error`; the others go
        on. Events of requests that were added before are kept for `step`. Raises InvalidRequest, before any
        is added, if the arguments are not such lists; what a signal handler raises aborts these requests and
        no others.
        """
        with self._ownership.turn("generate") as interrupts:
            self._check_alive()
            with interrupts.allowed():
                batch = Batch(requests, sampling_params)
            try:
                for request, params in batch.asked():
                    interrupts.check()
                    batch.take(self._take_one(batch, request, params, interrupts))
                while batch.is_waiting and self._has_work():
                    self._advance_batch(batch)
                    interrupts.check()
            except BaseException as error:
                if self._ownership.is_interrupt(error):
                    self._abort_batch(batch)
                    raise
                if self._cause is None:
                    raise
            return batch.completions(self._cause)

    def transcribe(self, speech: Speech) -> Transcription:
        """What is said in a recording of any length up to `InputLimits.max_transcribed_s`, and when.

        It is cut into pieces at pauses, and their transcripts are computed together, as `generate` does; the
        LLM is not run. Raises InvalidRequest for what cannot be read, and AntiphonError if a piece fails.
        """
        recording = self.prepare_transcript(speech)
        completions = self.generate(recording.requests)
        self._check_alive()
        return recording.transcription(completions)

    @awaited_at_exit
    def prepare_transcript(self, speech: Speech) -> CutRecording:
        """Read a recording and cut it into pieces, for `transcribe`. May run in any thread."""
        self._check_alive()
        return CutRecording(self.inputs, self.tokenizer, speech)

    def close(self) -> None:
        """Let go of everything; requests that are running are dropped. Does nothing if it is closed already,
        or belongs to another process."""
        if not self._ownership.is_here:
            return
        with self._ownership.turn("close") as interrupts:
            self._closed = True
            self._replies.clear()
            self._untold.clear()
            with interrupts.allowed():
                try:
                    if self.speech_worker is not None:
                        self.speech_worker.close()
                finally:
                    if self._text is not None:
                        self._text.close()

    def reset_prefix_cache(self) -> None:
        """Forget what finished requests have left in the KV cache for others to share. Running requests go
        on unchanged."""
        with self._ownership.turn("reset_prefix_cache"):
            self._check_alive()
            self.scheduler.pool.reset_prefix_cache()
            if self._text is not None:
                self._text.forget_prompts()

    def check_integrity(self) -> None:
        """Raise AssertionError if blocks were lost or are held by nobody; cheap."""
        self.scheduler.check_integrity()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def hand_over(self, thread: threading.Thread) -> None:
        """From now on only this thread may call methods that change anything, see
        `AsyncEngine.from_engine`."""
        self._check_alive()
        self._ownership.keep(thread)

    # --- inside -------------------------------------------------------------------------------

    @awaited_at_exit
    def _advance(self, *, may_wait: bool) -> None:
        """Make a step; its events are added to those that are not told yet."""
        try:
            with self._stream.inside():
                self._steps.make(self._untold, may_wait=may_wait)
        except BaseException as error:
            if not self._ownership.is_interrupt(error):
                self._closed, self._cause = True, error
            raise

    def _take_one(
        self, batch: Batch, request: Request, params: SamplingParams | None, interrupts: Interrupts
    ) -> str | Completion:
        """Add a request of a batch, once there is room for it; returns its id, or why it cannot be served."""
        while not self._intake.has_room and self._has_work():
            self._advance_batch(batch)
            interrupts.check()
        try:
            with interrupts.allowed():
                arrived_s, prompt = time.perf_counter(), self.prepare(request)
                plain, params = plain_options(request), plain_params(params)
            batch.check_id(plain)
            return self._intake.take(
                plain, prompt, params, self._untold, arrived_s=arrived_s, stream_audio=False
            )
        except BaseException as error:
            if self._ownership.is_interrupt(error):
                raise
            return batch.refused(request, error, self._intake.new_name(self._untold))

    def _advance_batch(self, batch: Batch) -> None:
        num_before = len(self._untold)
        try:
            self._advance(may_wait=True)
        finally:
            self._untold[num_before:] = batch.collect(self._untold[num_before:])

    def _abort_batch(self, batch: Batch) -> None:
        for request_id in batch.waits_for:
            if (output := self._replies.outputs.get(request_id)) is not None:
                self._replies.abort(output)
        self._untold = batch.collect(self._untold)

    def _give_up(self, events: list[Event]) -> None:
        """Abort all requests; the next step tells it, after these events that could not be told."""
        with suppress(EngineBusy), self._ownership.turn("step"):
            self._untold[:0] = events
            for output in list(self._replies.outputs.values()):
                self._untold += self._replies.abort(output)

    def _has_work(self) -> bool:
        if self._text is not None and self._text.lost is not None:
            return not self._closed  # the next step says that the engine has failed
        return bool(self._replies.outputs) and (self.scheduler.has_work or self._replies.has_ended)

    def _check_alive(self) -> None:
        self._ownership.check_process()
        if self._cause is not None:
            raise EngineDead(f"the engine has failed: {told(self._cause)}") from self._cause
        if self._closed:
            raise EngineDead("the engine is closed")
