"""One line for each answer, as text or as JSON: which request, and how it went; never what it said."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

__all__ = ["log_access", "set_up_logs"]

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


def set_up_logs(log_format: str) -> None:
    """Have the project's logs written to stderr, in this format ("text" or "json")."""
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("antiphon")
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    root.propagate = False


def log_access(request_id: str, method: str, path: str, status: int, seconds: float) -> None:
    """One answered request. status 0: its client went away first."""
    fields = {"request_id": request_id, "method": method, "path": path, "status": status, "seconds": seconds}
    _LOG.info(
        "%s %s %s %d %.3f s", request_id, method, ascii(path), status, seconds, extra={"fields": fields}
    )
