"""The model worker: a chat as one string in, all of the reply so far out, again and again."""

from __future__ import annotations

import asyncio
import binascii
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from antiphon.errors import InvalidRequest
from antiphon.inputs.base64_text import decode_base64
from antiphon.server.errors import api_error
from antiphon.server.reference.messages import WRONG, MessageStream, failure, message, paced
from antiphon.server.reference.prompt import read_prompt, units_text
from antiphon.server.service import Service, checked
from antiphon.types import (
    Completion,
    Event,
    Finished,
    Request,
    SamplingParams,
    TextDelta,
    TranscriptDelta,
    UnitDelta,
    Units,
)

__all__ = ["answer", "model_worker", "status", "told_body"]

GREEDY = 0.001
"""Temperatures up to this pick the most likely id."""
MAX_NEW_TOKENS = 1024
PAUSE_S = 2.0
"""How long a client waits for a message; then it gets the last one again. Its scripts give up after 5 s."""
TOO_LONG = "Exceeds max token length. Please start a new conversation, thanks."
LENGTH_ERRORS = re.compile(
    r"\(max_model_len\)|\(max_model_len is |does not fit the KV cache|text: expected at most|units in all"
)
"""What the engine says of a prompt that is too long."""


class Generation(BaseModel):
    """The body of `/worker_generate_stream`. Other fields have no effect, as with the released worker."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    prompt: str
    images: list[str] | None = None
    inference_type: Literal["text_to_text", "text_to_speech", "speech_to_text", "speech_to_speech"] = (
        "speech_to_speech"
    )
    temperature: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    max_new_tokens: Annotated[int, Field(ge=1)] = 256
    stop: str | None = None

    @property
    def hears(self) -> bool:
        return self.inference_type.startswith("speech")

    @property
    def speaks(self) -> bool:
        return self.inference_type.endswith("speech")

    def request(self) -> Request:
        """The engine's request. `InvalidRequest` for a prompt that cannot be served."""
        pictures = [_picture(index, text) for index, text in enumerate(self.images or [])]
        messages = read_prompt(self.prompt, pictures)
        has_units = any(isinstance(part, Units) for each in messages for part in each.content)  # type: ignore[union-attr]
        if has_units != self.hears:
            found = "has" if has_units else "has no"
            raise InvalidRequest(
                f"inference_type: {self.inference_type}, but the prompt {found} units of speech"
            )
        return Request(messages=messages, modalities=("text", "units") if self.speaks else ("text",))

    def params(self) -> SamplingParams:
        """How to pick."""
        limit = min(self.max_new_tokens, MAX_NEW_TOKENS)
        is_greedy = self.temperature <= GREEDY or self.top_p == 0
        return SamplingParams(
            temperature=0.0 if is_greedy else self.temperature,
            top_p=1.0 if is_greedy else self.top_p,
            max_units=limit if self.speaks else SamplingParams.max_units,
            max_tokens=None if self.speaks else limit,
        )


@dataclass
class Reply:
    """All of a reply so far."""

    asked: Generation
    transcript: str = ""
    text: str = ""
    units: list[str] = field(default_factory=list)

    def add(self, event: Event) -> bool:
        """Take in an event. Returns whether it has changed anything."""
        if isinstance(event, TranscriptDelta):
            self.transcript += event.text
        elif isinstance(event, TextDelta) and event.text:
            self.text += event.text
        elif isinstance(event, UnitDelta) and self.asked.speaks:
            self.units.append(units_text(event.units))
        else:
            return False
        return True

    def finish(self, completion: Completion) -> None:
        """Hold all of it."""
        self.transcript, self.text = completion.transcript, completion.text
        self.units = [units_text(completion.units)]

    def message(self) -> bytes:
        """It as it is sent."""
        made = "".join(self.units) if self.asked.speaks else self.text
        if self.asked.stop and made.endswith(self.asked.stop):
            made = made[: -len(self.asked.stop)]
        fields: dict[str, Any] = {
            "text": self.asked.prompt + made,
            "asr_outputs": self.transcript.strip(),
            "llm_outputs": self.text if self.asked.speaks else "",
            "error_code": 0,
        }
        return message(fields)


def model_worker(service: Service) -> list[Route]:
    """`/worker_generate_stream` and `/worker_get_status`."""

    async def worker_generate_stream(http: HttpRequest) -> Response:
        return MessageStream(answer(service, await http.body()))

    async def worker_get_status(_: HttpRequest) -> Response:
        return JSONResponse(status(service))

    return [
        Route("/worker_generate_stream", worker_generate_stream, methods=["POST"]),
        Route("/worker_get_status", worker_get_status, methods=["POST"]),
    ]


def status(service: Service) -> dict[str, Any]:
    """What a worker tells of itself."""
    return {"model_names": [service.model_name], "speed": 1, "queue_length": service.num_running}


async def answer(service: Service, body: bytes) -> AsyncGenerator[bytes, None]:
    """The messages that answer a body. Whatever happens, the last one says how it ended."""
    asked: Generation | None = None
    try:
        asked = await asyncio.to_thread(_read, body)
        request = await asyncio.to_thread(asked.request)
        reply, last = Reply(asked), b""
        async with (
            aclosing(service.stream(request, asked.params())) as events,
            aclosing(paced(events, PAUSE_S)) as news,
        ):
            async for event in news:
                if isinstance(event, Finished):
                    reply.finish(checked(event.completion))
                    if (told := reply.message()) != last:
                        yield told
                elif event is None or reply.add(event):
                    last = reply.message()
                    yield last
    except InvalidRequest as error:
        if asked is not None and LENGTH_ERRORS.search(str(error)):
            yield message({"text": f"{asked.prompt}{TOO_LONG}", "error_code": 0})
        else:
            yield failure(WRONG, str(error))
    except Exception as error:  # noqa: BLE001 - a client waits, whatever it is
        yield failure(WRONG, api_error(error).message)


def told_body(error: ValidationError) -> str:
    """What is wrong with a body, without what it holds."""
    first = error.errors(include_input=False, include_url=False)[0]
    if first["type"] == "json_invalid":
        return "the body is not valid JSON"
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])


def _read(body: bytes) -> Generation:
    try:
        return Generation.model_validate_json(body)
    except ValidationError as error:
        raise InvalidRequest(told_body(error)) from error


def _picture(index: int, text: str) -> bytes:
    try:
        return decode_base64("".join(text.split()))
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"images[{index}]: expected a picture in base64") from error
