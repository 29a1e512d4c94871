"""The ranges of a graph's 16-bit tensors, measured before an engine is built from it.

float16 ends at 65,504. A number beyond that becomes infinite, the norm after it NaN, and the speech silence:
what exports of other flows are known for. So the graph is run by ONNX Runtime on the longest input that the
engine will take, at usual levels, at the loudest and in silence, and each tensor says how large it became.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from antiphon.codec.checkpoint.onnx_graph import check_graph
from antiphon.codec.tensorrt.profile import Profile
from antiphon.errors import ConfigError
from antiphon.process import forking
from antiphon.process.footprint import switch_telemetry_off

if TYPE_CHECKING:
    import onnx
    import onnxruntime

__all__ = ["FLOAT16_MAX", "MAX_SHARE", "Ranges", "measured"]

Array = np.ndarray[Any, np.dtype[np.float32]]
FLOAT16_MAX = 65504.0
MAX_SHARE = 0.5
"""Of float16's range that a tensor may fill: inputs may be worse than those tried."""
CEILING, FLOOR = 4.0, -11.5129
"""Log-mel (natural logarithm) of more than full scale, and of silence."""
SHORT_FRAMES = 256
GARBAGE = 10.0
"""On padding."""


@dataclass(frozen=True)
class Ranges:
    """What was measured on all inputs."""

    frames: int
    largest: float
    """Of all 16-bit tensors; 0.0 if there are none"""
    tensor: str
    """Where that was"""
    num_tensors: int
    is_measured: bool = True

    def __str__(self) -> str:
        if not self.is_measured:
            return "not measured: bfloat16 ends where float32 does"
        if not self.num_tensors:
            return f"no float16 tensors, all results finite at {self.frames} frames"
        return (
            f"{self.num_tensors} float16 tensors up to {self.largest:.4g} at {self.frames} frames, "
            f"{self.largest / FLOAT16_MAX:.2%} of what float16 holds ({self.tensor})"
        )


def measured(model: onnx.ModelProto, profiles: Sequence[Profile]) -> Ranges:
    """Raises ConfigError, naming the tensor, if a result is not finite, or a float16 tensor fills more than
    half of its range."""
    from onnx import TensorProto, shape_inference

    inferred = shape_inference.infer_shapes(model, data_prop=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    made = [name for node in model.graph.node for name in node.output if name]
    names = [name for name in made if kinds.get(name) == TensorProto.FLOAT16]
    frames = max(profile.frames.most for profile in profiles)
    if TensorProto.BFLOAT16 in kinds.values():  # ONNX Runtime has no kernels for it
        return Ranges(frames, 0.0, "", 0, is_measured=False)
    largest, tensor = 0.0, ""
    with TemporaryDirectory() as folder:
        session = _session(_probed(model, names), Path(folder))
        for given in _inputs([value.name for value in model.graph.input], frames):
            *results, extremes = session.run(None, given)
            # Where one of them leaves its type, the next are NaN, and at last the result.
            for name, most in zip(names, np.abs(extremes).max(axis=0), strict=True):
                if not most <= largest:
                    largest, tensor = float(most), name
                if not most <= MAX_SHARE * FLOAT16_MAX:
                    raise ConfigError(
                        f"{name}: expected numbers of up to {MAX_SHARE * FLOAT16_MAX:g} in float16 at "
                        f"{frames} frames, got {most:g}"
                    )
            if not all(np.isfinite(result).all() for result in results):
                raise ConfigError(f"expected finite results at {frames} frames, got NaN or infinity")
    return Ranges(frames, largest, tensor, len(names))


def _probed(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The same graph with one more output: the largest and the smallest number of each tensor, (2, tensors).
    They are looked for as soon as the tensor is made, so that it need not be kept."""
    from onnx import ModelProto, TensorProto, helper, numpy_helper

    wanted = set(names)
    probed = ModelProto()
    probed.CopyFrom(model)
    del probed.graph.node[:]
    for node in model.graph.node:
        probed.graph.node.append(node)
        for name in wanted.intersection(node.output):
            probed.graph.node.append(
                helper.make_node("Cast", [name], [f"probe.{name}"], to=TensorProto.FLOAT)
            )
            for kind in ("ReduceMax", "ReduceMin"):
                one = [f"probe.{name}.{kind}"]
                probed.graph.node.append(helper.make_node(kind, [f"probe.{name}"], one, keepdims=0))
                row = helper.make_node("Unsqueeze", [*one, "probe.axes"], [f"{one[0]}.row"])
                probed.graph.node.append(row)
    rows = [[f"probe.{name}.{kind}.row" for name in names] for kind in ("ReduceMax", "ReduceMin")]
    none = numpy_helper.from_array(np.zeros((1, 0), np.float32), "probe.none")
    axes = numpy_helper.from_array(np.array([0, 1]), "probe.axes")
    probed.graph.initializer.extend([none, axes])
    for place, of_all in enumerate(rows):
        joined = helper.make_node("Concat", ["probe.none", *of_all], [f"probe.{place}"], axis=1)
        probed.graph.node.append(joined)
    both = helper.make_node("Concat", ["probe.0", "probe.1"], ["probe"], axis=0)
    probed.graph.node.append(both)
    probed.graph.output.append(helper.make_tensor_value_info("probe", TensorProto.FLOAT, [2, len(names)]))
    return probed


def _session(model: onnx.ModelProto, folder: Path) -> onnxruntime.InferenceSession:
    """Operators run in the order of the file as far as it goes: what is looked at is let go of at once."""
    import onnxruntime

    switch_telemetry_off()
    path = folder / "probed.onnx"
    path.write_bytes(model.SerializeToString())
    check_graph(path, may_loop=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = forking.num_threads()
    options.log_severity_level = 4  # its errors come as exceptions
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _inputs(names: Sequence[str], frames: int) -> Iterator[dict[str, Array]]:
    """One row each, by the names of the network's inputs: two loud ones of all frames, then shorter ones with
    padding: a usual one and silence."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(80, frames, generator=generator)
    level = (CEILING - FLOOR) * torch.rand(80, frames, generator=generator) + FLOOR
    short = slice(0, min(frames, SHORT_FRAMES))
    for state, mel, t, num_padded in (
        (4 * noise, torch.full_like(level, CEILING), 0.0, 0),
        (4 * noise, 2 * level, 0.5, 0),
        (noise[:, short], level[:, short], 0.3, min(frames, SHORT_FRAMES) // 2),
        (torch.full_like(level[:, short], FLOOR), torch.full_like(level[:, short], FLOOR), 0.99, 1),
    ):
        mask = torch.ones(mel.shape[1])
        mask[max(1, len(mask) - num_padded) :] = 0
        speaker = 4 * torch.randn(1, 80, generator=generator)
        x, mu = (torch.where(mask > 0, each, GARBAGE)[None] for each in (state, mel))
        known = {"x": x, "noise": x, "mask": mask[None, None], "mu": mu, "t": torch.tensor([t])}
        known |= {"speaker": speaker, "spks": speaker, "prompt": mu, "cond": mu}
        yield {name: known[name].numpy() for name in names}
