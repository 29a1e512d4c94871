"""The commands that the engine's thread takes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeAlias

from antiphon.aio.mailbox import Mailbox
from antiphon.prompt import Prompt
from antiphon.types import Request, SamplingParams

__all__ = ["Abort", "Add", "Close", "Command", "Commit", "Confirm", "Leave", "UpdateSpeech"]


@dataclass(frozen=True, eq=False)
class Add:
    """Take a request that has been prepared."""

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
class Confirm:
    """Somebody waits for the speculative request of this id; `done` gets whether there is a request."""

    request_id: str
    confirmed_s: float
    """On the clock of `time.perf_counter`."""
    done: Future[bool]


@dataclass(frozen=True, eq=False)
class UpdateSpeech:
    """Replace the units heard so far of the mailbox's open request. `done` ends when the engine has
    them, or carries the InvalidRequest."""

    mailbox: Mailbox
    units: Sequence[int]
    done: Future[None]


@dataclass(frozen=True, eq=False)
class Commit:
    """The user of the mailbox's open request has finished. `done` is as for `UpdateSpeech`."""

    mailbox: Mailbox
    units: Sequence[int] | None
    """All of them; None: those that the engine has."""
    done: Future[None]
    committed_s: float
    """On the clock of `time.perf_counter`."""
    no_speech: bool
    """Whether all that was heard is silence or noise."""


@dataclass(frozen=True)
class Close:
    """End the thread."""


Command: TypeAlias = Add | Leave | Abort | Confirm | UpdateSpeech | Commit | Close
