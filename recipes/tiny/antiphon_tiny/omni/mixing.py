"""Between two states of a training: what the later has learned, and most of what the earlier could.

On the straight line between them a model may be better than at both ends (arXiv 2109.01903). How far along
it is best is tried for what hears, what speaks and what answers, on questions and recordings that are held
out: as many of the grammar as of the wider world.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from antiphon_tiny.omni.parts import MODEL, part_of
from antiphon_tiny.omni.together_training import Together
from antiphon_tiny.omni.wider_speech import WiderSpeech
from antiphon_tiny.omni.wider_tests import WiderTests
from antiphon_tiny.omni.wider_training import WiderListening
from antiphon_tiny.stages import Run
from antiphon_tiny.training import save_atomically

__all__ = ["mix"]

SHARES = (0.4, 0.6, 0.8, 0.9, 1.0)
"""Of "wider", that are tried"""
READER = "reading"
"""What reads the tower in training; it goes with "answering"."""
NUM_TESTED = 120


def mix(run: Run) -> None:
    """Writes the state, and `shares.json`: what was tried, with its figures."""
    earlier, later = (
        torch.load(run.folder(name) / "state.pt", map_location="cpu", weights_only=True)
        for name in ("together", "wider")
    )
    model = Together(run, WiderListening(run))
    listening, speaking = model.tasks
    tests = WiderTests(listening, speaking, WiderSpeech(run.work, listening.layout), NUM_TESTED)
    model.eval()
    shares = dict.fromkeys(("hearing", "speaking", "seeing", "thinking", READER), 1.0)
    tried = []
    for parts, measure, is_error in (
        (("hearing",), tests.misheard, True),
        (("speaking",), tests.guessed, False),
        (("seeing", "thinking", READER), tests.right, False),
    ):
        best, rows = _best(model, earlier["module"], later["module"], shares, parts, measure, is_error)
        shares |= dict.fromkeys(parts, best)
        tried += rows
    folder = run.folder("mixed")
    for name in ("losses.json", "losses.png"):
        shutil.copy(run.folder("wider") / name, folder / name)
    (folder / "shares.json").write_text(json.dumps({"shares": shares, "tried": tried}, indent=1) + "\n")
    state = {key: later[key] for key in ("trained", "step", "seconds", "history")}
    state["module"] = _between(earlier["module"], later["module"], shares)
    save_atomically(state, folder / "state.pt")


@torch.no_grad()
def _best(
    model: torch.nn.Module,
    earlier: Mapping[str, Tensor],
    later: Mapping[str, Tensor],
    shares: Mapping[str, float],
    parts: tuple[str, ...],
    measure: Callable[[], dict[str, float]],
    is_error: bool,
) -> tuple[float, list[dict[str, object]]]:
    """The share of these parts at which the mean of what is measured is best, and all that was measured."""
    means, rows = dict[float, float](), list[dict[str, object]]()
    for share in SHARES:
        model.load_state_dict(_between(earlier, later, {**shares, **dict.fromkeys(parts, share)}))
        figures = measure()
        means[share] = statistics.mean(figures.values()) if figures else 0.0
        rows.append({"parts": parts, "share": share, "mean": means[share], **figures})
        print(f"{', '.join(parts)}: {share:g} of wider: {means[share]:.2f} %", flush=True)
    return (min if is_error else max)(means, key=lambda share: means[share]), rows


def _between(
    earlier: Mapping[str, Tensor], later: Mapping[str, Tensor], shares: Mapping[str, float]
) -> dict[str, Tensor]:
    return {name: torch.lerp(earlier[name], tensor, shares[_part(name)]) for name, tensor in later.items()}


def _part(name: str) -> str:
    return part_of(name.removeprefix(MODEL)) if name.startswith(MODEL) else READER
