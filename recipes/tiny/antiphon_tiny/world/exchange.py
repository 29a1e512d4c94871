"""One turn of a conversation, and several with what they are about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from antiphon_tiny.world.scene import Scene, Shape

__all__ = ["Exchange", "Sample"]


@dataclass(frozen=True)
class Exchange:
    question: str
    answer: str
    topic: str
    """What kind of question it is, for counting how well each is answered."""
    closed: bool = False
    """The answer is one of a fixed list (a fact, a greeting): training must see it, whatever its digest."""
    fixed: bool = False
    """The question too is one of a fixed list, so that only what surrounds it can be new."""
    about: Any = None
    """What a follow-up may take up: a `Filter`, a sum, a name."""
    rests_on: tuple[Shape, ...] = ()
    """The shapes of the picture that the answer is read off."""


@dataclass(frozen=True)
class Sample:
    """A conversation. Only its last answer is what an evaluation asks for."""

    turns: tuple[Exchange, ...]
    scene: Scene | None = None

    @property
    def topic(self) -> str:
        return self.turns[-1].topic

    @property
    def answer(self) -> str:
        return self.turns[-1].answer

    @property
    def messages(self) -> list[tuple[str, str]]:
        """(role, text) up to the last question; the picture belongs in the first of them."""
        said = [(("user", turn.question), ("assistant", turn.answer)) for turn in self.turns]
        return [message for pair in said for message in pair][:-1]
