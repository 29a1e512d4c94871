"""Where exported weights come from: folders of a codec and of a model, each file read once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from antiphon.codec.checkpoint.hyperparams import CodecParams, FlowParams, read_hyperparams
from antiphon.codec.checkpoint.tensors import fill_module, read_tensors
from antiphon.codec.exported import sha256
from antiphon.codec.flow.flow import Flow, FlowModel
from antiphon.codec.flow.unet import UNet
from antiphon.errors import CheckpointError, ConfigError
from antiphon.export.calibration import Calibration
from antiphon.export.int8 import Int8Plan
from antiphon.export.part import Part
from antiphon.files.checkpoint import is_folder

__all__ = ["RECIPE", "FlowSource", "Folders", "hashes", "read_flow", "read_recipe"]

RECIPE, FLOW_WEIGHTS = "cosyvoice.yaml", "flow.pt"


class Folders:
    """A `SourceOf` that reads folders, each file when it is first asked for."""

    def __init__(self, codec: Path, model: Path) -> None:
        self._folders = {"codec": codec, "model": model}
        self._read: dict[tuple[Callable[[Path], Any], Path], Any] = {}
        self._calibration: dict[str, Any] = {}

    def calibrate(self, file: Path | None, report: Callable[[str], None]) -> None:
        """Says what int8 is calibrated on, and who is told about it; see `Calibration`."""
        self._calibration = {"file": file, "report": report}

    def of(self, part: Part[Any, Any]) -> Path:
        """The folder with a part's weights."""
        return self._folders[part.folder]

    def __call__(self, part: Part[Any, Any]) -> Any:
        key = part.read, self.of(part)
        if key not in self._read:
            self._read[key] = part.read(self.of(part))
        source = self._read[key]
        if isinstance(source, FlowSource) and source.calibration is not None:
            return replace(source, calibration=replace(source.calibration, **self._calibration))
        return source


@dataclass(frozen=True, eq=False)
class FlowSource:
    """A flow that is exported."""

    params: FlowParams
    model: FlowModel
    files: Mapping[str, str]
    """sha256 of each file that it was read from, by name"""
    calibration: Calibration | None = None
    """What int8 is calibrated on; None: it cannot be exported in int8."""

    def int8_plan(self) -> Int8Plan:
        """Raises ConfigError if there is nothing to calibrate it on."""
        from antiphon.export.int8 import plan_int8

        if self.calibration is None:
            raise ConfigError(
                "int8: expected a codec that was read from a folder, to calibrate it on its voice"
            )
        inputs, report = self.calibration.inputs(), self.calibration.report
        return plan_int8(self.model, self.params, inputs, report=report)

    @cached_property
    def flow(self) -> Flow:
        """What PyTorch computes with it."""
        return Flow(self.model, self.params, torch.device("cpu"))

    @property
    def estimator(self) -> UNet:
        estimator = self.model.decoder["estimator"]
        assert isinstance(estimator, UNet), "decoder.estimator is built as a UNet"
        return estimator


def read_flow(codec: Path) -> FlowSource:
    """The flow of a CosyVoice folder, on the CPU in float32. Raises CheckpointError."""
    params = read_recipe(codec)
    with torch.device("meta"):
        model = FlowModel(params.flow)
    path = codec / FLOW_WEIGHTS
    filled = fill_module(model, read_tensors(path), path, torch.device("cpu"))
    return FlowSource(params.flow, filled, hashes(codec, RECIPE, FLOW_WEIGHTS), Calibration(codec))


def hashes(folder: Path, *names: str) -> dict[str, str]:
    """sha256 of these files of a folder, by name."""
    return {name: sha256(folder / name) for name in names}


def read_recipe(codec: Path) -> CodecParams:
    """The sizes of a CosyVoice folder. Raises CheckpointError."""
    if not is_folder(codec):
        raise CheckpointError(f"{codec}: expected a CosyVoice folder, found no folder")
    return read_hyperparams(codec / RECIPE)
