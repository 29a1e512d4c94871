"""A small `campplus.onnx`, whose embedding takes two lines of numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["embedding_of", "save_network", "save_speaker_network"]

Array = np.ndarray[Any, Any]


def projection(dim: int) -> Array:
    return np.random.default_rng(7).normal(0, 0.01, (80, dim)).astype(np.float32)


def embedding_of(features: Array, dim: int = 192) -> Array:
    """(frames, 80) to (dim,). From squares, since the mean of each band has been subtracted."""
    mean: Array = (features.astype(np.float64) ** 2).mean(axis=0)
    return mean @ projection(dim)


def save_speaker_network(path: Path, dim: int = 192, frames: int | str = "F", bands: int | str = 80) -> Path:
    """(1, frames, bands) to (1, dim)."""
    nodes = [
        helper.make_node("Mul", ["in", "in"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", "projection"], ["out"]),
    ]
    return save_network(
        path,
        nodes,
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, [1, frames, bands])],
        helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, dim]),
        [numpy_helper.from_array(projection(dim), "projection")],
    )


def save_network(path: Path, nodes: Any, inputs: Any, output: Any, tensors: Any = ()) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, [output], list(tensors))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return path
