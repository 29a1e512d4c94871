"""Between two states of a training: what the later has learned, and most of what the earlier could.

On the straight line between them a model may be better than at both ends (arXiv 2109.01903). How far along
it was tried for each part (`LATER`): the grammar's questions are heard and seen nearly as well as before, and
much of what is new stays.
"""

from __future__ import annotations

import shutil

import torch

from antiphon_tiny.omni.parts import MODEL, part_of
from antiphon_tiny.stages import Run
from antiphon_tiny.training import save_atomically

__all__ = ["mix"]

LATER = {"hearing": 0.25, "thinking": 0.65, "seeing": 0.4, "speaking": 0.3}
"""By parts, the share of "wider"."""
READER = 0.5
"""The share for what reads the tower in training."""


def mix(run: Run) -> None:
    earlier, later = (
        torch.load(run.folder(name) / "state.pt", map_location="cpu", weights_only=True)
        for name in ("together", "wider")
    )
    state = {key: later[key] for key in ("trained", "step", "seconds", "history")}
    state["module"] = {
        name: torch.lerp(earlier["module"][name], tensor, _share(name))
        for name, tensor in later["module"].items()
    }
    folder = run.folder("mixed")
    save_atomically(state, folder / "state.pt")
    for name in ("losses.json", "losses.png"):
        shutil.copy(run.folder("wider") / name, folder / name)


def _share(name: str) -> float:
    return LATER[part_of(name.removeprefix(MODEL))] if name.startswith(MODEL) else READER
