"""One set of random weights in the two forms that engines load: a checkpoint and a Llama folder."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from antiphon.bench.checkpoint import write_checkpoint
from antiphon.model.checkpoint.folder import read_config
from antiphon.model.checkpoint.llm_folder import export_llm
from antiphon.model.checkpoint.tensors import tensor_shapes

__all__ = ["Written", "write_weights"]

TABLES = ("embed_tokens.weight", "text_to_audio_proj.weight")
HEADS = ("lm_head.weight", "audio_to_text_proj.weight", "audio_lm_head.weight")
TABLE_STD = 0.5
HEAD_GAIN = 4.0
"""Peaks logits as those of a trained head are. Else the likeliest ids would be level, and programs that
differ in the last bit would say different things."""


class Written(NamedTuple):
    """The folders of both forms."""

    model: Path
    llm: Path
    num_parameters: int
    """Of the LLM"""


def write_weights(config: str, folder: Path, seed: int = 0) -> Written:
    """Write the configuration `bench/configs/NAME` with random weights in float32 into this folder."""
    from safetensors.torch import save_file

    model = write_checkpoint(config, folder / "stream_omni")
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in tensor_shapes(read_config(model, load_format="dummy")).items():
        if len(shape) == 1:
            tensors[name] = torch.ones(shape)
            continue
        std = TABLE_STD if name.endswith(TABLES) else shape[1] ** -0.5
        if name.endswith(HEADS):
            std *= HEAD_GAIN
        tensors[name] = torch.randn(shape, generator=generator) * std
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    written = export_llm(model, folder / "llm")
    return Written(model, written.path, written.num_bytes // 4)
