"""The part that sees: the vision tower with the projector.

Expected is what the runtime makes of each tile by itself, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from antiphon.codec.exported import fingerprint
from antiphon.codec.tensorrt.profile import Profile, Span
from antiphon.config import VisionConfig
from antiphon.export.model_folder import ModelSource, has_vision, read_vision
from antiphon.export.onnx_file import traced
from antiphon.export.part import PRECISIONS, Bound, Compared, EnginePlan, Part, Port, Precision, Run
from antiphon.export.tries import vision_tries
from antiphon.export.vision_network import VisionNetwork, pixels_of
from antiphon.model.vision import image_features

if TYPE_CHECKING:
    import onnx

__all__ = ["VISION_PART", "Seen"]

BATCHES = ((1,), (2,), (3,), (7,), (16,))
QUICK_BATCHES = ((1,), (3,))


def _inputs(source: ModelSource) -> tuple[Port, ...]:
    config = _config(source)
    return (Port("pixels", ("tiles", config.num_channels, config.image_size, config.image_size)),)


def _outputs(source: ModelSource) -> tuple[Port, ...]:
    return (Port("embeddings", ("tiles", _config(source).side ** 2, source.config.hidden_size)),)


def _graph(source: ModelSource, precision: Precision, base: onnx.ModelProto | None) -> onnx.ModelProto:
    (port,) = _inputs(source)
    example = torch.zeros([2 if isinstance(axis, str) else axis for axis in port.shape])
    return traced(_network(source, precision), [port], [example], _outputs(source))


def _weights(source: ModelSource) -> str:
    config = _config(source)
    params = config.num_attention_heads, config.image_size, config.patch_size, config.layer_norm_eps
    return fingerprint(params, _network(source, "fp32"))


def _network(source: ModelSource, precision: Precision) -> VisionNetwork:
    tower, projector = source.weights.vision, source.weights.projector
    assert tower is not None, "read for a config with a vision tower"
    assert projector is not None, "read for a config with a vision tower"
    return VisionNetwork(tower, projector, _config(source), PRECISIONS[precision])


def _config(source: ModelSource) -> VisionConfig:
    assert source.config.vision is not None, "a checkpoint without a tower is refused where it is read"
    return source.config.vision


@dataclass(frozen=True, eq=False)
class Seen:
    """Tiles, and what the runtime sees in each by itself."""

    tiles: Tensor
    """uint8 (tiles, size, size, 3)"""
    embeddings: Sequence[Tensor]
    """Of each tile (side * side, hidden)"""

    @classmethod
    def drawn(cls, source: ModelSource, sizes: Sequence[int], generator: torch.Generator) -> Seen:
        """Noise, darker and lighter."""
        size, tiles = _config(source).image_size, sum(sizes)
        noise = torch.rand(tiles, size, size, 3, generator=generator)
        scale = 256 * torch.rand(tiles, 1, 1, 1, generator=generator)
        return cls.of(source, (noise * scale).to(torch.uint8))

    @classmethod
    def of(cls, source: ModelSource, tiles: Tensor) -> Seen:
        with torch.inference_mode():
            return cls(
                tiles, [image_features(source.weights, source.config, tile[None])[0] for tile in tiles]
            )


def _compare(seen: Seen, run: Run) -> Mapping[str, Compared]:
    (embeddings,) = run(pixels_of(seen.tiles))
    return {"embeddings": (list(embeddings), seen.embeddings)}


TILES = Profile((), Span(1, 5, 10))
"""A picture is a tile of the whole and some of its parts."""
VISION_PART = Part(
    kind="vision",
    file="vision.onnx",
    about="the vision tower with the projector",
    folder="model",
    read=read_vision,
    inputs=_inputs,
    outputs=_outputs,
    graph=_graph,
    weights=_weights,
    size="tiles",
    batches=BATCHES,
    quick_batches=QUICK_BATCHES,
    trial=Seen.drawn,
    compare=_compare,
    bounds={
        "fp32": {"embeddings": Bound(1e-4, is_relative=True)},
        "fp16": {"embeddings": Bound(5e-3, is_relative=True)},
    },
    is_there=has_vision,
    engine=EnginePlan((TILES,), vision_tries),
)
