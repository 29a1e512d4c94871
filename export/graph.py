"""ONNX graphs, written operator by operator.

A tracer follows a network that has thousands of operators through every layer of PyTorch, symbolic sizes and
all: eleven minutes for an estimator of the released size, which is written here in seconds. And the names of
nodes say which part of the network they belong to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import onnx

__all__ = ["GraphWriter", "Shape", "element_type"]

Shape = Sequence[str | int]
"""A size that may vary is a name."""
IR_VERSION = 10
"""Of the file format: of opsets up to 22."""


def element_type(dtype: torch.dtype) -> int:
    """ONNX's number for it."""
    from onnx import TensorProto

    return {
        torch.float32: TensorProto.FLOAT,
        torch.float16: TensorProto.FLOAT16,
        torch.bfloat16: TensorProto.BFLOAT16,
        torch.int64: TensorProto.INT64,
        torch.int8: TensorProto.INT8,
    }[dtype]


class GraphWriter:
    """Values are given and returned as their names."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: dict[str, onnx.TensorProto] = {}
        self._constants: dict[tuple[torch.dtype, torch.Size, bytes], str] = {}
        self._outputs: dict[tuple[str, tuple[str, ...], str], str] = {}
        self._scopes: list[str] = []
        self._named: Counter[str] = Counter()

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Names of nodes begin with that of this part of the network, and of those around it."""
        self._scopes.append(part)
        try:
            yield
        finally:
            self._scopes.pop()

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        """The output of an operator that has one; the same for the same question."""
        key = (kind, inputs, repr(sorted(attributes.items())))
        if key not in self._outputs:
            (self._outputs[key],) = self.split(1, kind, *inputs, **attributes)
        return self._outputs[key]

    def split(self, count: int, kind: str, *inputs: str, **attributes: object) -> list[str]:
        """The outputs of an operator that has several."""
        from onnx import helper

        name = "/".join([*self._scopes, kind])
        self._named[name] += 1
        if self._named[name] > 1:
            name = f"{name}_{self._named[name]}"
        outputs = [name] if count == 1 else [f"{name}.{i}" for i in range(count)]
        node = helper.make_node(kind, inputs, outputs, name)
        node.attribute.extend(helper.make_attribute(each, value) for each, value in attributes.items())
        self._nodes.append(node)
        return outputs

    def constant(self, values: object, dtype: torch.dtype = torch.float32) -> str:
        """A number or some, stored once for all that ask for the same."""
        tensor = torch.tensor(values, dtype=dtype)
        key = (dtype, tensor.shape, _raw(tensor))
        if key not in self._constants:
            self._constants[key] = self.weight(f"constant.{len(self._constants)}", tensor)
        return self._constants[key]

    def weight(self, name: str, tensor: Tensor) -> str:
        from onnx import helper

        assert name not in self._tensors, f"{name} is stored twice"
        kind, shape = element_type(tensor.dtype), tensor.shape
        self._tensors[name] = helper.make_tensor(name, kind, shape, _raw(tensor), raw=True)
        return name

    def has_weight(self, name: str) -> bool:
        return name in self._tensors

    def model(
        self, name: str, inputs: Mapping[str, Shape], outputs: Mapping[str, tuple[str, Shape]], opset: int
    ) -> onnx.ModelProto:
        """inputs: shapes by name, of float32; outputs: by the name that it shall have, a value and its shape,
        of float32."""
        from onnx import TensorProto, helper

        names = {value: output for output, (value, _) in outputs.items()}
        for node in self._nodes:
            for ends in (node.input, node.output):
                ends[:] = [names.get(end, end) for end in ends]
        shapes = {output: shape for output, (_, shape) in outputs.items()}
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info(each, TensorProto.FLOAT, shape) for each, shape in inputs.items()],
            [helper.make_tensor_value_info(each, TensorProto.FLOAT, shape) for each, shape in shapes.items()],
            list(self._tensors.values()),
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION)


def _raw(tensor: Tensor) -> bytes:
    """As ONNX stores it, little-endian."""
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b""
