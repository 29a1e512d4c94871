"""Of the operators that the parser of TensorRT 10.15 documents, for opsets 9 to 24, those that are of use
here. It takes Mish in float32 and float16 alone."""

from __future__ import annotations

import onnx
from onnx import TensorProto, shape_inference

__all__ = ["check_operators"]

ANY = """
Abs Add Cast Clip Concat Cos Div Erf Exp Expand Floor Gather GatherElements Gelu Gemm Greater Identity
LayerNormalization LeakyRelu Less Log Loop MatMul Max Min Mish Mul Neg Not Pad Pow Range Reciprocal Reshape
Round Shape Sigmoid Sin Slice Softmax Split Sqrt Squeeze Sub Tanh Tile Transpose Unsqueeze Where ArgMax Conv
ConvTranspose DequantizeLinear QuantizeLinear"""
REDUCED = ["ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"]
"""Their axes must be in the file."""
TYPES = ("FLOAT", "FLOAT16", "BFLOAT16", "INT32", "INT64", "INT8", "BOOL")
"""float64 would be narrowed to float32 without a word."""


def check_operators(model: onnx.ModelProto) -> None:
    graphs = [model.graph]
    graphs += [each.g for node in model.graph.node for each in node.attribute if each.HasField("g")]
    constants = {tensor.name for graph in graphs for tensor in graph.initializer}
    for graph in graphs:
        for node in graph.node:
            assert node.domain == ""
            assert node.op_type in (*ANY.split(), *REDUCED), node.name
            assert len(node.output) == 1 or node.op_type == "Split"
            if node.op_type in REDUCED and len(node.input) > 1:
                assert node.input[1] in constants
            if node.op_type == "Loop":
                assert all(node.input)  # a condition, too
    assert 9 <= model.opset_import[0].version <= 24
    inferred = shape_inference.infer_shapes(model).graph
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        kind = TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        assert kind in TYPES, f"{value.name} is {kind}"
