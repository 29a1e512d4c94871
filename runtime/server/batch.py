"""OpenAI's batch files: a request on each line of one, a result on each line of another."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from antiphon.errors import AntiphonError
from antiphon.server.in_process import InProcessAnswer, post

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["BATCH_URLS", "RESULT_PREFIX", "Finished", "answer_batch", "read_result"]

BATCH_URLS = ("/v1/chat/completions",)
"""The routes that take and give JSON, as a batch file does."""
RESULT_PREFIX = b'{"id": "batch_req_'
"""What every line of results begins with."""
FIELDS = frozenset({"custom_id", "method", "url", "body"})
RETRY_S = 0.5
MAX_SHOWN = 100


@dataclass
class Finished:
    """What results there are already: nothing of it is answered again."""

    custom_ids: set[str] = field(default_factory=set)
    """Of the requests that were sent, whatever their status."""
    refused_ids: set[str] = field(default_factory=set)
    """The ids of the results of lines that are no requests."""


@dataclass(frozen=True)
class _Asked:
    result_id: str
    custom_id: str
    url: str
    body: bytes


class _Refused(Exception):
    """A line that is no request."""

    def __init__(self, code: str, message: str, custom_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.custom_id = custom_id


def read_result(line: bytes, finished: Finished) -> bool:
    """Add a line of results to what is finished. False: it is none."""
    try:
        found = json.loads(line)
        result_id, custom_id = found["id"], found["custom_id"]
        has_response = found["response"] is not None
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    if not isinstance(result_id, str) or not isinstance(custom_id, (str, type(None))):
        return False
    if has_response and custom_id is not None:
        finished.custom_ids.add(custom_id)
    else:
        finished.refused_ids.add(result_id)
    return True


async def answer_batch(
    app: ASGIApp,
    lines: AsyncIterator[bytes | None],
    write: Callable[[bytes], None],
    *,
    concurrency: int,
    urls: Collection[str] = BATCH_URLS,
    finished: Finished | None = None,
    noted: Callable[[str], None] = lambda _: None,
) -> None:
    """Answer all lines, `concurrency` at a time. Those that are finished are passed over.

    lines: None is a line that is too long. write: takes one line of results at a time, as they complete.
    noted: called for each line, with "answered", "failed" (a status that is not 200), "refused" (no request)
    or "finished" (before).

    Raises AntiphonError if the engine dies: what is not answered then has no result.
    """
    finished = finished or Finished()
    seen: set[str] = set()
    running: set[asyncio.Task[None]] = set()
    number = 0

    async def answer(asked: _Asked) -> None:
        found = await _post(app, asked)
        write(_answered(asked, found))
        noted("answered" if found.status == 200 else "failed")

    try:
        async for line in lines:
            number += 1
            if line is not None and not line.strip():
                continue
            result_id = _result_id(number, line)
            try:
                asked = _read_line(result_id, line, urls, seen)
            except _Refused as refused:
                if result_id not in finished.refused_ids:
                    write(_refused(result_id, refused))
                noted("finished" if result_id in finished.refused_ids else "refused")
                continue
            seen.add(asked.custom_id)
            if asked.custom_id in finished.custom_ids:
                noted("finished")
                continue
            running.add(asyncio.create_task(answer(asked)))
            while len(running) >= concurrency:
                running = await _some_done(running)
        while running:
            running = await _some_done(running)
    finally:
        for task in running:
            task.cancel()
        for task in running:
            with suppress(BaseException):
                await task


async def _some_done(running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Waits until one has ended, and raises what it raised; those that go on."""
    done, left = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    return left


async def _post(app: ASGIApp, asked: _Asked) -> InProcessAnswer:
    while True:
        found = await post(app, asked.url, asked.body)
        if found.status == 503:
            raise AntiphonError(f"the engine has failed: {_message(found)}")
        if found.status != 429:
            return found
        await asyncio.sleep(RETRY_S)  # too many wait: it is sent again later


def _message(found: InProcessAnswer) -> str:
    try:
        return str(json.loads(found.body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return f"status {found.status}"


def _result_id(number: int, line: bytes | None) -> str:
    """The same whenever the same line of the same file is read."""
    return f"batch_req_{hashlib.sha256(b'%d:' % number + (line or b'')).hexdigest()[:24]}"


def _read_line(result_id: str, line: bytes | None, urls: Collection[str], seen: set[str]) -> _Asked:
    if line is None:
        raise _Refused("line_too_long", "the line is longer than a request may be")
    try:
        read = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _Refused("invalid_json", f"the line is not valid JSON: {error}"[: 2 * MAX_SHOWN]) from error
    if not isinstance(read, dict):
        raise _Refused("invalid_request", f"expected an object, got {type(read).__name__}")
    custom_id = read.get("custom_id")
    if not isinstance(custom_id, str):
        raise _Refused("invalid_custom_id", "custom_id: expected a string")
    if custom_id in seen:
        raise _Refused(
            "duplicate_custom_id", "custom_id: another line before this one has the same", custom_id
        )
    if unknown := sorted(set(read) - FIELDS):
        message = f"{unknown[0][:MAX_SHOWN]!a}: expected {', '.join(sorted(FIELDS))} and nothing else"
        raise _Refused("unknown_parameter", message, custom_id)
    if read.get("method") != "POST":
        raise _Refused("invalid_method", "method: expected 'POST'", custom_id)
    url, body = read.get("url"), read.get("body")
    if not isinstance(url, str) or url not in urls:
        raise _Refused("invalid_url", f"url: expected {' or '.join(map(repr, sorted(urls)))}", custom_id)
    if not isinstance(body, dict):
        raise _Refused("invalid_body", "body: expected an object", custom_id)
    if body.get("stream"):
        raise _Refused("unsupported_parameter", "body.stream: a batch has whole answers only", custom_id)
    return _Asked(result_id, custom_id, url, json.dumps(body).encode())


def _answered(asked: _Asked, found: InProcessAnswer) -> bytes:
    try:
        body: Any = json.loads(found.body)
    except ValueError:
        body = found.body.decode(errors="replace")
    response = {
        "status_code": found.status,
        "request_id": found.headers.get("x-request-id", ""),
        "body": body,
    }
    return _line(asked.result_id, asked.custom_id, response, None)


def _refused(result_id: str, refused: _Refused) -> bytes:
    return _line(result_id, refused.custom_id, None, {"code": refused.code, "message": str(refused)})


def _line(
    result_id: str, custom_id: str | None, response: dict[str, Any] | None, error: dict[str, Any] | None
) -> bytes:
    fields = {"id": result_id, "custom_id": custom_id, "response": response, "error": error}
    return json.dumps(fields).encode() + b"\n"
