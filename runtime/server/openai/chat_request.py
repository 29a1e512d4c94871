"""The body of a request to `/v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from antiphon.server.openai.schemas import INT64, NoDict, NoList, ReplyRequest, Strict, TextFormat, by_form
from antiphon.server.openai.voices import VoiceId
from antiphon.types import MAX_STOP_CHARS, MAX_STOP_STRINGS

__all__ = [
    "AssistantMessage",
    "AudioPart",
    "ChatRequest",
    "ImagePart",
    "SystemMessage",
    "TextPart",
    "UserMessage",
]

# --- messages ---------------------------------------------------------------------------------------


class TextPart(Strict):
    """Text."""

    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: dict[str, Any] | None = None
    """Without effect, here and below: whatever can be shared is."""


class ImageUrl(Strict):
    """Where a picture is."""

    url: str
    """A data: URL, or one of a host that the server's operator allows."""
    detail: Literal["auto", "low", "high", "original"] | None = None
    """Without effect: the model decides how finely it looks."""


class ImagePart(Strict):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl
    prompt_cache_breakpoint: dict[str, Any] | None = None


class InputAudio(Strict):
    """Speech."""

    data: str
    """A sound file in base64."""
    format: str = Field(max_length=100)
    """Its name; what the file holds decides."""


class AudioPart(Strict):
    """Speech of the user."""

    type: Literal["input_audio"]
    input_audio: InputAudio
    prompt_cache_breakpoint: dict[str, Any] | None = None


UserPart = Annotated[TextPart | ImagePart | AudioPart, Field(discriminator="type")]
UserContent = Annotated[
    Annotated[str, Tag("string")] | Annotated[list[UserPart], Tag("other")], Discriminator(by_form)
]
TextContent = Annotated[
    Annotated[str, Tag("string")] | Annotated[list[TextPart], Tag("other")], Discriminator(by_form)
]


class SystemMessage(Strict):
    """What the model is told about itself. All of them come first."""

    role: Literal["system", "developer"]
    content: TextContent


class UserMessage(Strict):
    """A user's turn."""

    role: Literal["user"]
    content: UserContent


class AudioReference(Strict):
    """An earlier spoken reply, as it was given. Only its id counts."""

    id: str
    data: str | None = None
    expires_at: int | None = None
    transcript: str | None = None


class AssistantMessage(Strict):
    """An earlier reply: its text, or the id of its sound."""

    role: Literal["assistant"]
    content: TextContent | None = None
    audio: AudioReference | None = None
    # What the client's own message objects hold as well.
    refusal: None = None
    annotations: NoList | None = None
    function_call: None = None
    tool_calls: NoList | None = None


ChatMessage = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


# --- the rest ---------------------------------------------------------------------------------------


class AudioOutput(Strict):
    """How replies are spoken."""

    format: Literal["wav", "mp3", "flac", "opus", "aac", "pcm16"]
    voice: Annotated[Annotated[str, Tag("string")] | Annotated[VoiceId, Tag("other")], Discriminator(by_form)]


Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
StopStrings = Annotated[
    Annotated[Stop, Tag("string")] | Annotated[list[Stop], Field(max_length=MAX_STOP_STRINGS), Tag("other")],
    Discriminator(by_form),
]


class ChatRequest(ReplyRequest):
    """A conversation to go on with."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    modalities: list[Literal["text", "audio"]] | None = None
    """["text"], or ["text", "audio"]."""
    audio: AudioOutput | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=INT64)] | None = None
    """Limit on the tokens of text, also of a spoken reply; for speech, see max_units."""
    max_tokens: Annotated[int, Field(ge=1, lt=INT64)] | None = None
    """The older name of max_completion_tokens."""
    stop: StopStrings | None = None
    """Of text-only replies."""
    max_units: Annotated[int, Field(ge=1, lt=INT64)] | None = None
    """Limit on the units of a spoken reply; 25 make a second. Not in OpenAI's API."""

    # Without effect on a reply.
    user: str | None = None
    metadata: dict[str, Any] | None = None

    # Only what asks for nothing.
    n: Literal[1] | None = None
    response_format: TextFormat | None = None
    logprobs: Literal[False] | None = None
    logit_bias: NoDict | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
