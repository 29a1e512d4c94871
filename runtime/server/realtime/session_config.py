"""The `session` object of OpenAI's Realtime API: what a client can set, and what it means here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, TypeAdapter, ValidationError, field_validator

from antiphon.aio.conversation.settings import ConversationSettings, ReplyOptions
from antiphon.server.errors import ApiError, not_valid
from antiphon.server.openai.schemas import NoDict, NoList, Strict, Text, by_form, sampling_params
from antiphon.server.openai.voices import VoiceId, speaking_voice
from antiphon.server.realtime.sound import SoundFormat
from antiphon.server.service import Service
from antiphon.turns.settings import TurnDetection

__all__ = [
    "INF",
    "AnySession",
    "Format",
    "OutputAudio",
    "RealtimeConfig",
    "SessionConfig",
    "TranscriptionConfig",
    "conversation_settings",
    "default_config",
    "merged",
    "output_format",
    "reply_options",
    "session_json",
    "session_object",
]

INF = "inf"
MAX_TOKENS = Annotated[int, Field(ge=1, lt=2**31)] | Literal["inf"]
MAX_CHARS = 100_000
Modality = Literal["text", "audio"]


class Pcm(Strict):
    """Samples of 16 bits, little-endian, mono."""

    type: Literal["audio/pcm"]
    rate: Literal[16000, 24000] = 24000

    @property
    def sound(self) -> SoundFormat:
        return SoundFormat("pcm", self.rate)


class Pcmu(Strict):
    """G.711 mu-law."""

    type: Literal["audio/pcmu"]
    rate: Literal[8000] = 8000

    @property
    def sound(self) -> SoundFormat:
        return SoundFormat("ulaw", self.rate)


class Pcma(Strict):
    """G.711 A-law."""

    type: Literal["audio/pcma"]
    rate: Literal[8000] = 8000

    @property
    def sound(self) -> SoundFormat:
        return SoundFormat("alaw", self.rate)


Format = Annotated[Pcm | Pcmu | Pcma, Field(discriminator="type")]


class Transcription(Strict):
    """That what the user says is written down, which is always done by the model itself."""

    model: str | None = Field(default=None, max_length=1000)
    """Without effect: clients must name a model of OpenAI's."""
    language: str | None = Field(default=None, max_length=100)
    delay: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None
    """Without effect: text comes as soon as it is known."""
    prompt: Literal[""] | None = None
    keywords: NoList | None = None
    languages: NoList | None = None

    @field_validator("language")
    @classmethod
    def _is_english(cls, language: str | None) -> str | None:
        name = (language or "en").lower().replace("_", "-")
        if name not in ("en", "english") and not name.startswith("en-"):
            raise ValueError("expected 'en' or nothing: the model cannot be told a language")
        return language


class ServerVad(Strict):
    """A turn ends with a silence of a given length."""

    type: Literal["server_vad"]
    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500
    create_response: bool = True
    interrupt_response: bool = True
    idle_timeout_ms: int | None = None


class SemanticVad(Strict):
    """A turn ends with a silence whose length depends on what was said."""

    type: Literal["semantic_vad"]
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True


Vad = Annotated[ServerVad | SemanticVad, Field(discriminator="type")]


class InputAudio(Strict):
    """How the user is heard."""

    format: Format = Pcm(type="audio/pcm")
    noise_reduction: NoDict | None = None
    transcription: Transcription | None = Transcription()
    turn_detection: Vad | None = ServerVad(type="server_vad")

    @field_validator("turn_detection", mode="before")
    @classmethod
    def _is_off(cls, given: Any) -> Any:
        """Some clients, which cannot send null, send false."""
        return None if given is False else given


class OutputAudio(Strict):
    """How replies sound."""

    format: Format = Pcm(type="audio/pcm")
    voice: str | VoiceId | None = None
    speed: float = 1.0

    @field_validator("speed")
    @classmethod
    def _is_plain(cls, speed: float) -> float:
        if speed != 1:
            raise ValueError("expected 1: the speed of replies cannot be changed")
        return speed


class Audio(Strict):
    input: InputAudio = InputAudio()
    output: OutputAudio = OutputAudio()


class HeardAudio(Strict):
    input: InputAudio = InputAudio()


class RetentionRatio(Strict):
    """Of a conversation that grows too long, this share of what there is room for goes on being read."""

    type: Literal["retention_ratio"]
    retention_ratio: float = Field(gt=0, le=1)
    token_limits: NoDict | None = None


Truncation = Annotated[
    Annotated[Literal["auto", "disabled"], Tag("string")] | Annotated[RetentionRatio, Tag("other")],
    Discriminator(by_form),
]


class RealtimeConfig(Strict):
    """A session in which the model replies."""

    type: Literal["realtime"] = "realtime"
    model: str | None = Field(default=None, max_length=1000)
    output_modalities: Annotated[list[Modality], Field(min_length=1, max_length=2)] = Field(
        default_factory=lambda: list[Modality](["audio"])
    )
    instructions: Annotated[Text, Field(max_length=MAX_CHARS)] | None = None
    audio: Audio = Audio()
    max_output_tokens: MAX_TOKENS = "inf"
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """As in the beta; 0 unless it is given."""
    truncation: Truncation = "auto"
    """What becomes of a conversation that grows too long for the model."""
    antiphon_events: bool = False
    """Whether the events that OpenAI does not have are sent."""

    # Only what asks for nothing.
    tools: NoList | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    tracing: NoDict | None = None
    include: NoList | None = None
    prompt: NoDict | None = None
    reasoning: NoDict | None = None

    @field_validator("output_modalities")
    @classmethod
    def _is_known(cls, given: list[str]) -> list[str]:
        return ["audio"] if "audio" in given else ["text"]  # a spoken reply always has its text

    @field_validator("truncation", mode="before")
    @classmethod
    def _is_given(cls, given: Any) -> Any:
        return "auto" if given is None else given

    @property
    def is_spoken(self) -> bool:
        return self.output_modalities == ["audio"]


class TranscriptionConfig(Strict):
    """A session in which the model only writes down what it hears."""

    type: Literal["transcription"] = "transcription"
    audio: HeardAudio = HeardAudio()
    include: NoList | None = None
    antiphon_events: bool = False


SessionConfig = RealtimeConfig | TranscriptionConfig
AnySession: TypeAdapter[SessionConfig] = TypeAdapter(Annotated[SessionConfig, Field(discriminator="type")])


def default_config(service: Service, kind: str = "realtime") -> SessionConfig:
    """What a session begins with. kind: its type."""
    if kind == "transcription":
        return TranscriptionConfig()
    speaks = service.engine.engine.codec is not None
    return RealtimeConfig(output_modalities=["audio"] if speaks else ["text"])


def merged(config: SessionConfig, given: Any, place: str = "session") -> SessionConfig:
    """The configuration with the fields that a client gives changed. ApiError for what cannot be. place: what
    their names stand below."""
    if not isinstance(given, dict):
        raise ApiError(400, "session: expected an object", param="session", code="invalid_value")
    kind = given.get("type", config.type)
    if kind != config.type:
        raise ApiError(
            400,
            f"session.type: this session is of type {config.type!r}, which cannot be changed",
            param="session.type",
            code="invalid_value",
        )
    body = _merged(config.model_dump(exclude_unset=True), {**given, "type": kind})
    try:
        return AnySession.validate_python(body)
    except ValidationError as error:
        first = error.errors()[0]
        loc = first["loc"][1:] if first["loc"][:1] == (kind,) else first["loc"]
        raise not_valid({**first, "loc": (place, *loc)}, {place: body}) from None


def session_json(service: Service, config: SessionConfig) -> dict[str, Any]:
    """A configuration as clients see it. Leaves out what is not set: some fail on fields they do not know."""
    told = config.model_dump(exclude_none=True, exclude={"antiphon_events"})
    for name in ("noise_reduction", "transcription", "turn_detection"):
        told["audio"]["input"].setdefault(name, None)  # null says that there is none
    if isinstance(config, RealtimeConfig):
        told = {"model": service.model_name, "tools": [], "tool_choice": "auto", **told}
        told.setdefault("instructions", "")
    return {**told, "antiphon_events": config.antiphon_events}


def session_object(config: SessionConfig) -> str:
    """What the API calls a session of this type."""
    return f"realtime.{'session' if config.type == 'realtime' else 'transcription_session'}"


def _merged(before: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Objects of the same kind are merged, and all else is replaced."""
    after = dict(before)
    for name, value in given.items():
        old = before.get(name)
        if isinstance(old, dict) and isinstance(value, dict) and _are_alike(old, value):
            after[name] = _merged(old, value)
        else:
            after[name] = value
    return after


def _are_alike(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return "type" not in old or new.get("type", old["type"]) == old["type"]


def output_format(config: RealtimeConfig) -> SoundFormat:
    """Of the sound of replies."""
    return config.audio.output.format.sound


def reply_options(service: Service, config: RealtimeConfig, where: str = "session") -> ReplyOptions:
    """How replies are made. ApiError, with the place of the field, for what this server cannot."""
    service.check_model(config.model)
    voice = None
    if config.is_spoken:
        voice = speaking_voice(service, config.audio.output.voice, f"{where}.audio.output.voice")
    most = None if config.max_output_tokens == INF else config.max_output_tokens
    return ReplyOptions(
        modalities=("text", "audio") if config.is_spoken else ("text",),
        system=config.instructions,
        voice=voice,
        sampling_params=sampling_params(temperature=config.temperature, max_tokens=most),
    )


def conversation_settings(service: Service, config: SessionConfig) -> ConversationSettings:
    """The conversation's settings for a session. ApiError or InvalidRequest for what cannot be."""
    vad = config.audio.input.turn_detection
    replies = isinstance(config, RealtimeConfig)
    detection = None
    if vad is not None:
        fields = vad.model_dump(exclude={"type"})
        if not replies:
            fields |= {"create_response": False, "interrupt_response": False}
        detection = TurnDetection(kind=vad.type, **fields)
    timeout_s = service.settings.request_timeout_s
    if isinstance(config, RealtimeConfig):
        settings = ConversationSettings(
            reply=reply_options(service, config), turn_detection=detection, reply_timeout_s=timeout_s
        )
        if config.truncation == "auto":
            return settings
        ratio = None if config.truncation == "disabled" else config.truncation.retention_ratio
        return replace(settings, retention_ratio=ratio)
    return ConversationSettings(
        reply=ReplyOptions(modalities=("text",)), turn_detection=detection, speculate=False
    )
