"""The `antiphon` program: from its arguments to its exit status.

Imports little, so that from its first moments on Ctrl-C is answered and errors are one line.
"""

from __future__ import annotations

import atexit
import errno
import os
import signal
import sys
import traceback

from antiphon.cli import signals, streams
from antiphon.errors import AntiphonError, ConfigError, InvalidRequest

__all__ = ["main"]

FAILED = 1
WRONG_USAGE = 2
"""Exit status for what the user can mend in the command line or the input; the rest is 1."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TRACEBACK = "ANTIPHON_TRACEBACK"
"""Set in the environment, errors come with their traceback."""


def main() -> None:
    """Runs the program; ends in SystemExit. What goes wrong is one line on stderr, without a traceback.

    After a signal that ended it, the process is gone when what had to be kept is kept: threads that still
    compute could abort an interpreter that is taken down in order.
    """
    streams.prepare_streams()
    with signals.watched():
        try:
            status = _run()
        except signals.Stopped as stopped:
            streams.flush_streams()
            signals.end(stopped.number)
    if (failed := streams.flush_streams()) is not None and status == 0:
        status = _not_shown(failed)
    atexit.register(_ignore_signals)
    sys.exit(status)


def _run() -> int:
    try:
        with signals.at_once():
            from antiphon.cli.app import app
        app(prog_name="antiphon")
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
    except Exception as error:  # noqa: BLE001  (whatever it is, it is one line)
        return _fail(f"a bug: {type(error).__name__}: {error} ({TRACEBACK}=1 shows where)", FAILED)
    return 0


def _fail(error: object, status: int) -> int:
    if os.environ.get(TRACEBACK):
        traceback.print_exc()
    streams.show_error(error)
    return status


def _not_shown(error: OSError) -> int:
    if not isinstance(error, BrokenPipeError):  # the reader has gone, and knows
        streams.show_error(OSError(error.errno, error.strerror, "stdout"))
    return FAILED


def _ignore_signals() -> None:
    """While the interpreter is taken down: all is done, and an exception would only be shown."""
    for number in signals.WORDS:
        signal.signal(number, signal.SIG_IGN)
