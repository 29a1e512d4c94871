"""The codec worker: a recording to units, and units to a wav file."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from antiphon.errors import ConfigError, InvalidRequest
from antiphon.server.errors import api_error
from antiphon.server.reference.model_worker import told_body
from antiphon.server.reference.prompt import read_units, units_text
from antiphon.server.service import Service, until_gone

__all__ = ["WavFolder", "codec_worker"]

LOOK_S = 1.0
"""How often it is looked whether the thread that makes speech still lives."""


class Tokens(BaseModel):
    """The body of `/token_to_speech`."""

    model_config = ConfigDict(extra="ignore")

    tokens: str


class WavFolder:
    """Where speech is written. Without a folder of the operator's it is a private one, which is removed by
    `close`, and from which old files are removed."""

    def __init__(self, folder: Path | None, expiry_s: float) -> None:
        """expiry_s: the age at which files of a private folder go. `ConfigError` for a folder that cannot be
        written to."""
        self._private = None
        self._expiry_s = expiry_s
        if folder is None:
            self._private = tempfile.TemporaryDirectory(prefix="antiphon-wav-")
            folder = Path(self._private.name)
        self.path = folder.absolute()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--wav-dir: {self.path}: {error.strerror or error}") from error
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise ConfigError(f"--wav-dir: {self.path}: it cannot be written to")

    def write(self, samples: Any, rate_hz: int) -> Path:
        """Write speech to a file that no other request has."""
        from antiphon.sound.writing import write_audio

        if self._private is not None:
            self._remove_old()
        path = self.path / f"{time.strftime('%Y%m%d_%H%M%S')}_{uuid.uuid4().hex}.wav"
        write_audio(path, samples, rate_hz)
        return path

    def close(self) -> None:
        """Remove a private folder."""
        if self._private is not None:
            with suppress(OSError):
                self._private.cleanup()

    def _remove_old(self) -> None:
        oldest_s = time.time() - self._expiry_s
        for path in self.path.iterdir():
            with suppress(OSError):  # another request removes it
                if path.stat().st_mtime < oldest_s:
                    path.unlink()


def codec_worker(service: Service, folder: WavFolder) -> list[Route]:
    """`/speech_to_token` and `/token_to_speech`."""

    async def speech_to_token(http: HttpRequest) -> dict[str, Any]:
        async with http.form(max_files=1, max_fields=16) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise InvalidRequest("file: expected an audio file as the multipart field `file`")
            data = await file.read()
        units = await until_gone(http, asyncio.to_thread(_units, service, data))
        return {"tokens": units_text(units)}

    async def token_to_speech(http: HttpRequest) -> dict[str, Any]:
        try:
            tokens = Tokens.model_validate_json(await http.body()).tokens
        except ValidationError as error:
            raise InvalidRequest(told_body(error)) from error
        units = read_units(tokens)
        return {"audio_file": str(await until_gone(http, _spoken(service, folder, units)))}

    return [
        Route(
            "/speech_to_token", _told(service, speech_to_token, "Error processing audio"), methods=["POST"]
        ),
        Route(
            "/token_to_speech", _told(service, token_to_speech, "Error generating speech"), methods=["POST"]
        ),
    ]


def _told(
    service: Service, work: Callable[[HttpRequest], Awaitable[dict[str, Any]]], what: str
) -> Callable[[HttpRequest], Awaitable[Response]]:
    """An endpoint that tells every error as the released clients expect it."""

    async def endpoint(http: HttpRequest) -> Response:
        try:
            with service.working():
                return JSONResponse(await work(http))
        except ClientDisconnect:
            raise
        except HTTPException as error:  # a form that cannot be read
            why = str(error.detail)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            why = api_error(error).message
        return JSONResponse({"detail": f"{what}: {why}"}, 500)

    return endpoint


def _codec(service: Service) -> Any:
    codec = service.engine.engine.codec
    if codec is None:
        raise InvalidRequest("the server was started without --codec")
    return codec


def _units(service: Service, data: bytes) -> list[int]:
    from antiphon.sound.reading import read_audio

    codec = _codec(service)
    units: list[int] = codec.tokenize(*read_audio(data, service.engine.engine.config.limits))
    if not units:
        raise InvalidRequest("file: expected speech of at least one unit, got none")
    return units


async def _spoken(service: Service, folder: WavFolder, units: list[int]) -> Path:
    """The file with the speech of these units."""
    codec, engine = _codec(service), service.engine.engine
    most = engine.config.max_model_len
    if len(units) > most:
        raise InvalidRequest(f"tokens: expected at most {most} units, got {len(units)}")
    worker = engine.speech_worker
    assert worker is not None, "there is one where there is a codec"
    # In the thread that makes all speech: a codec on a GPU serves one thread at a time.
    made = asyncio.wrap_future(worker.decode(units))
    try:
        while not made.done():
            await asyncio.wait([made], timeout=LOOK_S)
            worker.look_after()
    finally:
        made.cancel()
    return await asyncio.to_thread(folder.write, made.result(), codec.sample_rate_hz)
