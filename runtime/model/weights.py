"""Where the tensors of a loaded checkpoint live: matrices that are read together are stored together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from antiphon.kernels.library_linear import LibraryWeight
from antiphon.kernels.quantized import QuantizedWeight

__all__ = [
    "FusionWeights",
    "LayerMatrix",
    "LayerWeights",
    "Matrix",
    "OmniWeights",
    "ProjectorWeights",
    "VisionLayerWeights",
    "VisionWeights",
]


Matrix: TypeAlias = "Tensor | QuantizedWeight"
"""A `QuantizedWeight` once the checkpoint has been quantized."""
LayerMatrix: TypeAlias = "Matrix | LibraryWeight"
"""Those of layers may be quantized by a library instead."""


@dataclass
class FusionWeights:
    """`audio_text_attn` of one top layer, without k and v (see `OmniWeights.fusion_kv`)."""

    q: LayerMatrix
    """(heads * head_dim, hidden)"""
    o: LayerMatrix
    """(hidden, heads * head_dim)"""


@dataclass
class LayerWeights:
    """One Llama layer; a top speech layer also has `fusion`."""

    input_norm: Tensor
    """(hidden)"""
    qkv: LayerMatrix
    """(q_size + 2 * kv_size, hidden): q_proj, k_proj, v_proj one after the other"""
    o: LayerMatrix
    """(hidden, q_size)"""
    post_norm: Tensor
    """(hidden)"""
    gate_up: LayerMatrix
    """(2 * intermediate, hidden): gate_proj, then up_proj"""
    down: LayerMatrix
    """(hidden, intermediate)"""
    fusion: FusionWeights | None = None


@dataclass
class VisionLayerWeights:
    """One SigLIP encoder layer; every matrix has a bias."""

    norm1: Tensor
    norm1_bias: Tensor
    qkv: Tensor
    """(3 * hidden, hidden): q_proj, k_proj, v_proj"""
    qkv_bias: Tensor
    out: Tensor
    out_bias: Tensor
    norm2: Tensor
    norm2_bias: Tensor
    fc1: Tensor
    fc1_bias: Tensor
    fc2: Tensor
    fc2_bias: Tensor


@dataclass
class VisionWeights:
    patch_embedding: Tensor
    """(hidden, channels, patch, patch)"""
    patch_embedding_bias: Tensor
    position_embedding: Tensor
    """(side * side, hidden)"""
    layers: list[VisionLayerWeights]


@dataclass
class ProjectorWeights:
    """Linear, exact GELU, Linear."""

    fc1: Tensor
    fc1_bias: Tensor
    fc2: Tensor
    fc2_bias: Tensor


@dataclass
class OmniWeights:
    """All of a checkpoint, in its final dtype and on its final device."""

    embed_tokens: Matrix
    """(text_vocab, hidden)"""
    layers: list[LayerWeights]
    norm: Tensor
    lm_head: Matrix
    """(text_vocab, hidden)"""
    audio_embed_tokens: Matrix
    """(vocab, hidden)"""
    bottom_layers: list[LayerWeights]
    audio_norm: Tensor
    audio_to_text_proj: Matrix
    """(text_vocab, hidden), the CTC head"""
    top_layers: list[LayerWeights]
    top_audio_norm: Tensor
    audio_lm_head: Matrix
    """(vocab, hidden), the unit head"""
    text_to_audio_proj: Matrix
    """(vocab, hidden), the fusion text embedding"""
    fusion_kv: Matrix
    """(num_top_layers * 2 * heads * head_dim, hidden): k_proj then v_proj of each top layer, so that
    a text token's keys and values for all layers are one product"""
    vision: VisionWeights | None = None
    projector: ProjectorWeights | None = None
    image_newline: Tensor | None = None
    """(hidden)"""
