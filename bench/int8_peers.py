"""Products with int8 weights as others compute them on a CPU, of what `quantize_int8` makes.

What a way needs of a weight, it makes at its first call and keeps as long as the weight is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from antiphon.kernels.library_linear import LibraryLinear, quantize_8bit
from antiphon.kernels.linear import TorchQuantizedLinear
from antiphon.model.schemes import BITSANDBYTES
from antiphon.process.footprint import use_passing_caches
from antiphon.process.quiet import quiet

__all__ = ["peers"]

Way = Callable[[Tensor, TorchQuantizedLinear], Tensor]
BLOCK = 256
"""Numbers that share a scale in MatMulNBits: of all sizes that it takes the fastest"""


def peers() -> dict[str, Way]:
    """The ways of which the packages are installed, by name."""
    ways: dict[str, Way] = {"torch weight_int8pack_mm": _int8pack, "torch int_mm": _int_mm}
    if find_spec("onnxruntime") and find_spec("onnx"):
        ways["onnxruntime"] = _Kept(_dynamic_session)
        ways["onnxruntime MatMulNBits"] = _Kept(_blocked_session)
    if find_spec("torchao"):
        for rows, config in (
            ("", "Int8WeightOnlyConfig"),
            (", int8 rows", "Int8DynamicActivationInt8WeightConfig"),
        ):
            ways[f"torchao compiled{rows}"] = _Torchao(config)
    if find_spec("bitsandbytes"):
        ways["bitsandbytes"] = _Kept(_library_linear)
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


class _Kept:
    """A way that has a function for each weight."""

    def __init__(self, make: Callable[[TorchQuantizedLinear], Callable[[Tensor], Tensor]]) -> None:
        self._make = make
        self._made: WeakKeyDictionary[TorchQuantizedLinear, Callable[[Tensor], Tensor]] = WeakKeyDictionary()

    def __call__(self, x: Tensor, weight: TorchQuantizedLinear) -> Tensor:
        product = self._made.get(weight)
        if product is None:
            product = self._made[weight] = self._make(weight)
        return product(x)


# --- bitsandbytes ---------------------------------------------------------------------------------


def _library_linear(weight: TorchQuantizedLinear) -> Callable[[Tensor], Tensor]:
    return LibraryLinear(quantize_8bit(weight.quantized.dequantized(), BITSANDBYTES.threshold))


# --- torchao --------------------------------------------------------------------------------------


class _Torchao:
    """F.linear with one of its tensors, compiled for the shape at hand."""

    compiled_for: tuple[int, ...] = ()
    """Rows and shape of the weight, of all ways: the compiler keeps few shapes of a function."""

    def __init__(self, config: str) -> None:
        self._config = config
        self._weights: WeakKeyDictionary[TorchQuantizedLinear, Tensor] = WeakKeyDictionary()
        self._shape: tuple[int, ...] = ()

    @cached_property
    def _compiled(self) -> Callable[[Tensor, Tensor], Tensor]:
        return torch.compile(_linear, dynamic=False)

    def __call__(self, x: Tensor, weight: TorchQuantizedLinear) -> Tensor:
        stored = self._weights.get(weight)
        if stored is None:
            stored = self._weights[weight] = self._quantized(weight)
        shape = (len(x), *stored.shape)
        if shape != self._shape:
            if shape != _Torchao.compiled_for:
                torch.compiler.reset()
                _Torchao.compiled_for = shape
            self._shape = shape
            with quiet():
                return self._compiled(x, stored)
        return self._compiled(x, stored)

    def _quantized(self, weight: TorchQuantizedLinear) -> Tensor:
        module = torch.nn.Linear(weight.in_features, weight.out_features, bias=False, device="meta")
        module.weight = torch.nn.Parameter(weight.quantized.dequantized(), requires_grad=False)
        use_passing_caches()  # which the library's import settles
        with quiet():
            library = import_module("torchao.quantization")
            library.quantize_(module, getattr(library, self._config)())
        return module.weight


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight)


# --- onnxruntime ----------------------------------------------------------------------------------


def _dynamic_session(weight: TorchQuantizedLinear) -> Callable[[Tensor], Tensor]:
    """As `quantize_dynamic` writes it: x in int8 with one scale for all of it."""
    from onnx import TensorProto, helper, numpy_helper

    values, scales = weight.quantized.values.T.contiguous().numpy(), weight.quantized.scales.numpy()
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["whole", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["whole", "values", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["scale", "scales"], ["both"]),
        helper.make_node("Mul", ["wide", "both"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(values, "values"), numpy_helper.from_array(scales, "scales")]
    return _session(nodes, tensors, weight)


def _blocked_session(weight: TorchQuantizedLinear) -> Callable[[Tensor], Tensor]:
    """As tools for language models write it: weights in 8 bits, multiplied by x in 8 bits, block by block."""
    from onnx import helper, numpy_helper

    outputs, inputs = weight.out_features, weight.in_features
    blocks = -(-inputs // BLOCK)
    values = F.pad(weight.quantized.values.int() + 128, (0, blocks * BLOCK - inputs), value=128)
    scales = weight.quantized.scales[:, None].repeat(1, blocks)
    node = helper.make_node(
        "MatMulNBits",
        ["x", "values", "scales"],
        ["y"],
        domain="com.microsoft",
        K=inputs,
        N=outputs,
        bits=8,
        block_size=BLOCK,
        accuracy_level=4,
    )
    packed = values.to(torch.uint8).view(outputs, blocks, BLOCK).numpy()
    tensors = [numpy_helper.from_array(packed, "values"), numpy_helper.from_array(scales.numpy(), "scales")]
    return _session([node], tensors, weight)


def _session(
    nodes: Sequence[Any], tensors: Sequence[Any], weight: TorchQuantizedLinear
) -> Callable[[Tensor], Tensor]:
    import onnxruntime
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, weight.in_features])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, weight.out_features])
    graph = helper.make_graph(nodes, "product", [x], [y], tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Its threads would go on spinning in the others' turns.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
