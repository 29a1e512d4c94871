"""A text of any length as speech: sentences are computed side by side, and heard one after the other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing

import numpy as np

from antiphon.errors import EngineOverloaded, InvalidRequest
from antiphon.server.errors import ApiError
from antiphon.server.service import Service, checked
from antiphon.sound.arrays import AudioArray
from antiphon.text.sentences import SENTENCE_PAUSE_S, spoken_pieces
from antiphon.types import AudioDelta, Finished, Request, SamplingParams

__all__ = ["SpokenText"]

MAX_AT_A_TIME = 3
"""Sentences of one text that are spoken together: the one that is heard, and those that follow it."""
RETRY_S = 0.1
"""How long a later sentence waits where too many requests wait already."""


class SpokenText:
    """Speech for one text. `samples` may be used once."""

    def __init__(self, service: Service, text: str, voice: str | None) -> None:
        """voice: of the codec; None is its default. There must be a codec."""
        codec = service.engine.engine.codec
        assert codec is not None, "voices are checked first"
        self._service = service
        self._pieces = spoken_pieces(text)
        self._voice = voice
        self.rate_hz = codec.sample_rate_hz
        self.num_tokens = 0
        """Of the text that has been spoken."""
        self.num_units = 0
        """Of speech, stop ids included."""

    def check(self) -> None:
        """Raises ApiError, about `input`, if any sentence cannot be said: once the first is heard, it is
        too late to refuse the others. It computes: call it in a thread."""
        prepare = self._service.engine.engine.prepare
        for piece in self._pieces:
            try:
                prepare(_request(piece, self._voice))
            except InvalidRequest as error:
                reason = str(error).removeprefix("say: ")
                raise ApiError(400, f"input: {reason}", param="input", code="invalid_value") from error

    async def samples(self) -> AsyncGenerator[AudioArray, None]:
        """float32 (n,), in order. Leaving it aborts what runs. Raises ApiError for a sentence that failed."""
        with self._service.working():
            async with aclosing(self._samples()) as pieces:
                async for samples in pieces:
                    yield samples

    async def _samples(self) -> AsyncGenerator[AudioArray, None]:
        waiting = deque(enumerate(self._pieces))
        running: deque[_Sentence] = deque()
        pause = np.zeros(int(SENTENCE_PAUSE_S * self.rate_hz), np.float32)
        try:
            while waiting or running:
                while waiting and len(running) < MAX_AT_A_TIME:
                    index, text = waiting.popleft()
                    running.append(_Sentence(self._service, text, self._voice, index))
                while (samples := await running[0].next()) is not None:
                    yield samples
                done = running.popleft()
                self.num_tokens += done.num_tokens
                self.num_units += done.num_units
                if waiting or running:
                    yield pause
        finally:
            for sentence in running:
                sentence.task.cancel()
            await asyncio.gather(*(sentence.task for sentence in running), return_exceptions=True)


def _request(text: str, voice: str | None) -> Request:
    return Request(say=text, modalities=("text", "audio"), voice=voice)


class _Sentence:
    """One sentence, whose request runs in a task from here on."""

    def __init__(self, service: Service, text: str, voice: str | None, index: int) -> None:
        self._service = service
        self._request = _request(text, voice)
        self._params = SamplingParams(seed=index)  # a text sounds the same whenever it is asked for
        self._is_first = index == 0
        self._samples: asyncio.Queue[AudioArray | None] = asyncio.Queue()
        self.num_tokens = 0
        self.num_units = 0
        self.task = asyncio.create_task(self._speak())

    async def next(self) -> AudioArray | None:
        """More of its samples; None after the last. Raises what went wrong."""
        samples = await self._samples.get()
        if samples is None:
            await self.task
        return samples

    async def _speak(self) -> None:
        try:
            while True:
                try:
                    return await self._listen()
                except EngineOverloaded:
                    if self._is_first:
                        raise
                    await asyncio.sleep(RETRY_S)
        finally:
            self._samples.put_nowait(None)

    async def _listen(self) -> None:
        async with aclosing(self._service.stream(self._request, self._params, is_part=True)) as events:
            async for each in events:
                if isinstance(each, AudioDelta):
                    self._samples.put_nowait(each.samples)
                elif isinstance(each, Finished):
                    completion = checked(each.completion)
                    self.num_tokens = len(completion.text_ids)
                    self.num_units = len(completion.unit_ids)
                    if completion.finish_reason == "abort":
                        raise ApiError(
                            503,
                            "the request took too long, or the server shuts down",
                            kind="server_error",
                            code="aborted",
                        )
