"""Bodies in JSON, of which large ones do not hold up the event loop.

CPython's parser runs in C and keeps other threads waiting until it is done, so a thread alone would not help:
large bodies are parsed step by step.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from json import decoder, scanner
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

__all__ = ["LARGE_BYTES", "JsonRoute", "parsed"]

LARGE_BYTES = 256 << 10
"""Bodies from this size on are parsed in a thread."""
STEP_CHARS = 256 << 10
"""How much of a string is checked at a time, which takes well below a millisecond."""
MAX_COMMAS = 20_000
"""A body with more holds many values rather than long strings: step by step, it would take several times as
long."""
MOST_COMMAS = 500_000
"""A body with more is refused: no model reads that many values, and parsing them in C would keep everybody
waiting for seconds."""

_scan_string: Callable[[str, int, bool], tuple[str, int]] = decoder.scanstring  # type: ignore[attr-defined]


class JsonRoute(APIRoute):
    """A route whose body is JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handler


class _JsonRequest(Request):
    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            pieces = [piece async for piece in self.stream()]
            is_large = sum(map(len, pieces)) >= LARGE_BYTES
            self._body = await asyncio.to_thread(b"".join, pieces) if is_large else b"".join(pieces)
        return self._body

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = await parsed(await self.body())
        return self._json


async def parsed(body: bytes) -> Any:
    """What `json.loads` returns or raises. Large bodies are parsed in a thread that lets others run; those of
    too many values are refused by an HTTPException."""
    if len(body) < LARGE_BYTES:
        return json.loads(body)
    return await asyncio.to_thread(_loaded, body)


def _loaded(body: bytes) -> Any:
    text = body.decode(json.detect_encoding(body), "surrogatepass")
    num_commas = text.count(",")
    if num_commas > MOST_COMMAS:
        raise HTTPException(413, f"the body: expected at most {MOST_COMMAS} commas, got {num_commas}")
    if text.startswith("\ufeff") or num_commas > MAX_COMMAS:
        return json.loads(text)
    return _StepwiseDecoder().decode(text)


class _StepwiseDecoder(json.JSONDecoder):
    """Python's own decoder in Python: only strings are read in C, and long ones piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self.parse_string = _read_string
        self.scan_once = scanner.py_make_scanner(self)  # type: ignore[attr-defined]


def _read_string(text: str, start: int, strict: bool = True) -> tuple[str, int]:
    """As `scanstring`: the string that begins there, and where it has ended."""
    end = text.find('"', start)
    if end - start < STEP_CHARS or text.find("\\", start, end) >= 0:
        return _scan_string(text, start, strict)
    for first in range(start, end, STEP_CHARS):
        piece = text[first : min(end, first + STEP_CHARS)]
        try:
            _scan_string(piece + '"', 0, strict)
        except json.JSONDecodeError:  # a control character: told with its place in the whole
            return _scan_string(text, start, strict)
    return text[start:end], end + 1
