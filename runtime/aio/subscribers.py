"""The mailboxes of the requests that an engine runs, and what the engine's thread does with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from antiphon.aio.commands import Add, Commit, UpdateSpeech
from antiphon.aio.mailbox import Mailbox
from antiphon.engine.engine import Engine
from antiphon.errors import EngineOverloaded, InvalidRequest
from antiphon.process.faults import log_fault
from antiphon.prompt import Prompt
from antiphon.types import Event, Finished

__all__ = ["Subscribers"]


class Subscribers:
    """Adds requests to an engine and delivers their events. Belongs to one thread, and has no lock."""

    def __init__(
        self,
        engine: Engine,
        wake: Callable[[Iterable[Mailbox]], None],
        refuse: Callable[[Mailbox, BaseException], None],
    ) -> None:
        """wake: wakes the readers of mailboxes. refuse: ends a mailbox with an error. Neither raises."""
        self._engine = engine
        self._wake = wake
        self._refuse = refuse
        self._mailboxes: dict[str, Mailbox] = {}
        self._aborted: set[str] = set()
        """Ids whose last event the engine has yet to tell."""

    @property
    def mailboxes(self) -> list[Mailbox]:
        """Those whose last event has not been delivered."""
        return list(self._mailboxes.values())

    def add(self, command: Add) -> None:
        """Add a request to the engine, unless its reader has left. If the engine refuses it, the mailbox gets
        the error. Raises only if the engine has failed."""
        mailbox = command.mailbox
        if command.request.request_id in self._aborted:
            self.step()  # delivers the end of the earlier request that had this id
        if command.prompt is None or mailbox.is_over:
            return
        try:
            self._take(command, command.prompt)
        except BaseException as error:
            # A request that was not taken leaves the engine as it was: the others go on.
            if self._engine.is_closed:
                raise
            if not isinstance(error, (InvalidRequest, EngineOverloaded)):
                log_fault("a request could not be taken", error=error)
                self._abort_unread()
            self._refuse(mailbox, error)

    def update_speech(self, command: UpdateSpeech) -> None:
        """See `Engine.update_speech`."""
        self._engine.update_speech(self._growing(command.mailbox), command.units)

    def commit(self, command: Commit) -> None:
        """See `Engine.commit`."""
        self._engine.commit(
            self._growing(command.mailbox),
            command.units,
            committed_s=command.committed_s,
            no_speech=command.no_speech,
        )

    def confirm(self, request_id: str, confirmed_s: float) -> bool:
        """See `Engine.confirm`."""
        return self._engine.confirm(request_id, confirmed_s)

    def leave(self, mailbox: Mailbox) -> None:
        """Abort the request of a mailbox that nobody reads any more."""
        request_id = mailbox.request_id
        if request_id is not None and self._is_of(request_id, mailbox):
            del self._mailboxes[request_id]
            self.abort(request_id)

    def abort(self, request_id: str) -> bool:
        """Abort a request of the engine. Returns whether there was one; `step` delivers its end."""
        found = self._engine.abort(request_id)
        if found:
            self._aborted.add(request_id)
        return found

    def step(self) -> None:
        """Step the engine, and deliver what it tells."""
        events = self._engine.step()
        self._aborted.clear()
        self._deliver(events)

    def _take(self, command: Add, prompt: Prompt) -> None:
        mailbox = command.mailbox
        request_id = self._engine.add_prepared(
            command.request, prompt, command.sampling_params, arrived_s=command.arrived_s
        )
        mailbox.request_id, mailbox.is_taken = request_id, True
        self._mailboxes[request_id] = mailbox
        if mailbox.confirmed_s is not None:
            self._engine.confirm(request_id, mailbox.confirmed_s)
        if prompt.is_growing:
            self._wake([mailbox])

    def _abort_unread(self) -> None:
        """Abort requests that the engine took by a call that then failed."""
        for request_id in self._engine.request_ids:
            if request_id not in self._mailboxes:
                self.abort(request_id)

    def _growing(self, mailbox: Mailbox) -> str:
        """The id of the mailbox's request, which must not have ended."""
        request_id = mailbox.request_id
        if request_id is None or not self._is_of(request_id, mailbox) or request_id in self._aborted:
            raise InvalidRequest("the request has ended")
        return request_id

    def _is_of(self, request_id: str, mailbox: Mailbox) -> bool:
        """Whether the id is still that of the mailbox's request: once that has ended, another may use it."""
        return self._mailboxes.get(request_id) is mailbox

    def _deliver(self, events: Iterable[Event]) -> None:
        batches: dict[Mailbox, list[Event]] = {}
        for event in events:
            if (mailbox := self._mailboxes.get(event.request_id)) is not None:
                batches.setdefault(mailbox, []).append(event)
                if isinstance(event, Finished):
                    del self._mailboxes[event.request_id]
        for mailbox, batch in batches.items():
            try:
                mailbox.put(batch)
            except BaseException as error:  # noqa: BLE001 - the stream would go on with a gap
                log_fault("events of %s were lost", mailbox.request_id, error=error)
                self.leave(mailbox)
                self._refuse(mailbox, error)
        self._wake(batches)
        for mailbox in batches:
            if mailbox.is_abandoned:
                self.leave(mailbox)
