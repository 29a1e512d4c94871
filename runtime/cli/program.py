"""The `antiphon` program: from its arguments to its exit status.

Imports little, so that Ctrl-C works and errors are one line from the first moment.
"""

from __future__ import annotations

import atexit
import errno
import gc
import os
import signal
import sys
import traceback

from antiphon.cli import signals, streams
from antiphon.errors import AntiphonError, ConfigError, InvalidRequest

__all__ = ["main"]

FAILED = 1
WRONG_USAGE = 2
"""Exit status for errors that the user can fix in the command line or the input; for others it is 1."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TRACEBACK = "ANTIPHON_TRACEBACK"
"""If this environment variable is set, errors are shown with their traceback."""


def main() -> None:
    """Runs the program; ends in SystemExit. An error is shown as one line on stderr, without a traceback.

    After a signal, the process ends at once when everything that must be kept has been kept: threads that
    still compute could abort an interpreter that shuts down in order.
    """
    streams.prepare_streams()
    with signals.watched():
        try:
            status = _run()
        except signals.Stopped as stopped:
            streams.flush_streams()
            signals.end(stopped.number, is_in_line=not stopped.was_noted)
    if (failed := streams.flush_streams()) is not None and status == 0:
        status = _not_shown(failed)
    atexit.register(gc.freeze)  # the interpreter would look through all of PyTorch for what to collect
    atexit.register(_ignore_signals)
    sys.exit(status)


def _run() -> int:
    try:
        with signals.at_once():
            from antiphon.cli.app import app
            from antiphon.cli.usage import run_program
        return run_program(app, "antiphon")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        streams.show_error(end.code)
        return FAILED
    except (InvalidRequest, ConfigError) as error:
        return _fail(error, WRONG_USAGE)
    except streams.NotShown as lost:
        return _not_shown(lost.error)
    except BrokenPipeError as error:
        return _not_shown(error)
    except OSError as error:
        if error.filename is None and error.errno in FULL:  # files are named
            return _not_shown(error)
        return _fail(error, FAILED)
    except AntiphonError as error:
        return _fail(error, FAILED)
    except MemoryError:
        return _fail("there is not enough memory", FAILED)
    except Exception as error:  # noqa: BLE001  (whatever it is, it is shown as one line)
        return _fail(f"a bug: {type(error).__name__}: {error} ({TRACEBACK}=1 shows where)", FAILED)


def _fail(error: object, status: int) -> int:
    if os.environ.get(TRACEBACK):
        traceback.print_exc()
    streams.show_error(error)
    return status


def _not_shown(error: OSError) -> int:
    if not isinstance(error, BrokenPipeError):  # the reader left on purpose
        streams.show_error(OSError(error.errno, error.strerror, "stdout"))
    return FAILED


def _ignore_signals() -> None:
    """For the interpreter's shutdown: everything is done, and an exception would only be printed."""
    for number in signals.WORDS:
        signal.signal(number, signal.SIG_IGN)
