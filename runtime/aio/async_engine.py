"""The engine behind asyncio: requests in, streams of events out."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING

from antiphon.aio.conversation.conversation import Conversation
from antiphon.aio.conversation.settings import ConversationSettings
from antiphon.aio.engine_thread import EngineThread
from antiphon.aio.event_stream import EventStream
from antiphon.aio.health import Health
from antiphon.aio.session import Session
from antiphon.aio.transcripts import segments_of
from antiphon.engine.engine import Engine
from antiphon.outputs.transcription import Segment, Transcription
from antiphon.plain import flag, number, string
from antiphon.process.ownership import OfOneProcess
from antiphon.types import Completion, Finished, Request, SamplingParams, Speech

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from antiphon.engine.arguments import EngineArguments

__all__ = ["AsyncEngine", "Health"]


class AsyncEngine(OfOneProcess):
    """An `Engine` that serves tasks of any number of event loops.

    A thread of its own steps the engine, from construction until `close`; it sleeps while there is
    nothing to do. A few more threads read the requests' files. No method but `close` blocks an event loop.

        async with AsyncEngine() as engine:
            async for event in engine.stream(Request("Hello")):
                ...

    It serves the process that made it: in a forked child it is not alive, its requests raise EngineDead, and
    a new one can be made.

    Args: those of `Engine`, which is loaded here, before this returns.
    """

    def __init__(
        self, model: str | os.PathLike[str] | None = None, **arguments: Unpack[EngineArguments]
    ) -> None:
        self._start(Engine(model, **arguments))

    @classmethod
    def from_engine(cls, engine: Engine) -> AsyncEngine:
        """Take over an engine. From here on it cannot be used directly (EngineBusy), except to read its
        settings. Raises EngineBusy if it is in use, EngineDead if it is closed or belongs to another
        process."""
        self = cls.__new__(cls)
        self._start(engine)
        return self

    def _start(self, engine: Engine) -> None:
        self._thread = EngineThread(engine)
        self._conversations = count()
        """Their numbers."""
        # For engines that are dropped without `close`. It must not wait: it may run inside anything.
        weakref.finalize(self, self._thread.stop)

    @property
    def engine(self) -> Engine:
        """The engine inside, to read its settings: model_config, tokenizer, codec, limits."""
        return self._thread.engine

    def stream(self, request: Request, sampling_params: SamplingParams | None = None) -> EventStream:
        """The request's events as they happen, `Finished` last.

        Nothing is sent before the first is asked for. Leaving early, in whatever way, aborts the
        request. See `EventStream` for the errors.
        """
        return EventStream(self, self._thread, request, sampling_params)

    def open(
        self,
        request: Request,
        sampling_params: SamplingParams | None = None,
        *,
        trim_silence: bool | None = None,
    ) -> Session:
        """A request whose user is still speaking. It ends in `Units`: those heard so far, if any.

        For `async with`; see `Session`. trim_silence: whether silence in its audio is cut before it is heard;
        see `Speech`. Raises InvalidRequest.
        """
        trims = trim_silence if trim_silence is None else flag("trim_silence", trim_silence)
        return Session(self, self._thread, request, sampling_params, trim_silence=trims)

    def converse(self, settings: ConversationSettings | None = None) -> Conversation:
        """A conversation by voice: audio goes in as it is recorded, turns and replies come out.

        For `async with`; see `Conversation`. settings: None: speech is answered by speech, and turns end by
        themselves.
        """
        return Conversation(self, settings or ConversationSettings(), next(self._conversations))

    async def generate(self, request: Request, sampling_params: SamplingParams | None = None) -> Completion:
        """The request's whole result. Raises what `stream` raises; cancelling it aborts the request."""
        async for event in self.stream(request, sampling_params):
            if isinstance(event, Finished):
                return event.completion
        raise AssertionError("a stream ended without Finished or an error")

    async def transcribe(self, speech: Speech) -> Transcription:
        """`Engine.transcribe`; cancelling it aborts what runs."""
        recording = await asyncio.to_thread(self.engine.prepare_transcript, speech)
        async with aclosing(segments_of(recording, self.generate)) as segments:
            return Transcription(tuple([segment async for segment in segments]), recording.duration_s)

    async def stream_transcript(self, speech: Speech) -> AsyncGenerator[Segment, None]:
        """The segments of `transcribe`, in order, each as soon as it is known.

        Use it under `contextlib.aclosing`: leaving it aborts what runs. Raises EngineOverloaded only for the
        first segment.
        """
        recording = await asyncio.to_thread(self.engine.prepare_transcript, speech)
        async with aclosing(segments_of(recording, self.generate)) as segments:
            async for segment in segments:
                yield segment

    async def abort(self, request_id: str) -> bool:
        """End a request; its stream gets `Finished` with finish_reason "abort". False if it does not exist.

        Its blocks are free when this returns. A request that was given no id has the one in its events.
        """
        return await self._thread.answer(self._thread.abort(string("request_id", request_id)))

    async def confirm(self, request_id: str, confirmed_s: float | None = None) -> bool:
        """`Engine.confirm`: somebody waits for a speculative request, which may still be waiting to be read.
        False if it does not exist, or has ended."""
        now = time.perf_counter()
        since = now if confirmed_s is None else min(now, number("confirmed_s", confirmed_s, 0.0))
        return await self._thread.answer(self._thread.confirm(string("request_id", request_id), since))

    def health(self) -> Health:
        """The state of the engine right now. Never waits, and may be called from any thread."""
        thread = self._thread
        scheduler, worker = thread.engine.scheduler, thread.engine.speech_worker
        vocoders = None if worker is None else worker.vocoders
        return Health(
            alive=thread.is_alive,
            num_running=len(scheduler.running),
            num_waiting=scheduler.num_waiting + thread.num_preparing,
            num_queued=len(scheduler.waiting),
            late_audio_s=0.0 if worker is None else worker.late_s,
            kv_cache_usage=1.0 - scheduler.pool.num_free / scheduler.pool.num_blocks,
            uptime_s=time.monotonic() - thread.started_s,
            error=thread.error,
            can_speak=thread.is_alive and worker is not None and worker.error is None,
            speech_error=None if worker is None else worker.error,
            num_speaking=0 if worker is None else worker.num_speaking,
            vocoders=() if vocoders is None else tuple(vocoders.num_rows),
            num_vocoder_restarts=0 if vocoders is None else vocoders.num_restarts,
        )

    def close(self) -> None:
        """End the thread after its current step, and wait for it. Open streams get `EngineDead`.

        May be called again, and from any thread; in a coroutine, use `aclose`.
        """
        self._thread.close()

    async def aclose(self) -> None:
        """`close`, while the event loop goes on."""
        try:
            await asyncio.to_thread(self.close)
        except RuntimeError:  # no thread can be started: the loop has to wait
            self.close()

    async def __aenter__(self) -> AsyncEngine:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
