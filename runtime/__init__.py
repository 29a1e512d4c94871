"""Antiphon: an inference runtime for Stream-Omni models."""

from typing import TYPE_CHECKING, Any

from antiphon.config import InputLimits, StreamSchedule
from antiphon.errors import (
    AntiphonError,
    CheckpointError,
    ConfigError,
    EngineBusy,
    EngineDead,
    EngineOverloaded,
    InvalidRequest,
)
from antiphon.outputs.transcription import Segment, Transcription, Word
from antiphon.process.footprint import switch_telemetry_off
from antiphon.types import (
    AudioDelta,
    Completion,
    Event,
    Finished,
    Image,
    Message,
    Request,
    RequestMetrics,
    SamplingParams,
    Speech,
    TextDelta,
    TranscriptDelta,
    TranscriptUpdate,
    UnitDelta,
    Units,
)

if TYPE_CHECKING:
    from antiphon.aio.async_engine import AsyncEngine
    from antiphon.engine.engine import Engine

    __version__: str

__all__ = [
    "AntiphonError",
    "AsyncEngine",
    "AudioDelta",
    "CheckpointError",
    "Completion",
    "ConfigError",
    "Engine",
    "EngineBusy",
    "EngineDead",
    "EngineOverloaded",
    "Event",
    "Finished",
    "Image",
    "InputLimits",
    "InvalidRequest",
    "Message",
    "Request",
    "RequestMetrics",
    "SamplingParams",
    "Segment",
    "Speech",
    "StreamSchedule",
    "TextDelta",
    "TranscriptDelta",
    "TranscriptUpdate",
    "Transcription",
    "UnitDelta",
    "Units",
    "Word",
    "__version__",
]


switch_telemetry_off()  # here, so that it applies whichever module imports onnxruntime first


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """The engines import torch, which takes a second, so they are loaded when they are first asked for. So is
    the version."""
    import antiphon.process.origin  # noqa: F401 - notes whether torch has been imported already

    if name == "Engine":
        from antiphon.engine.engine import Engine

        return Engine
    if name == "AsyncEngine":
        from antiphon.aio.async_engine import AsyncEngine

        return AsyncEngine
    if name == "__version__":
        from importlib.metadata import version

        return version("antiphon")
    raise AttributeError(f"module 'antiphon' has no attribute {name!r}")
