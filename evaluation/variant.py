"""A checkpoint with another fusion window or lag than its config.json has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from antiphon.errors import ConfigError

__all__ = ["variant"]

CONFIG = "config.json"


@contextmanager
def variant(model: Path, *, window: int | None = None, lag: int | None = None) -> Iterator[Path]:
    """The folder itself, or for the time of the block one of links to its files, with a config of its own.

    Raises ConfigError for a folder without a config.
    """
    changed = {"fusion_window": window, "fusion_lag": lag}
    given = {name: value for name, value in changed.items() if value is not None}
    if not given:
        yield model
        return
    try:
        config = json.loads((model / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{model}: expected a checkpoint with {CONFIG}: {error}") from error
    with TemporaryDirectory(prefix="antiphon-eval-") as scratch:
        folder = Path(scratch, model.resolve().name)
        folder.mkdir()
        for entry in model.resolve().iterdir():
            if entry.name != CONFIG:
                (folder / entry.name).symlink_to(entry)
        (folder / CONFIG).write_text(json.dumps(config | given))
        yield folder
