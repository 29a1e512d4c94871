"""The three ports of the released code: controller, codec worker and model worker over one service."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import partial
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from antiphon.errors import EngineDead
from antiphon.server.errors import ApiError, api_error
from antiphon.server.gate import Gate
from antiphon.server.reference.codec_worker import WavFolder, codec_worker
from antiphon.server.reference.controller import controller
from antiphon.server.reference.model_worker import model_worker
from antiphon.server.service import Service
from antiphon.server.settings import ReferenceSettings, ServerSettings
from antiphon.server.site import Site

__all__ = ["address_for", "listening_host", "open_ports"]

LOOPBACK = "127.0.0.1"


def open_ports(service: Service, settings: ReferenceSettings) -> list[Site]:
    """Bind the ports. `ConfigError` if one cannot be bound, or if speech cannot be written."""
    sites: list[Site] = []
    try:
        folder = WavFolder(settings.wav_dir, service.settings.audio_expiry_s)
        host = listening_host(service.settings)

        def site(name: str, port: int, routes: Sequence[Route]) -> Site:
            on_close = folder.close if not sites else lambda: None
            timeout_s = service.settings.send_timeout_s
            sites.append(Site(name, _app(service, routes), host, port, on_close, send_timeout_s=timeout_s))
            return sites[-1]

        site("codec worker", settings.codec_worker_port, codec_worker(service, folder))
        worker = site("model worker", settings.worker_port, model_worker(service))
        address = partial(address_for, worker.address)
        routes = controller(service, address, takes_workers=settings.allow_external_workers)
        site("controller", settings.controller_port, routes)
    except BaseException:
        for opened in sites:
            opened.close()
        raise
    return sites


def listening_host(settings: ServerSettings) -> str:
    """Where these ports listen: without keys, only this machine is answered."""
    return settings.host if settings.api_keys or _is_loopback(settings.host) else LOOPBACK


def address_for(bound: str, name: str | None) -> str:
    """The address of a port for a client that knows this host by a name. bound: where it listens, which may
    be everywhere."""
    place = urlsplit(bound)
    if place.hostname not in ("0.0.0.0", "::") or not name:
        return bound
    return f"http://[{name}]:{place.port}" if ":" in name else f"http://{name}:{place.port}"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _app(service: Service, routes: Sequence[Route]) -> Gate:
    handlers = dict.fromkeys((HTTPException, ApiError, EngineDead), _told)
    app = Starlette(routes=routes, exception_handlers=handlers)
    settings = service.settings
    return Gate(app, keys=settings.api_keys, max_body_bytes=settings.max_body_bytes)


async def _told(_: HttpRequest, error: Exception) -> Response:
    """An error outside of a stream of messages, in the form of the released code's framework."""
    if isinstance(error, HTTPException):
        return JSONResponse({"detail": str(error.detail)}, error.status_code, dict(error.headers or {}))
    found = api_error(error)
    return JSONResponse({"detail": found.message}, found.status, found.headers)
