"""How a conversation goes, and how one reply of it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from antiphon.errors import InvalidRequest
from antiphon.turns.settings import TurnDetection
from antiphon.types import SamplingParams

__all__ = ["ConversationSettings", "ReplyOptions"]

MODALITIES = (("text",), ("text", "audio"))


@dataclass(frozen=True)
class ReplyOptions:
    """How a reply is made."""

    modalities: tuple[str, ...] = ("text", "audio")
    """("text",) or ("text", "audio")."""
    system: str | None = None
    """The system message; None: the model's default, or that of the items."""
    voice: str | None = None
    sampling_params: SamplingParams = field(default_factory=SamplingParams)

    def __post_init__(self) -> None:
        if tuple(self.modalities) not in MODALITIES:
            raise InvalidRequest(
                f"modalities: expected ('text',) or ('text', 'audio'), got {self.modalities!r}"
            )


@dataclass(frozen=True)
class ConversationSettings:
    """How a conversation goes."""

    reply: ReplyOptions = field(default_factory=ReplyOptions)
    """How replies are made where a client does not say otherwise."""
    turn_detection: TurnDetection | None = field(default_factory=TurnDetection)
    """When a turn ends; None: when the client commits."""
    activity: Literal["auto", "silero", "energy"] = "auto"
    """What hears whether somebody speaks; "auto" is `silero` where that is installed."""
    speculate: bool = True
    """Whether a reply is begun in each pause, and kept back until the turn is over. It changes nothing but
    how soon the reply comes, and what that costs."""
    history: bool = True
    """Whether the model reads earlier turns and replies. Without it, it reads a turn with no more than the
    system messages, and what was added since the last turn or reply."""
