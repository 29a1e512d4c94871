"""Engines run for their own sake, to be compared with PyTorch, on a GPU that they are for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from antiphon.codec.exported import PLACES, TENSORRT
from antiphon.codec.tensorrt.engine import TensorrtEngine, loaded
from antiphon.codec.tensorrt.library import installed
from antiphon.codec.tensorrt.manifest import manifests, sm
from antiphon.errors import ConfigError

__all__ = ["NotHeld", "RunEngine", "engines_left_out", "engines_that_run"]


class NotHeld(Exception):
    """No profile of an engine holds these inputs."""


@dataclass(frozen=True, eq=False)
class RunEngine:
    engine: TensorrtEngine

    def __call__(self, *given: Tensor) -> list[Tensor]:
        """All outputs for all inputs, both on the CPU. Raises NotHeld."""
        manifest = self.engine.manifest
        inputs = dict(zip(self.engine.inputs, given, strict=True))
        for profile, context in zip(self.engine.profiles, self.engine.contexts, strict=True):
            shapes = manifest.shapes.items()
            if all(profile.holds(manifest.axes, shape, inputs[name].shape) for name, shape in shapes):
                placed = {name: each.to(self.engine.device).contiguous() for name, each in inputs.items()}
                return [each.cpu() for each in context.results(placed)]
        raise NotHeld


def engines_that_run(folder: Path, kind: str) -> Iterator[RunEngine]:
    """Those of a part that were built for the GPU and the library of this machine. Raises CheckpointError for
    one that is broken."""
    for manifest in manifests(folder):
        if manifest.kind == kind and _why_not(manifest.target, manifest.library, manifest.version) is None:
            device = torch.device(PLACES[TENSORRT], torch.cuda.current_device())
            yield RunEngine(loaded(folder, manifest, installed(manifest.library), device))


def engines_left_out(folder: Path) -> list[tuple[str, str]]:
    """The names of the others, and why they do not run here."""
    reasons = ((each.engine, _why_not(each.target, each.library, each.version)) for each in manifests(folder))
    return [(name, why) for name, why in reasons if why is not None]


def _why_not(target: str, library: str, version: str) -> str | None:
    if not torch.cuda.is_available():
        return f"it needs a GPU ({target})"
    own = sm(torch.cuda.get_device_capability())
    if own != target:
        return f"it is for {target}, and the GPU of this machine is {own}"
    try:
        found = installed(library)
    except ConfigError as error:
        return str(error)
    return None if found.version == version else f"it is for {library} {version}, and {found} is installed"
