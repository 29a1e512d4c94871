"""How a conversation goes, and how one reply of it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from antiphon.errors import InvalidRequest
from antiphon.plain import number
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
    retention_ratio: float | None = 0.8
    """When the conversation grows too long for the model, its oldest turns are no longer read, until what
    follows the system messages takes at most this share of its room; above 0, at most 1. The items stay.
    A prompt that begins elsewhere finds nothing in the prefix cache, so it is better to leave out more than
    is needed, and seldom. None: all turns are read, and a reply that has no room for them fails."""
    reply_timeout_s: float | None = None
    """A reply that takes longer than this to be made ends as failed. None: there is no limit."""

    def __post_init__(self) -> None:
        if self.retention_ratio is not None:
            ratio = number("retention_ratio", self.retention_ratio, 0.0, 1.0, above=True)
            object.__setattr__(self, "retention_ratio", ratio)
        if self.reply_timeout_s is not None:
            timeout_s = number("reply_timeout_s", self.reply_timeout_s, 0.0, above=True)
            object.__setattr__(self, "reply_timeout_s", timeout_s)
