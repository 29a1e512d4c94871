"""Trained parts in half precision, small enough to stay with the recipe: a training that starts from one of
them need not repeat what came before it.

`kept/STAGE/` has `weights.safetensors` (the tensors of the stage's module by their names; of the whole model
only the parts that the stage trained, and nothing of Whisper) and the stage's `losses.json` and `losses.png`.
Of a stage whose work a later one went on with, only the losses may be there.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from antiphon_tiny.omni.parts import MODEL
from antiphon_tiny.stages import Run
from antiphon_tiny.training import save_atomically

__all__ = ["KEPT", "keep", "restore"]

KEPT = Path(__file__).parents[1] / "kept"
WEIGHTS = "weights.safetensors"
LOSSES = ("losses.json", "losses.png")
FROZEN = (MODEL, "ears.whisper.")
"""What begins so is kept only where the stage has trained it."""


def keep(run: Run, name: str, kept: Path = KEPT, *, only_losses: bool = False) -> int:
    """Keep what a stage has trained so far, or how its losses fell; returns the weights' number of bytes."""
    source = run.work / name
    if not (source / "state.pt").is_file():
        raise FileNotFoundError(
            f"{source / 'state.pt'}: expected the state of a training; run the stage first"
        )
    folder = kept / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in LOSSES:
        shutil.copy(source / file, folder / file)
    weights = folder / WEIGHTS
    if only_losses:
        weights.unlink(missing_ok=True)
        return 0
    state = torch.load(source / "state.pt", map_location="cpu", weights_only=True)
    tensors = {
        key: tensor.half().contiguous()
        for key, tensor in state["module"].items()
        if key in state["trained"] or not key.startswith(FROZEN)
    }
    told = {"step": state["step"], "seconds": state["seconds"]}
    save_file(tensors, weights, {key: str(value) for key, value in told.items()})
    return weights.stat().st_size


def restore(run: Run, kept: Path = KEPT) -> list[str]:
    """Put what is kept where the stages look for it, but for trainings that are there already; returns the
    names of those that were put there. Such a training cannot go on: it is finished."""
    restored = []
    for weights in sorted(kept.glob(f"*/{WEIGHTS}")):
        folder = weights.parent
        target = run.folder(folder.name)
        if (target / "state.pt").is_file():
            continue
        with safe_open(weights, "pt") as file:
            told = file.metadata()
        module = {key: tensor.float() for key, tensor in load_file(weights).items()}
        state = {
            "module": module,
            "trained": list(module),
            "step": int(told["step"]),
            "seconds": float(told["seconds"]),
            "history": json.loads((folder / "losses.json").read_text()),
        }
        save_atomically(state, target / "state.pt")
        for file in LOSSES:
            shutil.copy(folder / file, target / file)
        restored.append(folder.name)
    return restored
