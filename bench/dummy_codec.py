"""Codecs of a given size with random weights: they take the time of trained ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from antiphon.bench.checkpoint import CONFIGS
from antiphon.codec import Codec
from antiphon.codec.checkpoint.hyperparams import (
    CodecParams,
    EncoderParams,
    EstimatorParams,
    FlowParams,
    HiftParams,
)
from antiphon.codec.exported import Exported
from antiphon.codec.flow.flow import FlowModel
from antiphon.codec.hift.hift import Hift
from antiphon.codec.voices import Voice
from antiphon.device.cuda_graph import capture_for

__all__ = ["dummy_codec", "read_params"]

PITCH_HZ = 150.0

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def read_params(name: str) -> CodecParams:
    """Sizes of `bench/configs/NAME/codec.json`; NAME may also be a folder anywhere else."""
    sizes = json.loads((CONFIGS / Path(name) / "codec.json").read_text(encoding="utf-8"))
    flow = sizes["flow"]
    estimator = flow["estimator"] | {"channels": tuple(flow["estimator"]["channels"])}
    parts = {"encoder": EncoderParams(**flow["encoder"]), "estimator": EstimatorParams(**estimator)}
    return CodecParams(FlowParams(**(flow | parts)), HiftParams(**sizes["hift"]))


def dummy_codec(
    params: CodecParams,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    *,
    enforce_eager: bool = False,
    exported: Exported | None = None,
) -> Codec:
    """A codec with one voice, which sounds like nothing but neither overflows nor falls silent. device:
    None is the CPU. exported: see `Codec`."""
    place = device or torch.device("cpu")
    generator = torch.Generator().manual_seed(0)
    flow, hift = _filled(FlowModel(params.flow), generator), _filled(Hift(params.hift), generator)
    hift.f0_predictor.classifier.bias.data.fill_(PITCH_HZ)  # voiced, as most of speech is
    voice = Voice(torch.randn(params.flow.spk_embed_dim, generator=generator))
    capture = capture_for(place, enforce_eager=enforce_eager)
    voices = {"dummy": voice}
    return Codec(
        params,
        flow.to(place),
        hift.to(place),
        voices,
        place,
        dtype=dtype,
        capture=capture,
        exported=exported,
    )


def _filled(module: ModuleT, generator: torch.Generator) -> ModuleT:
    """Norms' scales near 1, matrices that make what goes through them a little smaller."""
    for name, parameter in module.named_parameters():
        spread = 0.5 / max(1, parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.1
        values = torch.randn(parameter.shape, generator=generator) * spread
        parameter.data = values + (parameter.ndim == 1 and not name.endswith("bias"))
    return module.requires_grad_(False).eval()
