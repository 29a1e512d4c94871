"""What the OpenAI routes' requests and answers have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from antiphon.types import Completion, FinishReason, SamplingParams

__all__ = [
    "ERRORS",
    "INT64",
    "CompletionDetails",
    "ErrorBody",
    "NoDict",
    "NoList",
    "PromptDetails",
    "ReplyRequest",
    "StreamOptions",
    "Strict",
    "Text",
    "TextFormat",
    "Usage",
    "by_form",
    "errors",
    "finish_reason",
    "input_transcript",
    "sampling_params",
]


INT64 = 2**63


class Strict(BaseModel):
    """A part of a request. A field that it does not have is refused, never ignored."""

    model_config = ConfigDict(extra="forbid")


def by_form(value: Any) -> str:
    """Which member of a union a value is for: "string" or "other"."""
    return "string" if isinstance(value, str) else "other"


def _refused(value: Any) -> Any:
    if value:
        raise PydanticCustomError("extra_forbidden", "this server does not support it")
    return value


def _unicode(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise PydanticCustomError(
                "string_unicode", "expected valid Unicode, got a lone surrogate"
            ) from None
    return text


Text = Annotated[str, AfterValidator(_unicode)]
"""Text that comes back in an answer, which must be possible to send."""
NoList = Annotated[list[Any], Field(max_length=0), BeforeValidator(_refused)]
"""A list for something that is not supported: only an empty one is accepted, which asks for nothing."""
NoDict = Annotated[dict[str, Any], Field(max_length=0), BeforeValidator(_refused)]


class TextFormat(Strict):
    """The only form of a reply: free text."""

    type: Literal["text"]


class StreamOptions(Strict):
    """How an answer is streamed."""

    include_usage: bool | None = None
    """A last chunk says what was used."""
    include_obfuscation: bool | None = None
    """Without effect: nothing is padded."""


class ReplyRequest(Strict):
    """What chats and responses are asked with alike."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 unless it is given."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    """In OpenAI's API, chats alone have it."""
    top_k: Annotated[int, Field(ge=-1, lt=INT64)] | None = None
    """Keep this many of the most likely ids; 0 and -1 keep all. As in vLLM, not in OpenAI's API."""
    ignore_eos: bool | None = None
    """Go on to the limit. As in vLLM, not in OpenAI's API."""

    # Without effect on a reply.
    store: bool | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    parallel_tool_calls: bool | None = None

    # Only what asks for nothing.
    tools: NoList | None = None
    tool_choice: Literal["none", "auto"] | None = None
    top_logprobs: Literal[0] | None = None


class Error(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The answer to a request that failed."""

    error: Error


_STATUSES = {
    400: "A field is wrong, or asks for what is not supported; `param` names it.",
    401: "An API key is needed.",
    404: "There is no such model, voice or spoken reply.",
    413: "The body is too large.",
    429: "Too many requests wait. `Retry-After` says when to try again.",
    500: "The server failed to answer.",
    503: "The engine has failed, or the server is about to end.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the `responses` of a route: the errors that it may answer."""
    return {status: {"model": ErrorBody, "description": _STATUSES[status]} for status in statuses}


ERRORS = errors(*_STATUSES)
"""Those of a route that asks the engine."""


class PromptDetails(BaseModel):
    """Positions of the prompt, by what stands there."""

    audio_tokens: int
    text_tokens: int
    image_tokens: int
    cached_tokens: int


class CompletionDetails(BaseModel):
    """Ids picked: units of speech, and text."""

    audio_tokens: int
    text_tokens: int
    reasoning_tokens: int


class Usage(BaseModel):
    """What a request took. Tokens are positions of the LLM in the prompt; in the reply, text ids and units,
    stop ids included."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails

    @classmethod
    def of(cls, completion: Completion) -> Usage:
        """What a request that has ended took."""
        metrics = completion.metrics
        num_text, num_units = len(completion.text_ids), len(completion.unit_ids)
        others = metrics.num_prompt_units + metrics.num_image_positions
        return cls(
            prompt_tokens=metrics.num_prompt_tokens,
            completion_tokens=num_text + num_units,
            total_tokens=metrics.num_prompt_tokens + num_text + num_units,
            prompt_tokens_details=PromptDetails(
                audio_tokens=metrics.num_prompt_units,
                text_tokens=metrics.num_prompt_tokens - others,
                image_tokens=metrics.num_image_positions,
                cached_tokens=metrics.num_cached_tokens,
            ),
            completion_tokens_details=CompletionDetails(
                audio_tokens=num_units, text_tokens=num_text, reasoning_tokens=0
            ),
        )


def sampling_params(**given: Any) -> SamplingParams:
    """Parameters by their names; None is the engine's default, and a top_k of -1 keeps all ids."""
    if given.get("top_k") == -1:
        given["top_k"] = 0
    return SamplingParams(**{name: value for name, value in given.items() if value is not None})


def finish_reason(reason: FinishReason) -> Literal["stop", "length"]:
    """OpenAI's word. A request is aborted when its time is over, so that its reply is cut: "length"."""
    return "stop" if reason == "stop" else "length"


def input_transcript(completion: Completion) -> str | None:
    """What was heard in the last message that holds speech; None if no message does."""
    return completion.transcript.strip() if completion.metrics.num_prompt_units else None
