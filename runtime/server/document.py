"""The OpenAPI document, `/openapi.json`: what the routes declare, corrected where FastAPI guesses."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from antiphon.server.gate import OPEN_PATHS

__all__ = ["describe"]

ASSUMED = ("HTTPValidationError", "ValidationError")
"""FastAPI's own errors, with status 422, which this server answers as 400 in OpenAI's form."""


def describe(app: FastAPI, *, needs_key: bool) -> dict[str, Any]:
    """The document of an application. needs_key: whether clients must send one."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        parts = document.setdefault("components", {})
        for name in ASSUMED:
            parts.get("schemas", {}).pop(name, None)
        for path, operations in document["paths"].items():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                if path in OPEN_PATHS or not needs_key:
                    operation["responses"].pop("401", None)
                else:
                    operation["security"] = [{"key": []}]
        if needs_key:
            parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        app.openapi_schema = document
    return app.openapi_schema
