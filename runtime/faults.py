"""What is said of an error that may be anything, so that saying it cannot fail in turn."""

from __future__ import annotations

import logging

__all__ = ["as_exception", "describe", "log_fault"]

MAX_MESSAGE_CHARS = 2000

logger = logging.getLogger("antiphon")


def describe(error: BaseException) -> str:
    """Type and message, cut where it is very long. Never raises, whatever the error's `__str__` does."""
    name = type(error).__name__
    try:
        message = str(error)
    except BaseException:  # noqa: BLE001 - it is somebody else's code
        return f"{name} (its message cannot be printed)"
    if len(message) > MAX_MESSAGE_CHARS:
        message = f"{message[:MAX_MESSAGE_CHARS]} ... ({len(message)} characters)"
    return f"{name}: {message}" if message else name


def as_exception(error: BaseException) -> Exception:
    """The error itself, or one that says what it was: a SystemExit or KeyboardInterrupt of one of our threads
    must not end the caller's program, nor its event loop."""
    if isinstance(error, Exception):
        return error
    wrapped = RuntimeError(describe(error))
    wrapped.__cause__ = error
    return wrapped


def log_fault(message: str, *arguments: object, error: BaseException) -> None:
    """Log an error with its traceback, on a thread that must go on whatever the handlers of the log do."""
    try:
        logger.error(message, *arguments, exc_info=(type(error), error, error.__traceback__))
    except BaseException:  # noqa: BLE001
        return
