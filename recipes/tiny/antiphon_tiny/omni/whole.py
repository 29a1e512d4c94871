"""The parts of the last trainings as one state: what is exported, and kept in the package."""

from __future__ import annotations

import shutil

import torch

from antiphon_tiny.omni.parts import MODEL, part_of
from antiphon_tiny.stages import Run
from antiphon_tiny.training import save_atomically

__all__ = ["LATER", "assemble"]

LATER = {
    "seeing": ("mixed", 1.0),
    "thinking": ("thinking-wider", 0.9),
    "hearing": ("hearing-wider", 0.0),
    "speaking": ("hearing-wider", 0.0),
}
"""For each part, the stage that went on with it from "mixed", and how far towards that it is taken (see
`mixing`). Hearing is not taken on yet: "hearing-wider" hears more words of other wordings, and puts letters
between them that nobody said, also in questions that were heard well before."""
LAST = "thinking-wider"


def assemble(run: Run) -> None:
    states = {
        name: torch.load(run.folder(name) / "state.pt", map_location="cpu", weights_only=True)
        for name in ("mixed", "hearing-wider", LAST)
    }
    module = dict(states[LAST]["module"])
    for name in module:
        if name.startswith(MODEL):
            stage, share = LATER[part_of(name.removeprefix(MODEL))]
            module[name] = torch.lerp(states["mixed"]["module"][name], states[stage]["module"][name], share)
    state = {key: states[LAST][key] for key in ("step", "seconds", "history")}
    folder = run.folder("whole")
    save_atomically({**state, "module": module, "trained": list(module)}, folder / "state.pt")
    for name in ("losses.json", "losses.png"):
        shutil.copy(run.folder(LAST) / name, folder / name)
