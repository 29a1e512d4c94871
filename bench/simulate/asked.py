"""A request under way, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from antiphon.bench.serving.reply import Measured, Reply
from antiphon.bench.simulate.costs import Served
from antiphon.bench.simulate.speaking import EvenSpeaking
from antiphon.bench.simulate.traffic import Arrival
from antiphon.outputs.speech_job import Job
from antiphon.prompt import GrowingPrompt, Prompt
from antiphon.sched.request import RequestState
from antiphon.types import UNITS_PER_S, SamplingParams

__all__ = ["Asked", "Outcome", "state_of"]


@dataclass(frozen=True)
class Outcome:
    """What became of a request."""

    arrival: Arrival
    measured: Measured
    """As its client saw it; times from when it was due"""
    replica: str
    """Where it ended; empty: nowhere"""


@dataclass(eq=False)
class Asked:
    """A request under way."""

    name: str
    arrival: Arrival
    reply: Reply
    ended: Callable[[Asked, str | None], None]
    """Called once: with None if the reply is whole, else with why it is not."""
    prompt: Prompt | None = None
    growing: GrowingPrompt | None = None
    state: RequestState | None = None
    reader: RequestState | None = None
    """The request that reads a live one's speech while it is spoken"""
    job: Job | None = None
    num_told: int = 0
    """Units that the speech worker has"""
    has_text: bool = False
    waits_until_s: float = 0.0
    """Before this, its turn may go on: what is known of its reply is kept from its user"""
    kept: list[float] = field(default_factory=list)
    """Seconds of sound that are kept"""
    has_sound: bool = False
    """Some of its sound has been made."""
    has_last: bool = False
    """All of it has."""
    is_over: bool = False
    replica: str = ""
    """Where it is"""

    def hear(self, seconds: float, now_s: float, *, is_last: bool) -> bool:
        """More of its sound has been made. True: its user has all of it."""
        is_kept = now_s < self.waits_until_s
        self.has_sound = self.has_sound or seconds > 0
        self.has_last = self.has_last or is_last
        if seconds and is_kept:
            self.kept.append(seconds)
        elif seconds:
            self.reply.add_audio(now_s, seconds)
        return is_last and not is_kept


def state_of(arrival: Arrival, name: str, prompt: Prompt, served: Served) -> RequestState:
    """The scheduler's view of it: its reply is as long as the trace says, and asks for text evenly."""
    num_units = max(1, round(arrival.reply_s * UNITS_PER_S))
    state = RequestState(
        name,
        prompt,
        SamplingParams(max_tokens=arrival.reply_tokens, max_units=num_units, ignore_eos=True),
        speaks=True,
        config=served.model,
        cache=served.cache,
        carries_speech=_always,
        speaking=EvenSpeaking,
    )
    assert isinstance(state.speaking, EvenSpeaking)
    state.speaking.rate = max(0, arrival.reply_tokens - served.model.fusion_lag) / num_units
    return state


def _always(_: int) -> bool:
    return True
