"""What an engine will need of a GPU's memory, reckoned from the graph before it is built."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from antiphon.codec.tensorrt.profile import Profile

if TYPE_CHECKING:
    import onnx

__all__ = ["activation_bytes", "weight_bytes"]

SMALL_BYTES = 4096
"""Larger tensors of a file are no shapes."""


def weight_bytes(model: onnx.ModelProto) -> int:
    return sum(map(_bytes, model.graph.initializer))


def _bytes(tensor: onnx.TensorProto) -> int:
    from onnx import helper

    return math.prod(map(int, tensor.dims)) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def activation_bytes(model: onnx.ModelProto, axes: Sequence[str], profile: Profile) -> int:
    """The most that is alive at a time at the profile's largest size, operator by operator.

    An engine fuses some operators and keeps other copies: engines in float32 took 1.01 to 1.32 of this, that
    of a small vocoder 2.3. Where attention is one kernel, as it may be in float16, its scores, most of this,
    are not kept at all.
    """
    sizes = _sizes(model, axes, profile)
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


def _sizes(model: onnx.ModelProto, axes: Sequence[str], profile: Profile) -> dict[str, int]:
    """Bytes of each tensor whose shape can be inferred."""
    from onnx import ModelProto, helper, shape_inference

    sized = ModelProto()
    _copy_without_weights(model, sized)
    wanted = {name: span.most for name, span in profile.spans(axes).items()}
    for value in (*sized.graph.input, *sized.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in wanted:
                size.dim_value = wanted[size.dim_param]
    inferred = shape_inference.infer_shapes(sized, data_prop=True)
    while _fold(sized, _shapes(inferred.graph)):
        inferred = shape_inference.infer_shapes(sized, data_prop=True)
    shapes = _shapes(inferred.graph)
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    kinds |= {value.name: value.type.tensor_type.elem_type for value in inferred.graph.output}
    return {
        name: math.prod(shape) * helper.tensor_dtype_to_np_dtype(kinds[name]).itemsize
        for name, shape in shapes.items()
        if name in kinds
    }


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Those that are known."""
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        sizes = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(size.HasField("dim_value") for size in sizes):
            found[value.name] = tuple(size.dim_value for size in sizes)
    return found


def _fold(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Computes what depends on sizes alone, in place: a traced graph reckons its shapes, and the inference of
    shapes follows it only so far. Returns whether there was anything to compute."""
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    kept, is_new = [], False
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] in shapes:
            bounds: dict[str, int] = {each.name: each.i for each in node.attribute}
            value = np.array(shapes[node.input[0]][bounds.get("start", 0) : bounds.get("end")], np.int64)
        elif node.op_type != "Loop" and all(name in known for name in node.input if name):
            feeds = {name: known[name] for name in node.input if name}
            results: Any = ReferenceEvaluator(node).run(None, feeds)
            value = np.asarray(results[0])
        else:
            kept.append(node)
            continue
        if value.nbytes <= SMALL_BYTES:
            known[node.output[0]] = value
            graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
            is_new = True
            continue
        kept.append(node)
        if node.output[0] not in shapes:
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            graph.value_info.append(helper.make_tensor_value_info(node.output[0], kind, value.shape))
            is_new = True
    del graph.node[:]
    graph.node.extend(kept)
    return is_new


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
        if tensor.external_data or _bytes(tensor) > SMALL_BYTES:
            to.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            to.graph.initializer.append(tensor)
