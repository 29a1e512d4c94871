"""`python -m antiphon` is the command `antiphon`."""

import os
import sys


def _leave_out_working_folder() -> None:
    """Python puts it in front of all packages. Nothing there is meant to be imported, and a folder may hold
    anything: a checkout of this repository has `kernels` and `bench`, which are distributions, too."""
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
