"""The examinations as uses of `antiphon eval`: questions become cases, and its tasks ask and score them, each
run in a folder with answers, sounds and a page."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from antiphon import Engine
from antiphon.evaluation.cases import Case
from antiphon.evaluation.engine_answers import EngineAnswers
from antiphon.evaluation.evaluating import Stages, evaluate
from antiphon.evaluation.options import Options
from antiphon.evaluation.report import Report
from antiphon.evaluation.scoring import Scored
from antiphon.sound.writing import write_audio

__all__ = ["Media", "is_right", "per_cent", "right_per_cent", "run_task"]

MAX_TOKENS = 40
MAX_UNITS = 375


class Media:
    """Pictures and recordings of cases, as files named by what is in them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def picture(self, image: Image.Image) -> Path:
        path = self._path(image.tobytes(), "png")
        if not path.exists():
            image.save(path)
        return path

    def sound(self, samples: np.ndarray, rate_hz: int) -> Path:
        """samples: float32 (n,)"""
        path = self._path(samples.tobytes(), "flac")
        if not path.exists():
            write_audio(path, samples, rate_hz)
        return path

    def _path(self, data: bytes, ending: str) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"{hashlib.sha256(data).hexdigest()[:16]}.{ending}"


def run_task(
    engine: Engine,
    folder: Path,
    task: str,
    cases: Sequence[Case],
    *,
    listener: str | None = "none",
    timed: int = 0,
    in_chunks: bool = True,
    **options: Any,
) -> Report:
    """A run of a task from its beginning: what the folder held is removed.

    listener, timed: see `Stages`. in_chunks: see `EngineAnswers`. options: of `Options`.
    """
    if folder.exists():
        shutil.rmtree(folder)
    asked = Options(task, max_tokens=MAX_TOKENS, max_units=MAX_UNITS, **options)
    answering = EngineAnswers(engine, asked, in_chunks=in_chunks)
    stages = Stages(listener, timed=timed)
    return evaluate(folder, cases, asked, {}, answering, engine=engine, stages=stages)


def per_cent(report: Report, key: str, case_ids: Collection[str] | None = None) -> float:
    """A figure of all cases or of some; nan where there is none."""
    found = [each.counts[key] for each in _some(report, case_ids) if key in each.counts]
    whole = math.fsum(pair[1] for pair in found)
    return 100 * math.fsum(pair[0] for pair in found) / whole if whole else math.nan


def is_right(scored: Scored) -> bool:
    """Of a reply as text, which must also have ended by itself."""
    right, cut = scored.counts.get("accuracy") or scored.counts["text"], scored.counts.get("unfinished")
    return right[0] == right[1] and (cut is None or cut[0] == 0)


def right_per_cent(report: Report, case_ids: Collection[str] | None = None) -> float:
    right = [is_right(each) for each in _some(report, case_ids)]
    return 100 * float(np.mean(right)) if right else math.nan


def _some(report: Report, case_ids: Collection[str] | None) -> list[Scored]:
    return [each for each in report.scored if case_ids is None or each.case.case_id in case_ids]
