"""What an engine will need of a GPU's memory, reckoned from the graph before it is built."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from antiphon.codec.tensorrt.profile import Profile

if TYPE_CHECKING:
    import onnx

__all__ = ["BATCH", "FRAMES", "activation_bytes", "weight_bytes"]

BATCH, FRAMES = "batch", "frames"
"""Names of the axes that vary."""
SMALL_BYTES = 4096
"""Larger tensors of a file are no shapes."""


def weight_bytes(model: onnx.ModelProto) -> int:
    return sum(len(each.raw_data) for each in model.graph.initializer)


def activation_bytes(model: onnx.ModelProto, profile: Profile) -> int:
    """The most that is alive at a time at the profile's largest size, operator by operator.

    An engine fuses some operators and keeps other copies: engines in float32 took 1.01 to 1.32 of this. Where
    attention is one kernel, as it may be in float16, its scores, most of this, are not kept at all.
    """
    sizes = _sizes(model, profile)
    last = {name: place for place, node in enumerate(model.graph.node) for name in node.input}
    alive: dict[str, int] = {}
    now = most = 0
    for place, node in enumerate(model.graph.node):
        for name in node.output:
            alive[name] = sizes.get(name, 0)
            now += alive[name]
        most = max(most, now)
        for name in {*node.input, *node.output}:
            if name in alive and last.get(name, -1) <= place:
                now -= alive.pop(name)
    return most


def _sizes(model: onnx.ModelProto, profile: Profile) -> dict[str, int]:
    """Bytes of each tensor whose shape can be inferred."""
    from onnx import ModelProto, helper, shape_inference

    sized = ModelProto()
    _copy_without_weights(model, sized)
    wanted = {BATCH: profile.rows.most, FRAMES: profile.frames.most}
    for value in (*sized.graph.input, *sized.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in wanted:
                size.dim_value = wanted[size.dim_param]
    inferred = shape_inference.infer_shapes(sized, data_prop=True)
    sizes = {}
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        kind = value.type.tensor_type
        dims = [size.dim_value if size.HasField("dim_value") else 0 for size in kind.shape.dim]
        sizes[value.name] = math.prod(dims) * helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
    return sizes


def _copy_without_weights(model: onnx.ModelProto, to: onnx.ModelProto) -> None:
    """Weights become inputs: their shapes are needed, their numbers are not."""
    from onnx import helper

    to.ir_version = model.ir_version
    to.opset_import.extend(model.opset_import)
    graph = model.graph
    to.graph.name = graph.name
    to.graph.node.extend(graph.node)
    to.graph.output.extend(graph.output)
    to.graph.input.extend(graph.input)
    for tensor in graph.initializer:
        if len(tensor.raw_data) > SMALL_BYTES:
            to.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            to.graph.initializer.append(tensor)
