"""The answers of `/v1/responses`: a reply as OpenAI's response object."""

from __future__ import annotations

import time
import uuid
from typing import Any, Literal

from pydantic import BaseModel, Field

from antiphon.server.openai.responses_request import ResponsesRequest
from antiphon.types import Completion

__all__ = [
    "OutputMessage",
    "OutputPart",
    "ResponseObject",
    "begun_response",
    "ended_response",
    "failed_response",
    "new_id",
]

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class OutputPart(BaseModel):
    """The text of a reply."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = Field(max_length=0)
    logprobs: list[Any] = Field(max_length=0)

    @classmethod
    def of(cls, text: str) -> OutputPart:
        """A part that holds a text."""
        return cls(text=text, annotations=[], logprobs=[])


class OutputMessage(BaseModel):
    """The reply."""

    type: Literal["message"] = "message"
    id: str
    role: Literal["assistant"] = "assistant"
    status: Status
    content: list[OutputPart]


class IncompleteDetails(BaseModel):
    """Why a reply has been cut."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseError(BaseModel):
    """Why there is no reply."""

    code: Literal["server_error"] = "server_error"
    message: str


class InputDetails(BaseModel):
    """Of the prompt's positions, those that the prefix cache held."""

    cached_tokens: int
    cache_write_tokens: Literal[0] = 0
    """Is not counted."""


class OutputDetails(BaseModel):
    """The model does not reason apart from its reply."""

    reasoning_tokens: Literal[0] = 0


class ResponseUsage(BaseModel):
    """What a request took: positions of the prompt, pictures included, and ids of text."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class FreeText(BaseModel):
    """The form of a reply."""

    type: Literal["text"] = "text"


class TextForm(BaseModel):
    """The form of a reply."""

    format: FreeText


class ResponseObject(BaseModel):
    """An answer, as far as it has come."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, Any] | None
    model: str
    output: list[OutputMessage]
    parallel_tool_calls: Literal[False] = False
    previous_response_id: None = None
    store: Literal[False] = False
    temperature: float
    text: TextForm
    tool_choice: Literal["none"] = "none"
    tools: list[Any] = Field(max_length=0)
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: str | None


def new_id(kind: str) -> str:
    """An id for a response or a message."""
    return f"{kind}_{uuid.uuid4().hex}"


def begun_response(body: ResponsesRequest, model: str) -> ResponseObject:
    """An answer that has begun."""
    return ResponseObject(
        id=new_id("resp"),
        created_at=int(time.time()),
        status="in_progress",
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata,
        model=model,
        output=[],
        temperature=body.temperature or 0.0,
        text=TextForm(format=FreeText()),
        tools=[],
        top_p=1.0 if body.top_p is None else body.top_p,
        user=body.user,
    )


def ended_response(response: ResponseObject, message_id: str, completion: Completion) -> ResponseObject:
    """An answer with its reply. One that was cut by a limit or because its time was over is incomplete."""
    metrics, is_whole = completion.metrics, completion.finish_reason == "stop"
    status: Status = "completed" if is_whole else "incomplete"
    message = OutputMessage(id=message_id, status=status, content=[OutputPart.of(completion.text)])
    num_in, num_out = metrics.num_prompt_tokens, len(completion.text_ids)
    return response.model_copy(
        update={
            "status": status,
            "completed_at": int(time.time()) if is_whole else None,
            "incomplete_details": None if is_whole else IncompleteDetails(),
            "output": [message],
            "usage": ResponseUsage(
                input_tokens=num_in,
                input_tokens_details=InputDetails(cached_tokens=metrics.num_cached_tokens),
                output_tokens=num_out,
                output_tokens_details=OutputDetails(),
                total_tokens=num_in + num_out,
            ),
        }
    )


def failed_response(response: ResponseObject, message: str) -> ResponseObject:
    """An answer that will have no end."""
    return response.model_copy(update={"status": "failed", "error": ResponseError(message=message)})
