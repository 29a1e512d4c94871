"""Trained parts in half precision, small enough to stay with the recipe: a training that starts from one of
them need not repeat what came before it.

`kept/STAGE/` has the stage's `losses.json` and `losses.png`, and `weights.safetensors`: the tensors of the
stage's module by name, those of the whole model only where the stage trained them, and none of Whisper's.
Tensors that the packaged model holds bit for bit are read from there (`PACKAGED`); the file has the digest of
all of them together. A stage whose work a later one went on with may have only its losses here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from antiphon.assets.embedded import EMBEDDED_CODEC, EMBEDDED_MODEL
from antiphon_tiny.omni.parts import MODEL
from antiphon_tiny.stages import Run
from antiphon_tiny.training import save_atomically

__all__ = ["KEPT", "PACKAGED", "keep", "restore"]

KEPT = Path(__file__).parents[1] / "kept"
WEIGHTS = "weights.safetensors"
LOSSES = ("losses.json", "losses.png")
FROZEN = (MODEL, "ears.whisper.")
"""Tensors whose names begin with one of these are kept only where the stage has trained them."""
PACKAGED = {
    "whole": EMBEDDED_MODEL / "model.safetensors",
    "flow": EMBEDDED_CODEC / "flow.pt",
    "vocoder-tuned": EMBEDDED_CODEC / "hift.pt",
}
"""The stages whose tensors are exported as they are, in half precision, and the file of the package that has
them."""


def keep(run: Run, name: str, kept: Path = KEPT, *, only_losses: bool = False) -> int:
    """Keep what a stage has trained so far, or only its losses; returns the size of the weights' file."""
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
    told = {"step": str(state["step"]), "seconds": str(state["seconds"])}
    packaged = _packaged(name)
    if packaged and packaged.keys() <= tensors.keys():
        told["sha256"] = _digest(tensors)
        tensors = {key: t for key, t in tensors.items() if not _same(t, packaged.get(key))}
    save_file(tensors, weights, told)
    return weights.stat().st_size


def restore(run: Run, kept: Path = KEPT) -> list[str]:
    """Put what is kept where the stages look for it, except where a training is there already; returns the
    names of the stages. A restored training is finished: it cannot go on.

    Raises ValueError where the package no longer holds what was left out because it was there.
    """
    restored = []
    for weights in sorted(kept.glob(f"*/{WEIGHTS}")):
        folder = weights.parent
        target = run.folder(folder.name)
        if (target / "state.pt").is_file():
            continue
        with safe_open(weights, "pt") as file:
            told = file.metadata()
        tensors = load_file(weights)
        if "sha256" in told:
            tensors = _packaged(folder.name) | tensors
            if _digest(tensors) != told["sha256"]:
                raise ValueError(
                    f"{weights}: {PACKAGED[folder.name]} is not the file that it was kept beside; "
                    "take both from the same commit"
                )
        module = {key: tensor.float() for key, tensor in tensors.items()}
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


def _packaged(name: str) -> dict[str, Tensor]:
    """The tensors that the package holds of this stage's module, by their names there."""
    path = PACKAGED.get(name)
    if path is None:
        return {}
    if path.suffix == ".safetensors":
        return {MODEL + key: tensor for key, tensor in load_file(path).items()}
    found: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return found


def _same(tensor: Tensor, other: Tensor | None) -> bool:
    """Bit for bit"""
    return other is not None and _digest({"": tensor}) == _digest({"": other})


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Of names, dtypes, shapes and contents, in the order of the names."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.contiguous().numpy().tobytes())
    return total.hexdigest()
