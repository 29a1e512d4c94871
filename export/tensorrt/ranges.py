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

from antiphon.codec.analysis.onnx_network import OnnxNetwork
from antiphon.codec.tensorrt.profile import Profile
from antiphon.errors import ConfigError

if TYPE_CHECKING:
    import onnx

__all__ = ["FLOAT16_MAX", "MAX_SHARE", "Ranges", "measured"]

Array = np.ndarray[Any, np.dtype[np.float32]]
FLOAT16_MAX = 65504.0
MAX_SHARE = 0.5
"""Of float16's range that a tensor may fill: inputs may be worse than those tried."""
MAX_RUN_S = 3600.0
CEILING, FLOOR = 4.0, -11.5129
"""Log-mel (natural logarithm) of more than full scale, and of silence."""
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

    def __str__(self) -> str:
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
    results = [value.name for value in model.graph.output]
    frames = max(profile.frames.most for profile in profiles)
    most = np.zeros(len(names))
    with TemporaryDirectory() as folder:
        network = _probed(model, names, results, Path(folder) / "probed.onnx")
        for given in _inputs(network.input_names, frames):
            found = network.run(*given, max_s=MAX_RUN_S)
            bad = [name for name, count in zip((*names, *results), found[1], strict=True) if count]
            if bad:
                raise ConfigError(
                    f"{results[0]}: expected finite numbers at {frames} frames, got NaN or infinity, "
                    f"first in {bad[0]}"
                )
            most = np.maximum(most, found[0][: len(names)])
    place = int(most.argmax()) if names else 0
    largest, tensor = (float(most[place]), names[place]) if names else (0.0, "")
    if largest > MAX_SHARE * FLOAT16_MAX:
        raise ConfigError(
            f"{tensor}: expected numbers of up to {MAX_SHARE * FLOAT16_MAX:g} in float16 at {frames} frames, "
            f"got {largest:g}"
        )
    return Ranges(frames, largest, tensor, len(names))


def _probed(model: onnx.ModelProto, names: Sequence[str], results: Sequence[str], path: Path) -> OnnxNetwork:
    """The same graph; it returns (2, tensors): the largest absolute number of each, and how many are not
    finite."""
    from onnx import ModelProto, TensorProto, helper, numpy_helper

    probed = ModelProto()
    probed.CopyFrom(model)
    nodes = []
    most, bad = [], []
    for place, name in enumerate((*names, *results)):
        at = f"probe.{place}"
        nodes += [
            helper.make_node("Cast", [name], [f"{at}.float"], to=TensorProto.FLOAT),
            helper.make_node("Abs", [f"{at}.float"], [f"{at}.abs"]),
            helper.make_node("ReduceMax", [f"{at}.abs"], [f"{at}.most"], keepdims=0),
            helper.make_node("Sub", [f"{at}.float", f"{at}.float"], [f"{at}.zero"]),  # NaN if not finite
            helper.make_node("IsNaN", [f"{at}.zero"], [f"{at}.nan"]),
            helper.make_node("Cast", [f"{at}.nan"], [f"{at}.count"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", [f"{at}.count"], [f"{at}.bad"], keepdims=0),
        ]
        most.append(f"{at}.most")
        bad.append(f"{at}.bad")
    for part, parts in (("most", most), ("bad", bad)):
        nodes += [helper.make_node("Unsqueeze", [each, "probe.axes"], [f"{each}.row"]) for each in parts]
        nodes.append(helper.make_node("Concat", [f"{each}.row" for each in parts], [f"probe.{part}"], axis=1))
    nodes.append(helper.make_node("Concat", ["probe.most", "probe.bad"], ["probe"], axis=0))
    probed.graph.initializer.append(numpy_helper.from_array(np.array([0, 1]), "probe.axes"))
    probed.graph.node.extend(nodes)
    del probed.graph.output[:]
    probed.graph.output.append(helper.make_tensor_value_info("probe", TensorProto.FLOAT, [2, len(most)]))
    path.write_bytes(probed.SerializeToString())
    return OnnxNetwork(path, may_loop=True)


def _inputs(names: Sequence[str], frames: int) -> Iterator[list[Array]]:
    """Twice two rows, the second of them half as long, in the order of the network's inputs."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(80, frames, generator=generator)
    level = (CEILING - FLOOR) * torch.rand(80, frames, generator=generator) + FLOOR
    ceiling, floor = torch.full_like(level, CEILING), torch.full_like(level, FLOOR)
    mask = torch.ones(2, 1, frames)
    mask[1, :, max(1, frames // 2) :] = 0
    for states, mels, times in (
        ((4 * noise, noise), (ceiling, level), (0.0, 0.3)),
        ((4 * noise, floor), (2 * level, floor), (0.5, 0.99)),
    ):
        state, mel = (torch.where(mask > 0, torch.stack(each), GARBAGE) for each in (states, mels))
        speaker = 4 * torch.randn(2, 80, generator=generator)
        known = {"x": state, "noise": state, "mask": mask, "mu": mel, "t": torch.tensor(times)}
        known |= {"speaker": speaker, "spks": speaker, "prompt": mel, "cond": mel}
        yield [known[name].numpy() for name in names]
