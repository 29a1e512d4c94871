"""From a PyTorch module to an ONNX file that says where it comes from and has been checked."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from antiphon.codec.checkpoint.onnx_graph import data_path
from antiphon.codec.exported import DATA, sha256
from antiphon.errors import ConfigError
from antiphon.export.part import Port
from antiphon.process.quiet import quiet

if TYPE_CHECKING:
    import onnx

__all__ = ["OPSET", "Weights", "add_metadata", "check_packages", "keeping_values", "traced", "write_model"]

Weights = Literal["inside", "beside"]
MIN_BYTES_BESIDE = 1024
"""Of a tensor: smaller ones stay inside, where shapes are inferred from them."""

OPSET = 18
"""The oldest that has all that is needed: readers old and new take it. From 23 on, attention becomes an
operator of its own, on which TensorRT-RTX's builder crashes."""
PACKAGES = ("onnx", "onnxscript")


def check_packages() -> None:
    """Raises ConfigError, which says what to install, if a package that exporting needs is missing."""
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"export: expected the package {name}, which is not installed: pip install 'antiphon[onnx]'"
            ) from error


def traced(
    network: nn.Module, inputs: Sequence[Port], example: Sequence[Tensor], outputs: Sequence[Port]
) -> onnx.ModelProto:
    """The network as an ONNX graph.

    example: of each input. Sizes are taken to vary as the example's do: one that the code tells apart, such
    as an odd number of frames from an even one, must be the harder case in the example.
    """
    dynamic = torch.export.Dim.DYNAMIC
    shapes = tuple(
        {i: dynamic for i, axis in enumerate(port.shape) if isinstance(axis, str)} for port in inputs
    )
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            network.eval(),
            tuple(example),
            dynamo=True,
            opset_version=OPSET,
            input_names=[port.name for port in inputs],
            output_names=[port.name for port in outputs],
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None, "returned by the exporter of PyTorch 2"
    model: onnx.ModelProto = program.model_proto
    for port, value in zip([*inputs, *outputs], [*model.graph.input, *model.graph.output], strict=True):
        _name_axes(value, port.shape)
    # Sizes of what is in between have names of the tracer's; nobody needs them.
    del model.graph.value_info[:]
    del model.metadata_props[:]
    for part in [*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output]:
        del part.metadata_props[:]
    return model


def keeping_values(model: onnx.ModelProto, count: int) -> None:
    """Makes the last outputs values of the graph that have a name and a type, and are no outputs."""
    outputs = model.graph.output
    model.graph.value_info.extend(outputs[len(outputs) - count :])
    del outputs[len(outputs) - count :]


def add_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """To what the model says of itself already."""
    import onnx

    known = {prop.key: prop.value for prop in model.metadata_props}
    onnx.helper.set_model_props(model, known | dict(metadata))


def write_model(
    model: onnx.ModelProto, path: Path, metadata: Mapping[str, str], *, weights: Weights = "inside"
) -> int:
    """Writes the model, which it may change, and checks it; returns the bytes that were written.

    metadata: is added to what the model has, which is nothing once traced.
    weights: inside, or beside in `data_path(path)`, whose hash then stands in the metadata. Raises
    ConfigError if the model is too large for one file.
    """
    import onnx

    from antiphon import __version__

    about = dict(metadata)
    num_bytes = 0
    if weights == "beside":
        data = data_path(path)
        onnx.external_data_helper.convert_model_to_external_data(
            model, location=data.name, size_threshold=MIN_BYTES_BESIDE
        )
        data.touch()  # a network may have nothing to put there
        onnx.external_data_helper.write_external_data_tensors(model, str(path.parent))
        about[DATA], num_bytes = sha256(data), data.stat().st_size
    elif model.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        raise ConfigError(
            f"{path.name}: weights: expected beside for a network of 2 GB or more, got inside for one of "
            f"{model.ByteSize()} bytes"
        )
    model.producer_name, model.producer_version = "antiphon", __version__
    add_metadata(model, about)
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path))
    return num_bytes + path.stat().st_size


def _name_axes(value: onnx.ValueInfoProto, axes: Sequence[str | int]) -> None:
    sizes = value.type.tensor_type.shape.dim
    for size, axis in zip(sizes, axes, strict=True):
        if isinstance(axis, str):
            size.Clear()
            size.dim_param = axis
        else:
            assert size.dim_value == axis, f"{value.name}: {size} is not {axis}"
