"""The vision tower with the projector, exported: tiles, and the golden pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import GOLDEN, RANDOM_MODEL
from golden_cases import cases
from random_checkpoint import CheckpointShape, write_checkpoint
from random_tower import VisionShape
from safetensors.torch import load_file
from torch import Tensor

from antiphon.codec.analysis.onnx_network import OnnxNetwork
from antiphon.config import InputLimits
from antiphon.errors import CheckpointError
from antiphon.export.folder import export_parts
from antiphon.export.model_folder import ModelSource, has_vision, read_vision
from antiphon.export.part import PRECISIONS, Precision
from antiphon.export.verify import verify
from antiphon.export.vision import VISION_PART, Seen
from antiphon.export.vision_network import VisionNetwork, pixels_of
from antiphon.inputs.images import prepare_image
from antiphon.inputs.tiles import Tiler


@pytest.fixture(scope="module")
def golden() -> ModelSource:
    return read_vision(RANDOM_MODEL)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """A whole tower in a folder of its own."""
    shape = CheckpointShape(vision=VisionShape(image_size=45, patch=15, layers=4, apart=True))
    return read_vision(write_checkpoint(tmp_path_factory.mktemp("odd") / "model", shape))


def module(source: ModelSource, precision: Precision, *given: Tensor) -> list[Tensor]:
    weights, config = source.weights, source.config.vision
    assert weights.vision is not None
    assert weights.projector is not None
    assert config is not None
    with torch.inference_mode():
        return [VisionNetwork(weights.vision, weights.projector, config, PRECISIONS[precision])(*given)]


@pytest.mark.parametrize("name", ["golden", "odd"])
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("fp16", 5e-3)])
def test_tiles_are_what_the_runtime_sees(
    name: str, precision: Precision, bound: float, request: pytest.FixtureRequest
) -> None:
    source: ModelSource = request.getfixturevalue(name)
    seen = Seen.drawn(source, (3,), torch.Generator().manual_seed(0))
    found, expected = VISION_PART.compare(seen, partial(module, source, precision))["embeddings"]
    assert len(found) == len(expected) == 3
    for row, right in zip(found, expected, strict=True):
        assert (row - right).abs().max() < bound * right.abs().max()


def test_what_it_was_read_from(golden: ModelSource, odd: ModelSource) -> None:
    assert list(golden.files) == ["config.json", "model.safetensors"]
    assert list(odd.files) == ["config.json", "model.safetensors", "tower/model.safetensors"]
    assert not golden.weights.bottom_layers
    assert VISION_PART.weights(golden) != VISION_PART.weights(odd)


def test_a_model_without_a_tower_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", CheckpointShape())
    assert not has_vision(folder)
    assert has_vision(RANDOM_MODEL)
    with pytest.raises(CheckpointError, match="expected a checkpoint with a vision tower, found none"):
        read_vision(folder)


@pytest.mark.slow
@pytest.mark.long
def test_the_file_sees_the_golden_pictures(golden: ModelSource, tmp_path: Path) -> None:
    export_parts([VISION_PART], lambda _: golden, tmp_path / "out")
    rows = list(verify(tmp_path / "out", lambda _: golden, [(1,), (3,)]))
    assert all(row.is_within for row in rows)
    network = OnnxNetwork(tmp_path / "out" / "vision.onnx")
    expected = load_file(GOLDEN / "omni_a" / "tensors.safetensors")
    tiler = Tiler(golden.config)
    names = {case.name: case.data["images"] for case in cases() if f"{case.name}.image_features" in expected}
    for name, images in names.items():
        paths = [GOLDEN / "omni_a" / "images" / f"{image}.png" for image in images]
        tiles = np.concatenate([prepare_image(path, tiler, InputLimits()).tiles for path in paths])
        found = torch.from_numpy(network.run(pixels_of(torch.from_numpy(tiles)).numpy()))
        torch.testing.assert_close(found.flatten(0, 1), expected[f"{name}.image_features"], rtol=0, atol=1e-4)
    assert len(names) > 3
