"""The whole solver as one graph around the estimator's: ten Euler steps with guidance, from noise to mel.

The steps are a Loop, not ten copies of the estimator. A runtime packs and plans the weights of each node
anew, so copies would take ten times the memory (3 GB at the released size) and ten times a builder's time.
The times and lengths of the steps are constants, and so is their number.

What varies with the absolute frame is an input: the noise, and the conditions. So chunks stay functions of
their frames, as in the runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from antiphon.codec.checkpoint.hyperparams import MEL_BANDS
from antiphon.codec.flow.solver import schedule

if TYPE_CHECKING:
    import onnx

__all__ = ["solver_of"]


def solver_of(estimator: onnx.ModelProto, cfg_rate: float) -> onnx.ModelProto:
    """noise, mask, mu, speaker, prompt -> mel, from a graph with the inputs and the output of
    `EstimatorNetwork`, in its order. cfg_rate: the strength of guidance."""
    from onnx import TensorProto, compose, helper, numpy_helper

    graph = compose.add_prefix_graph(estimator.graph, "estimator.")
    x, mask, mu, t, speaker, prompt = (value.name for value in graph.input)
    (velocity,) = (value.name for value in graph.output)
    times, lengths = schedule()
    node, tensor = helper.make_node, helper.make_tensor_value_info
    mel: list[str | int | None] = ["batch", MEL_BANDS, "frames"]

    def constant(name: str, value: object, dtype: str = "float32") -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(value, dtype=dtype), name)

    step = helper.make_graph(
        [
            node("Identity", ["goes_on"], ["goes_on_after"]),
            node("Concat", ["state", "state"], [x], axis=0),
            node("Gather", ["times", "step"], ["time"], axis=0),
            node("Expand", ["time", "rows"], [t]),
            *graph.node,
            # (1 + r) guided - r free
            node("Split", [velocity], ["guided", "free"], axis=0, num_outputs=2),
            node("Mul", ["guided", "guided_share"], ["guided_part"]),
            node("Mul", ["free", "free_share"], ["free_part"]),
            node("Sub", ["guided_part", "free_part"], ["velocity"]),
            node("Gather", ["lengths", "step"], ["length"], axis=0),
            node("Mul", ["velocity", "length"], ["change"]),
            node("Add", ["state", "change"], ["state_after"]),
        ],
        "step",
        [
            tensor("step", TensorProto.INT64, []),
            tensor("goes_on", TensorProto.BOOL, []),
            tensor("state", TensorProto.FLOAT, mel),
        ],
        [tensor("goes_on_after", TensorProto.BOOL, []), tensor("state_after", TensorProto.FLOAT, mel)],
    )
    # Rows with their conditions, then the same rows without any.
    both = [node("Concat", ["mask", "mask"], [mask], axis=0)]
    for name, of_both in (("mu", mu), ("speaker", speaker), ("prompt", prompt)):
        both.append(node("Sub", [name, name], [f"no_{name}"]))
        both.append(node("Concat", [name, f"no_{name}"], [of_both], axis=0))
    whole = helper.make_graph(
        [
            *both,
            node("Shape", [mask], ["rows"], start=0, end=1),
            node("Loop", ["count", "", "noise"], ["mel"], body=step),
        ],
        "solver",
        [
            tensor("noise", TensorProto.FLOAT, mel),
            tensor("mask", TensorProto.FLOAT, ["batch", 1, "frames"]),
            tensor("mu", TensorProto.FLOAT, mel),
            tensor("speaker", TensorProto.FLOAT, ["batch", MEL_BANDS]),
            tensor("prompt", TensorProto.FLOAT, mel),
        ],
        [tensor("mel", TensorProto.FLOAT, mel)],
        [
            *graph.initializer,
            constant("times", times.tolist()),
            constant("lengths", lengths),
            constant("count", len(lengths), "int64"),
            constant("guided_share", 1 + cfg_rate),
            constant("free_share", cfg_rate),
        ],
    )
    return helper.make_model(
        whole, opset_imports=list(estimator.opset_import), ir_version=estimator.ir_version
    )
