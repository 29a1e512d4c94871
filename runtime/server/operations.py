"""What an operator asks: whether the server is there, whether it may be sent requests, and how it does."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from antiphon.server.service import Service

__all__ = ["operations"]


def operations(service: Service) -> APIRouter:
    """`/health`, `/ready`, `/ping`, `/version` and `/metrics`."""
    router = APIRouter(tags=["operations"])

    @router.get("/health", responses={503: {"description": "The engine has failed."}})
    async def health() -> Response:
        """200 while the engine lives."""
        return _told(is_fine=service.keeper.is_alive)

    @router.get("/ready", responses={503: {"description": "Not now: it loads, drains, or has failed."}})
    async def ready() -> Response:
        """200 while requests are taken."""
        return _told(is_fine=service.keeper.is_alive and not service.is_draining)

    @router.get("/ping")
    async def ping() -> Response:
        """200 while the server answers at all."""
        return _told(is_fine=True)

    @router.get("/version")
    async def version() -> dict[str, str]:
        """The version of Antiphon."""
        import antiphon

        return {"version": antiphon.__version__}

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Prometheus's text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router


def _told(*, is_fine: bool) -> JSONResponse:
    body: dict[str, Any] = {"status": "ok" if is_fine else "unavailable"}
    return JSONResponse(body, 200 if is_fine else 503)
