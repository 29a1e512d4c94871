"""`/v1/audio/transcriptions`: what is said in a recording of any length."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Form
from fastapi import Request as HttpRequest
from fastapi.responses import Response

from antiphon.aio.transcripts import segments_of
from antiphon.engine.transcribing import CutRecording
from antiphon.errors import InvalidRequest
from antiphon.outputs.transcription import Segment, Transcription
from antiphon.server.errors import ApiError
from antiphon.server.event_stream import EVENTS, begun, error_event, event
from antiphon.server.openai.schemas import ERRORS
from antiphon.server.openai.transcription_answer import (
    TokenUsage,
    TranscriptDeltaEvent,
    TranscriptDoneEvent,
    TranscriptionJson,
    TranscriptionVerbose,
    srt,
    vtt,
)
from antiphon.server.openai.transcription_request import TranscriptionForm
from antiphon.server.service import Service, until_gone
from antiphon.types import Completion, Request, Speech

__all__ = ["transcriptions"]

MAX_READ = 2
"""Files that are decoded at a time: an hour of sound takes some hundred MB."""
PLACE = "speech: audio: "
"""How our errors about the file begin."""


def transcriptions(service: Service) -> APIRouter:
    """`/v1/audio/transcriptions`, and a clear refusal of `/v1/audio/translations`."""
    router = APIRouter(tags=["audio"])
    reading = asyncio.Semaphore(MAX_READ)
    text = {"schema": {"type": "string"}}
    kinds = dict.fromkeys(("text/plain", "text/vtt"), text)

    @router.post(
        "/v1/audio/transcriptions",
        response_model=TranscriptionJson | TranscriptionVerbose,
        responses={**ERRORS, 200: {"content": {**kinds, **EVENTS}}},
    )
    async def transcribe(
        form: Annotated[TranscriptionForm, Form(media_type="multipart/form-data")], http: HttpRequest
    ) -> Any:
        """The transcript of a sound file, whole or segment by segment."""
        service.check_model(form.model)
        form.check()
        task = _Task(service)
        data = await form.file.read()
        async with reading:
            await until_gone(http, task.read(data))
        if form.stream:
            return await begun(http, task.events())
        said = await until_gone(http, task.whole())
        match form.response_format:
            case "text":
                return Response(said.text + "\n", media_type="text/plain")
            case "srt":
                return Response(srt(said), media_type="text/plain")
            case "vtt":
                return Response(vtt(said), media_type="text/vtt")
            case "verbose_json":
                return TranscriptionVerbose.of(said, form.granularities)
        return TranscriptionJson(text=said.text, usage=task.usage())

    @router.post("/v1/audio/translations", include_in_schema=False)
    async def translate() -> None:
        """Nothing translates here."""
        raise ApiError(
            404,
            "this model writes down what it hears in the language that it hears; "
            "use /v1/audio/transcriptions",
            code="not_found",
        )

    return router


class _Task:
    """One recording, from its bytes to its segments."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._recording: CutRecording | None = None
        self._num_units = 0
        self._num_tokens = 0
        self._num_prompt = 0

    async def read(self, data: bytes) -> None:
        """Decode a file and cut it into pieces; ApiError, about `file`, for one that cannot be read."""
        prepare = self._service.engine.engine.prepare_transcript
        try:
            self._recording = await asyncio.to_thread(prepare, Speech(data))
        except InvalidRequest as error:
            reason = str(error).removeprefix(PLACE).removeprefix("these bytes: ").removeprefix("speech: ")
            raise ApiError(400, f"file: {reason}", param="file", code="invalid_value") from error

    async def segments(self) -> AsyncGenerator[Segment, None]:
        """In order, each as soon as it is known."""
        assert self._recording is not None
        with self._service.working():
            async with aclosing(segments_of(self._recording, self._complete)) as segments:
                async for segment in segments:
                    yield segment

    async def whole(self) -> Transcription:
        """All of them."""
        assert self._recording is not None
        async with aclosing(self.segments()) as segments:
            return Transcription(tuple([segment async for segment in segments]), self._recording.duration_s)

    async def events(self) -> AsyncGenerator[str, None]:
        """The segments as server-sent events, whose deltas add up to the text."""
        text = ""
        try:
            async with aclosing(self.segments()) as segments:
                async for segment in segments:
                    delta = f" {segment.text}" if text else segment.text
                    text += delta
                    yield event(TranscriptDeltaEvent(type="transcript.text.delta", delta=delta))
        except Exception as error:
            if not text:
                raise  # there is still a status to tell it by
            yield error_event(error)
            return
        yield event(TranscriptDoneEvent(type="transcript.text.done", text=text, usage=self.usage()))

    def usage(self) -> TokenUsage:
        """Of all pieces that are done."""
        return TokenUsage.of(self._num_prompt, self._num_units, self._num_tokens)

    async def _complete(self, request: Request) -> Completion:
        completion = await self._service.complete(request, is_part=True)
        if completion.finish_reason == "abort":
            raise ApiError(
                503,
                "the request took too long, or the server shuts down",
                kind="server_error",
                code="aborted",
            )
        self._num_units += completion.metrics.num_prompt_units
        self._num_prompt += completion.metrics.num_prompt_tokens
        self._num_tokens += len(completion.transcript_ids)
        return completion
