"""A 16-bit graph in float32 operators whose results are rounded as the 16-bit ones' are: what a device that
multiplies in 16 bits and adds in float32 makes of it, up to the order of sums.

ONNX Runtime has no kernels for bfloat16 on CPUs. Those for float16 are float32 in disguise: it puts casts
around them and then takes out the pairs that only round, so that nothing overflows and little is rounded that
would be on a GPU. An export is therefore verified by its rounded copy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from antiphon.codec.checkpoint.onnx_graph import EXPECTED, MAX_FILE_BYTES, data_path
from antiphon.codec.exported import DATA, sha256
from antiphon.errors import CheckpointError
from antiphon.export.onnx_file import Weights, check_packages, write_model
from antiphon.files.checkpoint import check_file, refusing_failures

if TYPE_CHECKING:
    import onnx

__all__ = ["rounded", "rounded_copy"]

MAX_BYTES_INSIDE = 2**30
"""Of the weights of a copy: more lie beside it."""
MOVING = frozenset(
    {"Concat", "Expand", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Transpose"}
    | {"Unsqueeze", "Where"}
)
"""Operators whose results are numbers that are rounded already."""


def rounded_copy(path: Path, folder: Path) -> Path | None:
    """Writes that of a file in 16 bits into the folder, under the same name; None for other files. Raises
    CheckpointError for what is no ONNX file."""
    import onnx

    check_packages()
    check_file(path, EXPECTED, max_bytes=MAX_FILE_BYTES)
    with refusing_failures(path, EXPECTED):
        model = onnx.load(path)
    if not any(_is_narrow(tensor.data_type) for tensor in model.graph.initializer):
        return None
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    expected = metadata.pop(DATA, None)
    if expected is not None and sha256(data := data_path(path)) != expected:
        raise CheckpointError(f"{data}: expected the weights of {path.name}, found those of another file")
    del model.metadata_props[:]
    weights: Weights = "inside" if model.ByteSize() < MAX_BYTES_INSIDE else "beside"
    write_model(rounded(model), folder / path.name, metadata, weights=weights)
    return folder / path.name


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy; inputs and outputs must be of other types."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    narrow: dict[str, int] = {}
    _find(inferred.graph, narrow)
    _rewrite(inferred.graph, narrow)
    _clear(inferred.graph)
    onnx.checker.check_model(inferred)
    return inferred


def _is_narrow(kind: int) -> bool:
    from onnx import TensorProto

    return kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def _graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def _find(graph: onnx.GraphProto, narrow: dict[str, int]) -> None:
    """The values of 16-bit types, and which."""
    for value in (*graph.input, *graph.output):
        assert not _is_narrow(value.type.tensor_type.elem_type), f"{value.name} comes or goes in 16 bits"
    for value in graph.value_info:
        if _is_narrow(kind := value.type.tensor_type.elem_type):
            narrow[value.name] = kind
    for tensor in graph.initializer:
        if _is_narrow(tensor.data_type):
            narrow[tensor.name] = tensor.data_type
    for node in graph.node:
        for inner in _graphs(node):
            _find(inner, narrow)


def _rewrite(graph: onnx.GraphProto, narrow: dict[str, int]) -> None:
    from onnx import TensorProto, helper

    nodes = []
    for tensor in graph.initializer:
        if tensor.name in narrow:
            name, tensor.name = tensor.name, f"{tensor.name}.stored"
            nodes.append(
                helper.make_node("Cast", [tensor.name], [name], f"{name}.wide", to=TensorProto.FLOAT)
            )
    for node in graph.node:
        for inner in _graphs(node):
            _rewrite(inner, narrow)
        nodes.append(node)
        for i, name in enumerate(node.output):
            if name not in narrow or node.op_type in MOVING:
                continue
            short = f"{name}.rounded"
            if node.op_type == "Cast":
                node.output[i] = short
            else:
                node.output[i] = f"{name}.exact"
                nodes.append(helper.make_node("Cast", [node.output[i]], [short], short, to=narrow[name]))
            nodes.append(helper.make_node("Cast", [short], [name], f"{name}.wide", to=TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)


def _clear(graph: onnx.GraphProto) -> None:
    """Types of what is in between: they have changed."""
    del graph.value_info[:]
    for node in graph.node:
        for inner in _graphs(node):
            _clear(inner)
