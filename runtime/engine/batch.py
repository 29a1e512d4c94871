"""The requests of one call of `Engine.generate`, and their results so far."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from antiphon.engine.arguments import all_requests, given_id, one_each
from antiphon.errors import AntiphonError, InvalidRequest
from antiphon.plain import told
from antiphon.types import Completion, Event, Finished, Request, SamplingParams

__all__ = ["Batch"]


class Batch:
    """In the end, every request has a completion, and they are in the order of the requests."""

    def __init__(
        self,
        requests: Request | Iterable[Request],
        sampling_params: SamplingParams | Iterable[SamplingParams] | None,
    ) -> None:
        """Raises InvalidRequest if these are not requests, or not parameters for each of them."""
        self._requests = all_requests(requests)
        self._params = one_each(sampling_params, len(self._requests))
        self._order: list[str | Completion] = []
        self._ids: set[str] = set()
        self._done: dict[str, Completion] = {}

    def asked(self) -> Iterator[tuple[Request, SamplingParams | None]]:
        return zip(self._requests, self._params, strict=True)

    def take(self, item: str | Completion) -> None:
        """Record the next request: its id, or its completion if it is not served."""
        self._order.append(item)
        if isinstance(item, str):
            self._ids.add(item)

    def check_id(self, request: Request) -> None:
        """Raise InvalidRequest if another request has this id: nobody could tell their completions apart."""
        if request.request_id in self._ids:
            raise InvalidRequest(
                f"request_id: {request.request_id!r} is that of an earlier request of this call"
            )

    def refused(self, request: Any, error: BaseException, name: str) -> Completion:
        """The completion of a request that cannot be served. name: its id, if it has no valid one."""
        request_id = given_id(request) or name
        reason = str(error) if isinstance(error, AntiphonError) else told(error)
        return Completion(request_id, finish_reason="error", error=reason)

    @property
    def waits_for(self) -> set[str]:
        """Ids of requests that have not finished."""
        return self._ids - self._done.keys()

    @property
    def is_waiting(self) -> bool:
        return len(self._done) < len(self._ids)

    def collect(self, events: Iterable[Event]) -> list[Event]:
        """Take the events of these requests; returns those of others."""
        others = []
        for event in events:
            if event.request_id not in self._ids or event.request_id in self._done:
                others.append(event)
            elif isinstance(event, Finished):
                self._done[event.request_id] = event.completion
        return others

    def completions(self, cause: BaseException | None) -> list[Completion]:
        """All completions, in the order of the requests. cause: why some have not finished, if any."""
        reason = "not served" if cause is None else f"the engine has failed: {told(cause)}"
        found = [
            item
            if isinstance(item, Completion)
            else self._done.get(item) or Completion(item, finish_reason="error", error=reason)
            for item in self._order
        ]
        found += [
            self.refused(request, RuntimeError(reason), f"request-{place}")
            for place, request in enumerate(self._requests[len(found) :], len(found))
        ]
        return found
