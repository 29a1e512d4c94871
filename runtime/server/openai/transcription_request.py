"""The form that asks for a transcript."""

from __future__ import annotations

from typing import Literal

from fastapi import UploadFile
from pydantic import Field, field_validator

from antiphon.server.errors import ApiError
from antiphon.server.openai.schemas import Strict

__all__ = ["Granularity", "TranscriptionForm"]

Granularity = Literal["word", "segment"]


class TranscriptionForm(Strict):
    """The fields that can be honoured; every other is refused by its name."""

    file: UploadFile
    """Sound of any kind that the engine reads."""
    model: str = Field(max_length=1000)
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    stream: bool = False
    language: str | None = Field(default=None, max_length=100)
    """English, or nothing: there is nothing else to choose."""
    temperature: float = 0.0
    """0: the model has no other way to transcribe."""
    chunking_strategy: Literal["auto"] | None = None
    """Recordings are always cut at pauses."""
    timestamp_granularities: list[Granularity] = Field(default=[], max_length=2)
    timestamp_granularities_: list[Granularity] = Field(
        default=[], max_length=2, alias="timestamp_granularities[]"
    )
    """The same, as the openai package names it."""

    @field_validator("language")
    @classmethod
    def _is_english(cls, language: str | None) -> str | None:
        name = (language or "en").lower().replace("_", "-")
        if name not in ("en", "english") and not name.startswith("en-"):
            raise ValueError("expected 'en' or nothing: the model cannot be told a language")
        return language

    @field_validator("temperature")
    @classmethod
    def _is_zero(cls, temperature: float) -> float:
        if temperature != 0:
            raise ValueError("expected 0: a transcript is not sampled")
        return temperature

    @property
    def granularities(self) -> set[Granularity]:
        """What times are wanted of; segments, unless it is said."""
        return {*self.timestamp_granularities, *self.timestamp_granularities_} or {"segment"}

    def check(self) -> None:
        """ApiError for fields that do not go together."""
        if self.stream and self.response_format not in ("json", "text"):
            raise ApiError(
                400,
                f"stream: expected false with response_format {self.response_format}",
                param="stream",
                code="invalid_value",
            )
        wants_times = self.timestamp_granularities or self.timestamp_granularities_
        if wants_times and self.response_format != "verbose_json":
            raise ApiError(
                400,
                "timestamp_granularities: expected response_format verbose_json",
                param="timestamp_granularities",
                code="invalid_value",
            )
