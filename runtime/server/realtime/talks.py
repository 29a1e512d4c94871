"""All conversations of a server: how many there may be, who may come back, and how they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from antiphon.server.errors import ApiError
from antiphon.server.realtime.client_secrets import ClientSecrets
from antiphon.server.realtime.talk import GOING_AWAY, NORMAL, Talk
from antiphon.server.service import Service

__all__ = ["Holder", "Talks"]

FLUSH_S = 5.0
"""How long clients may take for their last events when the server ends."""


class Holder:
    """A socket that has a session."""

    def __init__(self) -> None:
        self.is_taken = asyncio.Event()
        """Set when another takes the session over."""
        self.has_left = asyncio.Event()
        """Set when it sends nothing more of the session."""


class Talks:
    """Owns the sessions of all dialects, those that wait for their clients to come back included."""

    def __init__(self, service: Service) -> None:
        self.secrets = ClientSecrets(named=service.settings.named)
        self._service = service
        self._talks: dict[str, Talk] = {}
        """By their tokens."""
        self._endings: dict[str, asyncio.Task[None]] = {}
        """By their tokens: what ends them when the time is over, of the session or of the wait."""
        self._holders: dict[str, Holder] = {}
        """By tokens of those that have one."""
        self._serving: set[asyncio.Task[object]] = set()
        service.on_drain.append(self.drain)

    def __len__(self) -> int:
        return len(self._talks)

    def has_room(self) -> bool:
        """Whether another session may begin."""
        return len(self._talks) < self._service.settings.realtime_max_sessions

    async def add(self, talk: Talk) -> None:
        """A session begins."""
        self._talks[talk.token] = talk
        self._service.metrics.conversations.inc()
        await talk.start()

    def find(self, token: str) -> Talk | None:
        """The session that a client wants back."""
        talk = self._talks.get(token)
        return talk if talk is not None and talk.can_return else None

    async def attach(self, talk: Talk, holder: Holder, after: int | None) -> bool:
        """A socket has the session from now on, in place of any that has it. after: the number of the last
        event that its client has; None: it has begun with this socket. False, and nothing has changed, if
        what follows that event is not there any more."""
        async with talk.taking:
            if after is not None and not talk.outbox.may_rewind(after):
                return False
            if (other := self._holders.pop(talk.token, None)) is not None:
                other.is_taken.set()
                await other.has_left.wait()
            if after is not None:
                talk.outbox.rewind(after)
            self._holders[talk.token] = holder
        error = ApiError(400, "the session has lasted as long as it may", code="session_expired")
        left_s = talk.expires_s - time.time()
        self._schedule(talk, left_s, lambda: talk.end(NORMAL, "the session has expired", error))
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        return True

    def detach(self, talk: Talk, holder: Holder, *, may_return: bool) -> None:
        """A socket is done with the session. may_return: whether its client may come back."""
        holder.has_left.set()
        if self._holders.get(talk.token) is not holder:
            return
        del self._holders[talk.token]
        wait_s = self._service.settings.realtime_resume_s if may_return and talk.can_return else 0.0
        self._schedule(talk, wait_s, lambda: self.remove(talk))

    async def drain(self, deadline_s: float) -> None:
        """End all sessions, each when its replies are made, or at the deadline."""
        await asyncio.gather(*(self._end_in_order(talk, deadline_s) for talk in list(self._talks.values())))
        if self._serving:
            await asyncio.wait(set(self._serving), timeout=FLUSH_S)

    async def close(self) -> None:
        """End all sessions at once."""
        await asyncio.gather(*(self.remove(talk) for talk in list(self._talks.values())))
        for task in list(self._endings.values()):
            task.cancel()

    async def _end_in_order(self, talk: Talk, deadline_s: float) -> None:
        while talk.num_replies and time.monotonic() < deadline_s:
            await asyncio.sleep(0.02)
        error = ApiError(503, "the server is shutting down", kind="server_error", code="shutting_down")
        await talk.end(GOING_AWAY, "the server is shutting down", error)

    async def remove(self, talk: Talk) -> None:
        """End a session at once; nobody comes back to it."""
        if self._talks.pop(talk.token, None) is None:
            return
        try:
            await talk.end()
        finally:
            self._service.metrics.conversations.dec()

    def _schedule(self, talk: Talk, seconds: float, ending: Callable[[], Awaitable[None]]) -> None:
        """Have a session end in so many seconds, in place of what was to end it before."""

        async def end() -> None:
            if seconds > 0:
                await asyncio.sleep(seconds)
            await ending()

        if (before := self._endings.pop(talk.token, None)) is not None:
            before.cancel()
        task = self._endings[talk.token] = asyncio.create_task(end())

        def forget(done: asyncio.Task[None]) -> None:
            if self._endings.get(talk.token) is done:
                del self._endings[talk.token]

        task.add_done_callback(forget)
