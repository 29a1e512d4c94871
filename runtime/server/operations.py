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

    keeper = service.keeper

    @router.get("/health", responses={503: {"description": "There is no engine, or it has failed."}})
    async def health() -> Response:
        """200 while the engine lives."""
        return _told(keeper.state, is_fine=keeper.is_alive, retry_after_s=keeper.retry_after_s)

    @router.get("/ready", responses={503: {"description": "Not now: it loads, drains, or has failed."}})
    async def ready() -> Response:
        """200 while requests are taken."""
        is_fine = keeper.is_alive and not service.is_draining
        detail = "the server is shutting down" if service.is_draining else keeper.state
        return _told(detail, is_fine=is_fine, retry_after_s=keeper.retry_after_s)

    @router.get("/ping")
    async def ping() -> Response:
        """200 while the server answers at all."""
        return _told("", is_fine=True)

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


def _told(detail: str, *, is_fine: bool, retry_after_s: int = 1) -> JSONResponse:
    """detail: what is the matter, if something is."""
    if is_fine:
        return JSONResponse({"status": "ok"})
    body: dict[str, Any] = {"status": "unavailable", "detail": detail}
    return JSONResponse(body, 503, {"Retry-After": str(retry_after_s)})
