"""Writes speech to a file, a pipe, or stdout."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from antiphon.cli.inputs import STDIN as STDOUT
from antiphon.cli.streams import NotShown, one_line
from antiphon.files.writing import check_writable, is_special

if TYPE_CHECKING:
    from antiphon.sound.arrays import AudioArray

__all__ = ["SOUND_FILES", "STDOUT", "Written", "check_sound_file", "write_sound"]

SOUND_FILES = (".wav", ".flac", ".ogg")


@dataclass(frozen=True)
class Written:
    """What became of some speech."""

    file: Path | None
    """Where it is; None if it was not written."""
    error: str | None = None
    """Why it is not where it should be."""


def check_sound_file(out: Path) -> None:
    """Raises BadParameter if speech cannot be written there, before it is made."""
    if str(out) == STDOUT:
        if sys.stdout.isatty():
            raise typer.BadParameter("`-` is stdout, which is a terminal", param_hint="--out")
        return
    if out.suffix.lower() not in SOUND_FILES and (out.suffix or not is_special(out)):
        raise typer.BadParameter(
            f"expected a name that ends with {', '.join(SOUND_FILES)}, got {out.name!r}", param_hint="--out"
        )
    try:
        check_writable(out)
    except OSError as error:
        raise typer.BadParameter(one_line(error), param_hint="--out") from error


def write_sound(out: Path, samples: AudioArray, rate_hz: int) -> Written:
    """Writes speech; if its file cannot be written, keeps it in the folder for temporary files. Raises
    NotShown if it cannot be written to stdout."""
    from antiphon.codec import write_audio
    from antiphon.sound.writing import encode_audio

    if str(out) == STDOUT:
        try:
            sys.stdout.flush()
            sys.stdout.buffer.write(encode_audio(samples, rate_hz))
            sys.stdout.flush()
        except OSError as error:
            raise NotShown(error) from error
        return Written(out)
    try:
        write_audio(out, samples, rate_hz)
    except OSError as error:
        why = one_line(error)
        spare = _spare(samples, rate_hz, out.suffix or ".wav")
        if spare is None:
            return Written(None, f"{why}; the speech is lost")
        return Written(spare, f"{why}; the speech is in {spare}")
    return Written(out)


def _spare(samples: AudioArray, rate_hz: int, suffix: str) -> Path | None:
    from antiphon.codec import write_audio

    name = None
    try:
        number, name = tempfile.mkstemp(prefix="antiphon-", suffix=suffix)
        os.close(number)
        write_audio(name, samples, rate_hz)
    except OSError:
        if name is not None:
            with suppress(OSError):
                Path(name).unlink()
        return None
    return Path(name)
