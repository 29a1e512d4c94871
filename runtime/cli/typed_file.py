"""Files whose names are typed into a chat."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path

from antiphon.cli.inputs import about, read_file
from antiphon.cli.terminal import printable
from antiphon.config import InputLimits
from antiphon.errors import InvalidRequest

__all__ = ["read_picture", "read_typed_file"]

PIPE_PATIENCE_S = 3.0
"""How long a pipe may stay silent."""


def read_typed_file(typed: str, max_bytes: int) -> bytes:
    """Reads the file now: if it changes later, that must not change what was said."""
    path = _path(typed.strip())
    try:
        return read_file(path, max_bytes, patience_s=PIPE_PATIENCE_S)
    except (OSError, ValueError) as error:
        raise OSError(about(path, error)) from error


def read_picture(typed: str, limits: InputLimits) -> tuple[bytes, str]:
    """Reads a picture for the next question, and says which it is. Raises InvalidRequest if the file is
    none."""
    from antiphon.inputs.images import possible_sizes

    picture = read_typed_file(typed, limits.max_image_bytes)
    name = printable(typed.strip())
    try:
        [(width, height), *_] = possible_sizes(picture, limits)
    except InvalidRequest as error:
        raise InvalidRequest(f"{name}: {str(error).removeprefix('image: ')}") from error
    return picture, f"picture {name}, {width} x {height}, goes with the next question"


def _path(typed: str) -> Path:
    """The file that was meant, by its plain name, or by its name as a shell or a dragged file writes it, with
    quotes or backslashes."""
    if not typed:
        raise InvalidRequest("expected the name of a file, got nothing")
    names = [typed]
    with suppress(ValueError):  # a quotation mark that is part of a name
        words = shlex.split(typed)
        names += words if len(words) == 1 else []
    paths = []
    for name in names:
        path = Path(name)
        with suppress(RuntimeError):  # no such user
            path = path.expanduser()
        paths.append(path)
    with suppress(OSError, ValueError):
        return next((path for path in paths if path.exists()), paths[-1])
    return paths[-1]
