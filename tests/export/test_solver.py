"""The solver's graph around an estimator of a few operators: the same as the runtime's solver."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from antiphon.codec.analysis.onnx_network import OnnxNetwork
from antiphon.codec.flow.solver import Solver, schedule
from antiphon.errors import CheckpointError
from antiphon.export.flow import COSYVOICE_NAMES, NAMES, Names
from antiphon.export.onnx_file import OPSET, write_model
from antiphon.export.solver import solver_of

Shape = list[str | int | None]
MEL: Shape = ["batch", 80, "frames"]


def velocity_model(names: Names) -> onnx.ModelProto:
    """(mu - x + t + speaker * prompt) * mask"""
    x, mask, mu, t, speaker, prompt = names.inputs
    node = helper.make_node
    shapes: dict[str, Shape] = {
        x: MEL,
        mask: ["batch", 1, "frames"],
        mu: MEL,
        t: ["batch"],
        speaker: ["batch", 80],
        prompt: MEL,
    }
    graph = helper.make_graph(
        [
            node("Unsqueeze", [t, "inner"], ["t_wide"]),
            node("Unsqueeze", [speaker, "last"], ["speaker_wide"]),
            node("Sub", [mu, x], ["a"]),
            node("Mul", ["speaker_wide", prompt], ["b"]),
            node("Add", ["a", "b"], ["c"]),
            node("Add", ["c", "t_wide"], ["d"]),
            node("Mul", ["d", mask], [names.output]),
        ],
        "velocity",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(names.output, TensorProto.FLOAT, MEL)],
        [
            helper.make_tensor("inner", TensorProto.INT64, [2], [1, 2]),
            helper.make_tensor("last", TensorProto.INT64, [1], [2]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


@pytest.mark.parametrize("names", [NAMES, COSYVOICE_NAMES], ids=["ours", "cosyvoice"])
@pytest.mark.parametrize("rows", [1, 3])
def test_ten_guided_steps(names: Names, rows: int, tmp_path: Path) -> None:
    path = tmp_path / "solver.onnx"
    write_model(solver_of(velocity_model(names), 0.7), path, {})
    generator = torch.Generator().manual_seed(rows)
    noise, mu, prompt = torch.randn(3, rows, 80, 9, generator=generator).unbind()
    speaker, mask = torch.randn(rows, 80, generator=generator), torch.ones(rows, 1, 9)
    mask[-1, :, 5:] = 0

    def estimate(x: Tensor, time_bias: Tensor, mask: Tensor | None = None) -> Tensor:
        state, mu, speaker, prompt = x.split(80, dim=1)
        assert mask is not None
        velocity: Tensor = (mu - state + time_bias + speaker * prompt) * mask
        return velocity

    times, steps = schedule()
    on_each = speaker[:, :, None].expand(-1, -1, 9)
    given = torch.cat([noise, mu, on_each, prompt], dim=1)
    expected = Solver(estimate, steps, 0.7)(given, times[:, None], mask)
    with pytest.raises(CheckpointError, match="without loops, found the operator Loop"):
        OnnxNetwork(path)
    network = OnnxNetwork(path, may_loop=True)
    assert network.input_names == ["noise", "mask", "mu", "speaker", "prompt"]
    found = network.run(*(part.numpy() for part in (noise, mask, mu, speaker, prompt)))
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-5)
