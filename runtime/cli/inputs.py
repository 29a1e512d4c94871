"""The inputs of a command line: text, files and stdin."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from antiphon.cli.streams import one_line, read_stdin
from antiphon.config import InputLimits
from antiphon.files.reading import read_bounded
from antiphon.types import Image, Speech

__all__ = ["about", "check_texts", "image_input", "read_file", "speech_input", "text_input", "use_stdin_once"]

STDIN = "-"


def text_input(text: str) -> str:
    """The text of --text; `-` reads stdin, without its last line break."""
    if text != STDIN:
        return text
    limit = InputLimits().max_text_chars
    content = read_stdin(4 * limit)  # bytes of a character in UTF-8, at most
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(content) <= 4 * limit:
            raise typer.BadParameter(f"expected UTF-8 on stdin: {error}", param_hint="--text") from error
        text = content.decode("utf-8", "replace")
    if len(text) > limit:
        raise typer.BadParameter(
            f"expected up to {limit} characters on stdin, found more", param_hint="--text"
        )
    return text.removesuffix("\n").removesuffix("\r")


def speech_input(path: Path) -> Speech:
    """The speech of --audio; `-` reads stdin."""
    return Speech(_input(path, InputLimits().max_audio_bytes, "--audio"))


def image_input(path: Path) -> Image:
    """The picture of --image; `-` reads stdin."""
    return Image(_input(path, InputLimits().max_image_bytes, "--image"))


def _input(path: Path, max_bytes: int, hint: str) -> Path | bytes:
    """The path of a readable file, to be read later, or the content of a pipe."""
    try:
        if str(path) == STDIN:
            return _bounded(read_stdin(max_bytes), max_bytes)
        if not stat.S_ISREG(path.stat().st_mode):
            return read_file(path, max_bytes)
        _check_size(path, max_bytes)
        with path.open("rb"):
            return path
    except (OSError, ValueError) as error:
        raise typer.BadParameter(about(path, error), param_hint=hint) from error


def read_file(path: Path, max_bytes: int, *, patience_s: float | None = None) -> bytes:
    """The content of a file or a pipe, read now. Raises OSError if it is too long, or not a file or pipe."""
    _check_size(path, max_bytes)
    content = (
        read_bounded(path, max_bytes)
        if patience_s is None
        else read_bounded(path, max_bytes, patience_s=patience_s)
    )
    return _bounded(content, max_bytes)


def _check_size(path: Path, max_bytes: int) -> None:
    """Checks the size of a regular file before it is read; a pipe's is 0."""
    if (size := path.stat().st_size) > max_bytes:
        raise OSError(f"expected at most {max_bytes} bytes, found {size}")


def _bounded(content: bytes, max_bytes: int) -> bytes:
    if len(content) > max_bytes:
        raise OSError(f"expected at most {max_bytes} bytes, found more")
    return content


def about(path: Path, error: Exception) -> str:
    """What is wrong with a file, including its name."""
    is_named = isinstance(error, OSError) and error.filename is not None
    return one_line(error) if is_named else f"{path}: {one_line(error)}"


def use_stdin_once(options: Mapping[str, str | Path | Sequence[Path] | None]) -> None:
    """Raises BadParameter if two options read stdin, or one reads it twice."""
    names = [
        name
        for name, value in options.items()
        for item in (value if isinstance(value, (list, tuple)) else [value])
        if str(item) == STDIN
    ]
    if len(names) > 1:
        raise typer.BadParameter(
            "`-` is stdin, which can be read only once", param_hint=" and ".join(dict.fromkeys(names))
        )


def check_texts(options: Mapping[str, str | Sequence[str] | None]) -> None:
    """Raises BadParameter for an argument that is not UTF-8: Python turns its other bytes into surrogates."""
    for name, value in options.items():
        for text in [value] if isinstance(value, str) else value or []:
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise typer.BadParameter("expected UTF-8, got other bytes", param_hint=name) from error
