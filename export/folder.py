"""Folders of exported networks, written whole or not at all."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

from antiphon.codec.exported import KIND, PRECISION, WEIGHTS
from antiphon.errors import ConfigError
from antiphon.export.flow import FLOW_PART, SOLVER_PART, cosyvoice_part
from antiphon.export.onnx_file import Weights, check_packages, write_model
from antiphon.export.part import Part, Precision, SourceOf
from antiphon.export.sources import FlowSource
from antiphon.files.writing import folder_written_whole

if TYPE_CHECKING:
    import onnx

__all__ = ["NUM_IDS", "RANGES", "Written", "export_flow", "export_parts"]

RANGES = "antiphon.ranges"
"""Key of a file's metadata: the sizes that its part is compared with PyTorch at, as JSON"""
NUM_IDS = "antiphon.num_ids"
"""Key of a file's metadata: how many ids there are for each input of ids, as JSON"""


@dataclass(frozen=True)
class Written:
    """A network that was written."""

    path: Path
    precision: Precision
    num_bytes: int
    """With weights that lie beside"""


def export_parts(
    parts: Sequence[Part[Any, Any]],
    source_of: SourceOf,
    target: Path,
    *,
    precision: Precision = "fp32",
    or_fp32: bool = False,
    weights: Weights = "inside",
    report: Callable[[str], None] = lambda _: None,
) -> list[Written]:
    """Writes these networks into the new folder `target`, one after another.

    precision: of the products; norms, softmax and the residual stream are float32, inputs and outputs too.
    or_fp32: a part that does not have this precision is written in fp32. weights: see `write_model`.
    report: is told what is being done.
    Raises ConfigError for an argument that is wrong or a package that is missing, OSError if `target` exists
    or cannot be written.
    """
    if weights not in get_args(Weights):
        raise ConfigError(f"weights: expected {' or '.join(get_args(Weights))}, got {weights!r:.40}")
    for part in parts:
        part.precision(precision, or_fp32=or_fp32)
    check_packages()
    graphs: dict[tuple[str, Precision], onnx.ModelProto] = {}
    written = []
    with folder_written_whole(target) as folder:
        for part in parts:
            own = part.precision(precision, or_fp32=or_fp32)
            report(f"{part.file}: {part.about}, {own}")
            source, base = source_of(part), None
            own = part.precision_of(source, own, or_fp32=or_fp32)
            if part.base is not None:
                key = part.base.kind, own
                base = graphs[key] if key in graphs else part.base.graph(source, own, None)
            model = part.graph(source, own, base)
            if any(each.base is not None and each.base.kind == part.kind for each in parts):
                graphs[part.kind, own] = copy.deepcopy(model)
            about = _metadata(part, source, own, model)
            num_bytes = write_model(model, folder / part.file, about, weights=weights)
            written.append(Written(target / part.file, own, num_bytes))
    return written


def export_flow(
    source: FlowSource,
    target: Path,
    *,
    precision: Precision = "fp32",
    solver: bool = False,
    cosyvoice_names: bool = False,
    weights: Weights = "inside",
    report: Callable[[str], None] = lambda _: None,
) -> list[Written]:
    """`export_parts` of the velocity estimator.

    solver: also the ten steps with guidance, as one graph. cosyvoice_names: inputs, output and file are
    called as CosyVoice calls them.
    """
    flow = cosyvoice_part(precision) if cosyvoice_names else FLOW_PART
    parts = [flow, SOLVER_PART] if solver else [flow]
    return export_parts(parts, lambda _: source, target, precision=precision, weights=weights, report=report)


def _metadata(
    part: Part[Any, Any], source: Any, precision: Precision, model: onnx.ModelProto
) -> dict[str, str]:
    from antiphon import __version__

    opset = max(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    ids = {port.name: port.num_ids for port in part.inputs(source) if port.num_ids is not None}
    return {
        KIND: part.kind,
        PRECISION: precision,
        WEIGHTS: part.weights(source),
        RANGES: json.dumps(part.ranges),
        **({NUM_IDS: json.dumps(ids)} if ids else {}),
        "antiphon.version": __version__,
        "antiphon.torch": torch.__version__,
        "antiphon.opset": str(opset),
        **{f"antiphon.sha256.{name}": value for name, value in source.files.items()},
    }
