"""One line for each answer, as text or as JSON: which request, and how it went; never what it said."""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

__all__ = ["log_access", "logs_written"]

LOGGERS = {"antiphon": logging.INFO, "uvicorn": logging.WARNING, "asyncio": logging.WARNING}
"""Whose logs are written, from which level on."""
MAX_WAITING = 10_000
"""Lines that wait while stderr takes none; more are dropped."""
CLOSE_S = 2.0
"""How long the last lines may take."""
MAX_PATH_CHARS = 200

_LOG = logging.getLogger("antiphon.server")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= getattr(record, "fields", {})
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=True)


class _Writer(logging.Handler):
    """Writes from a thread of its own: a file or a pipe that takes nothing must not hold up the server."""

    def __init__(self, file: IO[str]) -> None:
        super().__init__()
        self._file = file
        self._lines: queue.Queue[str | None] = queue.Queue(MAX_WAITING)
        self._num_dropped = 0
        self._thread = threading.Thread(target=self._run, name="antiphon-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._num_dropped += 1
        except Exception:  # noqa: BLE001 - a line that cannot be formatted
            self.handleError(record)

    def end(self) -> None:
        """Write what waits, for as long as that may take."""
        try:
            self._lines.put(None, timeout=CLOSE_S)
        except queue.Full:
            return
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            self._write(line)
            if self._num_dropped and self._lines.empty():
                dropped, self._num_dropped = self._num_dropped, 0
                record = _LOG.makeRecord(
                    _LOG.name, logging.WARNING, "", 0, "%d lines were dropped", (dropped,), None
                )
                self._write(self.format(record))

    def _write(self, line: str) -> None:
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except Exception:  # noqa: BLE001 - a full disk, or a reader that has gone: later lines may get through
            self._num_dropped += 1


@contextmanager
def logs_written(log_format: str, file: IO[str] | None = None) -> Iterator[None]:
    """Have the project's logs written in this block, in this format ("text" or "json").

    file: None is stderr.
    """
    writer = _Writer(file or sys.stderr)
    if log_format == "json":
        writer.setFormatter(_JsonFormatter())
    else:
        writer.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = {logging.getLogger(name): level for name, level in LOGGERS.items()}
    before = [(each, each.handlers[:], each.level, each.propagate) for each in loggers]
    for logger, level in loggers.items():
        logger.handlers[:] = [writer]
        logger.setLevel(level)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, handlers, level, propagate in before:
            logger.handlers[:] = handlers
            logger.setLevel(level)
            logger.propagate = propagate
        writer.end()


def log_access(request_id: str, method: str, path: str, status: int, seconds: float) -> None:
    """One answered request. status 0: its client went away first."""
    path = path if len(path) <= MAX_PATH_CHARS else path[:MAX_PATH_CHARS] + "..."
    fields = {"request_id": request_id, "method": method, "path": path, "status": status, "seconds": seconds}
    _LOG.info(
        "%s %s %s %d %.3f s", request_id, method, ascii(path), status, seconds, extra={"fields": fields}
    )
