"""Folders of exported networks, written whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from antiphon.codec.checkpoint.hyperparams import MEL_BANDS, CodecParams, FlowParams, read_hyperparams
from antiphon.codec.checkpoint.tensors import fill_module, read_tensors
from antiphon.codec.exported import FLOW, FLOW_FILES, KIND, PRECISION, WEIGHTS, fingerprint
from antiphon.codec.flow.flow import FlowModel
from antiphon.codec.flow.unet import UNet
from antiphon.errors import CheckpointError, ConfigError
from antiphon.export.estimator import EstimatorNetwork
from antiphon.export.onnx_file import OPSET, check_packages, traced, write_model
from antiphon.export.solver import solver_of
from antiphon.files.checkpoint import is_folder
from antiphon.files.writing import folder_written_whole

if TYPE_CHECKING:
    import onnx

__all__ = [
    "COSYVOICE_NAMES",
    "NAMES",
    "PRECISIONS",
    "SOLVER",
    "SOLVER_FILE",
    "Precision",
    "Source",
    "estimator_of",
    "export_flow",
    "read_flow",
]

Precision = Literal["fp32", "fp16"]
PRECISIONS: Mapping[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}
SOLVER, SOLVER_FILE = "solver", "solver.onnx"
RECIPE, FLOW_WEIGHTS = "cosyvoice.yaml", "flow.pt"
CHUNK_BYTES = 2**20
EXAMPLE_FRAMES = 25
"""Odd: then the transposed convolution returns one frame too many, and the graph cuts it off. From an even
number the tracer would conclude that there is nothing to cut off."""


@dataclass(frozen=True)
class Names:
    """Those of the estimator's inputs, in order, and of its output."""

    inputs: tuple[str, str, str, str, str, str]
    output: str


NAMES = Names(("x", "mask", "mu", "t", "speaker", "prompt"), "velocity")
COSYVOICE_NAMES = Names(("x", "mask", "mu", "t", "spks", "cond"), "estimator_out")


@dataclass(frozen=True)
class Source:
    """A flow that is exported."""

    params: FlowParams
    model: FlowModel
    files: Mapping[str, str]
    """sha256 of each file that it was read from, by name"""

    @property
    def estimator(self) -> UNet:
        return estimator_of(self.model)


def estimator_of(model: FlowModel) -> UNet:
    estimator = model.decoder["estimator"]
    assert isinstance(estimator, UNet), "decoder.estimator is built as a UNet"
    return estimator


def read_flow(codec: Path) -> Source:
    """The flow of a CosyVoice folder, on the CPU in float32. Raises CheckpointError."""
    if not is_folder(codec):
        raise CheckpointError(f"{codec}: expected a CosyVoice folder, found no folder")
    params: CodecParams = read_hyperparams(codec / RECIPE)
    with torch.device("meta"):
        model = FlowModel(params.flow)
    path = codec / FLOW_WEIGHTS
    filled = fill_module(model, read_tensors(path), path, torch.device("cpu"))
    return Source(params.flow, filled, {name: _sha256(codec / name) for name in (RECIPE, FLOW_WEIGHTS)})


def export_flow(
    source: Source,
    target: Path,
    *,
    precision: Precision = "fp32",
    solver: bool = False,
    cosyvoice_names: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Writes the velocity estimator into the new folder `target`; returns its files.

    precision: of the products; norms, softmax and the residual stream are float32, inputs and outputs too.
    solver: also the ten steps with guidance, as one graph. cosyvoice_names: inputs, output and file are
    called as CosyVoice calls them. report: is told what is being done.
    Raises ConfigError for an argument that is wrong or a package that is missing, OSError if `target` exists
    or cannot be written.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision: expected {' or '.join(PRECISIONS)}, got {precision!r:.40}")
    check_packages()
    names = COSYVOICE_NAMES if cosyvoice_names else NAMES
    file = f"flow.decoder.estimator.{precision}.onnx" if cosyvoice_names else FLOW_FILES[0]
    with folder_written_whole(target) as folder:
        report(f"{file}: the velocity, {precision}")
        model = _trace(source.estimator, PRECISIONS[precision], names)
        unet = source.estimator
        write_model(model, folder / file, _metadata(source, FLOW, precision, unet.params, unet))
        written = [file]
        if solver:
            report(f"{SOLVER_FILE}: ten steps with guidance, {precision}")
            rate = source.params.inference_cfg_rate
            about = _metadata(source, SOLVER, precision, (unet.params, rate), unet)
            write_model(solver_of(model, rate), folder / SOLVER_FILE, about)
            written.append(SOLVER_FILE)
    return [target / name for name in written]


def _trace(unet: UNet, dtype: torch.dtype, names: Names) -> onnx.ModelProto:
    batch = 2
    mel = torch.zeros(batch, MEL_BANDS, EXAMPLE_FRAMES)
    mask, t, row = torch.ones(batch, 1, EXAMPLE_FRAMES), torch.zeros(batch), torch.zeros(batch, MEL_BANDS)
    varying = ("batch", None, "frames")
    axes = (varying, varying, varying, ("batch",), ("batch", None), varying)
    return traced(
        EstimatorNetwork(unet, dtype),
        dict(zip(names.inputs, (mel, mask, mel.clone(), t, row, mel.clone()), strict=True)),
        dict(zip(names.inputs, axes, strict=True)),
        (names.output, ("batch", MEL_BANDS, "frames")),
    )


def _metadata(
    source: Source, kind: str, precision: Precision, params: object, *modules: nn.Module
) -> dict[str, str]:
    from antiphon import __version__

    return {
        KIND: kind,
        PRECISION: precision,
        WEIGHTS: fingerprint(params, *modules),
        "antiphon.version": __version__,
        "antiphon.torch": torch.__version__,
        "antiphon.opset": str(OPSET),
        **{f"antiphon.sha256.{name}": value for name, value in source.files.items()},
    }


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            found.update(chunk)
    return found.hexdigest()
