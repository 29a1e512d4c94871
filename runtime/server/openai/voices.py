"""OpenAI's names of voices, and the codec's."""

from __future__ import annotations

from pydantic import Field

from antiphon.server.errors import ApiError
from antiphon.server.openai.schemas import Strict
from antiphon.server.service import Service

__all__ = ["OPENAI_VOICES", "VoiceId", "speaking_voice"]

# fmt: off
OPENAI_VOICES = frozenset({
    "default", "alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage",
    "shimmer", "verse",
})
# fmt: on
"""They stand for the codec's default voice, unless it has one of that name: clients that must name a voice
know these."""
MAX_LISTED = 20


class VoiceId(Strict):
    """A voice, as clients name those they have made."""

    id: str = Field(max_length=1000)


def speaking_voice(service: Service, voice: str | VoiceId | None, param: str) -> str | None:
    """The codec's name of a voice; None is its default. ApiError 400, naming `param`, for a voice that it
    does not have, or if there is no codec to speak with."""
    codec = service.engine.engine.codec
    if codec is None:
        message = f"{param}: this server has no codec, so it does not speak"
        raise ApiError(400, message, param=param, code="unsupported_value")
    name = voice.id if isinstance(voice, VoiceId) else voice
    if name is None or name in codec.voices:
        return name
    if name in OPENAI_VOICES and not isinstance(voice, VoiceId):
        return None
    known = ", ".join(codec.voices[:MAX_LISTED])
    message = (
        f"{param}: expected one of {known}, or a name of OpenAI's for the default one, got {name[:100]!a}"
    )
    raise ApiError(400, message, param=param, code="invalid_value")
