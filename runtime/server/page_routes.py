"""`/`, the page on which people talk with the model, and the files that it consists of."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.responses import Response

from antiphon.server.service import Service

__all__ = ["PAGE_PATHS", "page"]

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
INDEX = "index.html"
FILES = {
    entry.name: entry.read_bytes()
    for entry in files("antiphon.server").joinpath("page").iterdir()
    if "." + entry.name.rpartition(".")[2] in TYPES
}
"""By name, all that the page consists of: some 60 kB."""
PAGE_PATHS = frozenset({"/", *(f"/page/{name}" for name in FILES if name != INDEX)})
"""What needs no key: the page asks for it."""

DIRECTIVES = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob: data:",
    "connect-src": "'self'",
    "media-src": "'self' blob:",
    "worker-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {sources}" for name, sources in DIRECTIVES.items()),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(self), geolocation=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""no-cache: browsers ask each time whether a file has changed, so that files of two versions never meet."""


def page(_: Service) -> APIRouter:
    """`/` and `/page/{name}`."""
    router = APIRouter(include_in_schema=False)

    def add(path: str, name: str) -> None:
        body = FILES[name]
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers = HEADERS | {"ETag": tag}
        media_type = TYPES["." + name.rpartition(".")[2]]

        async def answer(request: Request) -> Response:
            known = request.headers.get("if-none-match", "")
            if known == "*" or tag in (given.strip().removeprefix("W/") for given in known.split(",")):
                return Response(status_code=304, headers=headers)
            return Response(body, media_type=media_type, headers=headers)

        router.add_api_route(path, answer, methods=["GET", "HEAD"])

    add("/", INDEX)
    for name in sorted(FILES.keys() - {INDEX}):
        add(f"/page/{name}", name)
    return router
