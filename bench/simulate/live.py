"""Requests that are heard while they are spoken: what the engine's thread does before their reply."""

from __future__ import annotations

from antiphon.bench.simulate.asked import Asked, state_of
from antiphon.bench.simulate.costs import Served
from antiphon.bench.simulate.prompts import Prompts
from antiphon.prompt import GrowingPrompt
from antiphon.sched.scheduler import Scheduler
from antiphon.types import UNITS_PER_S

__all__ = ["begin_reading", "confirm", "grow"]


def begin_reading(asked: Asked, scheduler: Scheduler, served: Served) -> None:
    """Its user has begun to speak."""
    assert asked.growing is not None
    state = state_of(asked.arrival, f"{asked.name}, heard", asked.growing, served)
    if not asked.is_over and asked.state is None and scheduler.fits(state):
        asked.reader = state
        scheduler.add(state)


def grow(asked: Asked, heard_s: float, scheduler: Scheduler, prompts: Prompts) -> None:
    """So much of its speech has been heard."""
    reader = asked.reader
    if reader is None or reader.finished:
        return
    assert asked.prompt is not None
    assert isinstance(reader.prompt, GrowingPrompt)
    units = prompts.units_of(asked.prompt)[: round(heard_s * UNITS_PER_S)]
    grown = reader.prompt.with_units(units)
    if scheduler.fits(reader, num_more=len(grown.ids) - len(reader.prompt.ids)):
        scheduler.update_speech(reader, grown)


def confirm(asked: Asked, scheduler: Scheduler, now_s: float) -> bool:
    """Its turn is over: the user waits for its reply, and hears what was kept of it. True: that was all."""
    if asked.reader is not None and not asked.reader.finished:
        scheduler.finish(asked.reader, "abort")
    if asked.is_over:
        return False
    if asked.state is not None and asked.state.is_speculative:
        scheduler.confirm(asked.state)
    if asked.has_text:
        asked.reply.add_text(now_s)
    for seconds in asked.kept:
        asked.reply.add_audio(now_s, seconds)
    asked.kept.clear()
    return asked.has_last
