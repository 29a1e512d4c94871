"""Every error as OpenAI's error object: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from antiphon.errors import EngineDead, EngineOverloaded, InvalidRequest
from antiphon.process.faults import log_fault
from antiphon.server.keeper import EngineAway

__all__ = ["ApiError", "add_handlers", "api_error", "error_response", "not_valid"]

RETRY_AFTER_S = 1
"""When a client that was refused for load may try again."""
PLACE = re.compile(r"^([\w.\[\]]+): ")
"""Our own messages begin with the argument that they are about."""
CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large", 415: "unsupported_media_type"}


class ApiError(Exception):
    """An answer that is an error. `status` is the HTTP status, the rest is the error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = _encodable(message)
        self.kind = kind
        self.param = None if param is None else _encodable(param)
        self.code = code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The JSON body, which is also the data of an error inside a stream."""
        fields = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": fields}


def api_error(error: BaseException) -> ApiError:
    """The answer for whatever was raised."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, InvalidRequest):
        place = PLACE.match(str(error))
        return ApiError(400, str(error), param=place[1] if place else None, code="invalid_value")
    if isinstance(error, EngineOverloaded):
        headers = {"Retry-After": str(RETRY_AFTER_S)}
        return ApiError(429, str(error), kind="rate_limit_error", code="overloaded", headers=headers)
    if isinstance(error, EngineDead):
        wait_s = error.retry_after_s if isinstance(error, EngineAway) else RETRY_AFTER_S
        headers = {"Retry-After": str(wait_s)}
        return ApiError(503, str(error), kind="server_error", code="engine_dead", headers=headers)
    log_fault("a request could not be answered", error=error)
    return ApiError(
        500, "the server failed to answer; its log says why", kind="server_error", code="internal"
    )


def error_response(error: BaseException) -> JSONResponse:
    found = api_error(error)
    return JSONResponse(found.body(), found.status, found.headers)


def add_handlers(app: FastAPI) -> None:
    """Have an application answer all errors in this form."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    for kind in (ApiError, InvalidRequest, EngineOverloaded, EngineDead, Exception):
        app.add_exception_handler(kind, _raised)


async def _raised(_: Request, error: Exception) -> JSONResponse:
    return error_response(error)


async def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = CODES.get(error.status_code)
    headers = dict(error.headers or {})
    return error_response(ApiError(error.status_code, str(error.detail), code=code, headers=headers))


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return error_response(ApiError(400, "the body is not valid JSON", code="invalid_json"))
    if first["loc"] == ("body",) and first["type"] in ("model_attributes_type", "missing"):
        message = "the body: expected a JSON object, sent with Content-Type: application/json"
        return error_response(ApiError(400, message, code="invalid_json"))
    return error_response(not_valid(first, error.body))


def not_valid(first: Mapping[str, Any], body: Any, prefix: str = "") -> ApiError:
    """The first thing that does not fit a schema, as pydantic tells it, by its name in the body. prefix: what
    comes before that name."""
    param = (prefix + _place(first["loc"], body)).rstrip(".") or None
    if first["type"] == "extra_forbidden":
        message = f"{param}: this server does not support it"
        return ApiError(400, message, param=param, code="unsupported_parameter")
    message = str(first["msg"]).removeprefix("Value error, ")
    told = f"{param}: {message}" if param else message
    return ApiError(400, told, param=param, code="invalid_value")


def _encodable(text: str) -> str:
    """Text that can be sent: JSON may name lone surrogates, and messages quote it."""
    return text.encode("utf-8", "backslashreplace").decode()


def _place(loc: Sequence[str | int], body: Any) -> str:
    """Where in a body something does not fit, such as `messages[0].content`.

    Pydantic's path also names the members of unions that it has tried: those are no keys of the body.
    """
    place, here = "", body
    for index, part in enumerate(loc):
        if index == 0 and part in ("body", "query", "path", "header", "cookie"):
            continue
        is_last = index == len(loc) - 1
        if isinstance(part, int):
            place += f"[{part}]"
            here = here[part] if isinstance(here, list) and part < len(here) else None
        elif (isinstance(here, dict) and part in here) or (is_last and isinstance(here, dict)) or not place:
            place += f".{part}" if place else part
            here = here.get(part) if isinstance(here, dict) else None
    return place
