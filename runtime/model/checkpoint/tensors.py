"""The tensors of a checkpoint by name: what each is called in the file, and where it is stored.

One table serves the expected shapes, the loader and the random weights: each name comes with the slice of
the (partly fused) storage that holds its tensor, so names, shapes and places cannot drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from antiphon.config import ModelConfig, VisionConfig
from antiphon.model.weights import (
    FusionWeights,
    LayerMatrix,
    LayerWeights,
    OmniWeights,
    ProjectorWeights,
    VisionLayerWeights,
    VisionWeights,
)

__all__ = [
    "empty_weights",
    "has_newline",
    "is_unused",
    "named_tensors",
    "num_bytes",
    "tensor_shapes",
]

VISION_PREFIX = "model.vision_tower.vision_tower."
"""Prefix of the names of a Hugging Face SigLIP vision model."""

TEXT_TABLES = ("model.embed_tokens.weight", "lm_head.weight", "audio_to_text_proj.weight")
SPEECH_TABLES = ("model.audio_embed_tokens.weight", "audio_lm_head.weight", "text_to_audio_proj.weight")

# Tensors that a file may hold although nothing reads them: a row separator if rows are not separated, the
# rotary buffers that old exporters save, the part of SigLIP after the features that are used, and the
# separator of LLaVA's fast video frames.
UNUSED = re.compile(
    r"model\.image_newline|model\.faster_token|(.*\.)?rotary_emb\.inv_freq"
    r"|(.*\.)?vision_model\.(post_layernorm|head|embeddings\.position_ids)(\..*)?"
)


def is_unused(name: str, config: ModelConfig) -> bool:
    """Whether the file may hold this tensor without it being read."""
    if config.vision is not None:
        # the encoder layer whose output is not used, if the whole tower was saved
        last = f"{VISION_PREFIX}vision_model.encoder.layers.{config.vision.num_kept_layers}."
        if name.startswith(last):
            return True
    return UNUSED.fullmatch(name) is not None


def has_newline(config: ModelConfig) -> bool:
    """Whether the checkpoint has a separator for the rows of a picture."""
    return config.vision is not None and config.mm_patch_merge_type == "spatial_unpad"


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that the released exporter writes for this configuration.

    Includes the two of SigLIP's `post_layernorm`, which nothing reads and a file may omit.
    """
    weights = empty_weights(config, device="meta", dtype=torch.float32)
    shapes = {name: tuple(place.shape) for name, place in named_tensors(weights, config)}
    if config.vision is not None:
        for kind in ("weight", "bias"):
            shapes[f"{VISION_PREFIX}vision_model.post_layernorm.{kind}"] = (config.vision.hidden_size,)
    return shapes


def num_bytes(weights: OmniWeights, config: ModelConfig) -> int:
    """Bytes that the weights take on their device."""
    return sum(place.numel() * place.element_size() for _, place in named_tensors(weights, config))


# --- storage --------------------------------------------------------------------------------------


def empty_weights(
    config: ModelConfig,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    matrices: torch.device | str | None = None,
) -> OmniWeights:
    """Storage for a checkpoint, with undefined contents. matrices: where those that can be quantized are, if
    not on the device."""

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device=device, dtype=dtype)

    def matrix(*shape: int) -> Tensor:
        return torch.empty(shape, device=device if matrices is None else matrices, dtype=dtype)

    hidden, q_size, kv_size = config.hidden_size, config.q_size, config.kv_size

    def layer(fusion: bool = False) -> LayerWeights:
        return LayerWeights(
            input_norm=empty(hidden),
            qkv=matrix(q_size + 2 * kv_size, hidden),
            o=matrix(hidden, q_size),
            post_norm=empty(hidden),
            gate_up=matrix(2 * config.intermediate_size, hidden),
            down=matrix(hidden, config.intermediate_size),
            fusion=FusionWeights(q=matrix(q_size, hidden), o=matrix(hidden, q_size)) if fusion else None,
        )

    weights = OmniWeights(
        embed_tokens=matrix(config.text_vocab_size, hidden),
        layers=[layer() for _ in range(config.num_hidden_layers)],
        norm=empty(hidden),
        lm_head=matrix(config.text_vocab_size, hidden),
        audio_embed_tokens=matrix(config.vocab_size, hidden),
        bottom_layers=[layer() for _ in range(config.num_bottom_audio_layers)],
        audio_norm=empty(hidden),
        audio_to_text_proj=matrix(config.text_vocab_size, hidden),
        top_layers=[layer(fusion=True) for _ in range(config.num_top_audio_layers)],
        top_audio_norm=empty(hidden),
        audio_lm_head=matrix(config.vocab_size, hidden),
        text_to_audio_proj=matrix(config.vocab_size, hidden),
        fusion_kv=matrix(config.num_top_audio_layers * 2 * q_size, hidden),
    )
    if config.vision is not None:
        weights.vision = _empty_vision(config.vision, device=device, dtype=dtype)
        weights.projector = ProjectorWeights(
            fc1=empty(hidden, config.vision.hidden_size),
            fc1_bias=empty(hidden),
            fc2=empty(hidden, hidden),
            fc2_bias=empty(hidden),
        )
    if has_newline(config):
        weights.image_newline = empty(hidden)
    return weights


def _empty_vision(config: VisionConfig, *, device: torch.device | str, dtype: torch.dtype) -> VisionWeights:
    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device=device, dtype=dtype)

    hidden = config.hidden_size
    return VisionWeights(
        patch_embedding=empty(hidden, config.num_channels, config.patch_size, config.patch_size),
        patch_embedding_bias=empty(hidden),
        position_embedding=empty(config.side**2, hidden),
        layers=[
            VisionLayerWeights(
                norm1=empty(hidden),
                norm1_bias=empty(hidden),
                qkv=empty(3 * hidden, hidden),
                qkv_bias=empty(3 * hidden),
                out=empty(hidden, hidden),
                out_bias=empty(hidden),
                norm2=empty(hidden),
                norm2_bias=empty(hidden),
                fc1=empty(config.intermediate_size, hidden),
                fc1_bias=empty(config.intermediate_size),
                fc2=empty(hidden, config.intermediate_size),
                fc2_bias=empty(hidden),
            )
            for _ in range(config.num_kept_layers)
        ],
    )


# --- names ----------------------------------------------------------------------------------------


def named_tensors(weights: OmniWeights, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the file that is read, with its place: a contiguous view of the storage."""
    yield "model.embed_tokens.weight", _plain(weights.embed_tokens)
    for i, layer in enumerate(weights.layers):
        yield from _named_layer(f"model.layers.{i}.", layer, config)
    yield "model.norm.weight", weights.norm
    yield "lm_head.weight", _plain(weights.lm_head)

    yield "model.audio_embed_tokens.weight", _plain(weights.audio_embed_tokens)
    for i, layer in enumerate(weights.bottom_layers):
        yield from _named_layer(f"model.bottom_audio_layers.{i}.", layer, config)
    yield "model.audio_norm.weight", weights.audio_norm
    yield "audio_to_text_proj.weight", _plain(weights.audio_to_text_proj)

    fusion_kv = torch.split(_plain(weights.fusion_kv), config.q_size)
    for i, layer in enumerate(weights.top_layers):
        prefix = f"model.top_audio_layers.{i}."
        yield from _named_layer(prefix, layer, config)
        assert layer.fusion is not None, "a top layer has fusion attention"
        yield f"{prefix}audio_text_attn.q_proj.weight", _plain(layer.fusion.q)
        yield f"{prefix}audio_text_attn.k_proj.weight", fusion_kv[2 * i]
        yield f"{prefix}audio_text_attn.v_proj.weight", fusion_kv[2 * i + 1]
        yield f"{prefix}audio_text_attn.o_proj.weight", _plain(layer.fusion.o)
    yield "model.top_audio_norm.weight", weights.top_audio_norm
    yield "audio_lm_head.weight", _plain(weights.audio_lm_head)
    yield "text_to_audio_proj.weight", _plain(weights.text_to_audio_proj)

    if weights.vision is not None:
        yield from _named_vision(weights.vision)
    if weights.projector is not None:
        for index, fc, bias in (
            (0, weights.projector.fc1, weights.projector.fc1_bias),
            (2, weights.projector.fc2, weights.projector.fc2_bias),
        ):
            yield f"model.mm_projector.{index}.weight", fc
            yield f"model.mm_projector.{index}.bias", bias
    if weights.image_newline is not None:
        yield "model.image_newline", weights.image_newline


def _plain(matrix: LayerMatrix) -> Tensor:
    assert isinstance(matrix, Tensor), "the tensors of a file are named before they are quantized"
    return matrix


def _named_layer(prefix: str, layer: LayerWeights, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    q, k, v = torch.split(_plain(layer.qkv), [config.q_size, config.kv_size, config.kv_size])
    gate, up = torch.split(_plain(layer.gate_up), config.intermediate_size)
    yield f"{prefix}input_layernorm.weight", layer.input_norm
    yield f"{prefix}self_attn.q_proj.weight", q
    yield f"{prefix}self_attn.k_proj.weight", k
    yield f"{prefix}self_attn.v_proj.weight", v
    yield f"{prefix}self_attn.o_proj.weight", _plain(layer.o)
    yield f"{prefix}post_attention_layernorm.weight", layer.post_norm
    yield f"{prefix}mlp.gate_proj.weight", gate
    yield f"{prefix}mlp.up_proj.weight", up
    yield f"{prefix}mlp.down_proj.weight", _plain(layer.down)


def _named_vision(vision: VisionWeights) -> Iterator[tuple[str, Tensor]]:
    prefix = f"{VISION_PREFIX}vision_model."
    yield f"{prefix}embeddings.patch_embedding.weight", vision.patch_embedding
    yield f"{prefix}embeddings.patch_embedding.bias", vision.patch_embedding_bias
    yield f"{prefix}embeddings.position_embedding.weight", vision.position_embedding
    for i, layer in enumerate(vision.layers):
        hidden = layer.norm1.shape[0]
        q, k, v = torch.split(layer.qkv, hidden)
        q_bias, k_bias, v_bias = torch.split(layer.qkv_bias, hidden)
        for name, weight, bias in (
            ("layer_norm1", layer.norm1, layer.norm1_bias),
            ("self_attn.q_proj", q, q_bias),
            ("self_attn.k_proj", k, k_bias),
            ("self_attn.v_proj", v, v_bias),
            ("self_attn.out_proj", layer.out, layer.out_bias),
            ("layer_norm2", layer.norm2, layer.norm2_bias),
            ("mlp.fc1", layer.fc1, layer.fc1_bias),
            ("mlp.fc2", layer.fc2, layer.fc2_bias),
        ):
            yield f"{prefix}encoder.layers.{i}.{name}.weight", weight
            yield f"{prefix}encoder.layers.{i}.{name}.bias", bias
