"""The small golden codec, its golden data, and codecs of other shapes with random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import RANDOM_CODEC
from safetensors.torch import load_file
from torch import Tensor, nn

from antiphon.codec import Codec
from antiphon.codec.checkpoint.hyperparams import EncoderParams, EstimatorParams, FlowParams, HiftParams
from antiphon.codec.flow.flow import FlowInput

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def folder() -> Path:
    return RANDOM_CODEC


@pytest.fixture
def folder_copy(folder: Path, tmp_path: Path) -> Path:
    """A codec folder that a test may break."""
    return Path(shutil.copytree(folder, tmp_path / "codec"))


@pytest.fixture(scope="session")
def codec(folder: Path) -> Codec:
    return Codec.from_pretrained(folder, device="cpu")


def flow_input(codec: Codec, units: Any, voice: str | None = None, **options: Any) -> FlowInput:
    """The flow's input for one utterance; see `Codec.mel`."""
    return codec.decoder.flow_input(units, codec.voice(voice), **options)


@pytest.fixture(scope="session")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "cosyvoice_a" / "tensors.safetensors")


@pytest.fixture(scope="session")
def cases() -> dict[str, dict[str, Any]]:
    cases = json.loads((GOLDEN / "cosyvoice_a" / "cases.json").read_text(encoding="utf-8"))["cases"]
    return {case["name"]: case for case in cases}


@pytest.fixture(scope="session")
def full_units(cases: dict[str, dict[str, Any]]) -> list[list[int]]:
    """Units of the whole utterances, 1 to 137 of them."""
    return [case["units"] for case in cases.values() if case["kind"] == "full"]


@pytest.fixture(scope="session")
def manifest() -> Callable[[str], dict[str, list[int]]]:
    def read(name: str) -> dict[str, list[int]]:
        path = GOLDEN / "manifests" / f"cosyvoice_300m_25hz_{name}.json"
        shapes: dict[str, list[int]] = json.loads(path.read_text(encoding="utf-8"))
        return shapes

    return read


@pytest.fixture(scope="session")
def odd_flow_params() -> FlowParams:
    """Shapes that differ wherever they can: level widths, depths, and heads x head_dim from channels."""
    return FlowParams(
        vocab_size=50,
        input_size=48,
        spk_embed_dim=20,
        input_frame_rate=25,
        encoder=EncoderParams(
            input_size=48, output_size=32, attention_heads=2, linear_units=40, num_blocks=3
        ),
        num_regulator_convs=2,
        inference_cfg_rate=0.5,
        estimator=EstimatorParams(
            in_channels=320,
            out_channels=80,
            channels=(24, 40),
            attention_head_dim=12,
            num_heads=3,
            n_blocks=2,
            num_mid_blocks=1,
        ),
    )


@pytest.fixture(scope="session")
def odd_hift_params() -> HiftParams:
    return HiftParams(
        base_channels=24,
        nb_harmonics=4,
        nsf_alpha=0.2,
        nsf_sigma=0.01,
        nsf_voiced_threshold=5.0,
        lrelu_slope=0.2,
        audio_limit=0.9,
        cond_channels=12,
    )


@pytest.fixture(scope="session")
def randomized() -> Callable[[nn.Module], Any]:
    """Fills a module with random weights: scales of norms near 1, everything else small."""

    def fill(module: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        for name, parameter in module.named_parameters():
            spread = 0.5 / max(1, parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.1
            values = torch.randn(parameter.shape, generator=generator) * spread
            parameter.data = values + (parameter.ndim == 1 and not name.endswith("bias"))
        return module.requires_grad_(False).eval()

    return fill


@pytest.fixture(scope="session")
def relative_error() -> Callable[[Any, Any], float]:
    """The largest difference, divided by the largest expected value."""

    def measure(found: Any, expected: Any) -> float:
        found, expected = torch.as_tensor(found), torch.as_tensor(expected)
        assert found.shape == expected.shape
        return float((found - expected).abs().max() / expected.abs().max())

    return measure
