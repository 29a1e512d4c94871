"""The controller: which workers there are, and requests relayed to the least loaded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from antiphon.errors import InvalidRequest
from antiphon.server.errors import api_error
from antiphon.server.reference.messages import LOST, NO_WORKER, NUL, WRONG, MessageStream, failure
from antiphon.server.reference.model_worker import answer, status, told_body
from antiphon.server.reference.outgoing import WorkerLost, check_url, post, post_for_json
from antiphon.server.reference.workers import Worker, Workers, WorkerStatus
from antiphon.server.service import Service

__all__ = ["controller"]


class Registration(BaseModel):
    """The body of `/register_worker`. Without a status, the worker is asked for it."""

    model_config = ConfigDict(extra="ignore")

    worker_name: str
    check_heart_beat: bool = True
    worker_status: WorkerStatus | None = None


class Heartbeat(BaseModel):
    """The body of `/receive_heart_beat`."""

    model_config = ConfigDict(extra="ignore")

    worker_name: str
    queue_length: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class Wanted(BaseModel):
    """A body that names a model."""

    model_config = ConfigDict(extra="ignore")

    model: str = ""


Body = TypeVar("Body", bound=BaseModel)
Address: TypeAlias = Callable[[str | None], str]
"""The built-in worker's address, for a client that reaches this host by such a name."""
NO_EXTERNAL = "this controller takes no workers: it was started without --allow-external-workers"


class _Controller:
    def __init__(self, service: Service, address: Address, *, takes_workers: bool) -> None:
        self._service = service
        self._address = address
        self._takes_workers = takes_workers
        self._workers = Workers()

    async def register_worker(self, http: HttpRequest) -> Response:
        asked = await _read(http, Registration)
        if self._is_own(http, asked.worker_name):
            return JSONResponse(None)
        if not self._takes_workers:
            raise HTTPException(403, NO_EXTERNAL)
        try:
            url = check_url(asked.worker_name)
            told = asked.worker_status or await _status(url)
            self._workers.register(url, told, expires=asked.check_heart_beat)
        except (InvalidRequest, WorkerLost) as error:
            raise HTTPException(400, str(error)) from error
        return JSONResponse(None)

    async def refresh_all_workers(self, _: HttpRequest) -> Response:
        async def refresh(worker: Worker) -> None:
            try:
                worker.status = await _status(worker.url)
            except WorkerLost:
                self._workers.forget(worker.url)

        await asyncio.gather(*map(refresh, self._workers.all()))
        return JSONResponse(None)

    async def list_models(self, _: HttpRequest) -> Response:
        return JSONResponse({"models": self._models()})

    async def get_worker_address(self, http: HttpRequest) -> Response:
        model = (await _read(http, Wanted)).model
        is_ours, other = self._choose(model)
        if other is not None:
            return JSONResponse({"address": other.url})
        return JSONResponse({"address": self._address(_host(http)) if is_ours else ""})

    async def receive_heart_beat(self, http: HttpRequest) -> Response:
        asked = await _read(http, Heartbeat)
        name = asked.worker_name.rstrip("/")
        is_known = self._is_own(http, name) or self._workers.hear(name, asked.queue_length)
        return JSONResponse({"exist": is_known})

    async def worker_generate_stream(self, http: HttpRequest) -> Response:
        return MessageStream(self._answer(await http.body()))

    async def worker_get_status(self, _: HttpRequest) -> Response:
        own, others = status(self._service), [worker.status for worker in self._workers.all()]
        return JSONResponse(
            {
                "model_names": self._models(),
                "speed": own["speed"] + sum(other.speed for other in others),
                "queue_length": own["queue_length"] + sum(other.queue_length for other in others),
            }
        )

    async def _answer(self, body: bytes) -> AsyncGenerator[bytes, None]:
        try:
            is_ours, other = self._choose(Wanted.model_validate_json(body).model)
            if other is None and not is_ours:
                yield failure(NO_WORKER, "nobody serves this model")
                return
            messages = answer(self._service, body) if other is None else self._relayed(other, body)
            async with aclosing(messages):
                async for told in messages:
                    yield told
        except ValidationError as error:
            yield failure(WRONG, told_body(error))
        except Exception as error:  # noqa: BLE001 - a client waits, whatever it is
            yield failure(WRONG, api_error(error).message)

    async def _relayed(self, worker: Worker, body: bytes) -> AsyncGenerator[bytes, None]:
        """The messages of another worker, each whole."""
        held, has_answered, most = b"", False, self._service.settings.max_body_bytes
        try:
            with worker.relaying(), self._service.working():
                async with aclosing(post(worker.url, "/worker_generate_stream", body)) as pieces:
                    async for piece in pieces:
                        whole, nul, held = (held + piece).rpartition(NUL)
                        if len(held) > most:
                            raise WorkerLost("sent a message that is too long")
                        if nul:
                            has_answered = True
                            yield whole + nul
            if held or not has_answered:
                raise WorkerLost("broke off")
        except WorkerLost as error:
            yield failure(LOST, f"the worker {error}")

    def _choose(self, model: str) -> tuple[bool, Worker | None]:
        """Whether the built-in worker serves a model; and another that does and has less to do."""
        is_ours = model == self._service.model_name
        other = self._workers.least_loaded(model)
        if is_ours and other is not None and self._service.num_running <= other.load:
            return True, None
        return is_ours, other

    def _models(self) -> list[str]:
        others = [name for worker in self._workers.all() for name in worker.status.model_names]
        return list(dict.fromkeys([self._service.model_name, *others]))

    def _is_own(self, http: HttpRequest, name: str) -> bool:
        return name.rstrip("/") == self._address(_host(http))


def controller(service: Service, address: Address, *, takes_workers: bool) -> list[Route]:
    """All paths of the controller.

    takes_workers: whether workers of other processes may register. What is told as a worker's URL is sent
    requests, so this is for trusted clients.
    """
    own = _Controller(service, address, takes_workers=takes_workers)
    endpoints = (
        own.register_worker,
        own.refresh_all_workers,
        own.list_models,
        own.get_worker_address,
        own.receive_heart_beat,
        own.worker_generate_stream,
        own.worker_get_status,
    )
    return [Route(f"/{endpoint.__name__}", endpoint, methods=["POST"]) for endpoint in endpoints]


def _host(http: HttpRequest) -> str | None:
    """The name by which the client knows this host, if it tells one."""
    try:
        return http.url.hostname
    except ValueError:
        return None


async def _read(http: HttpRequest, kind: type[Body]) -> Body:
    try:
        return kind.model_validate_json(await http.body())
    except ValidationError as error:
        raise HTTPException(400, told_body(error)) from error


async def _status(url: str) -> WorkerStatus:
    try:
        return WorkerStatus.model_validate(await post_for_json(url, "/worker_get_status"))
    except ValidationError as error:
        raise WorkerLost("did not tell its status") from error
