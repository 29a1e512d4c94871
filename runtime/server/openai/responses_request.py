"""The body of a request to `/v1/responses`, and its conversation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from antiphon.server.openai.conversation import Conversation, read_image, wrong
from antiphon.server.openai.schemas import (
    INT64,
    NoDict,
    NoList,
    ReplyRequest,
    Strict,
    Text,
    TextFormat,
    by_form,
)
from antiphon.server.service import Service
from antiphon.types import Part

__all__ = ["ResponsesRequest", "read_input"]


class InputText(Strict):
    """Text."""

    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: dict[str, Any] | None = None
    """Without effect, here and below: whatever can be shared is."""


class InputImage(Strict):
    """A picture."""

    type: Literal["input_image"]
    image_url: str
    """A data: URL, or one of a host that the server's operator allows."""
    detail: Literal["auto", "low", "high", "original"] | None = None
    """Without effect: the model decides how finely it looks."""
    file_id: None = None
    prompt_cache_breakpoint: dict[str, Any] | None = None


class OutputText(Strict):
    """Text of an earlier reply."""

    type: Literal["output_text"]
    text: str
    annotations: NoList | None = None
    logprobs: NoList | None = None
    parsed: Any = None
    """What clients that parse replies add; without effect."""


InputPart = Annotated[InputText | InputImage | OutputText, Field(discriminator="type")]
InputContent = Annotated[
    Annotated[str, Tag("string")] | Annotated[list[InputPart], Tag("other")], Discriminator(by_form)
]


class InputMessage(Strict):
    """A message, or an item of an earlier answer's output."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: InputContent
    id: str | None = None
    status: str | None = None
    phase: str | None = None


Input = Annotated[
    Annotated[str, Tag("string")] | Annotated[list[InputMessage], Field(min_length=1), Tag("other")],
    Discriminator(by_form),
]


class TextConfig(Strict):
    """The form of the reply: free text."""

    format: TextFormat | None = None


class ResponsesRequest(ReplyRequest):
    """A conversation to go on with, in text."""

    input: Input
    instructions: Text | None = None
    """A system message before all others."""
    max_output_tokens: Annotated[int, Field(ge=1, lt=INT64)] | None = None

    # Without effect on a reply.
    user: Text | None = None
    metadata: dict[Text, Text] | None = None

    # Only what asks for nothing.
    previous_response_id: None = None
    conversation: None = None
    background: Literal[False] | None = None
    include: NoList | None = None
    reasoning: NoDict | None = None
    text: TextConfig | None = None
    truncation: Literal["disabled"] | None = None


async def read_input(service: Service, body: ResponsesRequest) -> Conversation:
    """The messages, their pictures fetched. ApiError, naming its place, for whatever is wrong."""
    found = Conversation()
    if body.instructions is not None:
        found.add_system("instructions", "system", body.instructions)
    if isinstance(body.input, str):
        found.add("input", "user", body.input)
        return found
    for index, message in enumerate(body.input):
        place = f"input[{index}]"
        content = await _content(service, message, place)
        if message.role in ("system", "developer"):
            text = content if isinstance(content, str) else "".join(map(str, content))
            found.add_system(place, message.role, text)
        else:
            found.add(place, message.role, content)
    return found


async def _content(service: Service, message: InputMessage, place: str) -> str | list[Part]:
    if isinstance(message.content, str):
        return message.content
    parts: list[Part] = []
    for index, part in enumerate(message.content):
        where = f"{place}.content[{index}]"
        if isinstance(part, InputImage):
            if message.role != "user":
                raise wrong(where, f"a message of the {message.role} cannot hold pictures")
            parts.append(await read_image(service, part.image_url, f"{where}.image_url"))
        else:
            parts.append(part.text)
    return parts
