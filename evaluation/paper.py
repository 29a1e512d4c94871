"""What the paper reports of Stream-Omni: arXiv 2506.13642v1, tables 2 to 6."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from antiphon.evaluation.options import Options

__all__ = ["PaperFigure", "paper_figure"]


@dataclass(frozen=True)
class PaperFigure:
    value: float
    source: str


RECOGNITION: Mapping[str, tuple[float, float]] = {"testclean": (3.0, 125.0), "testother": (7.2, 104.0)}
"""Table 5, of LibriSpeech: word error, and ms per utterance on an A100"""
QUESTIONS: Mapping[str, tuple[float, float]] = {"llama": (76.3, 65.0), "web": (44.2, 27.5)}
"""Table 3, of Llama Questions and Web Questions: right answers, S→T and S→S"""
VISIT: Mapping[tuple[str, str], float] = {
    ("text", "text"): 3.93,
    ("speech", "text"): 3.68,
    ("speech", "speech"): 2.62,
}
"""Table 4, of SpokenVisIT: by how it is asked and what is judged"""
VISION: Mapping[str, float] = {
    "vqav2": 79.7,
    "gqa": 68.3,
    "vizwiz": 45.5,
    "scienceqa": 93.4,
    "textvqa": 62.7,
    "pope": 86.0,
    "mmbench": 82.4,
    "seed": 76.3,
}
"""Table 2; MME (1752.7) is a sum of points"""
JUDGED: Mapping[str, float] = {"llava_bench": 71.2, "mm_vet": 44.7}
"""Table 2, of sets with a rule of their own, whose groups are parts of them"""
WINDOW = 5
FUSION_WINDOWS: Mapping[int, Mapping[str, float]] = {
    2: {"llama": 54.3, "web": 22.1},
    10: {"llama": 62.3, "web": 25.7},
}
"""Table 6: right answers of the same, S→S, with other fusion windows than `WINDOW`"""
POPE_KEY = "f1"
"""LLaVA's figure of POPE"""


def paper_figure(options: Options, group: str, key: str, window: int | None = None) -> PaperFigure | None:
    """The figure that stands for this one, if the group is one of the paper's sets by its name.

    window: the fusion window that was asked for in place of the checkpoint's
    """
    name = re.sub(r"[^a-z0-9]", "", group.lower())
    match options.task:
        case "asr":
            rows = RECOGNITION.get(name)
            column = {"wer_released": 0, "time_ms": 1}.get(key)
            if rows is not None and column is not None:
                return PaperFigure(rows[column], "Table 5")
        case "spoken-qa":
            asked = next((each for each in QUESTIONS if each in name and "quest" in name), None)
            column = {"text": 0, "speech": 1}.get(key)
            if asked is None or column is None:
                return None
            if key == "text" or window in (None, WINDOW):
                return PaperFigure(QUESTIONS[asked][column], "Table 3")
            if window in FUSION_WINDOWS:
                return PaperFigure(FUSION_WINDOWS[window][asked], "Table 6")
        case "visit":
            if name == "spokenvisit" and (options.ask, key) in VISIT:
                return PaperFigure(VISIT[options.ask, key], "Table 4")
        case "vqa" if key in JUDGED:
            return PaperFigure(JUDGED[key], "Table 2") if name == "all" else None
        case "vqa":
            found = next((each for each in VISION if each in name), None)
            wanted = POPE_KEY if found == "pope" else "accuracy"
            if found is not None and key == wanted:
                return PaperFigure(VISION[found], "Table 2")
    return None
