"""The cases that come with the package, for the packaged model."""

from __future__ import annotations

import json
from pathlib import Path

from antiphon.bench.turns import mixed_recordings
from antiphon.evaluation.cases import Case
from antiphon.evaluation.layouts import read_cases
from antiphon.evaluation.run_folder import RECORDINGS
from antiphon.files.writing import write_whole
from antiphon.sound.writing import write_audio

__all__ = ["SETS", "packaged_cases"]

SETS = Path(__file__).parent / "sets"
NUM_RECORDINGS = 8


def packaged_cases(task: str, folder: Path) -> list[Case]:
    """folder: of the run, in which recordings with pauses are made if they are not there yet. Raises
    OSError."""
    if task != "duplex":
        return read_cases(task, SETS / f"{task}.jsonl")
    made = folder / RECORDINGS
    index = made / "duplex.jsonl"
    if not index.exists():
        made.mkdir(parents=True, exist_ok=True)
        rows = []
        for number, mixed in enumerate(mixed_recordings(NUM_RECORDINGS, seed=0)):
            name = f"{number:02}.flac"
            write_audio(made / name, mixed.samples, mixed.rate_hz)
            end_s = mixed.speech_end / mixed.rate_hz
            rows.append({"id": str(number), "audio": name, "speech_end_s": end_s, "set": "packaged"})
        write_whole(index, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return read_cases(task, index)
