"""Stream-Omni checkpoints of any shape with random weights, in the released file format.

They are random, but have the habits of trained ones: frames are heard as blanks, repeats and new labels; text
ends, sometimes by a blank; speech ends. The first feature of every embedding is the same number and passes
through the layers nearly unchanged, so a head's first column is a bias that can make an id likelier.
"""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from random_tower import VisionShape, make_tower, vision_config
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

__all__ = ["CheckpointShape", "write_checkpoint"]

CONSTANT = 3.0
"""The first feature of embeddings."""
SPREAD = 2.5
"""Standard deviation of logits."""

MERGES = ["Ġ t", "t h", "Ġt he", "a n", "o n", "h e", "l l", "o r", "Ċ Ċ", "Ġ s", "i n", "Ġ w", "r e", "u s"]
MERGES += ["us e", "use r", "e s", "a t", "Ġ b", "o u"]
NAMED = ["begin_of_text", "end_of_text", "eom_id", "eot_id", "start_header_id", "end_header_id"]
NUM_BYTES = 256
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class CheckpointShape:
    hidden: int = 48
    intermediate: int = 96
    heads: int = 4
    kv_heads: int = 2
    head_dim: int | None = None
    """None: hidden / heads, and no such key in the config."""
    llm_layers: int = 2
    bottom_layers: int = 1
    top_layers: int = 2
    text_vocab: int = 331
    """Ids before <Audio_0>."""
    units: int = 40
    text_rows: int | None = None
    """Rows of the text tables; None: text_vocab. With text_vocab + units, they include the units."""
    speech_rows: int | None = None
    """Rows of the speech tables; None: text_vocab + units."""
    vision: VisionShape | None = None
    config: dict[str, Any] = field(default_factory=dict)
    """Keys of config.json to add, or to leave out if the value is None."""
    stops: tuple[str, ...] = ("end_of_text", "eom_id", "eot_id")
    num_files: int = 1
    dtype: torch.dtype = torch.float32
    seed: int = 0

    @property
    def vocab(self) -> int:
        return self.text_vocab + self.units


def write_checkpoint(folder: Path, shape: CheckpointShape) -> Path:
    """Makes a folder and writes all files of a checkpoint into it."""
    folder.mkdir(parents=True)
    tokenizer = make_tokenizer(shape)
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = tokenizer.get_vocab()
    stops = [ids[f"<|{name}|>"] for name in shape.stops]
    write_json(folder / "config.json", make_config(shape))
    write_json(folder / "generation_config.json", {"eos_token_id": stops[0] if len(stops) == 1 else stops})
    tensors = RandomTensors(shape, tokenizer, stops).make()
    if shape.vision is not None:
        tower = make_tower(shape.vision, shape.seed)
        (folder / "tower").mkdir()
        write_json(folder / "tower" / "config.json", vision_config(shape.vision))
        if shape.vision.apart:
            save_file(tower, folder / "tower" / "model.safetensors")
        else:
            tensors |= {f"model.vision_tower.vision_tower.{name}": t for name, t in tower.items()}
    tensors = {name: tensor.to(shape.dtype).contiguous() for name, tensor in tensors.items()}
    save(folder, tensors, shape.num_files)
    return folder


def save(folder: Path, tensors: dict[str, Tensor], num_files: int) -> None:
    if num_files == 1:
        save_file(tensors, folder / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for i in range(num_files):
        file = f"model-{i + 1:05d}-of-{num_files:05d}.safetensors"
        held = {name: tensors[name] for name in sorted(tensors)[i::num_files]}
        save_file(held, folder / file)
        weight_map |= dict.fromkeys(held, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2))


def make_tokenizer(shape: CheckpointShape) -> Tokenizer:
    """Byte-level BPE in the Llama 3 layout, the special tokens in random order."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(left, right) for left, right in map(str.split, MERGES)]
    words = [*letters, *(left + right for left, right in merges)]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    num_reserved = shape.text_vocab - len(words) - len(NAMED)
    assert num_reserved >= 1, f"text_vocab: expected at least {len(words) + len(NAMED) + 1}"
    special = [*NAMED, *(f"reserved_special_token_{i}" for i in range(num_reserved))]
    random.Random(shape.seed).shuffle(special)
    tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", normalized=False) for name in special])
    tokenizer.add_tokens([AddedToken(f"<Audio_{k}>", normalized=False) for k in range(shape.units)])
    return tokenizer


def make_config(shape: CheckpointShape) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": ["StreamOmniLlamaForCausalLM"],
        "model_type": "stream_omni_llama",
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "num_hidden_layers": shape.llm_layers,
        "num_bottom_audio_layers": shape.bottom_layers,
        "num_top_audio_layers": shape.top_layers,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "text_vocab_size": shape.text_vocab,
        "audio_vocab_size": shape.units,
        "vocab_size": shape.vocab,
        "tie_word_embeddings": False,
    }
    if shape.head_dim is not None:
        config["head_dim"] = shape.head_dim
    if shape.vision is not None:
        config |= {
            "mm_vision_tower": "tower",
            "mm_hidden_size": shape.vision.hidden,
            "mm_projector_type": "mlp2x_gelu",
            "mm_newline_position": "one_token",
            "mm_patch_merge_type": "spatial_unpad",
            "image_aspect_ratio": "anyres_max_9",
            "image_grid_pinpoints": "(1x1),...,(3x3)",
        }
    config |= shape.config
    return {key: value for key, value in config.items() if value is not None}


class RandomTensors:
    """All tensors but those of the vision tower, by their released names."""

    def __init__(self, shape: CheckpointShape, tokenizer: Tokenizer, stops: list[int]) -> None:
        self.shape = shape
        self.stops = stops
        ids = tokenizer.get_vocab()
        self.blank = ids["<|reserved_special_token_0|>"]
        self.eot = ids["<|eot_id|>"]
        self.first_unit = ids["<Audio_0>"]
        words = tokenizer.get_vocab(with_added_tokens=False)
        self.letters = [i for word, i in words.items() if re.search("[A-Za-z]", word)]
        self.generator = torch.Generator().manual_seed(shape.seed)
        self.tensors: dict[str, Tensor] = {}

    def make(self) -> dict[str, Tensor]:
        shape = self.shape
        text_rows = shape.text_rows or shape.text_vocab
        speech_rows = shape.speech_rows or shape.vocab
        for name, rows in (
            ("model.embed_tokens", text_rows),
            ("model.audio_embed_tokens", speech_rows),
            ("text_to_audio_proj", speech_rows),
        ):
            table = self.normal(rows, shape.hidden)
            table[:, 0] = CONSTANT
            self.tensors[f"{name}.weight"] = table
        for name, layers in (
            ("layers", shape.llm_layers),
            ("bottom_audio_layers", shape.bottom_layers),
            ("top_audio_layers", shape.top_layers),
        ):
            for i in range(layers):
                self.add_layer(f"model.{name}.{i}.", fusion=name == "top_audio_layers")
        for name in ("norm", "audio_norm", "top_audio_norm"):
            self.add_norm(f"model.{name}")
        # Each is likely enough to be seen within some fifty steps.
        letters = dict.fromkeys(self.letters, 0.7)
        units = dict.fromkeys(range(self.first_unit, self.first_unit + shape.units), 2.6)
        self.add_head("lm_head", text_rows, letters | {self.eot: 1.3, self.blank: 1.0, self.stops[0]: 0.5})
        self.add_head("audio_to_text_proj", text_rows, {self.blank: 2.7})
        self.add_head("audio_lm_head", speech_rows, units | {self.stops[0]: 2.2, self.eot: 2.0})
        if shape.vision is not None:
            self.add_matrix("model.mm_projector.0", shape.hidden, shape.vision.hidden, gain=1.4)
            self.add_matrix("model.mm_projector.2", shape.hidden, shape.hidden, gain=1.4)
            for i in (0, 2):
                self.tensors[f"model.mm_projector.{i}.bias"] = self.normal(shape.hidden, std=0.3)
            self.tensors["model.mm_projector.2.bias"][0] = CONSTANT
            newline = self.normal(shape.hidden)
            newline[0] = CONSTANT
            self.tensors["model.image_newline"] = newline
        return self.tensors

    def add_layer(self, prefix: str, *, fusion: bool) -> None:
        shape = self.shape
        head_dim = shape.head_dim or shape.hidden // shape.heads
        self.add_norm(prefix + "input_layernorm")
        self.add_norm(prefix + "post_attention_layernorm")
        self.add_attention(prefix + "self_attn.", shape.heads * head_dim, shape.kv_heads * head_dim)
        if fusion:
            self.add_attention(prefix + "audio_text_attn.", shape.heads * head_dim, shape.heads * head_dim)
        for name in ("gate", "up"):
            self.add_matrix(f"{prefix}mlp.{name}_proj", shape.intermediate, shape.hidden)
        self.add_matrix(f"{prefix}mlp.down_proj", shape.hidden, shape.intermediate)

    def add_attention(self, prefix: str, q_size: int, kv_size: int) -> None:
        # sharp, so that it matters which position is attended to
        self.add_matrix(prefix + "q_proj", q_size, self.shape.hidden, gain=1.5)
        self.add_matrix(prefix + "k_proj", kv_size, self.shape.hidden, gain=1.5)
        self.add_matrix(prefix + "v_proj", kv_size, self.shape.hidden)
        self.add_matrix(prefix + "o_proj", self.shape.hidden, q_size)

    def add_matrix(self, name: str, rows: int, columns: int, *, gain: float = 1.0) -> None:
        weight = self.normal(rows, columns, std=gain / math.sqrt(columns))
        if re.search(r"[.](o_proj|down_proj|2)$", name):  # what the layers add to the first feature is little
            weight[0] *= 0.1
        self.tensors[f"{name}.weight"] = weight

    def add_norm(self, name: str) -> None:
        self.tensors[f"{name}.weight"] = 1 + self.normal(self.shape.hidden, std=0.1)

    def add_head(self, name: str, rows: int, likelier: dict[int, float]) -> None:
        """`likelier`: ids, and how many standard deviations their logits lie above the others."""
        weight = self.normal(rows, self.shape.hidden, std=SPREAD / math.sqrt(self.shape.hidden))
        weight[:, 0] = 0.0
        for token, above in likelier.items():
            weight[token, 0] = above * SPREAD * 1.5 / CONSTANT  # 1.5: about the norm of what comes in
        self.tensors[f"{name}.weight"] = weight

    def normal(self, *size: int, std: float = 1.0) -> Tensor:
        return torch.randn(size, generator=self.generator) * std
