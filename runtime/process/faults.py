"""Reports of errors that may be anything, made so that reporting them cannot fail in turn."""

from __future__ import annotations

import logging

from antiphon.plain import told

__all__ = ["as_exception", "log_fault"]

logger = logging.getLogger("antiphon")


def as_exception(error: BaseException) -> Exception:
    """The error itself, or one that says what it was: a SystemExit or KeyboardInterrupt raised in one of our
    threads must not end the caller's program or its event loop."""
    if isinstance(error, Exception):
        return error
    wrapped = RuntimeError(told(error))
    wrapped.__cause__ = error
    return wrapped


def log_fault(message: str, *arguments: object, error: BaseException) -> None:
    """Log an error with its traceback, on a thread that must go on whatever the log handlers do."""
    try:
        logger.error(message, *arguments, exc_info=(type(error), error, error.__traceback__))
    except BaseException:  # noqa: BLE001
        return
