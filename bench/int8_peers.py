"""Products with int8 weights as others compute them on a CPU, of what `quantize_int8` makes."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from antiphon.kernels.linear import TorchQuantizedLinear

__all__ = ["peers"]

Way = Callable[[Tensor, TorchQuantizedLinear], Tensor]


def peers() -> dict[str, Way]:
    """The ways of which the packages are installed, by name."""
    ways: dict[str, Way] = {"torch weight_int8pack_mm": _int8pack, "torch int_mm": _int_mm}
    if find_spec("onnxruntime") and find_spec("onnx"):
        ways["onnxruntime"] = _Onnxruntime()
    return ways


def _int8pack(x: Tensor, weight: TorchQuantizedLinear) -> Tensor:
    """The weights alone in int8."""
    quantized = weight.quantized
    return torch._weight_int8pack_mm(x, quantized.values, quantized.scales)


def _int_mm(x: Tensor, weight: TorchQuantizedLinear) -> Tensor:
    """Rows in int8, too; they are quantized as simply as can be."""
    quantized = weight.quantized
    scales = x.abs().amax(1, keepdim=True) / 127
    sums = torch._int_mm((x / scales).round().to(torch.int8), quantized.values.T)
    return sums.float() * scales * quantized.scales


class _Onnxruntime:
    """As `quantize_dynamic` writes it: x in int8 with one scale for all of it."""

    def __init__(self) -> None:
        self._sessions: WeakKeyDictionary[TorchQuantizedLinear, Any] = WeakKeyDictionary()

    def __call__(self, x: Tensor, weight: TorchQuantizedLinear) -> Tensor:
        session = self._sessions.get(weight)
        if session is None:
            session = self._sessions[weight] = _session(weight)
        return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


def _session(weight: TorchQuantizedLinear) -> Any:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    values, scales = weight.quantized.values.T.contiguous().numpy(), weight.quantized.scales.numpy()
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["whole", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["whole", "values", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["scale", "scales"], ["both"]),
        helper.make_node("Mul", ["wide", "both"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, weight.in_features])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, weight.out_features])],
        [numpy_helper.from_array(values, "values"), numpy_helper.from_array(scales, "scales")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Its threads would go on spinning in the others' turns.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
