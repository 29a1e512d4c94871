"""Makes `python -m antiphon` the command `antiphon`."""

import os
import sys


def _leave_out_working_folder() -> None:
    """Take the working folder off `sys.path`, where Python puts it before all packages. Nothing in it is
    meant to be imported, and it may hold anything: a checkout of this repository has `kernels` and
    `bench`, which are also names of distributions."""
    try:
        here = os.getcwd()  # noqa: PTH109
    except FileNotFoundError:  # it was removed
        here = ""
    was_put_there = not getattr(sys.flags, "safe_path", False) and sys.path[:1] in ([here], [""])
    if was_put_there and not os.path.isdir(os.path.join(here, "antiphon")):  # noqa: PTH112, PTH118
        del sys.path[0]


if __name__ == "__main__":
    _leave_out_working_folder()

    from antiphon.cli import main

    main()
