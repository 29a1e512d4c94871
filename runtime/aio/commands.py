"""What the engine's thread is told."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeAlias

from antiphon.aio.mailbox import Mailbox
from antiphon.prompt import Prompt
from antiphon.types import Request, SamplingParams

__all__ = ["Abort", "Add", "Close", "Command", "Leave", "Revise"]


@dataclass(frozen=True, eq=False)
class Add:
    """Take a request that was prepared."""

    mailbox: Mailbox
    request: Request
    sampling_params: SamplingParams | None
    arrived_s: float
    """On the clock of `time.perf_counter`."""
    prompt: Prompt | None
    """None: its reader had left before it was read."""


@dataclass(frozen=True, eq=False)
class Leave:
    """Nobody reads the mailbox any more: abort its request."""

    mailbox: Mailbox


@dataclass(frozen=True, eq=False)
class Abort:
    """Abort the request of this id; `done` gets whether there was one."""

    request_id: str
    done: Future[bool]


@dataclass(frozen=True, eq=False)
class Revise:
    """Let these units be what was heard so far of the mailbox's open request; None: those that are.

    `done` ends when that is so, or has the InvalidRequest.
    """

    mailbox: Mailbox
    units: Sequence[int] | None
    done: Future[None]
    committed_s: float | None = None
    """When its user had said all, on the clock of `time.perf_counter`; None: there is more to come."""
    no_speech: bool = False
    """Whether all that was heard is silence or noise."""


@dataclass(frozen=True)
class Close:
    """End the thread."""


Command: TypeAlias = Add | Leave | Abort | Revise | Close
