"""`/v1/responses`, for text: OpenAI's newer way to ask for a reply."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from antiphon.server.errors import ApiError, api_error
from antiphon.server.event_stream import EVENTS, begun, error_event, event
from antiphon.server.json_body import JsonRoute
from antiphon.server.openai.conversation import Conversation, wrong
from antiphon.server.openai.responses_answer import (
    OutputMessage,
    OutputPart,
    ResponseObject,
    begun_response,
    ended_response,
    failed_response,
    new_id,
)
from antiphon.server.openai.responses_request import ResponsesRequest, read_input
from antiphon.server.openai.schemas import ERRORS, sampling_params
from antiphon.server.service import Service, checked, until_gone
from antiphon.types import Completion, Finished, Request, SamplingParams, TextDelta

__all__ = ["responses"]


@dataclass(frozen=True)
class _Turn:
    """One reply that is to be given."""

    request: Request
    params: SamplingParams
    conversation: Conversation
    begun: ResponseObject
    message_id: str


def responses(service: Service) -> APIRouter:
    """`/v1/responses`."""
    router = APIRouter(tags=["responses"], route_class=JsonRoute)

    @router.post(
        "/v1/responses", response_model=ResponseObject, responses={**ERRORS, 200: {"content": EVENTS}}
    )
    async def respond(body: ResponsesRequest, http: HttpRequest) -> Any:
        """The reply to a conversation."""
        turn = await until_gone(http, _read(service, body))
        if body.stream:
            return await begun(http, _events(service, turn))
        with turn.conversation.named():
            completion = await until_gone(http, service.complete(turn.request, turn.params))
        return ended_response(turn.begun, turn.message_id, completion)

    return router


async def _read(service: Service, body: ResponsesRequest) -> _Turn:
    response = begun_response(body, service.check_model(body.model))
    if body.stream_options is not None and not body.stream:
        raise wrong("stream_options", "it needs stream")
    params = sampling_params(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        seed=body.seed,
        max_tokens=body.max_output_tokens,
        ignore_eos=body.ignore_eos,
    )
    conversation = await read_input(service, body)
    request = Request(messages=conversation.messages, request_id=response.id)
    return _Turn(request, params, conversation, response, new_id("msg"))


async def _events(service: Service, turn: _Turn) -> AsyncGenerator[str, None]:
    """The events of a streamed answer, in OpenAI's order. Whatever goes wrong before the first is raised;
    later, the last event tells it."""
    told = _Told(turn)
    has_begun = False
    try:
        with turn.conversation.named():
            async with aclosing(service.stream(turn.request, turn.params)) as events:
                async for each in events:
                    completion = checked(each.completion) if isinstance(each, Finished) else None
                    if not has_begun:
                        has_begun = True
                        for first in told.first():
                            yield first
                    if isinstance(each, TextDelta):
                        yield told.text(each.text)
                    elif completion is not None:
                        for last in told.last(completion):
                            yield last
    except Exception as error:
        if not has_begun:
            raise
        found = api_error(error)
        yield told.failure(found)
        yield error_event(found)


class _Told:
    """Events, numbered."""

    def __init__(self, turn: _Turn) -> None:
        self._turn = turn
        self._number = -1

    def first(self) -> list[str]:
        turn = self._turn
        message = OutputMessage(id=turn.message_id, status="in_progress", content=[])
        return [
            self._event("response.created", response=turn.begun.model_dump()),
            self._event("response.in_progress", response=turn.begun.model_dump()),
            self._event("response.output_item.added", output_index=0, item=message.model_dump()),
            self._of_part("response.content_part.added", part=OutputPart.of("").model_dump()),
        ]

    def text(self, text: str) -> str:
        return self._of_part("response.output_text.delta", delta=text, logprobs=[])

    def last(self, completion: Completion) -> list[str]:
        """The end of the text, of its part, of its message, and of the answer."""
        turn, text = self._turn, completion.text
        ended = ended_response(turn.begun, turn.message_id, completion)
        [message] = ended.output
        return [
            self._of_part("response.output_text.done", text=text, logprobs=[]),
            self._of_part("response.content_part.done", part=message.content[0].model_dump()),
            self._event("response.output_item.done", output_index=0, item=message.model_dump()),
            self._event(f"response.{ended.status}", response=ended.model_dump()),
        ]

    def failure(self, error: ApiError) -> str:
        failed = failed_response(self._turn.begun, error.message)
        return self._event("response.failed", response=failed.model_dump())

    def _of_part(self, name: str, **fields: Any) -> str:
        """An event about the only part of the only message."""
        place = {"item_id": self._turn.message_id, "output_index": 0, "content_index": 0}
        return self._event(name, **place, **fields)

    def _event(self, name: str, **fields: Any) -> str:
        self._number += 1
        return event({"type": name, "sequence_number": self._number, **fields}, name)
