"""Parts of one weight each, with graphs written by hand: what takes seconds with a network takes none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from antiphon.codec.tensorrt.profile import Profile, Span
from antiphon.errors import CheckpointError
from antiphon.export.onnx_file import OPSET
from antiphon.export.part import Bound, Compared, EnginePlan, Part, Port, Precision, Run

__all__ = ["WIDTH", "TinySource", "scaled", "tiny_part"]

WIDTH = 500
"""Enough numbers to lie beside."""
SHAPE: tuple[str | int, ...] = ("batch", WIDTH)


@dataclass(frozen=True, eq=False)
class TinySource:
    scale: Tensor
    files: Mapping[str, str]


def read_tiny(folder: Path) -> TinySource:
    if not (folder / "scale").exists():
        raise CheckpointError(f"{folder / 'scale'}: no such file")
    return TinySource(torch.full((WIDTH,), float((folder / "scale").read_text())), {"scale": "ab"})


def scaled(source: TinySource, precision: Precision, base: onnx.ModelProto | None) -> onnx.ModelProto:
    """y = scale x, and once more for each that it is made around"""
    count = 1 if base is None else 1 + len(base.graph.node)
    names = ["x", *(f"h{i}" for i in range(count - 1)), "y"]
    graph = helper.make_graph(
        [helper.make_node("Mul", [names[i], "scale"], [names[i + 1]]) for i in range(count)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(SHAPE))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(SHAPE))],
        [numpy_helper.from_array(source.scale.numpy().astype(np.float32), "scale")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def tiny_part(
    kind: str,
    folder: str = "codec",
    *,
    precisions: Sequence[Precision] = ("fp32",),
    base: Part[TinySource, Tensor] | None = None,
    is_there: bool = True,
    scale: float = 1.0,
    no_engine: str = "",
) -> Part[TinySource, Tensor]:
    """scale: what PyTorch is said to multiply with, besides the source's. no_engine: see `Part`."""
    power = 1 if base is None else 2

    def drawn(source: TinySource, sizes: Sequence[int], generator: torch.Generator) -> Tensor:
        return torch.randn(len(sizes), WIDTH, generator=generator)

    def compared(trial: Tensor, run: Run) -> Mapping[str, Compared]:
        (found,) = run(trial)
        return {"y": (list(found), [row * scale * 3.0**power for row in trial])}

    def tries(
        shapes: Mapping[str, tuple[int, ...]], num_ids: Mapping[str, int]
    ) -> Iterator[dict[str, Tensor]]:
        yield {"x": torch.ones(shapes["x"])}

    assert folder in ("codec", "model")
    return Part(
        kind=kind,
        file=f"{kind}.onnx",
        about=f"what {kind} does",
        folder="codec" if folder == "codec" else "model",
        read=read_tiny,
        inputs=lambda _: (Port("x", SHAPE),),
        outputs=lambda _: (Port("y", SHAPE),),
        graph=scaled,
        weights=lambda source: f"{float(source.scale[0]):064.3f}",
        size="frames",
        batches=((1,), (3, 2)),
        quick_batches=((1,),),
        trial=drawn,
        compare=compared,
        bounds={name: {"y": Bound(1e-6, is_relative=True)} for name in precisions},
        base=base,
        is_there=lambda _: is_there,
        engine=EnginePlan((Profile((), Span(1, 2, 3)),), tries),
        no_engine=lambda _: no_engine,
    )
