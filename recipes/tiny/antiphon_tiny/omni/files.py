"""The files of the checkpoint folder that hold no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from antiphon_tiny.omni.geometry import Geometry

__all__ = ["write_json", "write_skeleton"]

TOWER = "vision_tower"


def write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")


def write_skeleton(folder: Path, geometry: Geometry) -> None:
    """Everything but the weights: tokenizer, settings of the model, of the tower and of generation."""
    from antiphon_tiny.omni.tokenizer import SPECIAL, write_tokenizer

    (folder / TOWER).mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder, geometry.units)
    ids = {name: tokenizer.token_to_id(f"<|{name}|>") for name in SPECIAL}
    ends = {
        "bos_token_id": ids["begin_of_text"],
        "eos_token_id": [ids["end_of_text"], ids["eom_id"], ids["eot_id"]],
        "pad_token_id": ids["finetune_right_pad_id"],
    }
    write_json(folder / "generation_config.json", ends)
    write_json(folder / "config.json", _config(geometry, tokenizer.get_vocab_size() - geometry.units) | ends)
    write_json(folder / TOWER / "config.json", _tower_config(geometry))


def _config(geometry: Geometry, text_vocab: int) -> dict[str, Any]:
    g = geometry
    return {
        "architectures": ["StreamOmniLlamaForCausalLM"],
        "model_type": "stream_omni_llama",
        "hidden_act": "silu",
        "hidden_size": g.hidden,
        "intermediate_size": g.intermediate,
        "num_attention_heads": g.heads,
        "num_key_value_heads": g.kv_heads,
        "head_dim": g.head_dim,
        "num_hidden_layers": g.layers,
        "num_bottom_audio_layers": g.bottom_layers,
        "num_top_audio_layers": g.top_layers,
        "max_position_embeddings": g.max_positions,
        "tokenizer_model_max_length": g.max_positions,
        "rms_norm_eps": g.norm_eps,
        "rope_theta": g.rope_theta,
        "text_vocab_size": text_vocab,
        "audio_vocab_size": g.units,
        "vocab_size": text_vocab + g.units,
        "tie_word_embeddings": False,
        "mm_vision_tower": TOWER,
        "mm_hidden_size": g.tower_hidden,
        "mm_projector_type": "mlp2x_gelu",
        "mm_newline_position": "one_token",
        "mm_patch_merge_type": "flat",
        "image_aspect_ratio": "pad",
        "torch_dtype": "float16",
    }


def _tower_config(geometry: Geometry) -> dict[str, Any]:
    return {
        "model_type": "siglip_vision_model",
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": geometry.tower_hidden,
        "image_size": geometry.image_size,
        "intermediate_size": geometry.tower_intermediate,
        "num_attention_heads": geometry.tower_heads,
        "num_hidden_layers": geometry.tower_layers + 1,
        "patch_size": geometry.patch,
    }
