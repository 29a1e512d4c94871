"""The requests of one call of `Engine.generate`, and what has come of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from antiphon.errors import AntiphonError, InvalidRequest
from antiphon.faults import describe
from antiphon.types import Completion, Event, Finished, Request, SamplingParams

__all__ = ["Batch"]


class Batch:
    """Every request of it has a completion in the end, at its own place."""

    def __init__(
        self,
        requests: Request | Iterable[Request],
        sampling_params: SamplingParams | Iterable[SamplingParams] | None,
    ) -> None:
        """Raises InvalidRequest for what are no requests, and for parameters that are not one for each."""
        self._requests: list[Any] = (
            [requests] if isinstance(requests, Request) else _listed("requests", requests)
        )
        count = len(self._requests)
        if sampling_params is None or isinstance(sampling_params, SamplingParams):
            self._params: list[Any] = [sampling_params] * count
        else:
            self._params = _listed("sampling_params", sampling_params)
        if len(self._params) != count:
            raise InvalidRequest(
                f"sampling_params: expected one, or one for each of {count} requests, got {len(self._params)}"
            )
        self._order: list[str | Completion] = []
        self._ids: set[str] = set()
        self._done: dict[str, Completion] = {}

    def asked(self) -> Iterator[tuple[Request, SamplingParams | None]]:
        return zip(self._requests, self._params, strict=True)

    def take(self, item: str | Completion) -> None:
        """The next request: its id, or its completion if it is not served."""
        self._order.append(item)
        if isinstance(item, str):
            self._ids.add(item)

    def check_id(self, request: Request) -> None:
        """Raise InvalidRequest for the id of another one: nobody could tell whose completion is whose."""
        if isinstance(request.request_id, str) and request.request_id in self._ids:
            raise InvalidRequest(f"request_id: {request.request_id!r} is that of an earlier one of this call")

    def refused(self, request: Any, error: BaseException, name: str) -> Completion:
        """Of a request that cannot be served. name: for one without an id that could be one."""
        request_id = getattr(request, "request_id", None)
        if not isinstance(request_id, str) or not request_id:
            request_id = name
        reason = str(error) if isinstance(error, AntiphonError) else describe(error)
        return Completion(request_id, finish_reason="error", error=reason)

    @property
    def waits_for(self) -> set[str]:
        """Ids of requests that have not finished."""
        return self._ids - self._done.keys()

    @property
    def is_waiting(self) -> bool:
        return len(self._done) < len(self._ids)

    def hear(self, events: Iterable[Event]) -> list[Event]:
        """Take what is told of these requests; returns what is told of others."""
        others = []
        for event in events:
            if event.request_id not in self._ids or event.request_id in self._done:
                others.append(event)
            elif isinstance(event, Finished):
                self._done[event.request_id] = event.completion
        return others

    def completions(self, cause: BaseException | None) -> list[Completion]:
        """In the order of the requests. cause: why those have none that have not finished."""
        reason = "not served" if cause is None else f"the engine has failed: {describe(cause)}"
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


def _listed(name: str, items: Any) -> list[Any]:
    if isinstance(items, (str, bytes)) or not isinstance(items, Iterable):
        raise InvalidRequest(f"{name}: expected one or several, got {type(items).__name__}")
    return list(items)
