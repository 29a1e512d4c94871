"""The ranges of a graph's 16-bit tensors, measured before an engine is built from it.

float16 ends at 65,504. A number beyond that becomes infinite, the norm after it NaN, and the speech silence:
what exports of other flows are known for. So the graph is run by ONNX Runtime on the longest input that the
engine will take, at usual levels, at the loudest and in silence, and each tensor says how large it became.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from antiphon.errors import ConfigError
from antiphon.export.tensorrt.graphs import written_beside
from antiphon.process import forking
from antiphon.process.footprint import switch_telemetry_off

if TYPE_CHECKING:
    import onnx
    import onnxruntime

__all__ = ["FLOAT16_MAX", "MAX_SHARE", "Ranges", "measured"]

FLOAT16_MAX = 65504.0
MAX_SHARE = 0.5
"""Of float16's range that a tensor may fill: inputs may be worse than those tried."""


@dataclass(frozen=True)
class Ranges:
    """What was measured on all inputs."""

    size: str
    """The largest of the inputs: 3000 frames, ..."""
    largest: float
    """Of all 16-bit tensors; 0.0 if there are none"""
    tensor: str
    """Where that was"""
    num_tensors: int
    is_measured: bool = True

    def __str__(self) -> str:
        if not self.is_measured:
            return "not measured: bfloat16 ends where float32 does"
        if not self.num_tensors:
            return f"no float16 tensors, all results finite at {self.size}"
        return (
            f"{self.num_tensors} float16 tensors up to {self.largest:.4g} at {self.size}, "
            f"{self.largest / FLOAT16_MAX:.2%} of what float16 holds ({self.tensor})"
        )


def measured(model: onnx.ModelProto, tries: Iterable[Mapping[str, Tensor]], size: str, path: Path) -> Ranges:
    """tries: inputs, and maybe more than those of the graph. size: of the largest, in words. path: of the
    model's file, beside which its weights may lie.

    Raises ConfigError, naming the tensor, if a result, or what a whole number is made of, is not finite, or a
    float16 tensor fills more than half of its range.
    """
    from onnx import TensorProto, shape_inference

    inferred = shape_inference.infer_shapes(model, data_prop=True)
    values = *inferred.graph.value_info, *inferred.graph.output
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    made = [name for node in model.graph.node for name in node.output if name]
    names = [name for name in made if kinds.get(name) == TensorProto.FLOAT16]
    if TensorProto.BFLOAT16 in kinds.values():  # ONNX Runtime has no kernels for it
        return Ranges(size, 0.0, "", 0, is_measured=False)
    float16_names = set(names)
    names += _rounded(model, kinds)
    largest, tensor = 0.0, ""
    inputs = [value.name for value in model.graph.input]
    with written_beside(_probed(model, names), path) as probed:
        session = _session(probed)
        for known in tries:
            *results, extremes = session.run(None, {name: known[name].numpy() for name in inputs})
            # Where one of them leaves its type, the next are NaN, and at last the result.
            for name, most in zip(names, np.abs(extremes).max(axis=0), strict=True):
                if name not in float16_names:
                    if not np.isfinite(most):
                        raise ConfigError(f"{name}: expected finite numbers at {size}, got {most:g}")
                    continue
                if not most <= largest:
                    largest, tensor = float(most), name
                if not most <= MAX_SHARE * FLOAT16_MAX:
                    raise ConfigError(
                        f"{name}: expected numbers of up to {MAX_SHARE * FLOAT16_MAX:g} in float16 at "
                        f"{size}, got {most:g}"
                    )
            if not all(np.isfinite(result).all() for result in results):
                raise ConfigError(f"expected finite results at {size}, got NaN or infinity")
    return Ranges(size, largest, tensor, len(float16_names))


def _rounded(model: onnx.ModelProto, kinds: Mapping[str, int]) -> list[str]:
    """Values in float32 that whole numbers are made of, which would not show that one was NaN."""
    from onnx import TensorProto

    made = {name for node in model.graph.node for name in node.output}
    found = [
        node.input[0]
        for node in model.graph.node
        if node.op_type in ("ArgMax", "Cast")
        and kinds.get(node.output[0]) in (TensorProto.INT32, TensorProto.INT64)
    ]
    return sorted({name for name in found if name in made and kinds.get(name) == TensorProto.FLOAT})


def _probed(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The same graph with one more output: the largest and the smallest number of each tensor, (2, tensors).
    They are looked for as soon as the tensor is made, so that it need not be kept."""
    from onnx import ModelProto, TensorProto, helper, numpy_helper

    wanted = set(names)
    probed = ModelProto()
    probed.CopyFrom(model)
    del probed.graph.node[:]
    for node in model.graph.node:
        probed.graph.node.append(node)
        for name in wanted.intersection(node.output):
            probed.graph.node.append(
                helper.make_node("Cast", [name], [f"probe.{name}"], to=TensorProto.FLOAT)
            )
            for kind in ("ReduceMax", "ReduceMin"):
                one = [f"probe.{name}.{kind}"]
                probed.graph.node.append(helper.make_node(kind, [f"probe.{name}"], one, keepdims=0))
                row = helper.make_node("Unsqueeze", [*one, "probe.axes"], [f"{one[0]}.row"])
                probed.graph.node.append(row)
    rows = [[f"probe.{name}.{kind}.row" for name in names] for kind in ("ReduceMax", "ReduceMin")]
    none = numpy_helper.from_array(np.zeros((1, 0), np.float32), "probe.none")
    axes = numpy_helper.from_array(np.array([0, 1]), "probe.axes")
    probed.graph.initializer.extend([none, axes])
    for place, of_all in enumerate(rows):
        joined = helper.make_node("Concat", ["probe.none", *of_all], [f"probe.{place}"], axis=1)
        probed.graph.node.append(joined)
    both = helper.make_node("Concat", ["probe.0", "probe.1"], ["probe"], axis=0)
    probed.graph.node.append(both)
    probed.graph.output.append(helper.make_tensor_value_info("probe", TensorProto.FLOAT, [2, len(names)]))
    return probed


def _session(path: Path) -> onnxruntime.InferenceSession:
    """Of a graph from a file that `check_graph` has passed. Operators run in the order of the file as far as
    it goes: what is looked at is let go of at once."""
    import onnxruntime

    switch_telemetry_off()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = forking.num_threads()
    options.log_severity_level = 4  # its errors come as exceptions
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
